"""From when a run last moved, and from what its ranks do now, to whether it hangs. Pure.

No progress for a while is only the first sign. Before anything is done the ranks themselves are looked at: a rank that
is stopped or blocked in the kernel, a node that does not answer, or ranks that all wait without using their CPU or
their accelerators. Ranks that compute make a run slow, not hung; for them a second, longer limit holds.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sovctl.errors import UsageError
from sovctl.model.blame import Blame, Confidence, Culprit
from sovctl.model.progress import Phase
from sovctl.model.rank_look import GpuUse, NodeLook
from sovctl.recovery.blame import HANG
from sovctl.recovery.fabric import broken_links
from sovctl.recovery.stacks import Group, Placed, collective, fold_ranks, group, odd_groups, placed

AUTO = -1.0
"""As a timeout: derived from the run's own step times."""
STARTUP_S = 1800.0
"""Before the first step: imports, compilation, loading a large checkpoint."""
_LEAST_STARTUP_S, _STARTUPS = 120.0, 4.0
"""The same once the run's own start-ups are known: so many times the longest, and no less."""
SLOW_FACTOR = 4.0
"""Ranks that compute without a step get so many times the patience."""
_LEAST_S, _MOST_S = 300.0, 3600.0
_LEAST_SAVING_S = 600.0
_SAVES_KNOWN = 3
_LEAST_GROWTH_S = 1800.0
_STEPS, _GAPS, _SAVES = 20.0, 4.0, 3.0
_PRINTED_OFTEN = 3
_MOST_TRIES = 3
_BUSY_CPU = 0.5
_NETWORK_BUSY_BYTES_S = 100e6
_STORAGE: tuple[str, ...] = (
    "nfs",
    "rpc_",
    "rpc4",
    "lustre",
    "ll_",
    "cl_",
    "osc_",
    "ptlrpc",
    "fuse",
    "gpfs",
    "mmfs",
    "ceph",
    "beegfs",
)
_STORAGE += ("cifs", "io_schedule", "wait_on_page", "folio_wait", "jbd2", "xfs_", "ext4_", "sb_start", "percpu_rwsem")


class Source(StrEnum):
    """What tells that a run moves, best first."""

    RANKS = "ranks"
    """The progress files of sovctl.train.Heartbeat."""
    STEPS = "steps"
    """Step numbers in the job's output."""
    GROWTH = "growth"
    """The output or the checkpoints grow."""


def parse_timeout(text: str) -> float:
    """Seconds of `--hang-timeout`: `900`, `90s`, `15m`, `2h`; `off`, `0`: 0; `auto`: AUTO. Raises UsageError."""
    word = text.strip().lower()
    if word in ("off", "auto"):
        return 0.0 if word == "off" else AUTO
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(word[-1:], 0.0)
    digits = word[:-1] if unit else word
    if not (digits.isascii() and digits.isdigit() and len(digits) < 8):
        raise UsageError(
            f"--hang-timeout takes a time such as 900, 90s, 15m or 2h, auto or off, not {text!r}",
            hint="Leave it out, or write it as in --hang-timeout=15m.",
        )
    return float(digits) * (unit or 1.0)


