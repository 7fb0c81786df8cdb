"""From what was seen when a run stopped (or is about to) to whom it is blamed on. Pure.

A node is blamed on its own evidence only: a drain of ours, a node Slurm declared down, or a slurmd that does not
answer while the ranks of that node are silent too. A drain by a person or another tool is no reason to move a job
that runs, and a crash next to a healthy node is the code's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sovctl.model.blame import Blame, Confidence, Culprit
from sovctl.model.node import NodeView
from sovctl.model.progress import FINISHED, STOPPED
from sovctl.model.reason import incident_time, parse_reason

_LONGEST_WORDS = 200


@dataclass(frozen=True, slots=True)
class ScriptEnd:
    """How the user's script ended."""

    status: int
    """Exit status; negative: killed by that signal."""
    signature: str = ""
    """Normalised last error of its output; empty when none was found."""
    step: int | None = None
    kind: str = ""
    """What it died of, as its output tells (recovery/crash.py: oom, cuda, nccl, storage, python, signal,
    launch, unknown)."""
    rank: int | None = None
    """The rank that failed first; None: not known."""
    node: str = ""
    """The node of that rank."""
    words: str = ""
    """The line of the signature as it was printed; empty: the signature has to do."""

    @property
    def said(self) -> str:
        """What its output says, for a person."""
        return (self.words or self.signature)[:_LONGEST_WORDS]


@dataclass(frozen=True, slots=True)
class NodeEvidence:
    """One node of the allocation at the moment of judgement."""

    view: NodeView
    slurmd_silent: bool = False
    """Asked just now, slurmd's port refused or gave no answer."""
    ranks_silent: bool = False
    """The ranks of this node have stopped reporting, or the script has ended."""
    own_findings: tuple[str, ...] = ()
    """What the node says against itself, seen with the user's rights: NVML, its kernel log, a verdict."""
    silent_since: float | None = None
    """Since when slurmd has not answered."""


def blame_nodes(nodes: Sequence[NodeEvidence]) -> Blame | None:
    """Nodes that hardware evidence speaks against; None when there is none."""
    found = [(item.view.name, words) for item in nodes if (words := condemns(item))]
    if not found:
        return None
    evidence = "; ".join(f"{name}: {words}" for name, words in found[:4])
    if len(found) > 4:
        evidence += f"; and {len(found) - 4} more"
    silent = any(words.startswith(_SILENT) for _, words in found)
    doubt = Confidence.LIKELY if silent else Confidence.SURE
    return Blame(Culprit.HARDWARE, tuple(name for name, _ in found), evidence, at_most=doubt)


_SILENT = "NODE_DEAD slurmd does not answer"
"""A machine that hangs for a minute does so too."""


def condemns(item: NodeEvidence) -> str:
    """Why this node is to be avoided, in words; empty when nothing speaks against it."""
    view = item.view
    ours = parse_reason(view.reason)
    if ours is not None and (view.state.draining or view.state.down):
        return " ".join(f"{ours.code} {ours.text}".split())
    if view.state.down:
        return f"Slurm declared it down{f' ({view.reason})' if view.reason else ''}"
    if "FAIL" in view.state.flags:
        return f"an administrator marked it FAIL{f' ({view.reason})' if view.reason else ''}"
    if item.slurmd_silent and item.ranks_silent:
        return f"{_SILENT} and its ranks are silent"
    return item.own_findings[0] if item.own_findings else ""


def condemned_since(nodes: Sequence[NodeEvidence]) -> float | None:
    """When the first of what speaks against these nodes was there: slurmd silent, or a reason of ours (in whole
    seconds); None: nothing tells."""
    return min((at for item in nodes if condemns(item) for at in _times(item)), default=None)


def _times(item: NodeEvidence) -> Iterable[float]:
    ours = parse_reason(item.view.reason)
    judged = incident_time(ours.incident) if ours is not None else None
    silent = item.silent_since if item.slurmd_silent else None
    return (at for at in (judged, silent) if at is not None)


