"""`sovctl site`: put a machine's files in place, take them away again, and say what slurm.conf needs. slurm.conf is
never written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from posixpath import basename
from typing import TYPE_CHECKING, Any

from sovctl.errors import RefusedError, SovctlError
from sovctl.site.catalogue import HOOKS, UNITS, Piece, Places, Role, hook_path, pieces_for, wanted
from sovctl.site.conf_lines import ConfLine, conf_lines
from sovctl.site.in_use import Use, can_matter, hook_values, links, named, uses, what_to_type
from sovctl.site.plan import (
    NEW,
    Deed,
    Record,
    Step,
    holding,
    plan_install,
    plan_uninstall,
    records_after,
    records_before,
)

if TYPE_CHECKING:
    from sovctl.ports.site import SiteFiles

SCHEMA = "sovctl.site/1"


@dataclass(frozen=True, slots=True)
class SitePorts:
    """What an install touches."""

    files: SiteFiles
    settings: Callable[[], Mapping[str, str]]
    """`scontrol show config`; raises SovctlError."""
    settings_file: Callable[[], str]
    """The text of a new sovctl.toml."""
    staged: bool = False
    """Below another root than `/`: no Slurm runs on it now, so none has to be asked."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What an earlier install wrote down."""

    roles: frozenset[Role]
    places: Places | None
    spank: bool
    files: dict[str, Record]
    directories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or would be."""

    roles: frozenset[Role]
    places: Places
    steps: tuple[Step, ...]
    lines: tuple[ConfLine, ...]
    slurm_problem: str = ""
    """Why slurm.conf could not be asked; the lines are then those of an empty one."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What an uninstall did, or would do."""

    steps: tuple[Step, ...]
    links: tuple[str, ...] = ()
    """Links of the administrator's that lead nowhere then; Slurm drains a node that meets one."""


def install(
    ports: SitePorts, places: Places, roles: frozenset[Role], *, spank: str, version: str, dry_run: bool
) -> Outcome:
    """Write what is missing or old. `spank`: path of the plugin built for this Slurm; empty: as before. Roles add up
    over several installs. What an earlier one put elsewhere goes, unless Slurm may still use it. Raises SovctlError;
    what was done until then is on record, and the next install goes on."""
    before = installed(ports.files)
    roles |= before.roles
    pieces = pieces_for(roles, spank=bool(spank) or before.spank)
    files = []
    for piece in pieces:
        data = _data(ports, piece, spank, before.files)
        if data is not None:
            one = wanted(piece, data, places)
            files.append((one, hashlib.sha256(one.data).hexdigest()))
    paths = {one.path for one, _ in files} | before.files.keys()
    steps = plan_install(files, ports.files.digests(paths), before.files)
    settings, problem = _settings(ports)
    steps = _held_back(ports, steps, before, settings, problem)
    has_spank = bool(spank) or before.spank
    outcome = Outcome(roles, places, steps, _lines(ports, places, roles, settings, spank=has_spank), problem)
    if not dry_run:
        _carry_out(ports.files, before, outcome, has_spank, version)
    return outcome


def uninstall(ports: SitePorts, *, force: bool, dry_run: bool) -> Removal:
    """Remove what is still as it was written. Raises RefusedError while Slurm or systemd still use it, or where nobody
    says whether Slurm does."""
    before = installed(ports.files)
    if not before.files:
        raise SovctlError("nothing is installed here by `sovctl site install`", hint="sovctl site status")
    steps = plan_uninstall(before.files, ports.files.digests(before.files))
    settings, problem = _settings(ports)
    found = _uses(ports, steps, before, settings)
    if not force:
        _refuse_in_use(ports, steps, found, problem)
    removal = Removal(steps, links(found))
    if dry_run:
        return removal
    for step in steps:
        if step.deed is Deed.REMOVE:
            ports.files.remove(step.path)
    ports.files.remove_empty(before.directories)
    ports.files.forget()
    return removal


def status(ports: SitePorts, places: Places) -> Outcome:
    """What is installed, whether somebody changed it, and what slurm.conf lacks."""
    before = installed(ports.files)
    found = ports.files.digests(before.files)
    steps = []
    for path, record in before.files.items():
        there = found[path]
        if there is None:
            steps.append(Step(path, Deed.GONE, "not there any more"))
        elif there not in record.digests:
            steps.append(Step(path, Deed.KEEP, "changed by you"))
        else:
            waits = "merge it into the file beside it, then remove it" if path.endswith(NEW) else ""
            steps.append(Step(path, Deed.UNCHANGED, waits))
    settings, problem = _settings(ports)
    roles = before.roles or frozenset(Role)
    used = before.places or places
    lines = _lines(ports, used, roles, settings, spank=before.spank)
    return Outcome(before.roles, used, tuple(steps), lines, problem)


def lines(ports: SitePorts, places: Places) -> tuple[tuple[ConfLine, ...], str]:
    """What slurm.conf wants for everything there is, and why it could not be asked."""
    settings, problem = _settings(ports)
    return _lines(ports, places, frozenset(Role), settings, spank=True), problem


