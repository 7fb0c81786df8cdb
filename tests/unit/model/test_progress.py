"""Progress files: what a rank writes is what the supervisor reads, and nothing makes the reader fail."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.progress import LONGEST_BYTES, Phase, Progress, parse_progress

counts = st.integers(0, 2**63 - 1)
times = st.floats(0, 1e17)
ranks = st.builds(
    Progress,
    rank=counts,
    node=st.text(max_size=30),
    pid=counts,
    attempt=counts,
    phase=st.sampled_from(Phase),
    started_at=times,
    loaded_at=st.none() | times,
    loaded_step=st.none() | counts,
    first_step_at=st.none() | times,
    first_step=st.none() | counts,
    step=st.none() | counts,
    step_at=st.none() | times,
    step_seconds=st.none() | times,
    saved_step=st.none() | counts,
    saved_at=st.none() | times,
    loss=st.none() | st.floats(allow_nan=False),
    busy_seconds=st.none() | times,
    busy_steps=st.none() | counts,
    busy_spread=st.none() | times,
    data_seconds=st.none() | times,
    saving_step=st.none() | counts,
    save_seconds=st.none() | times,
    stall_seconds=st.none() | times,
    save_problem=st.none() | st.text(min_size=1, max_size=200),
)
PLAIN = Progress(rank=3, node="n003", pid=7, attempt=1, phase=Phase.RUNNING, started_at=5.0, step=9, loss=2.5)


@given(ranks)
def test_what_is_written_is_read(progress: Progress) -> None:
    assert parse_progress(progress.to_json()) == progress


def test_a_loss_that_is_no_number_survives_as_valid_json() -> None:
    line = Progress(rank=0, node="n", pid=1, attempt=0, phase=Phase.RUNNING, started_at=0.0, loss=math.nan).to_json()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] == "nan"
    parsed = parse_progress(line)
    assert parsed is not None
    assert parsed.loss is not None
    assert math.isnan(parsed.loss)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([item.name for item in fields(Progress)]), json_values))
def test_wrong_types_never_raise(damage: dict[str, object]) -> None:
    record = json.loads(PLAIN.to_json())
    parsed = parse_progress(json.dumps({**record, **damage}).encode())
    assert parsed is None or parsed.rank >= 0


@given(st.binary(max_size=300))
def test_garbage_is_no_progress(data: bytes) -> None:
    assert parse_progress(data) is None


@given(st.integers(0, len(PLAIN.to_json()) - 2))
def test_half_a_file_is_no_progress(length: int) -> None:
    assert parse_progress(PLAIN.to_json()[:length]) is None


def test_an_earlier_writer_has_no_later_fields() -> None:
    record = json.loads(PLAIN.to_json())
    for name in ("busy_seconds", "busy_steps", "busy_spread", "data_seconds", "saving_step", "save_problem"):
        del record[name]
    assert parse_progress(json.dumps(record).encode()) == PLAIN


def test_both_words_for_training_are_read() -> None:
    record = json.loads(PLAIN.to_json())
    assert record["phase"] == "running"
    parsed = parse_progress(json.dumps({**record, "phase": "training"}).encode())
    assert parsed is not None
    assert parsed.phase is Phase.TRAINING is Phase.RUNNING


def test_a_time_that_runs_backwards_is_no_time() -> None:
    record = json.loads(PLAIN.to_json())
    parsed = parse_progress(json.dumps({**record, "busy_seconds": -1.0, "save_problem": "x" * 999}).encode())
    assert parsed is not None
    assert (parsed.busy_seconds, len(parsed.save_problem or "")) == (None, 200)


def test_bounds() -> None:
    assert parse_progress(PLAIN.to_json().rstrip() + b" " * LONGEST_BYTES) is None
    assert parse_progress(b"[" * 10_000) is None


def test_unknown_fields_are_ignored_and_unknown_schemas_refused() -> None:
    record = json.loads(PLAIN.to_json())
    assert parse_progress(json.dumps({**record, "gpu": 3}).encode()) == PLAIN
    assert parse_progress(json.dumps({**record, "schema": "sovctl.progress/2"}).encode()) is None
