"""Writes man pages in the macros of man(7): from commands, from settings, and from sections of the docs in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from sovctl.cli.tree import Argument, Command, Option
from sovctl.cli.words import fitted


def page(name: str, section: int, summary: str, version: str, parts: Iterable[str]) -> str:
    """One man page. No date: the same sources give the same page."""
    head = [
        '.\\" Made by `make generated` from the commands and docs/; change those.',
        f'.TH {name.upper()} {section} "" "sovctl {version}" "sovctl"',
        ".SH NAME",
        f"{_plain(name)} \\- {_plain(summary.rstrip('.'))}",
    ]
    text = "\n".join([*head, *parts]) + "\n"
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE)


def synopsis(commands: Sequence[Command]) -> str:
    """How each is typed."""
    lines = [".SH SYNOPSIS", ".nf"]
    for command in commands:
        for usage in command.usage.splitlines():
            lines.append(f"\\fB{_dashes(' '.join(('sovctl', *command.path)))}\\fR {_dashes(usage)}".rstrip())
    return "\n".join([*lines, ".fi"])


def of_command(command: Command) -> str:
    """A command with all its options, under a heading of its own."""
    name = " ".join(("sovctl", *command.path))
    return "\n".join([f'.SS "{_plain(name)}"', *_body(command)])


def _body(command: Command) -> list[str]:
    lines = _paragraphs(command.description or command.summary)
    for item in command.arguments:
        lines += _argument(item)
    for option in command.options:
        lines += _option(option)
    if command.notes:
        lines += [".PP", ".nf", *(_line(line) for line in fitted(command.notes, 72).splitlines()), ".fi"]
    return lines


def single(command: Command) -> str:
    """The body of a page for one command without others below it."""
    return "\n".join([".SH DESCRIPTION", *_body(command)])


def _option(option: Option) -> list[str]:
    value = f"{'[=' if option.optional else ' '}\\fI{_dashes(option.value)}\\fR{']' if option.optional else ''}"
    names = ", ".join(f"\\fB{_dashes(name)}\\fR" for name in option.names)
    return [".TP", names + (value if option.value else ""), *_text(option.help)]


def _argument(item: Argument) -> list[str]:
    return [".TP", f"\\fI{_dashes(item.name)}\\fR{'...' if item.many else ''}", *_text(item.help)] if item.help else []


def of_markdown(text: str, *, heading: str) -> str:
    """A section of the docs under this heading; headings inside it are one level lower."""
    lines = [f'.SH "{_plain(heading.upper())}"']
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    lines += _Renderer(tokens).lines()
    return "\n".join(lines)


class _Renderer:
    """Only what the docs use: paragraphs, lists, tables, code and headings."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._lines: list[str] = []
        self._lists: list[int] = []
        self._fresh = False
        """Whether a list item has just begun, whose first paragraph goes on its line."""
        self._row: list[str] = []
        self._in_head = False

    def lines(self) -> list[str]:
        for at, token in enumerate(self._tokens):
            act = getattr(self, f"_{token.type}", None)
            if act is not None:
                act(token, self._tokens[at + 1] if at + 1 < len(self._tokens) else token)
        return self._lines

    def _heading_open(self, token: Token, following: Token) -> None:
        self._lines.append(f'.SS "{_spans(following).strip()}"')

    def _paragraph_open(self, token: Token, following: Token) -> None:
        if not self._fresh:
            self._lines.append(".IP" if self._lists else ".PP")
        self._fresh = False
        self._lines += _broken(_spans(following))

    def _bullet_list_open(self, token: Token, following: Token) -> None:
        self._lists.append(-1)

    def _ordered_list_open(self, token: Token, following: Token) -> None:
        self._lists.append(0)

    def _bullet_list_close(self, token: Token, following: Token) -> None:
        self._lists.pop()

    _ordered_list_close = _bullet_list_close

    def _list_item_open(self, token: Token, following: Token) -> None:
        if self._lists[-1] >= 0:
            self._lists[-1] += 1
        mark = "\\(bu" if self._lists[-1] < 0 else f"{self._lists[-1]}."
        self._lines.append(f".IP {mark} 3")
        self._fresh = True

    def _fence(self, token: Token, following: Token) -> None:
        code = [_line(line) for line in token.content.rstrip("\n").splitlines()]
        self._lines += [".PP", ".RS 4", ".nf", *code, ".fi", ".RE"]

    def _thead_open(self, token: Token, following: Token) -> None:
        self._in_head = True

    def _thead_close(self, token: Token, following: Token) -> None:
        self._in_head = False

    def _tr_open(self, token: Token, following: Token) -> None:
        self._row = []

    def _td_open(self, token: Token, following: Token) -> None:
        self._row.append(_spans(following))

    def _tr_close(self, token: Token, following: Token) -> None:
        if self._in_head or not self._row:
            return
        first, *others = self._row
        self._lines += [".TP", first or "\\&", *_broken("; ".join(cell for cell in others if cell) or "\\&")]


def _spans(inline: Token) -> str:
    """One paragraph with fonts."""
    said: list[str] = []
    for token in inline.children or ():
        if token.type == "text":
            said.append(_dashes(token.content))
        elif token.type == "code_inline":
            said.append(f"\\fB{_dashes(token.content)}\\fR")
        elif token.type in ("softbreak", "hardbreak"):
            said.append(" ")
        elif token.type in ("em_open", "strong_open"):
            said.append("\\fI")
        elif token.type in ("em_close", "strong_close"):
            said.append("\\fR")
    return "".join(said)


def of_settings(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    """(key, default, who sets it, meaning) each."""
    lines = []
    for key, default, by, meaning in rows:
        lines += [".TP", f"\\fB{_dashes(key)}\\fR = {_dashes(default)}", *_text(f"{meaning} {by}".strip())]
    return lines


def table_of_commands(commands: Sequence[Command]) -> str:
    """Each group with its page."""
    lines = [".SH COMMANDS"]
    for command in commands:
        seen = f"See \\fBsovctl\\-{command.path[0]}\\fR(1)."
        lines += [".TP", f"\\fBsovctl {_dashes(command.path[0])}\\fR", *_text(command.summary), seen]
    return "\n".join(lines)


def see_also(pages: Iterable[tuple[str, int]]) -> str:
    """The last section."""
    named = [f"\\fB{_plain(name)}\\fR({section})" for name, section in pages]
    return "\n".join([".SH SEE ALSO", *(f"{item}," for item in named[:-1]), named[-1]])


# Text


def _paragraphs(text: str) -> list[str]:
    lines = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines += [".PP", *_text(" ".join(paragraph.split()))]
    return lines


def _text(text: str) -> list[str]:
    parts = re.split(r"`([^`]*)`", text)
    said = "".join(f"\\fB{_dashes(part)}\\fR" if at % 2 else _dashes(part) for at, part in enumerate(parts))
    return _broken(said)


def _broken(text: str) -> list[str]:
    """A line a sentence keeps the pages readable in a diff; no line begins with a control character."""
    return [_guard(line) for line in re.split(r"(?<=[.;:]) +(?=\S)", text.strip())]


def _plain(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")


def _dashes(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def _line(text: str) -> str:
    return _guard(_dashes(text)) if text.strip() else "\\&"


def _guard(text: str) -> str:
    return f"\\&{text}" if text[:1] in (".", "'") else text
