"""Words and widths on a terminal."""

from __future__ import annotations

import io
import os

import pytest

from sovctl.cli.words import folded, terminal_width


@pytest.mark.parametrize(("columns", "width"), [(0, 80), (20, 40), (100, 100)])
def test_a_terminal_that_does_not_know_its_width_has_80_columns(
    columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    assert terminal_width() == width


def test_a_long_line_is_folded_on_a_terminal_and_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "12:00  kind  " + "many words " * 12 + "/a/path/" + "x" * 90
    monkeypatch.setenv("COLUMNS", "80")
    shown = folded(line, 13).split("\n")
    assert [part.strip() for part in shown[:2]] == [part.strip() for part in shown[:2] if len(part) <= 80]
    assert all(part.startswith(" " * 13) for part in shown[1:])
    assert shown[-1].strip() == "/a/path/" + "x" * 90
    assert " ".join(part.strip() for part in shown).split() == line.split()
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert folded(line, 13) == line
