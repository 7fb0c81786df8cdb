"""Reads the lines at the top of a batch script that talk to sbatch (#SBATCH) or to sovctl (#SOVCTL)."""

from __future__ import annotations

from dataclasses import dataclass

SBATCH = (b"#SBATCH", b"#SLURM")
SOVCTL = (b"#SOVCTL",)


@dataclass(frozen=True, slots=True)
class Directive:
    """One such line."""

    where: str
    """`train.sbatch:7`"""
    words: tuple[str, ...]
    problem: str = ""


def leading_block(script: bytes) -> list[bytes]:
    """The comment and blank lines before the first command, where sbatch looks for options; without line ends."""
    block: list[bytes] = []
    for line in script.split(b"\n"):
        text = line.strip(_SPACE)
        if text and not text.startswith(b"#"):
            break
        block.append(line)
    else:
        block = block[:-1] if block and not block[-1] else block
    return block


def directives(script: bytes, name: str, magic: tuple[bytes, ...]) -> tuple[Directive, ...]:
    """The lines of the leading block that start with one of the magic words."""
    found = []
    for number, line in enumerate(leading_block(script), start=1):
        for word in magic:
            if line.startswith(word):
                found.append(_directive(f"{name}:{number}", line[len(word) :]))
                break
    return tuple(found)


def _directive(where: str, line: bytes) -> Directive:
    words, problem = words_of(line.decode("utf-8", "surrogateescape"))
    return Directive(where, words, problem)


def words_of(line: str) -> tuple[tuple[str, ...], str]:
    """The words of a line as sbatch reads them, and what is wrong with it.

    Quotes group, a backslash takes the next character as it is (also inside quotes), an unquoted # starts a comment.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    characters = iter(line)
    for char in characters:
        if char == "\\":
            word = (word or "") + next(characters, "")
        elif quote:
            quote, word = ("", word) if char == quote else (quote, (word or "") + char)
        elif char in "\"'":
            quote = char
        elif char == "#":
            break
        elif char in " \t\v\f\r":
            words, word = (words if word is None else [*words, word]), None
        else:
            word = (word or "") + char
    if word is not None:
        words.append(word)
    return tuple(words), f"unmatched {quote} in the line" if quote else ""


_SPACE = b" \t\v\f\r"
