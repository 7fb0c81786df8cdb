"""Every command with its options and arguments, read from where they are defined: what completions and man pages are
made from.

A command group is a module with `app` (typer), `make_parser()` (argparse) or `HELP` (text, where
options are read by hand).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sovctl.checkpoint.formats.registry import CHOICES
from sovctl.cli.main import GROUPS, Group
from sovctl.isolation.inside import KNOWN
from sovctl.lab.faults import FAULTS
from sovctl.site.catalogue import Role

_EXAMPLE = re.compile(r"^\s*examples?:\s*", re.IGNORECASE | re.MULTILINE)
_HELP_LINE = re.compile(r"^  (-\S+(?:,? [^\s-]\S*|, --?\S+)*)(?:\s{2,}(.*))?$")
_VALUES = {
    "NODE": "node",
    "LIST": "node",
    "NODELIST": "node",
    "NODES": "node",
    "PARTITION": "partition",
    "QOS": "qos",
    "RUN": "run",
    "ID": "job",
    "JOB": "job",
    "JOBID": "job",
    "FILE": "file",
    "FILE.sqsh": "file",
    "PATH": "file",
    "SCRIPT": "file",
    "DIR": "directory",
    "[DIR]": "directory",
    "COMMAND": "program",
    "FAULT": " ".join(name for name in FAULTS if ":" not in name),
}
"""Word for a value -> what completes it: a kind, or the words themselves."""
_OF_OPTION = {
    "node": "node",
    "nodelist": "node",
    "exclude": "node",
    "partition": "partition",
    "qos": "qos",
    "chdir": "directory",
    "error": "file",
    "input": "file",
    "output": "file",
    "nodefile": "file",
    "export-file": "file",
    "dependency": "job",
    "open-mode": "append truncate",
    "checkpoint-format": " ".join(CHOICES),
    "role": " ".join(Role),
    "runtime": " ".join(KNOWN),
}
"""Long name -> what completes its value: a kind, or the words themselves."""
KINDS = frozenset(kind for kind in (*_VALUES.values(), *_OF_OPTION.values()) if " " not in kind)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command."""

    names: tuple[str, ...]
    """As typed, short ones first."""
    value: str
    """The word that stands for its value; empty: it takes none."""
    help: str
    completes: str = ""
    """What its value is: one of KINDS, or the possible words; empty: anything."""
    optional: bool = False
    """The value may be left out, and is only taken after `=`."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One word or more after the options."""

    name: str
    help: str
    completes: str = ""
    required: bool = True
    many: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """One command or group of commands."""

    path: tuple[str, ...]
    """Without `sovctl`; empty: `sovctl` itself."""
    summary: str
    """One line."""
    description: str
    usage: str
    """What is typed after the path."""
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    notes: str
    """Preformatted text behind the options: examples, statuses."""
    commands: tuple[Command, ...] = ()

    @property
    def does(self) -> bool:
        """Whether it does something itself, with or without commands below it."""
        return not self.commands or any(option != HELP for option in self.options)

    def every(self) -> Iterator[Command]:
        """This command and all below it."""
        yield self
        for command in self.commands:
            yield from command.every()


HELP = Option(("-h", "--help"), "", "Show the help of this command.")


def command_tree() -> Command:
    """`sovctl` with everything below it but the internal commands."""
    groups = tuple(_group(name, group) for name, group in GROUPS.items() if group.listed)
    version = Option(("-V", "--version"), "", "Show the version.")
    summary = "Keeps large-model training running on Slurm."
    return Command((), summary, "", "COMMAND [OPTIONS] [ARGS]...", (version, HELP), (), "", groups)


def _group(name: str, group: Group) -> Command:
    module = importlib.import_module(group.module)
    if hasattr(module, "app"):
        import typer

        return _of_typer((name,), typer.main.get_command(module.app), group.help)
    if hasattr(module, "make_parser"):
        return _of_argparse((name,), module.make_parser(), group.help)
    return _of_text((name,), module.HELP, group.help)


# typer


def _of_typer(path: tuple[str, ...], command: Any, summary: str = "") -> Command:
    text = inspect.cleandoc(command.help or "")
    description, _, example = _cut(text)
    params = [param for param in command.params if not getattr(param, "hidden", False)]
    options = tuple(_typer_option(param) for param in params if param.param_type_name == "option")
    arguments = tuple(_typer_argument(param) for param in params if param.param_type_name == "argument")
    below = getattr(command, "commands", {})
    epilog = (command.epilog or "").removeprefix("\b\n")  # typer's mark of lines that stay as they are
    word = "[COMMAND]" if getattr(command, "invoke_without_command", False) else "COMMAND" if below else ""
    commands = tuple(_of_typer((*path, name), item) for name, item in below.items() if not item.hidden)
    return Command(
        path,
        summary or _first_sentence(description),
        description,
        _usage(arguments, word),
        (*options, HELP),
        arguments,
        "\n\n".join(filter(None, (epilog, f"Example: {example}" if example else ""))),
        commands,
    )


def _typer_option(param: Any) -> Option:
    names = tuple(sorted(param.opts, key=lambda name: name.startswith("--")))
    value = "" if param.is_flag else _typer_value(param)
    return Option(names, value, _sentence(param.help), _completes(names[-1], value))


