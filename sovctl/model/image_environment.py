"""`/etc/environment` of an image: its ENV, one NAME=VALUE a line, where no record of the cache tells it.

enroot writes and reads the same. The SPANK plugin reads it too (plugins/spank/environment.c).
"""

from __future__ import annotations

from collections.abc import Iterable

_QUOTES = ("'", '"')


def environment_text(env: Iterable[tuple[str, str]]) -> str:
    """The file's text. A value of several lines has no place in it."""
    lines = (f"{name}={_quoted(value)}" for name, value in env)
    return "".join(f"{line}\n" for line in lines if not {"\n", "\0"} & set(line))


def environment_of(text: str) -> tuple[tuple[str, str], ...]:
    """What the file's text says. Distributions bring one too, with values in quotes."""
    found = []
    for line in text.partition("\0")[0].split("\n"):
        name, equals, value = line.lstrip(" \t").removeprefix("export ").partition("=")
        if equals and name and not set(name) & {" ", "\t", "#", *_QUOTES}:
            found.append((name, value[1:-1] if _is_quoted(value) else value))
    return tuple(found)


def _quoted(value: str) -> str:
    """So that quotes which belong to it are not taken for the file's."""
    if not _is_quoted(value):
        return value
    return f"'{value}'" if value[0] == '"' else f'"{value}"'


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES
