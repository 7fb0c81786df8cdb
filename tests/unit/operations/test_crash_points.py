"""The supervisor is killed before every single one of its requests and records; the next one goes on where it was."""

from __future__ import annotations

from typing import Any

import pytest
from run_fakes import NOW, XID79, Run

from sovctl.recovery.decide import Limits

CRASH = "Traceback (most recent call last):\nValueError: document 7 is empty\n"


class Killed(BaseException):
    """SIGKILL: nothing of the supervisor runs after it."""


def killed_at(run: Run, moment: int) -> list[int]:
    """From now on the `moment`-th request or record does not happen, and kills whoever makes it; what is returned
    counts down to it."""
    left = [moment]
    answer, append = run.slurm._answer, run.journal.append

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def counted_answer(request: str) -> None:
        count()
        answer(request)

    def counted_append(kind: str, **fields: Any) -> dict[str, Any]:
        count()
        return append(kind, **fields)

    run.slurm._answer = counted_answer  # type: ignore[method-assign]
    run.journal.append = counted_append  # type: ignore[method-assign]
    return left


def live_through(run: Run, moment: int, plan: dict[str, Any]) -> bool:
    """One execution of the batch script whose supervisor is killed once; returns whether it was."""
    left = killed_at(run, moment)
    first, second = run.supervisor(**plan), run.supervisor(**plan)
    try:
        first()
    except Killed:
        second()
        return True
    finally:
        left[0] = 0
    return False


def story_ends(run: Run, plan: dict[str, Any]) -> None:
    """Executions until the run is over or held."""
    for _ in range(6):
        if run.of("run_ended") or run.of("held"):
            return
        run.await_start()
        run.supervisor(**plan)()
    raise AssertionError(f"the run does not end: {run.kinds}")


def assert_once(run: Run) -> None:
    """Every attempt has one beginning and at most one end; the job was not brought back more often than it stopped."""
    started = [record["attempt"] for record in run.of("attempt_started")]
    ended = [record["attempt"] for record in run.of("attempt_ended")]
    assert started == list(range(len(started)))
    assert ended == started
    assert [record["seq"] for record in run.journal.records] == list(range(1, len(run.journal.records) + 1))


@pytest.mark.parametrize("plan", [{}, {"size": 2, "spares": 1}], ids=["queue", "spare"])
def test_a_hardware_fault_is_recovered_once_wherever_the_supervisor_dies(plan: dict[str, Any]) -> None:
    moment, killed = 0, True
    while killed:
        moment += 1
        run = Run(nodes=5, count=3 if plan else 2)
        run.clock.at(5.0, lambda run=run: vars(run.slurm.machines["n002"]).update(drained=True, reason=XID79))  # type: ignore[misc]
        run.on_start = lambda child, run=run: (  # type: ignore[misc]
            run.clock.at(run.clock.time - NOW + 3, lambda: child.end(0)) if run.of("attempt_ended") else None
        )
        killed = live_through(run, moment, plan)
        story_ends(run, plan)
        assert run.of("run_ended")[-1]["outcome"] == "finished", (moment, run.kinds)
        assert_once(run)
        assert run.job.restarts <= 1
        later = [record["nodes"] for record in run.of("attempt_started") if record["at"] > NOW + 6]
        assert all("n002" not in nodes for nodes in later), (moment, later)
    assert moment > 20


def test_a_bug_is_held_once_wherever_the_supervisor_dies() -> None:
    moment, killed = 0, True
    while killed:
        moment += 1
        run = Run()
        run.output = CRASH
        run.on_start = lambda child, run=run: run.clock.at(run.clock.time - NOW + 3, lambda: child.end(1))  # type: ignore[misc]
        killed = live_through(run, moment, {"limits": Limits(same_crash=2)})
        story_ends(run, {})
        run.clock.sleep(300)
        assert run.job.held, (moment, run.kinds)
        assert_once(run)
        assert 2 <= len(run.of("attempt_started")) <= 3
    assert moment > 20
