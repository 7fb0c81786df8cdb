"""From the output of a job that died to what died first, where, and of what. Pure.

Sources, best first: the root cause that torchelastic prints, a Python traceback that names its rank (torch puts
`[rank3]:` before the lines of an uncaught exception since 2.3; `srun --label` puts `3: `), srun's own lines about its
tasks, slurmstepd's about memory. What other ranks say once one of them is gone is never the cause.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sovctl.model.progress import FINISHED, STOPPED
from sovctl.recovery.signature import crash_signature, error_line, is_echo, normalised, shell_error

_LONGEST_LINE = 2000
_EXCERPT_LINES = 60
_MOST_TASKS = 1 << 16
_PREFIX = re.compile(r"^(?:(?P<label>\d{1,6}): |\[(?:rank|default)(?P<rank>\d{1,6})\]:\s?)")
_TASK = re.compile(r"srun: error: (?P<node>[\w.-]{1,255}): tasks? (?P<tasks>\d[\d,-]{0,200}): (?P<what>[^\n]{1,200})")
_SLURM_SAYS = re.compile(r"(?:srun|slurmstepd[\w.-]{0,255}): ")
_OOM = re.compile(
    r"oom[_-]kill|Out Of Memory|\bout of memory\b.*Killed process|Exceeded job memory limit|exceeded memory limit", re.I
)
_CUDA_OOM = re.compile(r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY")
_MEMORY = r"DefaultCPUAllocator: can't allocate memory|\bMemoryError\b|std::bad_alloc|Cannot allocate memory"
_STORAGE = (
    r"No space left on device|Input/output error|Stale file handle|Disk quota exceeded|Read-only file system"
    r"|Transport endpoint is not connected|\[Errno (?:5|28|30|107|116|122)\]"
)
_NCCL = r"\bNCCL\b|ncclSystemError|ncclInternalError|ncclRemoteError|ProcessGroupNCCL"
_CUDA = (
    r"CUDA error|CUDA_ERROR_|cudaError|CUBLAS_STATUS|CUDNN_STATUS|AcceleratorError|device-side assert"
    r"|CUDA unknown error|No CUDA GPUs are available|cudaGetDeviceCount|CUDA driver initialization failed"
)
_KINDS = tuple(
    (name, re.compile(text, re.IGNORECASE if name == "cuda" else 0))
    for name, text in (("oom", _MEMORY), ("storage", _STORAGE), ("nccl", _NCCL), ("cuda", _CUDA))
)
_SIGNALLED = re.compile(
    r"^srun: error: .*(?:Segmentation fault|Bus error|Illegal instruction|Floating point exception|Aborted|Killed"
    r"|Terminated)|traceback : Signal \d{1,2} \(SIG"
)
_NO_STEP = re.compile(r"^srun: error: Unable to create step for job \d{1,20}: (?P<why>[^\n]{1,200})")
_ENDS_STEP = re.compile(
    r"(?:\d{1,6}: )?srun: (?:[\w/]{1,40}: ){0,3}Terminating StepId=(?P<job>\d{1,10})\.(?P<step>\d{1,9})$"
)
_EXITED = re.compile(r"Exited with exit code (?P<status>\d{1,3})")
_ENDED_BY_SRUN = re.compile(r"srun: error: [^\n]{1,300}: (?:Killed|Terminated)$")
_CAUSE_BY_ITSELF = re.compile(r"Out Of Memory|Segmentation fault|Bus error|Illegal instruction")


class Kind(StrEnum):
    """What a run died of."""

    OOM = "oom"
    """Main memory; the kernel or slurmstepd killed it, or an allocation failed."""
    CUDA = "cuda"
    """An error of the GPU or its runtime, a full GPU memory among them."""
    NCCL = "nccl"
    STORAGE = "storage"
    PYTHON = "python"
    """An exception of the script."""
    SIGNAL = "signal"
    LAUNCH = "launch"
    """Slurm started no step for the script."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Crash:
    """The first thing that went wrong, as far as the output tells."""

    kind: Kind
    rank: int | None = None
    node: str = ""
    signature: str = ""
    """Equal for two crashes of the same kind (see signature.py)."""
    excerpt: str = ""
    """The traceback or the lines that tell it."""
    words: str = ""
    """The line of the signature as it was printed."""


