"""One line of `sovctl doctor`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

SCHEMA = "sovctl.doctor/1"


class State(StrEnum):
    """How a check came out; only `fail` makes the status 1."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """Does not apply here, or could not be asked; `seen` says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """What was looked at, what was seen, and what to type."""

    check: str
    state: State
    seen: str
    fix: str = ""


def passed(check: str, seen: str) -> Line:
    """All right."""
    return Line(check, State.PASS, seen)


def warned(check: str, seen: str, fix: str) -> Line:
    """Works, with something lost."""
    return Line(check, State.WARN, seen, fix)


def failed(check: str, seen: str, fix: str) -> Line:
    """Does not work, or not safely."""
    return Line(check, State.FAIL, seen, fix)


def skipped(check: str, seen: str, fix: str = "") -> Line:
    """Not asked."""
    return Line(check, State.SKIP, seen, fix)


def worst(lines: Iterable[Line]) -> State:
    """The state of the whole."""
    states = {line.state for line in lines}
    return next((state for state in (State.FAIL, State.WARN) if state in states), State.PASS)
