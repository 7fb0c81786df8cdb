"""The lines that slurm.conf and plugstack.conf need, with the reason of each, beside what is there. Pure.

Nothing is ever written there: who runs a cluster edits slurm.conf. A Prolog or Epilog that the site has is kept:
Slurm runs every program that a pattern such as `/etc/slurm/prolog.d/*` names (22.05 to 26.05).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import has_magic
from posixpath import basename

from sovctl.site.catalogue import Places, Role, hook_path
from sovctl.site.in_use import hook_dir
from sovctl.site.judge_slurm import has, seconds, task_prolog_by_slurmstepd, version_of, words


@dataclass(frozen=True, slots=True)
class ConfLine:
    """One line and why it is wanted."""

    file: str
    line: str
    reason: str
    there: bool = False
    """It is set so already."""
    commands: tuple[str, ...] = field(default=())
    """What to type on every node first."""


def conf_lines(
    places: Places,
    roles: Collection[Role],
    settings: Mapping[str, str],
    *,
    spank: bool,
    linked: Collection[str] = (),
) -> list[ConfLine]:
    """`settings`: as `scontrol show config` prints them; empty where it could not be asked. `linked`: hooks of ours to
    which what is set leads already, by a link."""
    lines: list[ConfLine] = []
    if Role.LOGIN not in roles or len(roles) > 1:
        lines += _node_lines(places, settings, linked)
    lines += _plugin_lines(settings)
    if spank:
        include = f"include {places.conf_dir.rstrip('/')}/plugstack.conf.d/*.conf"
        lines.append(
            ConfLine(
                "plugstack.conf", include, "--sov-isolate and --sov-image (Debian has this line); then restart slurmd"
            )
        )
    return lines


def _node_lines(places: Places, settings: Mapping[str, str], linked: Collection[str]) -> list[ConfLine]:
    lines = [
        _hook("Prolog", "a job never starts on a node that has explicitly failed", places, settings, linked),
        _hook("Epilog", "what a job left behind, and evidence for blame", places, settings, linked),
    ]
    if not task_prolog_by_slurmstepd(settings.get("SLURM_VERSION", "")):  # it is worth a line, and no task in an image
        own_line = "the line about a degraded node in the job's output"
        lines += _single("TaskProlog", hook_path(places, "task_prolog"), own_line, settings)
    lines.append(
        _list(
            "PrologFlags",
            "Alloc",
            "the prolog runs on every node before the job begins, not at its first step",
            settings,
        )
    )
    lines.append(
        _list("SchedulerParameters", "nohold_on_prolog_fail", "a job that a sick node refused is not held", settings)
    )
    own_check = hook_path(places, "health_check")
    lines += _single("HealthCheckProgram", own_check, "a second pair of eyes, for a node whose watcher died", settings)
    lines += [
        _plain(
            "HealthCheckInterval",
            "60",
            "once a minute",
            settings,
            there=(seconds(settings, "HealthCheckInterval") or 0) > 0,
        ),
        *_timeout(settings),
        _plain(
            "HealthCheckNodeState",
            "ANY,CYCLE",
            "busy nodes too, and not all in the same second",
            settings,
            there={"any", "cycle"} <= set(words(settings, "HealthCheckNodeState")),
        ),
        _plain(
            "UnkillableStepTimeout",
            "180",
            'a node that dies must not have its neighbours drained with "Kill task failed"',
            settings,
            there=(seconds(settings, "UnkillableStepTimeout") or 0) >= 180,
        ),
    ]
    return lines


def _timeout(settings: Mapping[str, str]) -> list[ConfLine]:
    """26.05 complains where a check may take as long as the interval between two: 60 s, unless it is set."""
    timeout = seconds(settings, "HealthCheckTimeout")
    if timeout is None:
        return []
    there = 0 < timeout < (seconds(settings, "HealthCheckInterval") or 60)
    return [_plain("HealthCheckTimeout", "50", "less than the interval", settings, there=there)]


def _plugin_lines(settings: Mapping[str, str]) -> list[ConfLine]:
    lines = [
        _list(
            "JobSubmitPlugins",
            "lua",
            "stamps sovctl's jobs, holds all to the site's policy; first put job_submit.lua beside slurm.conf",
            settings,
        ),
        _list(
            "CliFilterPlugins",
            "lua",
            "the same answer before anything is sent; first put cli_filter.lua beside slurm.conf",
            settings,
        ),
    ]
    version = version_of(settings)
    if version is not None and version >= (25, 11):
        lines.append(
            _list(
                "SlurmctldParameters",
                "enable_expedited_requeue",
                "a run whose batch host died is eligible again at once",
                settings,
            )
        )
    return lines


def _hook(key: str, reason: str, places: Places, settings: Mapping[str, str], linked: Collection[str]) -> ConfLine:
    program = hook_path(places, key.lower())
    said = [part.strip() for part in settings[key].split(",") if part.strip()] if has(settings, key) else []
    old = [part for part in said if not _of_another_prefix(part, program)]
    if not old:
        return ConfLine("slurm.conf", f"{key}={program}", reason)
    own = f"10-sovctl-{key.lower()}"
    kept = f"{key}={settings.get(key, '')}"
    patterns = [part for part in old if has_magic(part)]  # Slurm hands Prolog and Epilog to glob(3)
    if program in linked or any(_leads_to(part, program, own) for part in old):
        return ConfLine("slurm.conf", kept, reason, there=True)
    if link := next(filter(None, (_link(pattern, own) for pattern in patterns)), ""):
        return ConfLine("slurm.conf", kept, reason, commands=(f"ln -sf {program} {link}",))
    if patterns:
        unfit = f"no link named {own} fits {', '.join(patterns)}: have a program there run {program}"
        return ConfLine("slurm.conf", kept, f"{reason}; {unfit}")
    directory = hook_dir(places, key)
    links = [f"ln -s {part} {directory}/{50 + number}-{basename(part)}" for number, part in enumerate(old)]
    commands = (f"mkdir -p {directory}", *links, f"ln -sf {program} {directory}/{own}")
    return ConfLine("slurm.conf", f"{key}={directory}/*", f"{reason}; yours goes on", commands=commands)


def _leads_to(part: str, program: str, own: str) -> bool:
    """The program itself, or a link with the name that was proposed."""
    return part == program or (basename(part).startswith(own) and not has_magic(part))


def _link(pattern: str, own: str) -> str:
    """Where a link of ours is among what the pattern names: `*.sh` takes none without `.sh`. Empty: nowhere."""
    directory, _, names = pattern.rpartition("/")
    for name in (own, own + names.rpartition("*")[2]):
        if not has_magic(f"{directory}/{name}") and fnmatchcase(name, names):
            return f"{directory}/{name}"
    return ""


def _of_another_prefix(part: str, program: str) -> bool:
    """Ours, from an install with another --prefix."""
    return part != program and part.endswith(f"/libexec/sovctl/{basename(program)}")


def _single(key: str, program: str, reason: str, settings: Mapping[str, str]) -> list[ConfLine]:
    """Slurm takes one program here, and the site may have one."""
    old = settings.get(key, "") if has(settings, key) else ""
    if old in ("", program) or _of_another_prefix(old, program):
        return [ConfLine("slurm.conf", f"{key}={program}", reason, there=old == program)]
    if key == "HealthCheckProgram":
        commands = (f"echo SOVCTL_OTHER_HEALTH_CHECK={old} >> /etc/default/sovctl",)
        return [ConfLine("slurm.conf", f"{key}={program}", f"{reason}; it runs yours afterwards", commands=commands)]
    return [
        ConfLine("slurm.conf", f"{key}={old}", f"yours stays; have it run {program} at its end: {reason}", there=True)
    ]


def _list(key: str, word: str, reason: str, settings: Mapping[str, str]) -> ConfLine:
    old = settings.get(key, "") if has(settings, key) else ""
    there = word.lower() in words(settings, key)
    value = old if there else ",".join(filter(None, (old, word)))
    return ConfLine("slurm.conf", f"{key}={value}", reason, there=there)


def _plain(key: str, value: str, reason: str, settings: Mapping[str, str], *, there: bool) -> ConfLine:
    shown = settings.get(key, "").partition(" ")[0] if there else value
    return ConfLine("slurm.conf", f"{key}={shown}", reason, there=there)
