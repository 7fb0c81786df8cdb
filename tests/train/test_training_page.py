"""Every block of code in docs/training.md is taken from a script that another test runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sovctl import train

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SOURCES = [*(ROOT / "examples").glob("*.py"), ROOT / "tests" / "train" / "adapter_scripts.py"]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_part_of_a_tested_script(block: str) -> None:
    wanted = [line.strip() for line in block.splitlines()]
    for source in SOURCES:
        lines = [line.strip() for line in source.read_text("utf-8").splitlines()]
        if any(lines[first : first + len(wanted)] == wanted for first in range(len(lines))):
            return
    pytest.fail(f"no tested script has these lines:\n{block}")


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 6


def test_every_name_of_the_library_is_explained() -> None:
    explained = PAGE + (train.__doc__ or "")
    own = {"FINISHED", "STOPPED", "Phase", "SaveOutcome", "SaveReport", "Heartbeat", "data_rank"}
    assert [name for name in train.__all__ if name not in own and name not in explained] == []
