"""The command lines that the documentation tells people to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCED = re.compile(r"^ *```(?:\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(?:srun [-\w ]*)?((?:sovctl|make) [^`]*)`")
_LINE = re.compile(r" *(?:\$ )?(?:srun (?:-\S+ )*)?((?:sovctl|make) .*)")
_NO_ID = "sovctl run why"
"""As the demo prints it, where a person has to name the run."""


def lines(program: str) -> list[tuple[str, str]]:
    """Page and line of whatever is typed for `program`: behind a prompt, bare in a block, and within a sentence."""
    return sorted({(page.name, line) for page in PAGES for line in _lines(page.read_text("utf-8"), program)})


def _lines(text: str, program: str) -> Iterator[str]:
    for block in _FENCED.findall(text):
        found = (_LINE.match(line) for line in block.splitlines())
        yield from (line[1] for line in found if line and line[1] != _NO_ID and line[1].startswith(f"{program} "))
    yield from (typed for typed in _INLINE.findall(_FENCED.sub("", text)) if typed.startswith(f"{program} "))


def words(line: str) -> list[str]:
    """What the program gets: without its own name, a pipe, a redirection and a comment."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>;&")
    lexer.whitespace_split = True
    found = list(lexer)
    end = next((place for place, word in enumerate(found) if set(word) <= set("|>;&")), len(found))
    return found[1:end]
