"""The options of `ls`, read by hand where nothing else is typed: typer alone takes as long as listing 1,000 runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ListingWords:
    """What was asked for."""

    everything: bool = False
    format: str = ""
    noheader: bool = False
    as_json: bool = False


_FLAGS = {"--all": "everything", "--noheader": "noheader", "-n": "noheader", "--json": "as_json"}


def listing_words(argv: Sequence[str]) -> ListingWords | None:
    """The options, or None for a line that is not plainly one of these: the full command has the words for that."""
    said, words = ListingWords(), list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in _FLAGS:
            said = replace(said, **{_FLAGS[word]: True})  # type: ignore[arg-type]
        elif word in ("-o", "--format") and words:
            said = replace(said, format=words.pop(0))
        elif name == "--format" and equals:
            said = replace(said, format=value)
        else:
            return None
    return said
