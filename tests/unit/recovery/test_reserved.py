"""Which nodes reservations keep from a job: those it could not be over on in time."""

from __future__ import annotations

import pytest

from sovctl.model.job import JobView
from sovctl.model.reservation import Reservation
from sovctl.recovery.reserved import kept_from

NOW = 1_000_000
HOUR = 3600


def job(limit_s: float | None = 2 * HOUR, reservation: str = "(null)") -> JobView:
    return JobView("7", "x", "u", 1000, "RUNNING", limit_s=limit_s, extra={"Reservation": reservation})


def of(
    begins_s: int, ends_s: int | None = 100 * HOUR, *, name: str = "other", over_others: bool = False
) -> Reservation:
    end = None if ends_s is None else NOW + ends_s
    return Reservation(name, ("n003", "n004"), NOW + begins_s, end, over_others)


@pytest.mark.parametrize(
    ("reservation", "limit_s", "kept"),
    [
        pytest.param(of(HOUR), 2 * HOUR, True, id="begins while the job runs"),
        pytest.param(of(3 * HOUR), 2 * HOUR, False, id="begins when the job is over"),
        pytest.param(of(90 * HOUR), None, True, id="the job has no end"),
        pytest.param(of(-HOUR), 60, True, id="goes on now"),
        pytest.param(of(-2 * HOUR, -HOUR), 2 * HOUR, False, id="is over"),
        pytest.param(of(-2 * HOUR, None), 2 * HOUR, True, id="has no end"),
    ],
)
def test_a_reservation_of_others(reservation: Reservation, limit_s: float | None, kept: bool) -> None:
    assert kept_from(job(limit_s), [reservation], NOW) == (frozenset({"n003", "n004"}) if kept else frozenset())


def test_ones_own_reservation_keeps_nothing_but_a_maintenance_over_it_does() -> None:
    own = of(-HOUR, name="ours")
    assert kept_from(job(reservation="ours"), [own], NOW) == frozenset()
    assert kept_from(job(reservation="theirs,ours"), [own, of(HOUR)], NOW) == frozenset()
    assert kept_from(job(reservation="ours"), [own, of(HOUR, over_others=True)], NOW) == {"n003", "n004"}


def test_without_reservations_nothing_is_kept() -> None:
    assert kept_from(job(), [], NOW) == frozenset()
