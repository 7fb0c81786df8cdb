"""Tables and listings for people and scripts, in plain text: no library is worth its start-up time for this.

On a terminal as wide as that, in a pipe one row a line and nothing cut.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.cli.words import output_width, printable
from sovctl.errors import UsageError

_GAP = 2
_LEAST = 8
"""A column is not folded to less than so many characters."""
_WORD = r"[^\s,]*,|[^\s,]+|\s+"


@dataclass(slots=True)
class Table:
    """Rows of text under headers."""

    columns: tuple[str, ...]
    folded: frozenset[str] = frozenset()
    right: frozenset[str] = frozenset()
    rows: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a listing, for `-o`."""

    letter: str
    """As in squeue or sinfo where those have it."""
    name: str
    header: str
    value: Callable[[Any], str]
    folded: bool = False
    right: bool = False


@dataclass(frozen=True, slots=True)
class _Item:
    column: Column
    width: int = 0
    """0: as wide as it is."""
    right: bool = False
    after: str = ""


def text_table(*columns: str, folded: Collection[str] = (), right: Collection[str] = ()) -> Table:
    """Columns without lines around them; the `folded` ones give way first where the terminal is narrow."""
    return Table(columns, frozenset(folded), frozenset(right))


def add_row(table: Table, cells: Iterable[str]) -> None:
    """One row of text that may come from outside: nothing in it moves the cursor."""
    table.rows.append(tuple(printable(cell) for cell in cells))


def print_table(table: Table, *, header: bool = True) -> None:
    """Print it as wide as the terminal; in a pipe one line a row."""
    lines = render(table, output_width(), header=header)
    if header and lines:
        lines[0] = _bold(lines[0])
    if lines:
        print("\n".join(lines))


def render(table: Table, width: int | None, *, header: bool = True) -> list[str]:
    """Lines of at most `width` columns of a terminal; `None`: one line a row, however long."""
    rows = [table.columns, *table.rows] if header else table.rows
    cells = [[row[at] for row in rows] for at in range(len(table.columns))]
    natural = [_widest(column) for column in cells]
    sizes = natural if width is None else _fitted(natural, table, width)
    if sizes == natural and all(map(_plain, cells)):
        form = (" " * _GAP).join(
            f"%{'' if name in table.right else '-'}{size}s" for name, size in zip(table.columns, sizes, strict=True)
        )
        return [(form % row).rstrip() for row in rows]
    return [line for row in rows for line in _lines(row, sizes, table)]


def _widest(column: list[str]) -> int:
    return max(map(len if _plain(column) else shown_width, column), default=0)


def _plain(column: list[str]) -> bool:
    """Every character takes one place: thousands of rows are then nobody's wait."""
    return "".join(column).isascii()


def _lines(row: Sequence[str], sizes: Sequence[int], table: Table) -> list[str]:
    """One row, its cells wrapped."""
    cells = [_wrap(cell, size) for cell, size in zip(row, sizes, strict=True)]
    lines = []
    for at in range(max(map(len, cells))):
        parts = [_pad(cell[at] if at < len(cell) else "", size, name in table.right)
                 for cell, size, name in zip(cells, sizes, table.columns, strict=True)]  # fmt: skip
        lines.append((" " * _GAP).join(parts).rstrip())
    return lines


def print_listing(
    rows: Sequence[Any], columns: Sequence[Column], shown: str, wanted: str = "", *, header: bool = True
) -> None:
    """A listing with the fields `shown` (their letters), or those that `wanted` (`-o`) names.

    `wanted` is `%.18i %j`, as squeue takes it, or `job,name:20`. Raises UsageError for a field that there is not.
    """
    if "%" in wanted:
        lead, items = _letters(wanted, columns)
        if header:
            print(_bold(lead + "".join(_fixed(item, item.column.header) for item in items)))
        for row in rows:
            print(lead + "".join(_fixed(item, printable(item.column.value(row))) for item in items))
        return
    chosen = _names(wanted, columns) if wanted else [_Item(_by_letter(letter, columns)) for letter in shown]
    headers = tuple(_cut(item.column.header, item.width) for item in chosen)
    table = Table(
        headers,
        frozenset(name for name, item in zip(headers, chosen, strict=True) if item.column.folded),
        frozenset(name for name, item in zip(headers, chosen, strict=True) if item.column.right or item.right),
    )
    values = [(item.column.value, item.width) for item in chosen]
    table.rows += [tuple([_cut(printable(value(row)), width) for value, width in values]) for row in rows]
    if rows or wanted:
        print_table(table, header=header)


