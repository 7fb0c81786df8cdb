"""A sweep has bad nodes taken last, and gives every weight back that it ever took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sovctl.errors import SovctlError
from sovctl.health.ledger import Ledger, LedgerEntry, ledger_record
from sovctl.health.sweep import SweepPolicy
from sovctl.model.job import JobView
from sovctl.model.node import NodeState, NodeView
from sovctl.operations.sweep import SweepOutcome, SweepPorts, SweepSettings, sweep
from sovctl.ports.site import RemoteAnswer, SshFailure

NOW = 1795384000.0


class Site:
    """Slurm, SSH, clock, journal and the shared directory in one; nobody answers by SSH."""

    def __init__(self) -> None:
        self.views = {name: NodeView(name, NodeState("IDLE"), weight=5) for name in ("n001", "n002")}
        self.time = NOW
        self.kinds: list[str] = []
        self.record: Any = None
        self.squashed = False
        self.refuses = False
        self.drains = 3

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        return tuple(self.views.values())

    def jobs(self) -> tuple[JobView, ...]:
        return ()

    def job(self, job_id: str) -> JobView:
        raise SovctlError("no such job")

    def drain(self, node: str, reason: str) -> None:
        raise AssertionError("nothing is drained here")

    set_down = drain

    def resume(self, node: str) -> None:
        raise AssertionError("nothing is resumed here")

    def set_weight(self, node: str, weight: int) -> None:
        if self.refuses:
            raise SovctlError("slurmctld does not answer")
        self.views[node] = replace(self.views[node], weight=weight)

    def ask(self, nodes: Mapping[str, str], command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        return {name: RemoteAnswer(failure=SshFailure.UNREACHABLE, problem="away") for name in nodes}

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.kinds.append(kind)
        return {}

    def events(self) -> list[dict[str, Any]]:
        return []

    @contextmanager
    def take(self) -> Iterator[None]:
        yield

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def changed(self, since: float) -> bool:
        return True

    def all(self) -> dict[str, tuple[float, Any]]:
        entries = tuple(LedgerEntry(NOW, "n002", f"boot-{n}", "FAILED XID79") for n in range(self.drains))
        return {"n002": (NOW, ledger_record(Ledger({"s2": entries}, {"0000:0f:00": "s2"})))}

    def lemons(self) -> Any:
        return None if self.squashed else self.record

    def save_lemons(self, record: dict[str, Any]) -> None:
        self.record = record

    @property
    def weights(self) -> list[int]:
        return [view.weight for view in self.views.values()]


def run(site: Site, *, act: bool = True) -> SweepOutcome:
    settings = SweepSettings(act, SweepPolicy(), "stored", "check")
    return sweep(SweepPorts(site, site, site, site, site, site), settings)


def test_a_lemon_is_taken_last_and_forgiven_after_months() -> None:
    site = Site()
    assert [deed.did for _, deed in run(site, act=False).placed] == ["would set its weight to 6 (score 9: taken last)"]
    assert site.weights == [5, 5] and site.record is None
    run(site)
    assert site.weights == [5, 6] and site.record["taken_last"] == {"n002": 5}
    run(site)
    assert site.kinds == ["weight-intended", "weight-done"], "once is enough"
    site.time += 60 * 86400
    run(site)
    assert site.weights == [5, 5] and site.record["taken_last"] == {}


def test_a_weight_that_could_not_be_given_back_is_remembered() -> None:
    site = Site()
    run(site)
    site.time, site.refuses = NOW + 60 * 86400, True
    assert run(site).placed[0][1].why == "could not set its weight: slurmctld does not answer"
    assert site.record["taken_last"] == {"n002": 5}
    site.refuses = False
    run(site)
    assert site.weights == [5, 5]


def test_without_a_memory_that_can_be_read_back_no_weight_is_touched() -> None:
    site = Site()
    site.squashed = True
    assert any("root squashing" in note for note in run(site).notes)
    assert site.weights == [5, 5]
