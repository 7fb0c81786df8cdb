"""The record of a run as it was found in a directory of some user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class UserRun:
    """Whatever it says, it is this user's word and no more."""

    uid: int
    """Of the owner of its events."""
    run_dir: str
    record: Mapping[str, Any]
    """What run.json says of whose it is: texts only."""
    events: tuple[Mapping[str, Any], ...]
