"""Words and widths on a terminal."""

from __future__ import annotations

import io
import os

import pytest

from sovctl.cli.words import folded, say, say_next, terminal_width


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


def test_a_list_of_nodes_goes_on_behind_a_comma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    hosts = f"n[{','.join(f'{number:04d}' for number in range(1, 40, 2))}]"
    shown = folded(f"  on {hosts}, since then", 4).split("\n")
    assert max(map(len, shown)) <= 40 and all(part.startswith("    ") for part in shown[1:])
    assert "".join(part.strip() for part in shown).replace(" ", "") == f"on{hosts},sincethen"
    assert all(part.endswith(",") for part in shown[:-2])


COMMAND = "sovctl spare advise --failures 17 --node-hours 90720"


def test_a_command_that_would_not_fit_gets_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = f"Say it yourself, as nothing tells: {COMMAND}"
    say_next(hint)
    assert capsys.readouterr().err == f"        {hint}\n"
    monkeypatch.setenv("COLUMNS", "80")
    say_next(hint)
    assert capsys.readouterr().err == f"        Say it yourself, as nothing tells:\n          {COMMAND}\n"
    say_next("")
    assert capsys.readouterr() == ("", "")


def test_what_is_said_moves_no_cursor_and_forges_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    say("sovctl: \x1b[31mred\nsovctl: all is well " + "and more " * 6)
    out, err = capsys.readouterr()
    assert out == "" and "\x1b" not in err
    assert err.startswith("sovctl: \\x1b[31mred\\nsovctl: all is well")
    assert [line for line in err.splitlines()[1:] if not line.startswith(" " * 8) or len(line) > 40] == []