PREEMPTION = "preemption"
"""Why a script was asked to stop whose job is in the grace time of a preemption."""


def blame_end(
    end: ScriptEnd,
    nodes: Sequence[NodeEvidence],
    *,
    stop_asked: str = "",
    heard: bool = True,
    links: Mapping[str, str] | None = None,
) -> Blame:
    """Who is to blame for a script that ended.

    `stop_asked`: why the script had been asked to stop before ("time limit", "preemption", ...), empty if it was not.
    `heard`: whether it can know of that, so that status 0 does not mean that it finished.
    `links`: what became of the links of which nodes while the script ran (recovery/fabric.py).
    """
    asked = Culprit.PREEMPTED if stop_asked == PREEMPTION else Culprit.STOPPED
    if end.status in (0, FINISHED):
        if end.status == 0 and stop_asked and heard:
            return Blame(asked, evidence=f"the script stopped as asked ({stop_asked})", step=end.step)
        return Blame(Culprit.NONE, evidence="the script finished", step=end.step)
    hardware = blame_nodes(nodes)
    if hardware is not None:
        return replace(hardware, step=end.step)
    if end.status == STOPPED or stop_asked:
        return Blame(asked, evidence=f"the script stopped as asked ({stop_asked or 'by itself'})", step=end.step)
    outside = _outside_the_code(end, links or {}, len(nodes)) or _device(end, [item.view.name for item in nodes])
    if outside is not None:
        return outside
    words = _died_of(end)
    at = f" at step {end.step}" if end.step is not None else ""
    said = f": {end.said}" if end.signature else ""
    return Blame(
        Culprit.USER_CODE,
        evidence=f"the script {words}{at} and no node shows a fault{said}",
        # The status of one and the same bug differs: it is that of the rank srun heard of first (1, 143, ...).
        signature=end.signature or words,
        step=end.step,
        # Without an error of its own in the output, there is only how it ended.
        at_most=Confidence.SURE if end.signature else Confidence.GUESS,
    )


def worth_looking_at(end: ScriptEnd, nodes: Sequence[str]) -> tuple[str, ...]:
    """Which nodes to ask what they know of themselves after a crash, before the script is blamed.

    Main memory that ran out is no fault of a node; an exception of the script's own speaks of its own node alone.
    Everything else may have begun anywhere, and the next attempt starts on all of them.
    """
    if end.kind == "oom":
        return ()
    return (end.node,) if end.kind == "python" and end.node in nodes else tuple(nodes)


_OF_A_LINK = frozenset({"nccl", "unknown"})
"""What ranks say when a connection broke; a traceback of the script's own names another cause."""


_FULL = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system")
"""Trying again does not help: two of a kind hold the run, and a person reads these words."""


def _outside_the_code(end: ScriptEnd, links: Mapping[str, str], of: int) -> Blame | None:
    """The fabric or the storage, where the ranks' last words and what was seen agree."""
    at = f" at step {end.step}" if end.step is not None else ""
    said = f": {end.said}" if end.signature else ""
    if links and end.kind in _OF_A_LINK:
        # On half of the nodes at once it is a switch, and no node is better than another.
        nodes = tuple(links) if len(links) <= of / 2 else ()
        seen = "; ".join(f"{node}: {words}" for node, words in list(links.items())[:4])
        return Blame(
            Culprit.FABRIC, nodes, f"{seen}, and the script {_died_of(end)}{at}{said}", end.signature, end.step
        )
    if end.kind == "storage" and not _FULL.search(end.signature):
        nodes, where = ((end.node,), f" on {end.node}") if end.node else ((), "")
        words = f"the script lost its storage{where}{at}{said}"
        return Blame(Culprit.STORAGE, nodes, words, f"storage|{end.signature}", end.step)
    if end.kind == "launch":
        # After a controller that was restarted in the middle of a change, its books of a job can be wrong (22.05).
        words = f"Slurm started no step for the script{at}{said}"
        return Blame(Culprit.UNKNOWN, (), words, f"{_NO_STEP}{end.signature}", end.step)
    return None


