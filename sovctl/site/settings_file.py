"""The sovctl.toml that an install writes: every setting, commented, with its default and its meaning. Pure."""

from __future__ import annotations

import ast
import dataclasses
import json
import textwrap
from collections.abc import Iterator
from typing import Any

_HEAD = """\
# Settings of sovctl: the same file on every node and on the controller. What is commented out is the default.
# An unknown key is refused with the nearest name. `sovctl doctor` reads this file and says what is wrong with it.

"""
# What an install sets: a new site looks first, and acts when somebody says so.
_SET = {("health", "act"): (False, "Look first: nothing is drained and no job refused until this is true.")}


def settings_file(defaults: Any, source: str) -> str:
    """`defaults`: the whole configuration as a dataclass of dataclasses; `source`: the Python that declares it, whose
    docstrings below the fields are the meanings."""
    meanings = dict(_meanings(ast.parse(source)))
    parts = [_HEAD]
    for section in dataclasses.fields(defaults):
        values = dataclasses.asdict(getattr(defaults, section.name))
        kind = type(getattr(defaults, section.name)).__name__
        if section.name == "probes":
            parts.append('[probes]\n# NAME = "off", "shadow", "warn" or "drain"; the names: sovctl health probes\n\n')
            continue
        lines = [f"[{section.name}]"]
        for key, value in values.items():
            lines += _lines(section.name, key, value, meanings.get((kind, key), ""))
        parts.append("\n".join(lines) + "\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def _lines(section: str, key: str, value: object, meaning: str) -> Iterator[str]:
    chosen = _SET.get((section, key))
    text = chosen[1] if chosen else meaning
    yield from textwrap.wrap(" ".join(text.split()), 110, initial_indent="# ", subsequent_indent="# ")
    shown = json.dumps(chosen[0] if chosen else value)
    yield f"{'' if chosen else '#'}{key} = {shown}"


def _meanings(tree: ast.Module) -> Iterator[tuple[tuple[str, str], str]]:
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                yield (node.name, field.target.id), str(after.value.value)
