"""A node in memory: what it shows, what Slurm thinks of it, and what was done to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sovctl.errors import SlurmUnreachable, SovctlError
from sovctl.model.gpu import GpuSample, KernelLogRead
from sovctl.model.job import JobView
from sovctl.model.node import NodeState, NodeView
from sovctl.model.verdict import Verdict
from sovctl.model.xid_line import parse_kernel_message
from sovctl.operations.node.check_node import CheckSettings, NodePorts

NODE = "n003"
NOW = 1795384000.0


def settings(**changes: Any) -> CheckSettings:
    return CheckSettings(**{"node": NODE, "uid": 0, "act": True, "expected_gpus": 8, **changes})


class FakeNode:
    """Every port of `check_node` and `watch_node` in one; time passes only in waits."""

    def __init__(self) -> None:
        self.time = NOW
        self.samples: tuple[GpuSample, ...] = tuple(
            GpuSample(index, f"GPU-{index}", None, "B200", f"00000000:{0x0F + 0x11 * index:02X}:00.0")
            for index in range(8)
        )
        self.probe_error: SovctlError | None = None
        self.hanging = False
        self.lines: list[str] = []
        self.log_error: SovctlError | None = None
        self.boot = "boot-1"
        self.verdict: Verdict | None = None
        self.verdict_saves: list[Verdict] = []
        self.saved_cursor = ("", 0)
        self.write_error: SovctlError | None = None
        self.views = {name: NodeView(name, NodeState("MIXED")) for name in ("n001", "n002", NODE)}
        self.slurm_down = False
        self.drains: list[tuple[float, str, str]] = []
        self.slurm_user = "slurm(64030)"
        self.records: list[dict[str, Any]] = []
        self.journal_error: SovctlError | None = None
        self.turns = 0
        self.marks: list[float] = []
        self.unseen = 0
        self.script: list[tuple[float, str]] = []
        """Kernel lines still to come: (time, text)."""

    def ports(self) -> NodePorts:
        return NodePorts(self, self, self, self, self, self, self, self)

    def fault(self, code: int, gpu: int = 5, detail: str = "detail") -> None:
        self.lines.append(f"NVRM: Xid (PCI:0000:{0x0F + 0x11 * gpu:02x}:00): {code}, pid=1, name=x, {detail}")

    # Clock, Turn, AliveMark

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    @contextmanager
    def take(self) -> Iterator[None]:
        self.turns += 1
        yield

    def refresh(self, boot_id: str, at: float) -> None:
        self.marks.append(at)

    # GpuProbe and KernelLog share `read` by name only: one takes a cursor

    def read(self, since_sequence: int | None = None) -> Any:
        if since_sequence is None:
            return self._gpus()
        if self.log_error:
            raise self.log_error
        self.unseen = len(self.lines)
        events = [parse_kernel_message(text, sequence=n) for n, text in enumerate(self.lines) if n >= since_sequence]
        return KernelLogRead(tuple(event for event in events if event), max(since_sequence, len(self.lines)))

    def _gpus(self) -> tuple[GpuSample, ...]:
        if self.probe_error:
            raise self.probe_error
        return self.samples

    def begin(self) -> None:
        if self.probe_error:
            raise self.probe_error

    def collect(self, wait_s: float) -> tuple[GpuSample, ...] | None:
        if self.hanging:
            self.time += wait_s
            return None
        return self._gpus()

    def boot_id(self) -> str:
        return self.boot

    def wait(self, timeout_s: float) -> bool:
        if self.log_error:
            raise self.log_error
        until = self.time + timeout_s
        while self.script and self.script[0][0] <= until:
            self.time = max(self.time, self.script[0][0])
            self.lines.append(self.script.pop(0)[1])
        if len(self.lines) > self.unseen:
            return True
        self.time = max(until, self.time + 0.001)
        return False

    # VerdictStore

    def load(self) -> Verdict | None:
        return self.verdict if self.verdict and self.verdict.boot_id == self.boot else None

    def save(self, verdict: Verdict, valid_for_s: float) -> None:
        if self.write_error:
            raise self.write_error
        self.verdict = verdict
        self.verdict_saves.append(verdict)

    def cursor(self, boot_id: str) -> int:
        return self.saved_cursor[1] if self.saved_cursor[0] == boot_id else 0

    def save_cursor(self, boot_id: str, sequence: int) -> None:
        if self.write_error:
            raise self.write_error
        self.saved_cursor = (boot_id, sequence)

    # NodeControl and ClusterView

    def node(self, name: str) -> NodeView:
        self._answer()
        return self.views[name]

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        self._answer()
        return tuple(self.views.values())

    def drain(self, node: str, reason: str) -> None:
        self._answer()
        self.drains.append((self.time, node, reason))
        self.put(node, "MIXED", "DRAIN", reason=reason)

    def put(self, name: str, base: str, *flags: str, reason: str = "") -> None:
        self.views[name] = NodeView(name, NodeState(base, frozenset(flags)), reason=reason)

    def jobs_on(self, nodes: Sequence[str]) -> tuple[JobView, ...]:
        return ()

    def settings(self) -> Mapping[str, str]:
        self._answer()
        return {"SlurmUser": self.slurm_user}

    def _answer(self) -> None:
        if self.slurm_down:
            raise SlurmUnreachable()

    # Journal

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        if self.journal_error:
            raise self.journal_error
        record = {"seq": len(self.records) + 1, "at": self.time, "kind": kind, **fields}
        self.records.append(record)
        return record

    def events(self) -> list[dict[str, Any]]:
        return self.records

    @property
    def kinds(self) -> list[str]:
        return [record["kind"] for record in self.records]


class Records:
    """The node's small files in memory."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}
        self.said: list[str] = []
        self.full = False
        self.elsewhere: list[Any] = []

    def load(self, name: str) -> Any:
        return self.files.get(name)

    def present(self, name: str) -> bool:
        return name in self.files

    def save(self, name: str, record: dict[str, Any]) -> None:
        if self.full:
            raise SovctlError("no space left")
        self.files[name] = record

    def drop(self, name: str) -> None:
        self.files.pop(name, None)

    def ledgers(self) -> tuple[Any, ...]:
        return tuple(self.elsewhere)

    def notice(self, line: str) -> None:
        self.said.append(line)

    def jobs(self) -> tuple[str, ...]:
        return tuple(name.removeprefix("job-") for name in self.files if name.startswith("job-"))
