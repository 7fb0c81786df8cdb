"""argparse the way every command here behaves: a wrong command line is one sentence, the nearest word, and status 2."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from sovctl.cli.words import fitted
from sovctl.errors import UsageError

_CHOICE = re.compile(r"argument (?P<name>\S+): invalid choice: '(?P<typed>[^']*)'")

_NO_VALUE = re.compile(r"argument (?P<name>\S+): expected one argument$")
_LACKING = re.compile(r"the following arguments are required: (?P<names>.+)$")


class Help(argparse.RawDescriptionHelpFormatter):
    """Examples as they are written, as long as the terminal is wide enough."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002 - argparse gives it
        return fitted(text, width)


class Parser(argparse.ArgumentParser):
    """Abbreviated options are refused, as they would change their meaning when an option is added."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", Help)
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but the words that nobody knows are named by the verb that was asked for."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            verb = self._verb(list(args or ()))
            raise UsageError(_unknown(unknown[0], verb._option_strings()), hint=f"See: {verb.prog} --help")
        return found

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        choice = _CHOICE.search(message)
        if choice:
            known = next((list(item.choices) for item in self._actions if item.choices and _named(item, choice)), [])
            typed = choice["typed"]
            words = f"there is no {_word(choice['name'])} {typed!r}{nearest(typed, known, listed=True)}"
        else:
            words = self._short_of(message) or message
        raise UsageError(words, hint=f"See: {self.prog} --help")

    def _short_of(self, message: str) -> str:
        """What is lacking, in the words of all other commands; empty: something else is wrong."""
        if found := _NO_VALUE.match(message):
            return f"{found['name'].split('/')[-1]} needs a value"
        if found := _LACKING.match(message):
            name = found["names"].split(", ")[0]
            known = next((list(item.choices) for item in self._actions if item.choices and item.metavar == name), [])
            return f"missing {_word(name)}{nearest('', known, listed=True)}"
        return ""

    def _verb(self, words: list[str]) -> Parser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                verb = next((action.choices[word] for word in words if word in action.choices), None)
                if isinstance(verb, Parser):
                    return verb
        return self

    def _option_strings(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]


def nearest(typed: str, known: Iterable[str], *, listed: bool = False) -> str:
    """`; did you mean X?`, or with `listed` what there is; empty when neither helps."""
    names = list(known)
    close = difflib.get_close_matches(typed, names, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f" (there are: {', '.join(names)})" if listed and names else ""


def _named(action: argparse.Action, choice: re.Match[str]) -> bool:
    return choice["name"] in (action.metavar, action.dest, "/".join(action.option_strings))


def _word(name: str) -> str:
    """A metavar as a word: COMMAND is a command."""
    return name.lower() if name.isupper() else name


def _unknown(word: str, known: list[str]) -> str:
    if not word.startswith("-"):
        return f"one word too many: {word!r}"
    name = word.partition("=")[0]
    return f"there is no option {name}{nearest(name, known)}"