def _typer_value(param: Any) -> str:
    """Only what every typer from 0.15 on has is looked at, so that the same text comes out with each."""
    if param.metavar:
        return str(param.metavar)
    if isinstance(param.default, int | float):
        return "N"
    return str(param.name).strip("_").upper()


def _typer_argument(param: Any) -> Argument:
    name = str(param.metavar or param.name.upper())
    kind = _VALUES.get(name, "")
    return Argument(name.strip("[]"), _sentence(param.help or ""), kind, param.required, param.nargs == -1)


# argparse


def _of_argparse(path: tuple[str, ...], parser: argparse.ArgumentParser, summary: str) -> Command:
    options: list[Option] = []
    arguments: list[Argument] = []
    commands: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands += [_of_argparse((*path, name), item, "") for name, item in action.choices.items()]
        elif action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        elif action.option_strings:
            options.append(_argparse_option(action))
        else:
            name = str(action.metavar or action.dest.upper())
            choices = " ".join(action.choices or ()) or _VALUES.get(name, "")
            arguments.append(Argument(name, _sentence(action.help or ""), choices, action.nargs not in ("?", "*")))
    if "-- COMMAND" in (parser.usage or ""):
        arguments.append(Argument("COMMAND", "The program to run, and its arguments.", "program", many=True))
    description = parser.description or ""
    usage = re.sub(rf"^sovctl {' '.join(path)} ", "", parser.usage) if parser.usage else ""
    return Command(
        path,
        summary or _first_sentence(description),
        description,
        usage or _usage(tuple(arguments), "COMMAND" if commands else ""),
        (*options, HELP),
        tuple(arguments),
        (parser.epilog or "").strip("\n"),
        tuple(commands),
    )


def _argparse_option(action: argparse.Action) -> Option:
    names = tuple(action.option_strings)
    if action.nargs == 0:
        return Option(names, "", _sentence(action.help or ""))
    words = " ".join(str(choice) for choice in action.choices or ())
    value = str(action.metavar or ("|".join(words.split()) if words else action.dest.upper()))
    return Option(names, value, _sentence(action.help or ""), words or _completes(names[-1], value))


# Text


def _of_text(path: tuple[str, ...], text: str, summary: str) -> Command:
    """`Usage:`, paragraphs, headings over options, `Example:`."""
    head, _, rest = text.partition("\n\n")
    description = rest.split("\n\nOptions", 1)[0]
    usage = [line.removeprefix("Usage:").split(None, 1 + len(path))[-1] for line in head.splitlines()]
    _, _, example = _cut(text)
    options = tuple(_text_options(text))
    arguments = (
        Argument("SCRIPT", "The batch script.", "file"),
        Argument("ARGS", "Its arguments.", "file", False, True),
    )
    return Command(path, summary, description, "\n".join(usage), options, arguments, f"Example:\n{example}")


def _text_options(text: str) -> Iterator[Option]:
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if match := _HELP_LINE.match(line):
            found.append((match[1], [match[2] or ""]))
        elif found and re.match(r"^ {10,}\S", line):
            found[-1][1].append(line.strip())
        elif line.strip() and not line.startswith("  "):
            # Only what stands under a heading of options belongs to them.
            continue
    for typed, words in found:
        names = tuple(word for word in re.split(r",? ", typed) if word.startswith("-"))
        value = next((word for word in typed.split() if not word.startswith("-")), "")
        yield Option(names, value, _sentence(" ".join(words)), _completes(names[-1], value) if value else "")


# sbatch


def sbatch_options() -> tuple[Option, ...]:
    """What sbatch takes, by name: their words are in sbatch(1)."""
    from sovctl.submit.sbatch_options import LONG, SHORT, Value

    letters = {name: letter for letter, name in SHORT.items()}
    listed = []
    for name, kind in sorted(LONG.items()):
        if name in ("help", "autocomplete"):
            continue
        names = ((f"-{letters[name]}",) if name in letters else ()) + (f"--{name}",)
        value = "" if kind is Value.NONE else "VALUE"
        listed.append(Option(names, value, "of sbatch", _OF_OPTION.get(name, ""), kind is Value.OPTIONAL))
    return tuple(listed)


# Words


def _cut(text: str) -> tuple[str, str, str]:
    """What stands before an example, its heading, and the example."""
    found = list(_EXAMPLE.finditer(text))
    if not found:
        return text.strip(), "", ""
    return text[: found[-1].start()].strip(), found[-1][0], text[found[-1].end() :].rstrip()


def _completes(name: str, value: str) -> str:
    return _OF_OPTION.get(name.lstrip("-"), _VALUES.get(value, "")) if value else ""


def _usage(arguments: tuple[Argument, ...], command: str) -> str:
    words = [command] if command else []
    words.append("[OPTIONS]")
    for item in arguments:
        name = item.name + ("..." if item.many else "")
        words.append(name if item.required else f"[{name}]")
    return " ".join(words)


def _sentence(text: str | None) -> str:
    words = " ".join((text or "").split())
    if not words:
        return ""
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]