def format_help(columns: Sequence[Column]) -> str:
    """What can be written behind -o."""
    fields = ", ".join(f"%{column.letter} {column.name}" for column in columns)
    return f"Write it as in -o {columns[0].name}. Fields: {fields}."


def shown_width(text: str) -> int:
    """Columns on a terminal: Chinese and Japanese characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def colours(stream: Any = None, *, plain: bool = False) -> bool:
    """Whether colours are welcome: on a terminal that knows them, and without NO_COLOR.

    `plain`: whether the terminal knows how to clear a line, which NO_COLOR does not forbid.
    """
    stream = stream or sys.stdout
    wanted = plain or not os.environ.get("NO_COLOR")
    return bool(stream.isatty() and wanted and os.environ.get("TERM", "dumb") != "dumb")


def _bold(line: str) -> str:
    return f"\x1b[1m{line}\x1b[0m" if colours() else line


# Folding


def _fitted(natural: Sequence[int], table: Table, width: int) -> list[int]:
    """Column sizes that together fit; the folded columns give way first, then every other, the widest first."""
    room = width - _GAP * (len(natural) - 1)
    sizes = list(natural)
    willing = [at for at, name in enumerate(table.columns) if name in table.folded]
    for group in (willing, range(len(sizes))):
        excess = sum(sizes) - room
        if excess > 0 and group:
            _shrink(sizes, list(group), sum(sizes[at] for at in group) - excess)
    return sizes


def _shrink(sizes: list[int], group: list[int], room: int) -> None:
    """Share `room` fairly: what needs less than its share leaves the rest to the others."""
    for done, at in enumerate(sorted(group, key=lambda at: sizes[at])):
        share = max(room // (len(group) - done), min(_LEAST, sizes[at]))
        sizes[at] = min(sizes[at], share)
        room -= sizes[at]


def _wrap(text: str, size: int) -> list[str]:
    if shown_width(text) <= size:
        return [text]
    lines = [""]
    for word in re.findall(_WORD, text):
        if shown_width(lines[-1]) + shown_width(word.rstrip()) <= size:
            lines[-1] += word
            continue
        if word.isspace():
            lines.append("")
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if shown_width(lines[-1]) + shown_width(char) > size:
                lines.append("")
            lines[-1] += char
    return [line.strip() for line in lines if line.strip()] or [""]


def _pad(text: str, size: int, right: bool) -> str:
    blanks = " " * (size - shown_width(text))
    return blanks + text if right else text + blanks


def _cut(text: str, size: int) -> str:
    if not size or shown_width(text) <= size:
        return text
    kept = ""
    for char in text:
        if shown_width(kept) + shown_width(char) > size:
            break
        kept += char
    return kept


# -o


def _letters(wanted: str, columns: Sequence[Column]) -> tuple[str, list[_Item]]:
    """`%[.][size]letter` with any text between, as squeue takes it."""
    lead, *parts = wanted.split("%")
    items = []
    for part in parts:
        found = re.fullmatch(r"(\.?)(\d{0,4})([A-Za-z])(.*)", part, re.DOTALL)
        if not found:
            raise UsageError(f"-o {wanted!r} has %{part}, which is no field", hint=format_help(columns))
        column = _by_letter(found[3], columns)
        items.append(_Item(column, int(found[2] or 0), bool(found[1]), found[4]))
    return lead, items


def _by_letter(letter: str, columns: Sequence[Column]) -> Column:
    column = next((item for item in columns if item.letter == letter), None)
    if column is None:
        raise UsageError(f"there is no field %{letter}", hint=format_help(columns))
    return column


def _names(wanted: str, columns: Sequence[Column]) -> list[_Item]:
    """`name[:[.]size]`, with commas between."""
    known = {column.name: column for column in columns}
    items = []
    for word in wanted.split(","):
        name, _, size = word.strip().partition(":")
        column = known.get(name.lower().replace("-", "_"))
        if column is None:
            from sovctl.cli.arguments import nearest

            raise UsageError(f"there is no field {name!r}{nearest(name, known)}", hint=format_help(columns))
        if size and not re.fullmatch(r"\.?\d{1,4}", size):
            raise UsageError(f"{word!r}: the size of a field is a number", hint="Write -o name:20, or name:.20")
        items.append(_Item(column, int(size.lstrip(".") or 0), size.startswith(".")))
    return items


def _fixed(item: _Item, text: str) -> str:
    return _pad(_cut(text, item.width), item.width, item.right) + item.after
