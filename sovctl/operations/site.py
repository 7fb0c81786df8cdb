"""`sovctl site`: put a machine's files in place, take them away again, and say what slurm.conf needs. slurm.conf is
never written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sovctl.errors import RefusedError, SovctlError
from sovctl.site.catalogue import UNITS, Piece, Places, Role, pieces_for, wanted
from sovctl.site.conf_lines import ConfLine, conf_lines, named_in
from sovctl.site.plan import NEW, Deed, Record, Step, plan_install, plan_uninstall, records_after, records_before

if TYPE_CHECKING:
    from sovctl.ports import SiteFiles

SCHEMA = "sovctl.site/1"


@dataclass(frozen=True, slots=True)
class SitePorts:
    """What an install touches."""

    files: SiteFiles
    settings: Callable[[], Mapping[str, str]]
    """`scontrol show config`; raises SovctlError."""
    settings_file: Callable[[], str]
    """The text of a new sovctl.toml."""


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


def install(
    ports: SitePorts, places: Places, roles: frozenset[Role], *, spank: str, version: str, dry_run: bool
) -> Outcome:
    """Write what is missing or old. `spank`: path of the plugin built for this Slurm; empty: as before. Roles add up
    over several installs. Raises SovctlError; what was done until then is on record, and the next install goes on."""
    before = installed(ports.files)
    roles |= before.roles
    pieces = pieces_for(roles, spank=bool(spank) or before.spank)
    files = []
    for piece in pieces:
        data = _data(ports, piece, spank)
        if data is not None:
            one = wanted(piece, data, places)
            files.append((one, hashlib.sha256(one.data).hexdigest()))
    paths = {one.path for one, _ in files} | before.files.keys()
    steps = plan_install(files, ports.files.digests(paths), before.files)
    settings, problem = _settings(ports)
    has_spank = bool(spank) or before.spank
    lines = tuple(conf_lines(places, roles, settings, spank=has_spank))
    outcome = Outcome(roles, places, steps, lines, problem)
    if not dry_run:
        _carry_out(ports.files, before, outcome, has_spank, version)
    return outcome


def uninstall(ports: SitePorts, *, force: bool, dry_run: bool) -> tuple[Step, ...]:
    """Remove what is still as it was written. Raises RefusedError while Slurm or systemd still use it."""
    before = installed(ports.files)
    if not before.files:
        raise SovctlError("nothing is installed here by `sovctl site install`", hint="sovctl site status")
    steps = plan_uninstall(before.files, ports.files.digests(before.files))
    if not force:
        _refuse_in_use(ports, steps)
    if dry_run:
        return steps
    for step in steps:
        if step.deed is Deed.REMOVE:
            ports.files.remove(step.path)
    ports.files.remove_empty(before.directories)
    ports.files.forget()
    return steps


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
    lines = tuple(conf_lines(used, roles, settings, spank=before.spank))
    return Outcome(before.roles, used, tuple(steps), lines, problem)


def lines(ports: SitePorts, places: Places) -> tuple[tuple[ConfLine, ...], str]:
    """What slurm.conf wants for everything there is, and why it could not be asked."""
    settings, problem = _settings(ports)
    return tuple(conf_lines(places, frozenset(Role), settings, spank=True)), problem


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


def _data(ports: SitePorts, piece: Piece, spank: str) -> bytes | None:
    if piece.source == "toml":
        return ports.settings_file().encode()
    if piece.source == "spank":
        return ports.files.outside(spank) if spank else None
    return ports.files.source(piece.source)


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


def _refuse_in_use(ports: SitePorts, steps: tuple[Step, ...]) -> None:
    enabled = ports.files.enabled_units(UNITS)
    if enabled:
        raise RefusedError(
            f"systemd still starts {', '.join(enabled)}", hint=f"systemctl disable --now {' '.join(enabled)}"
        )
    named = named_in(_settings(ports)[0], [step.path for step in steps if step.deed is Deed.REMOVE])
    if named:
        raise RefusedError(
            f"slurm.conf still names them: {', '.join(named)}; Slurm drains a node whose prolog is not there",
            hint="Take these lines out of slurm.conf on every machine, type `scontrol reconfigure`, then try again.",
        )
