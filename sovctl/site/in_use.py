"""What Slurm still uses of an install: removed, it would drain nodes or refuse jobs. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from posixpath import basename, dirname

from sovctl.model.site import HookProgram
from sovctl.site.catalogue import HOOKS, Places
from sovctl.site.judge_slurm import has, words

_SETTINGS = ("Prolog", "Epilog", "TaskProlog", "HealthCheckProgram")
_POLICY = "sovctl_policy.lua"
_LUA = {"JobSubmitPlugins": ("job_submit.lua", _POLICY), "CliFilterPlugins": ("cli_filter.lua", _POLICY)}
"""What has to be beside slurm.conf where a setting has lua: the script and what it loads."""


class How(StrEnum):
    """How Slurm comes to a file."""

    SETTING = "setting"
    """slurm.conf names it, or a link to it; without the file every job meets an error."""
    LINK = "link"
    """A link to it is among what a pattern names; nothing misses the link when it is gone."""
    SCRIPT = "script"
    """A script that slurm.conf names has its path in it."""


@dataclass(frozen=True, slots=True)
class Use:
    """One way in which Slurm comes to one of our files."""

    setting: str
    ours: str
    how: How
    by: str
    """What Slurm names: the file itself, a link or a script."""


def can_matter(path: str) -> bool:
    """Whether Slurm may need this file of an install, as far as its name tells."""
    return basename(path) in HOOKS or any(basename(path) in scripts for scripts in _LUA.values())


def hook_dir(places: Places, setting: str) -> str:
    """Where a site's own hooks and ours stand side by side."""
    return f"{places.conf_dir.rstrip('/')}/{setting.lower()}.d"


def hook_values(settings: Mapping[str, str], places: Places | None = None) -> dict[str, tuple[str, ...]]:
    """The paths and patterns to look at for each setting. With `places` the directories that `sovctl site lines`
    proposes are among them, whatever slurm.conf says: a link there was made for Slurm."""
    found = {}
    for key in _SETTINGS:
        said = settings[key].split(",") if has(settings, key) else []
        proposed = f"{hook_dir(places, key)}/*" if places is not None and key in ("Prolog", "Epilog") else ""
        found[key] = tuple(dict.fromkeys(part.strip() for part in (*said, proposed) if part.strip()))
    return found


def uses(
    programs: Mapping[str, Sequence[HookProgram]], ours: Mapping[str, str], settings: Mapping[str, str]
) -> tuple[Use, ...]:
    """`programs`: what each setting names on this machine; `ours`: our files, each with its links followed."""
    found: list[Use] = []
    for setting, listed in programs.items():
        for program in listed:
            found += _of_program(setting, program, ours)
    return (*found, *_of_lua(ours, settings))


def _of_program(setting: str, program: HookProgram, ours: Mapping[str, str]) -> Iterable[Use]:
    itself = [path for path, resolved in ours.items() if resolved == program.target]
    for path in itself:
        is_link = program.by_pattern and program.path != path
        yield Use(setting, path, How.LINK if is_link else How.SETTING, program.path)
    if not itself:  # ours read files of the install too, which say nothing of who runs them
        lines = [line for line in program.text.splitlines() if not line.lstrip().startswith("#")]
        for path in filter(can_matter, ours):
            if any(path in line for line in lines):
                yield Use(setting, path, How.SCRIPT, program.path)


def _of_lua(ours: Iterable[str], settings: Mapping[str, str]) -> Iterable[Use]:
    """slurmctld and the commands of Slurm refuse every job when their script is not beside slurm.conf."""
    conf_dir = dirname(settings.get("SLURM_CONF", ""))
    for path in ours:
        for setting, scripts in _LUA.items():
            if basename(path) in scripts and conf_dir in ("", dirname(path)) and "lua" in words(settings, setting):
                yield Use(setting, path, How.SETTING, path)


def named(found: Iterable[Use]) -> str:
    """The settings, each with what it names."""
    return ", ".join(dict.fromkeys(f"{use.setting} ({use.by})" for use in found))


def links(found: Iterable[Use]) -> tuple[str, ...]:
    """What leads nowhere when our files are gone."""
    return tuple(dict.fromkeys(use.by for use in found if use.how is How.LINK))


def what_to_type(found: Sequence[Use]) -> str:
    """How the administrator takes them out of use."""
    removed = [f"rm {shlex.quote(link)}" for link in links(found)]
    scripts = sorted({use.by for use in found if use.how is How.SCRIPT})
    settings = sorted({use.setting for use in found if use.how is How.SETTING})
    parts = [f"Type on this machine: `{'; '.join(removed)}`."] if removed else []
    if scripts:
        parts.append(f"Have {', '.join(scripts)} not run it any more.")
    if settings:
        parts.append(f"Take {', '.join(settings)} out of slurm.conf everywhere, and type `scontrol reconfigure`.")
    return " ".join([*parts, "Then try again."])
