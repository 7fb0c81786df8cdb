"""Tables for people. rich is imported only when one is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from sovctl.cli.words import printable

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH_IN_A_PIPE = 160


def text_table(*columns: str, folded: Collection[str] = ()) -> Table:
    """Columns without lines around them; the `folded` ones give way where the terminal is narrow."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=name not in folded, overflow="fold")
    return table


def add_row(table: Table, cells: Iterable[str]) -> None:
    """One row of text that may come from outside: no markup in it is obeyed."""
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells))


def print_table(table: Table) -> None:
    """As wide as the terminal; in a pipe wide enough that nothing is cut."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    Console(width=_WIDTH_IN_A_PIPE if wide else None).print(table)