@dataclass(slots=True)
class Pace:
    """How a run moves: its gaps between two signs of progress, and its saves. Times: seconds since the epoch."""

    timeout_s: float = AUTO
    moved_at: float = 0.0
    source: Source | None = None
    stepped: bool = False
    phase: Phase | None = None
    """Of rank 0; None: it says nothing of itself."""
    longest_gap_s: float = 0.0
    longest_save_s: float = 0.0
    longest_startup_s: float = 0.0
    """Of earlier attempts; 0: none got to its first step."""
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    _phase_since: float = 0.0
    _saves: int = 0

    def begin(self, now: float) -> None:
        """The script starts."""
        self.moved_at = self._phase_since = now

    def knows(self, saves_s: Sequence[float] = (), startups_s: Sequence[float] = ()) -> None:
        """How long the ranks say their saves took, and start-ups of earlier attempts: most saves are over between two
        looks at the phase."""
        self.longest_save_s = max((self.longest_save_s, *saves_s))
        self.longest_startup_s = max((self.longest_startup_s, *startups_s))
        self._saves += len(saves_s)

    def moved(self, at: float, source: Source) -> None:
        """The run was seen to move. A better source takes over and its gaps are measured anew."""
        if self.source is None or _BEST.index(source) < _BEST.index(self.source):
            self.source, self.longest_gap_s = source, 0.0
            self._gaps.clear()
        elif source is not self.source:
            return
        elif self.stepped or source is Source.GROWTH:
            gap = max(0.0, at - self.moved_at)
            self._gaps.append(gap)
            self.longest_gap_s = max(self.longest_gap_s, gap)
        # A run that only prints has no first step: it counts as started once it printed a few times.
        self.stepped = self.stepped or source is not Source.GROWTH or len(self._gaps) >= _PRINTED_OFTEN
        self.moved_at = max(self.moved_at, at)

    def alive(self, at: float) -> None:
        """Something else shows that it lives (a checkpoint that grows): its patience begins again."""
        self.moved_at = max(self.moved_at, at)

    def paused(self, seconds: float) -> None:
        """The supervisor itself stood still so long (scontrol suspend, gang scheduling), and so did its ranks."""
        self.moved_at += seconds
        self._phase_since += seconds

    def entered(self, phase: Phase, at: float) -> None:
        """Rank 0 is in this phase now; a change of phase is progress."""
        if phase is self.phase:
            return
        if self.phase is Phase.SAVING:
            self.longest_save_s = max(self.longest_save_s, at - self._phase_since)
            self._saves += 1
        if phase is Phase.FINISHED:
            # What comes now is no training: an evaluation, an upload. It has no pace yet, and whatever shows that it
            # goes on counts.
            self.source, self.stepped, self.longest_gap_s, self.longest_startup_s = None, False, 0.0, 0.0
            self._gaps.clear()
        self.phase, self._phase_since = phase, at
        self.moved_at = max(self.moved_at, at)

    @property
    def off(self) -> bool:
        return self.timeout_s == 0

    @property
    def step_s(self) -> float | None:
        """Seconds between two signs of progress, as usual."""
        return statistics.median(self._gaps) if self._gaps else None

    def patience_s(self) -> float:
        """How long without progress is borne now."""
        own = self.timeout_s if self.timeout_s > 0 else self._derived_s()
        if not self.stepped or self.phase in (Phase.STARTING, Phase.LOADING):
            known = max(_LEAST_STARTUP_S, _STARTUPS * self.longest_startup_s)
            return max(own, min(STARTUP_S, known) if self.longest_startup_s else STARTUP_S)
        if self.phase in (Phase.SAVING, Phase.STOPPING):
            # A first save may take anything; once a few were measured they say what is long.
            least = _LEAST_SAVING_S if self._saves < _SAVES_KNOWN else 0.0
            return max(own, least, _SAVES * self.longest_save_s)
        return own

    def idle_s(self, now: float) -> float:
        """Since it last moved."""
        return now - self.moved_at

    def _derived_s(self) -> float:
        least = _LEAST_GROWTH_S if self.source is Source.GROWTH else _LEAST_S
        longest = max(_MOST_S, 2.0 * self.longest_gap_s)
        return min(max(least, _STEPS * (self.step_s or 0.0), _GAPS * self.longest_gap_s), longest)


_BEST = tuple(Source)


@dataclass(frozen=True, slots=True)
class Standstill:
    """A run without progress, and what a look at its nodes saw."""

    idle_s: float
    patience_s: float
    source: Source | None = None
    step: int | None = None
    step_s: float | None = None
    looks: tuple[NodeLook, ...] = ()
    silent: tuple[str, ...] = ()
    """Nodes that did not answer this look."""
    silent_again: bool = False
    """They were asked twice."""
    before: tuple[NodeLook, ...] = ()
    """A look at the same nodes while the run still moved; empty: there was none."""
    expected: tuple[tuple[int, str], ...] = ()
    """(rank, node) of ranks that have said something of themselves and not that they are done."""
    problem: str = ""
    """Why nobody could be asked."""
    tries: int = 1
    """How often it was tried since it stands still."""
    finished: bool = False
    """Rank 0 said that the training is done."""


@dataclass(frozen=True, slots=True)
class Hang:
    """It hangs: who is to blame, and which ranks stand apart."""

    blame: Blame
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NotYet:
    """It is not (known to be) hung."""

    why: str
    slow: bool = False
    """Its ranks work."""


