"""How much longer this process takes because of others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sovctl.adapters.run.crowding import Crowding

MS = 1_000_000


class Machine:
    """What the kernel says, and the time."""

    def __init__(self, proc: Path) -> None:
        self.proc, self.now = proc, 0.0
        (proc / "self").mkdir()
        self.schedstat(10 * MS, 0)
        (proc / "loadavg").write_text("80.00 60.00 40.00 1/500 12345\n")

    def schedstat(self, ran_ns: int, waited_ns: int) -> None:
        (self.proc / "self" / "schedstat").write_text(f"{ran_ns} {waited_ns} 7\n")

    def crowding(self) -> Crowding:
        return Crowding(self.proc, lambda: self.now)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_load_that_lets_us_run_is_no_crowd(machine: Machine) -> None:
    crowding = machine.crowding()
    machine.now = 5.0
    machine.schedstat(60 * MS, 0)
    assert crowding() == 1.0


def test_what_we_wait_for_a_cpu_counts_against_what_we_run(machine: Machine) -> None:
    crowding = machine.crowding()
    machine.now = 5.0
    machine.schedstat(20 * MS, 30 * MS)
    assert crowding() == 4.0


def test_only_the_last_second_counts(machine: Machine) -> None:
    crowding = machine.crowding()
    for second, waited in ((10.0, 500), (11.5, 500), (13.0, 510)):
        machine.now = second
        machine.schedstat(int(second) * 10 * MS, waited * MS)
        last = crowding()
    assert last == 1.0 + 10 / 20


def test_a_single_wait_next_to_no_work_is_no_crowd(machine: Machine) -> None:
    crowding = machine.crowding()
    machine.schedstat(10 * MS + 1000, 2 * MS)
    assert crowding() == 3.0


@pytest.mark.parametrize(("words", "load"), [("8.00 4.00 2.00 1/500 9", 8.0), ("0.10 4.00 2.00 12/500 9", 12.0)])
@pytest.mark.parametrize("schedstat", [None, "0 0 0\n", "nonsense\n", ""])
def test_a_kernel_that_measures_nothing(machine: Machine, schedstat: str | None, words: str, load: float) -> None:
    path = machine.proc / "self" / "schedstat"
    path.unlink() if schedstat is None else path.write_text(schedstat)
    (machine.proc / "loadavg").write_text(words + "\n")
    assert machine.crowding()() == max(1.0, load / (os.cpu_count() or 1))


@pytest.mark.parametrize("words", ["", "many\n", "1.0\n"])
def test_a_load_that_says_nothing(machine: Machine, words: str) -> None:
    (machine.proc / "self" / "schedstat").unlink()
    (machine.proc / "loadavg").write_text(words)
    assert machine.crowding()() == 1.0


def test_this_machine_is_measured() -> None:
    assert Crowding()() >= 1.0
