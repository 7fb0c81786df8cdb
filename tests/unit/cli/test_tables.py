"""Tables fit the terminal, and -o is read as squeue reads it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.cli import tables
from sovctl.cli.listing_words import ListingWords, listing_words
from sovctl.cli.tables import Column, print_listing, render, shown_width, text_table
from sovctl.errors import UsageError

COLUMNS = (
    Column("i", "job", "JOB", lambda row: row[0]),
    Column("j", "name", "NAME", lambda row: row[1]),
    Column("r", "detail", "DETAIL", lambda row: row[2], folded=True),
)
ROWS = [("7", "train", "held: the same crash twice"), ("12_3", "eval", "")]
TEXT = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=60)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5), st.integers(min_value=40, max_value=200))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    table = text_table("A", "B", "C", folded=("C",))
    for row in rows:
        tables.add_row(table, row)
    assert all(shown_width(line) <= width for line in render(table, width))


@given(st.lists(st.tuples(TEXT, TEXT), max_size=4), st.integers(min_value=40, max_value=80))
def test_nothing_is_lost_by_folding(rows: list[tuple[str, str]], width: int) -> None:
    table = text_table("A", "B", folded=("B",))
    for row in rows:
        tables.add_row(table, row)
    said = "".join("".join(render(table, width, header=False)).split())
    meant = "".join("".join(cell for row in table.rows for cell in row).split())
    assert sorted(said) == sorted(meant)


def test_a_pipe_gets_one_line_a_row() -> None:
    table = text_table("A", "B", folded=("B",))
    tables.add_row(table, ("x", "word " * 200))
    assert len(render(table, None)) == 2


def test_the_folded_columns_give_way_first() -> None:
    table = text_table("NODE", "REASON", folded=("REASON",))
    tables.add_row(table, ("n" * 30, "a reason of several words"))
    lines = render(table, 50)
    assert lines[1].startswith("n" * 30 + "  a reason of")
    assert lines[2].strip() == "several words"


def test_wide_characters_count_twice() -> None:
    assert shown_width("노드") == 4
    table = text_table("A", "B")
    tables.add_row(table, ("노드", "x"))
    tables.add_row(table, ("abcd", "y"))
    assert [line[-1] for line in render(table, None)[1:]] == ["x", "y"]
    assert render(table, None)[1].index("x") == 4  # two characters, four columns, a gap of two


def _listing(capsys: pytest.CaptureFixture[str], wanted: str, **how: Any) -> list[str]:
    print_listing(ROWS, COLUMNS, "ij", wanted, **how)
    return capsys.readouterr().out.splitlines()


def test_the_usual_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert _listing(capsys, "") == ["JOB   NAME", "7     train", "12_3  eval"]
    assert _listing(capsys, "", header=False) == ["7     train", "12_3  eval"]


def test_letters_with_sizes_as_in_squeue(capsys: pytest.CaptureFixture[str]) -> None:
    assert _listing(capsys, "%.6i|%3j|") == ["   JOB|NAM|", "     7|tra|", "  12_3|eva|"]
    assert _listing(capsys, "%i %j", header=False) == ["7 train", "12_3 eval"]
    assert _listing(capsys, "job=%i", header=False) == ["job=7", "job=12_3"]


def test_names_with_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert _listing(capsys, "name:4,job") == ["NAME  JOB", "trai  7", "eval  12_3"]
    assert _listing(capsys, "job:.6", header=False) == ["   7", "12_3"]


@pytest.mark.parametrize("wanted", ["%q", "%5", "%", "jobb", "name:x", "", ","][:5])
def test_a_field_that_there_is_not_names_those_there_are(wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        print_listing(ROWS, COLUMNS, "ij", wanted)
    assert "%i job" in caught.value.hint or "name:20" in caught.value.hint


def test_the_nearest_name_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean job"):
        print_listing(ROWS, COLUMNS, "ij", "jobb")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_only_on_a_terminal_and_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert tables.colours(_Terminal())
    assert not tables.colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not tables.colours(_Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not tables.colours(_Terminal())


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ListingWords()),
        (["--all", "--json"], ListingWords(everything=True, as_json=True)),
        (["-n", "-o", "%i"], ListingWords(noheader=True, format="%i")),
        (["--format=job", "--noheader"], ListingWords(noheader=True, format="job")),
        (["--format", "job"], ListingWords(format="job")),
        (["--help"], None),
        (["--al"], None),
        (["-o"], None),
        (["--json=1"], None),
        (["word"], None),
    ],
)
def test_a_plain_listing_is_read_by_hand(argv: list[str], expected: ListingWords | None) -> None:
    assert listing_words(argv) == expected
