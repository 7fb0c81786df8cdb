"""What one rank of a training run says about itself: the content of `<run directory>/progress/<rank>`.

Written by the training process, read by the supervisor. The writer may be another version, half broken or hostile:
the parser takes a bounded number of bytes, never raises, and leaves out what it does not understand.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

SCHEMA = "sovctl.progress/1"
LONGEST_BYTES = 64 * 1024
"""Read at most so much of a progress file; an honest one has under 1 KiB."""

LONGEST_PROBLEM = 200
"""Characters of `save_problem`."""

SEEN_FILE = "seen.json"
"""Beside the script of an attempt: the step at which its supervisor saw the run last, `step` and `at`."""
STOPPED = 75
"""Exit status of a training script that stopped because it was asked to: run me again."""
FINISHED = 93
"""Exit status of a training script that reached its end: do not restart. 0 means the same."""


class Phase(StrEnum):
    """What a rank is doing.

    `TRAINING` is another name of `RUNNING`, which is what the file says; a reader takes both words. A checkpoint that
    is written in the background does not change the phase: the rank trains on, and `saving_step` names its step.
    """

    STARTING = "starting"
    LOADING = "loading"
    RUNNING = "running"
    TRAINING = "running"
    SAVING = "saving"
    STOPPING = "stopping"
    FINISHED = "finished"

    @classmethod
    def _missing_(cls, value: object) -> Phase | None:
        return cls.RUNNING if value == "training" else None


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest word of one rank. Times are seconds since the epoch on the rank's own node; `None`: not yet."""

    rank: int
    node: str
    pid: int
    attempt: int
    phase: Phase
    started_at: float
    """When the process began, before any import."""
    loaded_at: float | None = None
    loaded_step: int | None = None
    """Step of the checkpoint this attempt resumed from; 0 when it began from nothing."""
    first_step_at: float | None = None
    """When this attempt's first step was done."""
    first_step: int | None = None
    step: int | None = None
    """The last step that was done."""
    step_at: float | None = None
    step_seconds: float | None = None
    """Seconds a step takes, smoothed."""
    saved_step: int | None = None
    """The last checkpoint of this attempt that is complete on disk."""
    saved_at: float | None = None
    loss: float | None = None
    busy_seconds: float | None = None
    """What one step costs this rank itself, in seconds: the mean of the middle half (quarter to three quarters) of its
    last `busy_steps` steps, at most 64. Only what the script put inside `with run.compute():` counts, so no waiting
    for other ranks and no collective that it left outside; on an accelerator the time is the device's own, between two
    events. This is what tells a slow rank from its peers, who all share the same `step_seconds`. `None`: the script
    does not tell, or has done fewer than 4 steps."""
    busy_steps: int | None = None
    """Steps behind `busy_seconds`: 4 to 64."""
    busy_spread: float | None = None
    """How far those steps lie apart, in seconds: third quartile less first. A rank is slow only by more than this."""
    data_seconds: float | None = None
    """The same mean as `busy_seconds` for what the script put inside `with run.loading_data():`."""
    saving_step: int | None = None
    """A checkpoint of this step is being written in the background while the rank trains on; `None`: none is."""
    save_seconds: float | None = None
    """How long the last complete checkpoint took from the call to the rename into its place."""
    stall_seconds: float | None = None
    """How long the training loop stood still for it: staging, and waiting for an earlier one to be done."""
    save_problem: str | None = None
    """Why the last checkpoint could not be written, at most 200 characters; `None` after one that could."""

    def to_json(self) -> bytes:
        """One line of JSON. A loss that is no number is written as text, since JSON has no word for it."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {name: str(value) if _odd(value) else value for name, value in values.items()}
        return json.dumps({"schema": SCHEMA, **values}, separators=(",", ":")).encode() + b"\n"


def parse_progress(data: bytes) -> Progress | None:
    """Read a progress file; `None` when it is not one. A value of the wrong type counts as absent."""
    if len(data) > LONGEST_BYTES:
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        return None
    return _progress(record)


def _progress(record: dict[str, Any]) -> Progress | None:
    rank, pid, attempt = (_whole(record.get(name)) for name in ("rank", "pid", "attempt"))
    started_at, phase, node = _number(record.get("started_at")), _phase(record.get("phase")), record.get("node")
    if rank is None or pid is None or attempt is None or started_at is None or phase is None:
        return None
    return Progress(
        rank=rank,
        node=node if isinstance(node, str) else "",
        pid=pid,
        attempt=attempt,
        phase=phase,
        started_at=started_at,
        loaded_at=_number(record.get("loaded_at")),
        loaded_step=_whole(record.get("loaded_step")),
        first_step_at=_number(record.get("first_step_at")),
        first_step=_whole(record.get("first_step")),
        step=_whole(record.get("step")),
        step_at=_number(record.get("step_at")),
        saved_step=_whole(record.get("saved_step")),
        saved_at=_number(record.get("saved_at")),
        step_seconds=_number(record.get("step_seconds")),
        loss=_loss(record.get("loss")),
        **_extras(record),
    )


def _extras(record: dict[str, Any]) -> dict[str, Any]:
    """The fields that came later: earlier writers do not have them, and a writer need not have any."""
    seconds = ("busy_seconds", "busy_spread", "data_seconds", "save_seconds", "stall_seconds")
    problem = record.get("save_problem")
    return {
        **{name: _duration(record.get(name)) for name in seconds},
        **{name: _whole(record.get(name)) for name in ("busy_steps", "saving_step")},
        "save_problem": problem[:LONGEST_PROBLEM] if isinstance(problem, str) and problem else None,
    }


def _whole(value: object) -> int | None:
    """A count; bounded so that arithmetic with it stays harmless."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        return None
    return float(value)


def _duration(value: object) -> float | None:
    """Seconds that passed: never negative, and finite."""
    number = _number(value)
    return number if number is not None and number >= 0 else None


def _loss(value: object) -> float | None:
    if isinstance(value, str):
        return float(value) if value in ("nan", "inf", "-inf") else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _number(value)


def _phase(value: object) -> Phase | None:
    try:
        return Phase(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _odd(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