def read_crash(output: str, status: int, *, ranks: Mapping[int, str] | None = None) -> Crash:
    """`output`: the end of what the job printed; `status`: exit status of the script, negative: killed by that signal;
    `ranks`: rank -> node, where known."""
    lines = [line[:_LONGEST_LINE] for line in output.splitlines()]
    others = [line for line in lines if not _ENDED_BY_SRUN.search(line)]
    exited = "" if crash_signature("\n".join(others)) else _first_exit(lines)
    if exited:
        # Nobody said a word, and srun has ended the rest: their SIGKILL, and a status that comes of it, are no cause.
        lines, status = others, int(exited.rpartition(" ")[2])
    # srun's own short words are compared as they are: a status of 7 is another crash than one of 9.
    line, of_srun, of_shell = error_line("\n".join(lines)), no_step(lines), shell_error(lines, status)
    words = line or of_srun or of_shell or exited
    signature = normalised(line) or of_srun or normalised(of_shell) or exited
    root = _torchelastic(lines)
    blocks = _tracebacks(lines)
    cause = next((block for block in blocks if not is_echo(block[-1])), None)
    task = _first_task(lines)
    rank, node = _where(root, cause, task)
    if rank is not None and not node:
        node = (ranks or {}).get(rank, "")
    excerpt = "\n".join((cause or _root_block(lines) or _telling(lines))[-_EXCERPT_LINES:])
    return Crash(_kind(lines, cause, status), rank, node, signature, excerpt, words)


def _first_exit(lines: Sequence[str]) -> str:
    """`Exited with exit code 7` of the first task that srun says failed, where it ended with a status of its own."""
    first = next((match for line in lines if (match := _TASK.search(line))), None)
    return first["what"] if first is not None and _EXITED.fullmatch(first["what"]) else ""


def _where(
    root: tuple[int, str] | None, cause: Sequence[str] | None, task: tuple[int, str] | None
) -> tuple[int | None, str]:
    if root is not None:
        return root
    rank = _rank_of(cause[0]) if cause else None
    if rank is not None:
        return rank, task[1] if task is not None and task[0] == rank else ""
    return task if task is not None else (None, "")


def _kind(lines: Sequence[str], cause: Sequence[str] | None, status: int) -> Kind:
    if any(_OOM.search(line) and not _CUDA_OOM.search(line) for line in lines):
        return Kind.OOM
    # The words of the cause decide before those of the ranks that died of it.
    if cause:
        return _by_words(cause[-1:]) or (Kind.PYTHON if "RuntimeError" not in cause[-1] else None) or _rest(lines)
    killed = status < 0 or status > 128 or any(_SIGNALLED.search(line) for line in lines)
    return _by_words([line for line in lines if not is_echo(line)]) or (
        Kind.SIGNAL if killed else _by_words(lines) or (Kind.LAUNCH if no_step(lines) else Kind.UNKNOWN)
    )


def no_step(lines: Sequence[str]) -> str:
    """Why Slurm started no step, in its own words, where srun says so; else empty."""
    found = [match["why"].strip() for line in lines if (match := _NO_STEP.match(line))]
    return found[-1] if found else ""


@dataclass(slots=True)
class SrunEnds:
    """Reads what srun says of a step whose other ranks it ends because one of them failed (--kill-on-bad-exit)."""

    job_id: str
    """Slurm's raw one."""
    ended: frozenset[int] = frozenset()
    """Tasks of that step which are over, as far as srun tells."""
    _status: int | None = None
    """Of the rank that ended last by itself, as far as srun tells."""
    _last: frozenset[int] = frozenset()

    def feed(self, lines: Sequence[str]) -> int | None:
        """The step it ends in these lines; None: none, or its first rank said that it is done, and others may save."""
        step = None
        for line in lines:
            if task := _TASK.search(line):
                exited = _EXITED.fullmatch(task["what"])
                self._status = int(exited["status"]) if exited else None
                self._last = _tasks(task["tasks"])
                self.ended |= self._last
            elif (match := _ENDS_STEP.match(line)) and match["job"] == self.job_id:
                step = None if self._status in (FINISHED, STOPPED) else int(match["step"])
                self.ended = self._last
        return step