_DEVICE = re.compile(
    r"uncorrectable (?:ECC|NVLink) error|(?:ECC|NVLINK)_?UNCORRECTABLE|fallen off the bus|GPU is lost"
    r"|system not yet initialized|SYSTEM_?NOT_?READY",
    re.IGNORECASE,
)
"""CUDA's own words of a device or a fabric manager that is broken (cudaErrorECCUncorrectable, NvlinkUncorrectable,
SystemNotReady), where the node itself is not seen to be at fault: no kernel log, no NVML."""
_PERHAPS_DEVICE = re.compile(
    r"device\(s\) is/are busy or unavailable|DEVICES?_?UNAVAILABLE|no CUDA-capable device|CUDA_ERROR_NO_DEVICE"
    r"|No CUDA GPUs are available"
    r"|CUDA unknown error|CUDA driver initialization failed",
    re.IGNORECASE,
)
"""A driver that died says so, and so does a script that was given no GPU or shares one that is exclusive."""


def _device(end: ScriptEnd, nodes: Sequence[str]) -> Blame | None:
    """The node of the rank that CUDA told of a broken device. Where it may be the script as well, nobody is condemned:
    the node is left out as a suspect, on the small budget. A script whose ranks say it on all nodes ends there."""
    if end.kind not in _OF_A_DEVICE:
        return None
    sure = _DEVICE.search(end.signature) is not None
    if not sure and _PERHAPS_DEVICE.search(end.signature) is None:
        return None
    node = next((name for name in nodes if name in (end.node, end.node.partition(".")[0])), "")
    rank = f" (rank {end.rank})" if end.rank is not None else ""
    at = f" at step {end.step}" if end.step is not None else ""
    words = f"{node or 'the script'}{rank}: {end.said}{at}"
    if not node:
        # Halving finds it; a signature would say that it is no node.
        return Blame(Culprit.UNKNOWN, (), words, "", end.step)
    culprit = Culprit.HARDWARE if sure else Culprit.UNKNOWN
    return Blame(culprit, (node,), words, end.signature, end.step, Confidence.LIKELY)


_OF_A_DEVICE = frozenset({"cuda", "nccl"})
HANG = "hang"
"""The signature of every hang."""
_NO_STEP = "launch|"
_CONTROLLER_AWAY = re.compile(
    r"Unable to contact slurm controller|[Tt]imed out|Zero Bytes were transmitted|standby mode"
    r"|Connection (?:refused|reset)|connection failure|temporarily"
)


def no_step_started(signature: str) -> bool:
    """Whether this signature of a stop says that Slurm started no step for the script."""
    return signature.startswith(_NO_STEP)


def controller_was_away(signature: str) -> bool:
    """Whether Slurm started no step because its controller did not answer: its books may be in order all the same."""
    return no_step_started(signature) and _CONTROLLER_AWAY.search(signature) is not None


def _died_of(end: ScriptEnd) -> str:
    rank = f" (rank {end.rank}{f' on {end.node}' if end.node else ''})" if end.rank is not None else ""
    if end.kind == "oom":
        return f"ran out of main memory{rank}"
    if rank and (end.kind == "python" or end.signature.startswith("Exited with exit code ")):
        # Its own status is that of the rank srun heard of first, or of srun's SIGTERM to the others.
        return f"ended because of{rank.replace(' (', ' ').rstrip(')')}"
    if end.kind == "signal" and end.status in (137, -9):
        return "was killed by SIGKILL, as the kernel does when memory runs out,"
    return describe_status(end.status)


def describe_status(status: int) -> str:
    """An exit status in words. Shells report a child killed by signal S as 128 + S."""
    signal_number = -status if status < 0 else status - 128
    if status < 0 or 128 < status < 160:
        return f"was killed by {_SIGNALS.get(signal_number, f'signal {signal_number}')}"
    return f"ended with status {status}"


_SIGNALS = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL"}
_SIGNALS |= {11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM"}