def installed(files: SiteFiles) -> Installed:
    """Read back what was written down; a record that is none counts as nothing."""
    record = files.load()
    try:
        if record is None or record["schema"] != SCHEMA:
            raise ValueError
        return Installed(
            frozenset(Role(role) for role in record["roles"]),
            Places(**record["places"]),
            bool(record["spank"]),
            {path: Record(tuple(one["digests"]), int(one["mode"])) for path, one in record["files"].items()},
            tuple(record["directories"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Installed(frozenset(), None, False, {}, ())


def _data(ports: SitePorts, piece: Piece, spank: str, before: Mapping[str, Record]) -> bytes | None:
    if piece.source == "toml":
        return ports.settings_file().encode()
    if piece.source == "spank":
        return ports.files.outside(spank) if spank else _plugin_of(ports, piece, before)
    return ports.files.source(piece.source)


def _plugin_of(ports: SitePorts, piece: Piece, before: Mapping[str, Record]) -> bytes | None:
    """The plugin that an earlier install wrote, as it wrote it: plugstack.conf goes on naming one."""
    for path, record in before.items():
        if basename(path) == basename(piece.target) and (data := ports.files.read(path)) is not None:
            return data if hashlib.sha256(data).hexdigest() in record.digests else None
    return None


def _settings(ports: SitePorts) -> tuple[Mapping[str, str], str]:
    try:
        return ports.settings(), ""
    except SovctlError as error:
        return {}, error.message


def _carry_out(files: SiteFiles, before: Installed, outcome: Outcome, spank: bool, version: str) -> None:
    steps = outcome.steps
    noted = records_before(steps, before.files)
    directories = set(before.directories)

    def record(kept: Mapping[str, Record]) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "version": version,
            "roles": sorted(outcome.roles),
            "places": {name: getattr(outcome.places, name) for name in outcome.places.__slots__},
            "spank": spank,
            "files": {path: {"digests": list(one.digests), "mode": one.mode} for path, one in sorted(kept.items())},
            "directories": sorted(directories),
        }

    files.save(record(noted))
    for step in steps:
        if step.writes and step.wanted is not None:
            directories.update(files.write(step.writes, step.wanted.data, step.wanted.mode))
        elif step.deed is Deed.REMOVE:
            files.remove(step.path)
    files.save(record(records_after(steps, noted)))


def _lines(
    ports: SitePorts, places: Places, roles: frozenset[Role], settings: Mapping[str, str], *, spank: bool
) -> tuple[ConfLine, ...]:
    programs = {key: ports.files.programs(values) for key, values in hook_values(settings).items()}
    ours = ports.files.resolved(hook_path(places, name) for name in HOOKS)
    linked = {use.ours for use in uses(programs, ours, settings)}
    return tuple(conf_lines(places, roles, settings, spank=spank, linked=linked))


def _uses(ports: SitePorts, steps: Iterable[Step], before: Installed, settings: Mapping[str, str]) -> tuple[Use, ...]:
    """How Slurm comes to what is to be removed."""
    gone = [step.path for step in steps if step.deed is Deed.REMOVE]
    programs = {key: ports.files.programs(values) for key, values in hook_values(settings, before.places).items()}
    return uses(programs, ports.files.resolved(gone), settings)


def _unknown(ports: SitePorts, steps: Iterable[Step], problem: str) -> list[str]:
    """What is to be removed of which nobody says whether Slurm uses it."""
    if ports.staged or not problem:
        return []
    return [step.path for step in steps if step.deed is Deed.REMOVE and can_matter(step.path)]


def _held_back(
    ports: SitePorts, steps: tuple[Step, ...], before: Installed, settings: Mapping[str, str], problem: str
) -> tuple[Step, ...]:
    """The old hooks stay beside the new ones until slurm.conf names those."""
    found = _uses(ports, steps, before, settings)
    for use in found:
        steps = holding(steps, {use.ours}, f"still used by {named([use])}; install again when it is not")
    unknown = _unknown(ports, steps, problem)
    return holding(steps, unknown, f"Slurm may still use it ({problem}); install again when slurmctld answers")


def _refuse_in_use(ports: SitePorts, steps: tuple[Step, ...], found: tuple[Use, ...], problem: str) -> None:
    enabled = ports.files.enabled_units(UNITS)
    if enabled:
        raise RefusedError(
            f"systemd still starts {', '.join(enabled)}", hint=f"systemctl disable --now {' '.join(enabled)}"
        )
    if found:
        raise RefusedError(
            f"Slurm still uses them: {named(found)}; it drains a node whose prolog is not there",
            hint=what_to_type(found),
        )
    if _unknown(ports, steps, problem):
        raise RefusedError(
            f"nobody says whether Slurm still uses the hooks: {problem}; Slurm drains a node whose prolog is not there",
            hint="Try again when `scontrol show config` answers. When you know that no slurm.conf names them: "
            "sovctl site uninstall --force",
        )
