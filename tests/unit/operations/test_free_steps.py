"""What is left of a job is ended only when it has nothing to do but wait."""

from __future__ import annotations

from run_fakes import FakeClock

from sovctl.operations.node.free_steps import StepFreer


class Daemons:
    """One node's slurmstepds."""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self.waiting: dict[str, dict[int, str]] = {}
        self.ended: list[int] = []
        self.preempted: dict[str, float] = {}
        self.ended_tasks: list[tuple[str, float, bool]] = []

    def asked(self) -> list[str]:
        return self.wanted

    def childless(self, job_id: str) -> dict[int, str]:
        return dict(self.waiting.get(job_id, {}))

    def end(self, pid: int, job_id: str) -> bool:
        self.ended.append(pid)
        self.waiting[job_id].pop(pid)
        return True

    def to_end(self) -> dict[str, float]:
        return dict(self.preempted)

    def end_tasks(self, job_id: str, before: float, *, batch: bool) -> int:
        self.ended_tasks.append((job_id, before, batch))
        return 3


def turns(freer: StepFreer, clock: FakeClock, count: int) -> list[str]:
    said = []
    for _ in range(count):
        clock.sleep(2.0)
        said += freer.turn()
    return said


def test_one_that_waits_over_two_looks_is_ended_if_asked_for() -> None:
    daemons, clock = Daemons(), FakeClock()
    daemons.waiting = {"1": {70: "1.0"}, "2": {71: "2.0"}}
    freer = StepFreer(daemons, clock)
    assert turns(freer, clock, 3) == []
    daemons.wanted = ["1"]
    assert turns(freer, clock, 1) == []
    assert turns(freer, clock, 1) == ["ended the slurmstepd of step 1.0, which only waited for a lost node"]
    assert daemons.ended == [70]


def test_one_that_has_a_process_again_starts_anew() -> None:
    daemons, clock = Daemons(), FakeClock()
    daemons.wanted = ["1"]
    freer = StepFreer(daemons, clock)
    for _ in range(4):
        daemons.waiting = {"1": {70: "1.0"}}
        turns(freer, clock, 1)
        daemons.waiting = {}
        turns(freer, clock, 1)
    assert daemons.ended == []


def test_what_is_left_of_a_preempted_job_is_ended_and_its_batch_script_one_look_later() -> None:
    daemons, clock = Daemons(), FakeClock()
    freer = StepFreer(daemons, clock)
    daemons.preempted = {"1": 50.0}
    said = turns(freer, clock, 1)
    assert said == ["ended 3 processes of job 1, which was preempted and is past its grace time"]
    daemons.preempted = {"1": 55.0}
    turns(freer, clock, 1)
    assert daemons.ended_tasks == [("1", 50.0, False), ("1", 55.0, True)]
    # Asked anew later, for another execution: the batch script has its moment again.
    daemons.preempted = {}
    turns(freer, clock, 1)
    daemons.preempted = {"1": 90.0}
    turns(freer, clock, 1)
    assert daemons.ended_tasks[-1] == ("1", 90.0, False)