def judge(seen: Standstill) -> Hang | NotYet:
    """Whether a run without progress hangs, and on what evidence."""
    if seen.idle_s < seen.patience_s:
        return NotYet(f"it moved {seen.idle_s:.0f} s ago")
    # The strongest evidence first.
    for rule in (_by_findings, _by_silence, _by_stopped, _by_blocked, _by_missing, _by_fabric):
        found = rule(seen)
        if found is not None:
            return found
    too_long = seen.idle_s >= SLOW_FACTOR * seen.patience_s
    if not seen.looks:
        why = f"the ranks could not be looked at: {seen.problem or 'no node answered'}"
        # Far beyond every patience a run that nobody can look at is not left standing for ever.
        return _hang(seen, Culprit.UNKNOWN, (), why) if too_long and seen.tries >= _MOST_TRIES else NotYet(why)
    if seen.finished and not placed(seen.looks):
        return NotYet("its ranks have finished, and the script goes on without them", slow=True)
    work = _work(seen.looks)
    if work and not too_long:
        return NotYet(f"no step for {seen.idle_s:.0f} s, but {work}", slow=True)
    return _by_place(seen, work)


def _by_findings(seen: Standstill) -> Hang | None:
    bad = [look for look in seen.looks if look.findings]
    if not bad:
        return None
    words = "; ".join(f"{look.node}: {look.findings[0]}" for look in bad[:4])
    return _hang(seen, Culprit.HARDWARE, [look.node for look in bad], words)


def _by_silence(seen: Standstill) -> Hang | NotYet | None:
    if not seen.silent or not seen.looks:
        return None
    if not seen.silent_again:
        return NotYet(f"{', '.join(seen.silent)} did not answer; asked again")
    slowest = max(look.took_s for look in seen.looks)
    names = ", ".join(seen.silent)
    # A machine that swaps or waits for its storage is as slow.
    words = f"{names}: NODE_FROZEN starts no process, while {len(seen.looks)} other nodes answered in {slowest:.1f} s"
    return _hang(seen, Culprit.HARDWARE, seen.silent, words, at_most=Confidence.LIKELY)


def _by_stopped(seen: Standstill) -> Hang | None:
    stopped = [item for item in placed(seen.looks) if item.look.state in ("T", "t")]
    if not stopped:
        return None
    word = "stopped (SIGSTOP or a debugger)"
    return _hang(seen, Culprit.UNKNOWN, _nodes(stopped), f"{_named(stopped)} {word}{_others(seen, stopped)}", stopped)


def _by_blocked(seen: Standstill) -> Hang | None:
    everybody = placed(seen.looks)
    blocked = [item for item in everybody if item.look.blocked]
    if not blocked:
        return None
    wait = blocked[0].look.blocked
    on_storage = any(word in item.look.blocked for item in blocked for word in _STORAGE)
    culprit = Culprit.STORAGE if on_storage else Culprit.UNKNOWN
    nodes = _nodes(blocked)
    # All nodes at once: the file system itself, and no node is better than another.
    suspects = nodes if len(nodes) < len({item.node for item in everybody}) else ()
    words = f"{_named(blocked)} blocked in the kernel ({wait}){_others(seen, blocked)}"
    return _hang(seen, culprit, suspects, words, blocked)


def _by_missing(seen: Standstill) -> Hang | None:
    answered = {look.node for look in seen.looks}
    there = {item.look.rank for item in placed(seen.looks)}
    gone = [(rank, node) for rank, node in seen.expected if node in answered and rank not in there]
    if not gone or not there:
        return None
    nodes = tuple(sorted({node for _, node in gone}))
    ranks = fold_ranks(rank for rank, _ in gone)
    words = f"no process is left of rank {ranks} on {', '.join(nodes)}, and {len(there)} others wait"
    blame = _hang(seen, Culprit.UNKNOWN, nodes if len(nodes) < len(answered) else (), words)
    return Hang(blame.blame, tuple(rank for rank, _ in gone))


def _by_fabric(seen: Standstill) -> Hang | None:
    broken = broken_links(seen.before, seen.looks)
    if not broken:
        return None
    # On half of the nodes at once it is a switch, and no node is better than another.
    nodes = tuple(broken) if len(broken) <= len(seen.looks) / 2 else ()
    words = "; ".join(f"{node}: {said}" for node, said in list(broken.items())[:4])
    more = f"; and {len(broken) - 4} more nodes" if len(broken) > 4 else ""
    return _hang(seen, Culprit.FABRIC, nodes, f"{words}{more}, since the run last was seen well")


