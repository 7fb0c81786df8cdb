"""What a format knows of one checkpoint, and where its rules look. Pure but for the reads of a Tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sovctl.checkpoint.tree import Tree

MOST_RANKS = 1_000_000


class Implausible(ValueError):
    """Names or counts that no job has, made to keep the reader busy; the text is a clause."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The judgement of a format's own rules."""

    problem: str = ""
    """Why it is not whole, as a clause; empty: nothing is missing."""
    corrupt: bool = False
    """What is there is wrong, so that waiting for the rest would not help."""
    world_size: int | None = None
    """Ranks that saved it, where the files tell."""
    mark: str = ""
    """The file that the format writes last; empty: it has none, and only silence shows that the writer is done."""
    closed: frozenset[str] = frozenset()
    """Files that must not be newer than the mark."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies around a candidate."""

    name: str
    """Of the directory or file itself."""
    step: int
    names: frozenset[str] = frozenset()
    """Everything in the directory of checkpoints."""
    tracked: Mapping[str, int | None] = field(default_factory=dict)
    """Tracker file -> the step it names, `None` when it names none that is there."""


class Format(Protocol):
    """A module of this package."""

    NAME: str
    TRACKERS: tuple[str, ...]
    """Files beside the checkpoints that name the newest one."""

    def owns(self, name: str, top: frozenset[str]) -> bool:
        """Whether a directory of this name with these entries is one of this format."""

    def look(self, tree: Tree, beside: Beside) -> Layout:
        """Whether it is whole. Raises OSError."""


def missing(what: Iterable[str]) -> str:
    """`a is missing`, `a is missing (and 2 more)`; empty when nothing is."""
    names = sorted(what)
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]} is missing{more}" if names else ""


def gaps(numbers: Iterable[int], expected: int | None = None) -> list[int]:
    """Numbers from 0 that are not there, up to the highest one or to `expected - 1`. Raises Implausible."""
    have = set(numbers)
    count = plausible(max(expected or 0, max(have, default=-1) + 1))
    return [number for number in range(count) if number not in have]


def plausible(ranks: int) -> int:
    """The number itself. Raises Implausible where it is beyond any job."""
    if ranks > MOST_RANKS:
        raise Implausible(f"its files speak of more than {MOST_RANKS} ranks")
    return ranks


def numbered(tree: Tree, pattern: re.Pattern[str]) -> dict[int, str]:
    """Number in the first group of the pattern -> file."""
    return {int(found[1]): name for name in tree.files if (found := pattern.fullmatch(name))}


def not_newest(tracked: int | None, step: int, tracker: str) -> str:
    """Why a checkpoint that its tracker does not name yet was not committed; empty when it was, or nobody knows."""
    if tracked is not None and step > tracked:
        return f"its save was not finished: {tracker} names step {tracked}"
    return ""
