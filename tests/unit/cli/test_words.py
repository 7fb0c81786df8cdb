"""Words and widths on a terminal."""

from __future__ import annotations

import os

import pytest

from sovctl.cli.words import terminal_width


@pytest.mark.parametrize(("columns", "width"), [(0, 80), (20, 40), (100, 100)])
def test_a_terminal_that_does_not_know_its_width_has_80_columns(
    columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    assert terminal_width() == width
