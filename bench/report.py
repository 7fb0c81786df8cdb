"""What every benchmark prints: a table on stderr, one JSON object on stdout (schema sovctl.bench/1)."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured figure, beside what it is compared to. A missed target is reported, never hidden."""

    name: str
    value: float
    unit: str
    runs: int
    versus: str | None = None
    versus_value: float | None = None
    ratio: float | None = None
    """versus_value / value: how many times better."""
    target: float | None = None
    met: bool | None = None


def figure(
    name: str,
    samples: Sequence[float],
    unit: str,
    *,
    target: float | None = None,
    versus: str | None = None,
    versus_samples: Sequence[float] = (),
) -> Figure:
    """The median of the samples; `target` is an upper bound."""
    value = statistics.median(samples)
    other = statistics.median(versus_samples) if versus_samples else None
    return Figure(
        name=name,
        value=round(value, 4),
        unit=unit,
        runs=len(samples),
        versus=versus,
        versus_value=None if other is None else round(other, 4),
        ratio=None if other is None or value == 0 else round(other / value, 2),
        target=target,
        met=None if target is None else value <= target,
    )


def at_least(name: str, value: float, unit: str, *, target: float) -> Figure:
    """One value whose target is a lower bound."""
    return Figure(name, round(value, 4), unit, 1, target=target, met=value >= target)


def in_turns(ways: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """A sample of each way in every round, so that whatever else the machine does hits all of them alike. Each round
    begins with another one: what a way leaves to be cleaned up delays whoever comes next, and that is then each."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(runs):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            samples[name].append(ways[name]())
    return samples


def as_people_have_it() -> None:
    """Commands that are measured find compiled modules, as pip leaves them, and write into a pipe in large pieces,
    whatever the shell of the benchmark says."""
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        os.environ.pop(name, None)


def publish(name: str, figures: Sequence[Figure], conditions: dict[str, Any]) -> None:
    """Print both forms."""
    for item in figures:
        against = f"   {item.versus}: {item.versus_value:g} {item.unit}" if item.versus_value is not None else ""
        target = "" if item.target is None else f"   target {item.target:g}: {'met' if item.met else 'MISSED'}"
        print(f"{item.name:<64} {item.value:>9.3f} {item.unit} (n={item.runs}){against}{target}", file=sys.stderr)
    record = {
        "schema": "sovctl.bench/1",
        "name": name,
        "figures": [asdict(item) for item in figures],
        "conditions": conditions,
    }
    print(json.dumps(record))
