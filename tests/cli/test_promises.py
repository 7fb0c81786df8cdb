"""What holds for every command: what reads has `--json`, what changes something can be shown first."""

from __future__ import annotations

import pytest

from sovctl.cli.tree import Command, command_tree

COMMANDS = {" ".join(one.path): one for one in command_tree().every() if one.path and one.does}
READS = frozenset(
    f"{group} {verb}".strip()
    for group, verbs in {
        "run": ("ls", "show", "why", "events"),
        "report": ("",),
        "ckpt": ("ls", "verify", "latest", "advise"),
        "doctor": ("", "isolation"),
        "image": ("ls", "resolve", "env ls"),
        "node": ("ls", "show", "check", "history"),
        "health": ("explain",),
        "spare": ("status", "advise"),
        "site": ("status", "lines"),
        "alert": ("ls",),
        "lab": ("status",),
        "config": ("show", "check"),
        "completion": ("",),
    }.items()
    for verb in verbs
)
"""Changes nothing but what it keeps for its own next look."""
NOT_SHOWN_FIRST = {
    "exec": "starts the program that is named, and changes nothing itself",
    "health watch": "goes on until it is stopped; --observe lets it act on nothing",
    "watch": "goes on until it is stopped; acts only with --act, and --observe says what it would do",
    "health prolog": "slurmd asks it about a job that begins",
    "health epilog": "slurmd tells it of a job that is over",
    "lab up": "a cluster of one's own",
    "lab down": "a cluster of one's own",
    "lab shell": "a cluster of one's own",
    "lab inject": "a cluster of one's own",
    "lab heal": "a cluster of one's own",
    "lab demo": "a cluster of one's own",
}
"""Changes something without `--dry-run`, and why."""
NOT_FOR_PROGRAMS = {"completion": "what it prints is read by a shell"}
"""Reads without `--json`, and why."""


def _has(command: Command, name: str) -> bool:
    return any(name in option.names for option in command.options)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_reads_has_json_and_one_that_changes_something_can_be_shown_first(name: str) -> None:
    command = COMMANDS[name]
    if name in READS:
        assert _has(command, "--json") != (name in NOT_FOR_PROGRAMS)
        assert not _has(command, "--dry-run"), "it changes something, then"
    else:
        assert _has(command, "--dry-run") != (name in NOT_SHOWN_FIRST), (
            "new here? name it in READS, or give it --dry-run"
        )


def test_the_exceptions_are_commands() -> None:
    assert {*READS, *NOT_SHOWN_FIRST, *NOT_FOR_PROGRAMS} <= set(COMMANDS)
    for name, why in NOT_SHOWN_FIRST.items():
        assert ("--observe" in why) == _has(COMMANDS[name], "--observe"), name
