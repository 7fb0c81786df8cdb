"""Runs a typer app the way every command group here behaves: usage errors are one sentence and status 2."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from sovctl.cli.arguments import nearest
from sovctl.errors import EXIT_USAGE, UsageError


def run_app(app: typer.Typer, argv: Sequence[str], prog: str) -> int:
    """Run one command line of a command group; `prog` is its name in help, e.g. `sovctl ckpt`.

    The status is what the command returns (None: 0) or raises as typer.Exit. Raises UsageError for a wrong command
    line, KeyboardInterrupt where typer says Abort, and whatever the command itself raises.
    """
    command = typer.main.get_command(app)
    _say_in_full(command)
    try:
        status = command.main(args=list(argv), prog_name=prog, standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        if "\n" in sentence:  # no arguments at all: typer's words are the whole help
            print(sentence, file=sys.stderr)
            return EXIT_USAGE
        asked = getattr(getattr(error, "ctx", None), "command_path", prog)
        raise UsageError(sentence, hint=f"See: {asked} --help") from None
    return int(status or 0)


def _say_in_full(command: Any) -> None:
    """The list of a group's commands has the first sentence on each: without this it is cut off at the width of one
    line."""
    for one in getattr(command, "commands", {}).values():
        first = " ".join((one.help or "").partition("\n\n")[0].split())
        one.short_help = one.short_help or re.split(r"(?<=\.) ", first)[0]
        _say_in_full(one)


def _sentence(error: Exception) -> str | None:
    """The words of a usage error, `None` for any other error.

    typer brought its own click from 0.2x on and used the click package before; both mark an error for the user with
    `format_message` and an `exit_code` of 2, and only that is relied on.
    """
    words = getattr(error, "format_message", None)
    if not callable(words) or getattr(error, "exit_code", None) != 2:
        return None
    text = str(words()).strip()
    if "\n" in text:
        return text
    own = _no_such(text, error) or _no_number(text) or _too_many(text)
    return own or (text[:1].lower() + text[1:]).rstrip(".") or "the command line is not complete"


def _no_number(text: str) -> str:
    """Every version has words of its own for this, some of them a programmer's."""
    found = re.match(r"Invalid value for ['\"]?([^\s'\"]+)['\"]?: .*valid (integer|float|number)", text)
    return f"{found[1]} must be a {'whole number' if found[2] == 'integer' else 'number'}" if found else ""


def _too_many(text: str) -> str:
    found = re.match(r"Got unexpected extra arguments? ?(?:\(s\) )?\((\S+?)[ )]", text)
    return f"one word too many: {found[1]!r}" if found else ""


def _no_such(text: str, error: Exception) -> str:
    """The nearest option or command, in the same words for every version of click."""
    found = re.match(r"No such (option|command)[: ]+['\"]?([^\s'\"]+?)['\".]*(?:\s|$)", text)
    if not found:
        return ""
    command = getattr(getattr(error, "ctx", None), "command", None)
    if found[1] == "command":
        return f"there is no command {found[2]!r}{nearest(found[2], getattr(command, 'commands', ()), listed=True)}"
    known = [name for param in getattr(command, "params", ()) for name in param.opts if name.startswith("-")]
    return f"there is no option {found[2]}{nearest(found[2], [*known, '--help'])}"