def _tasks(words: str) -> frozenset[int]:
    """`0-2,4` as srun writes it."""
    found: set[int] = set()
    for part in filter(None, words.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found |= set(range(int(first), min(int(last or first), int(first) + _MOST_TASKS) + 1))
    return frozenset(found)


def _rest(lines: Sequence[str]) -> Kind:
    return _by_words([line for line in lines if not is_echo(line)]) or Kind.PYTHON


def _by_words(lines: Sequence[str]) -> Kind | None:
    if any(_CUDA_OOM.search(line) for line in lines):
        return Kind.CUDA
    return next((Kind(name) for name, pattern in _KINDS if any(pattern.search(line) for line in lines)), None)


def _torchelastic(lines: Sequence[str]) -> tuple[int, str] | None:
    """Rank and host of the earliest root cause; torchrun prints one block a node."""
    found: list[tuple[str, int, str]] = []
    for number, line in enumerate(lines):
        if "Root Cause (first observed failure):" not in line:
            continue
        fields: dict[str, str] = {}
        for item in lines[number + 1 : number + 9]:
            key, colon, value = _bare(item).partition(":")
            if colon:
                fields.setdefault(key.strip(), value.strip())
        rank = re.match(r"\d{1,6}", fields.get("rank", ""))
        # Signal 15: torchrun ended it because a peer had failed.
        if rank and not fields.get("exitcode", "").startswith("-15"):
            found.append((fields.get("time", "~"), int(rank[0]), fields.get("host", "")))
    return min(found)[1:] if found else None


def _root_block(lines: Sequence[str]) -> list[str]:
    """The first root cause as torchelastic prints it."""
    at = next((number for number, line in enumerate(lines) if "Root Cause (first observed failure):" in line), None)
    return [] if at is None else list(lines[at : at + 8])


def _tracebacks(lines: Sequence[str]) -> list[list[str]]:
    """Each Python traceback with its last line, in order; lines of one rank belong together even when ranks mix."""
    found: list[list[str]] = []
    open_: dict[int | None, list[str]] = {}
    for line in lines:
        rank, text = _rank_of(line), _bare(line)
        if text.startswith("Traceback (most recent call last)"):
            open_[rank] = [line]
            found.append(open_[rank])
        elif _SLURM_SAYS.match(text):
            # Slurm's own lines fall into the middle of a traceback, and are never its end.
            continue
        elif rank in open_:
            open_[rank].append(line)
            # Frames and their source are indented; the exception is the first line that is not.
            if text and not text.startswith((" ", "\t")):
                del open_[rank]
    # Ranks without labels cut one another short: a block without its exception tells nothing.
    return [block for block in found if len(block) > 1 and not _bare(block[-1]).startswith((" ", "\t"))]


def _first_task(lines: Sequence[str]) -> tuple[int, str] | None:
    """(task, node) of the first task that srun says failed; one that a fault of its own killed counts before one that
    merely ended, because its peers may notice faster than srun."""
    seen = [match for line in lines if (match := _TASK.search(line))]
    for match in [*(item for item in seen if _CAUSE_BY_ITSELF.search(item["what"])), *seen]:
        if not re.search(r"Terminated|Killed$", match["what"]) or len(seen) == 1:
            return int(re.split(r"[,-]", match["tasks"])[0]), match["node"]
    return (int(re.split(r"[,-]", seen[0]["tasks"])[0]), seen[0]["node"]) if seen else None


def _telling(lines: Sequence[str]) -> list[str]:
    words = re.compile(r"error|fail|fault|abort|killed|exception|\bXid\b", re.I)
    return [line for line in lines if words.search(line)][:_EXCERPT_LINES]


def _rank_of(line: str) -> int | None:
    match = _PREFIX.match(line)
    word = match and (match["label"] or match["rank"])
    return int(word) if word else None


def _bare(line: str) -> str:
    return _PREFIX.sub("", line, count=1)
