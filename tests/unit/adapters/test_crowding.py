from __future__ import annotations

import os
from pathlib import Path

import pytest

from sovctl.adapters.crowding import crowding

CORES = os.cpu_count() or 1


@pytest.mark.parametrize(
    ("text", "wanting"),
    [
        (f"{4 * CORES}.00 1.00 0.50 1/340 4711\n", 4.0),
        (f"0.10 1.00 0.50 {3 * CORES}/340 4711\n", 3.0),
        ("0.00 0.00 0.00 1/340 4711\n", 1.0),
        ("nonsense\n", 1.0),
        ("", 1.0),
    ],
)
def test_the_longer_of_average_and_moment_counts(text: str, wanting: float, tmp_path: Path) -> None:
    path = tmp_path / "loadavg"
    path.write_text(text)
    assert crowding(path) == wanting


def test_a_kernel_that_does_not_say_is_taken_for_idle(tmp_path: Path) -> None:
    assert crowding(tmp_path / "missing") == 1.0
