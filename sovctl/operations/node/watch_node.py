"""The watcher of one node: judges a kernel line the moment it is written, NVML twice a minute, the host part by part,
and says that it is alive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sovctl.errors import SovctlError
from sovctl.health.probes import source_groups
from sovctl.model.verdict import VerdictState
from sovctl.operations.node.check_node import CheckOutcome, CheckSettings, NodePorts, check_node
from sovctl.operations.node.free_steps import StepFreer
from sovctl.operations.node.look import GpuReading, HostReading
from sovctl.ports.node import AliveMark, HostWatch


@dataclass(frozen=True, slots=True)
class WatchPace:
    """How often; seconds."""

    alive_s: float = 2.0
    nvml_s: float = 30.0
    host_s: float = 10.0
    """Between two parts of the host; one part each time, so that all are seen within two minutes."""
    burst_s: float = 0.15
    """One fault writes several lines, its cause first or last: read on until it is quiet, at most so long."""
    quiet_s: float = 0.03
    retry_first_s: float = 0.5
    retry_longest_s: float = 30.0


def watch_node(
    ports: NodePorts,
    settings: CheckSettings,
    pace: WatchPace,
    alive: AliveMark,
    stopped: Callable[[], bool],
    report: Callable[[CheckOutcome], None],
    complain: Callable[[str], None],
    host: HostWatch | None = None,
    freer: StepFreer | None = None,
) -> None:
    """Watch until `stopped()`. `report` gets each outcome that changed, `complain` each trouble of the watcher once."""
    watch = _Watch(ports, settings, pace, alive, report, complain, host)
    watch.freer = freer
    while not stopped():
        watch.turn()


_NOT_READ_YET = GpuReading(blind="nvml: not read yet")
_FRESH_S = 2.0
"""A reading of NVML that failed the node is not used again when it is older: somebody may have mended the node and
given it back since, and it would be drained for what is no longer so."""


class _Watch:
    def __init__(
        self,
        ports: NodePorts,
        settings: CheckSettings,
        pace: WatchPace,
        alive: AliveMark,
        report: Callable[[CheckOutcome], None],
        complain: Callable[[str], None],
        host: HostWatch | None,
    ) -> None:
        self.freer: StepFreer | None = None
        self._host = host
        self._parts = source_groups(settings.probes) if host is not None else ()
        self._part = 0
        self._asking = False
        self._host_due = ports.clock.now() + pace.host_s
        self._ports = ports
        self._settings = settings
        self._pace = pace
        self._alive = alive
        self._report = report
        self._complain = complain
        self._reading = _NOT_READ_YET
        self._read_at = 0.0
        self._failed = False
        """By the last verdict."""
        self._held: HostReading | None = None
        """A part of the host that waits for a fresh reading of NVML."""
        self._probing = False
        self._alive_due = self._nvml_due = ports.clock.now()
        self._retry_due: float | None = None
        self._retry_s = pace.retry_first_s
        self._last: object = None
        self._troubles: set[str] = set()

    def turn(self) -> None:
        """Do what is due, then wait for the kernel or for what is due next."""
        now = self._ports.clock.now()
        self._undo_clock_jump(now)
        if now >= self._alive_due:
            self._alive_due = now + self._pace.alive_s
            self._guard("alive", lambda: self._alive.refresh(self._ports.kernel_log.boot_id(), now))
            self._guard("steps", self._free_steps)
        self._probe(now)
        self._probe_host(now)
        if self._retry_due is not None and now >= self._retry_due:
            self._check()
        if self._wait():
            self._settle()
            self._check()

    def _free_steps(self) -> None:
        for words in self.freer.turn() if self.freer is not None and self._settings.act else ():
            self._complain(words)

    def _probe(self, now: float) -> None:
        """NVML in the background: a driver that hangs must delay neither a kernel line nor the mark."""
        if not self._probing and now >= self._nvml_due:
            self._nvml_due = now + self._pace.nvml_s
            self._probing = self._guard("nvml", self._ports.gpus.begin)
            if not self._probing:
                self._reading = GpuReading(blind="nvml: cannot be started")
        if not self._probing:
            return
        try:
            gpus = self._ports.gpus.collect(self._pace.quiet_s)
            if gpus is None:
                return
            self._reading = GpuReading(gpus)
        except SovctlError as error:
            self._reading = GpuReading(blind=f"nvml: {error.message}")
        self._probing, self._read_at = False, self._ports.clock.now()
        held, self._held = self._held, None
        self._check(held)

    def _probe_host(self, now: float) -> None:
        """One part of the host in the background, the next one next time."""
        if self._host is None or not self._parts:
            return
        if not self._asking and now >= self._host_due:
            self._host_due = now + self._pace.host_s
            self._part = (self._part + 1) % len(self._parts)
            self._host.begin(self._parts[self._part])
            self._asking = True
        if self._asking:
            facts = self._host.collect(self._pace.quiet_s)
            if facts is not None:
                self._asking = False
                self._check(HostReading(self._parts[self._part], facts))

    def _wait(self) -> bool:
        """True when the kernel wrote something."""
        now = self._ports.clock.now()
        due = [self._alive_due, self._nvml_due, *([] if self._retry_due is None else [self._retry_due])]
        due += [self._host_due] if self._parts else []
        timeout_s = 0.0 if self._probing or self._asking else max(0.0, min(due) - now)
        try:
            written = self._ports.kernel_log.wait(timeout_s)
            self._troubles.discard("kernel-log")
            return written
        except SovctlError as error:
            self._say("kernel-log", error.message)
            self._ports.clock.sleep(min(max(timeout_s, 0.1), 1.0))
            return False

    def _settle(self) -> None:
        """Let the burst come in: judged line by line, the cleanup would stand for the cause."""
        end = self._ports.clock.now() + self._pace.burst_s
        try:
            while True:
                self._ports.kernel_log.read(self._ports.verdicts.cursor(self._ports.kernel_log.boot_id()))
                if self._ports.clock.now() >= end or not self._ports.kernel_log.wait(self._pace.quiet_s):
                    return
        except SovctlError as error:
            self._say("kernel-log", error.message)

    def _check(self, part: HostReading | None = None) -> None:
        if self._doubtful():
            # NVML is asked in the background and has a deadline of its own; the check follows its answer.
            self._nvml_due, self._held, self._retry_due = self._ports.clock.now(), part or self._held, None
            return
        try:
            outcome = check_node(self._ports, self._settings, self._reading, part)
        except SovctlError as error:
            self._say("check", error.message)
            self._plan_retry(failed=True)
            return
        self._troubles.discard("check")
        self._failed = outcome.verdict.state is VerdictState.FAILED
        for note in outcome.notes:
            self._say(note, note)
        gist = (outcome.verdict.state, outcome.verdict.findings, outcome.decision)
        starting = self._reading is _NOT_READ_YET and outcome.verdict.state is VerdictState.UNKNOWN
        if gist != self._last and not starting:
            self._last = gist
            self._report(outcome)
        self._plan_retry(failed=self._settings.act and not outcome.settled)

    def _doubtful(self) -> bool:
        old = self._ports.clock.now() - self._read_at > _FRESH_S
        return self._failed and bool(self._reading.gpus) and old

    def _plan_retry(self, *, failed: bool) -> None:
        """slurmctld may be down or the budget spent: the fault stays unread in the log, so looking again is enough."""
        if not failed:
            self._retry_due, self._retry_s = None, self._pace.retry_first_s
            return
        self._retry_due = self._ports.clock.now() + self._retry_s
        self._retry_s = min(self._retry_s * 2, self._pace.retry_longest_s)

    def _guard(self, name: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except SovctlError as error:
            self._say(name, error.message)
            return False
        self._troubles.discard(name)
        return True

    def _say(self, name: str, words: str) -> None:
        if name not in self._troubles:
            self._troubles.add(name)
            self._complain(words)

    def _undo_clock_jump(self, now: float) -> None:
        """After the clock was set back, nothing may wait for the old time to come again."""
        self._alive_due = min(self._alive_due, now + self._pace.alive_s)
        self._nvml_due = min(self._nvml_due, now + self._pace.nvml_s)
        self._host_due = min(self._host_due, now + self._pace.host_s)
        if self._retry_due is not None:
            self._retry_due = min(self._retry_due, now + self._pace.retry_longest_s)