def _work(looks: Sequence[NodeLook]) -> str:
    """What speaks for a run that is slow and not hung, in words; empty when nothing does."""
    everybody = placed(looks)
    busy = [item for item in everybody if (item.look.cpu_share or 0.0) >= _BUSY_CPU and item.look.moving]
    if busy:
        return f"{_named(busy)} computing: {busy[0].look.stack[0] if busy[0].look.stack else busy[0].look.command}"
    # Without a stack nobody knows whether it spins in a wait; a process that computes is given the doubt.
    unread = [item for item in everybody if (item.look.cpu_share or 0.0) >= _BUSY_CPU and not item.look.stack]
    if unread:
        return f"{_named(unread)} using the CPU, and there is no stack that says for what"
    hot = [(look.node, gpu) for look in looks for gpu in look.gpus if _computes(gpu)]
    if hot:
        return f"GPU {hot[0][1].index} of {hot[0][0]} computes at {hot[0][1].power_w:.0f} W"
    carrying = [look for look in looks if (look.network_bytes_s or 0.0) >= _NETWORK_BUSY_BYTES_S]
    if carrying:
        return f"the network of {carrying[0].node} carries {(carrying[0].network_bytes_s or 0) / 1e6:.0f} MB/s"
    return ""


def _computes(gpu: GpuUse) -> bool:
    """A collective that waits shows full utilization too, but at low power."""
    if gpu.power_w is None or not gpu.power_limit_w:
        return False
    return (gpu.utilization_percent or 0) >= 50 and gpu.power_w >= 0.5 * gpu.power_limit_w


def _by_place(seen: Standstill, work: str) -> Hang:
    everybody = placed(seen.looks)
    if work:
        return _hang(seen, Culprit.UNKNOWN, (), f"{work}, and still no step after {seen.idle_s:.0f} s")
    groups = group(everybody)
    odd = odd_groups(groups)
    if not odd:
        where = groups[0].place if groups else ""
        words = f"all {len(everybody)} ranks wait at {where}" if len(groups) == 1 else "the ranks wait at many places"
        return _hang(seen, Culprit.UNKNOWN, (), words if everybody else "no rank was found on any node")
    ranks = {rank for item in odd for rank in item.ranks}
    apart = [item for item in everybody if item.look.rank in ranks]
    nodes = _nodes(apart)
    suspects = nodes if len(nodes) <= len(seen.looks) / 2 else ()
    words = f"{_named(apart)} at {odd[0].place}, {_crowd(groups[0])}"
    return _hang(seen, Culprit.UNKNOWN, suspects, words, apart)


def _crowd(most: Group) -> str:
    word = "wait in" if collective(most.stack) else "are at"
    return f"while {len(most.ranks)} others {word} {most.place}"


def _others(seen: Standstill, apart: Sequence[Placed]) -> str:
    known = {item.look.rank for item in apart}
    rest = group([item for item in placed(seen.looks) if item.look.rank not in known])
    return f", {_crowd(rest[0])}" if rest else ""


def _nodes(ranks: Sequence[Placed]) -> tuple[str, ...]:
    return tuple(sorted({item.node for item in ranks}))


def _named(ranks: Sequence[Placed]) -> str:
    nodes = _nodes(ranks)
    where = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more nodes" if len(nodes) > 4 else "")
    numbers = fold_ranks(item.look.rank for item in ranks)
    return f"rank {numbers} on {where} is" if len(ranks) == 1 else f"ranks {numbers} on {where} are"


def _hang(
    seen: Standstill,
    culprit: Culprit,
    nodes: Sequence[str],
    words: str,
    apart: Sequence[Placed] = (),
    at_most: Confidence = Confidence.SURE,
) -> Hang:
    usual = f", usually one in {seen.step_s:.3g} s" if seen.step_s else ""
    after = f" after step {seen.step}" if seen.step is not None else ""
    evidence = f"no progress for {seen.idle_s:.0f} s{after}{usual}: {words}"
    return Hang(
        Blame(culprit, tuple(nodes), evidence, signature=HANG, step=seen.step, at_most=at_most),
        tuple(item.look.rank for item in apart),
    )
