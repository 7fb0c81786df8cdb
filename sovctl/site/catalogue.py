"""What an install puts where, for each role of a machine. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a machine is; one may be several."""

    NODE = "node"
    CONTROLLER = "controller"
    LOGIN = "login"


@dataclass(frozen=True, slots=True)
class Places:
    """Where a site wants things."""

    prefix: str
    """Programs go below `libexec/sovctl` in it."""
    conf_dir: str
    """The directory of slurm.conf."""
    sovctl: str
    """How the units start sovctl: the full path of a program, and its first arguments."""
    python: str
    """An interpreter that has sovctl."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of an install."""

    source: str
    """Below plugins/; `toml`: the commented settings; `spank`: the plugin that was built for this Slurm."""
    target: str
    roles: frozenset[Role]
    mode: int = 0o644
    config: bool = False
    """The administrator's to change; one that was deleted stays deleted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file as it is to be."""

    path: str
    data: bytes
    mode: int
    config: bool


_NODE, _CONTROLLER, _LOGIN = frozenset({Role.NODE}), frozenset({Role.CONTROLLER}), frozenset({Role.LOGIN})
_ALL = frozenset(Role)
HOOKS = ("prolog", "epilog", "task_prolog", "health_check")
_UNITS = {
    "sovctl-health-watch.service": _NODE,
    "sovctl-watch.service": _CONTROLLER,
    "sovctl-sweep.service": _CONTROLLER,
    "sovctl-sweep.timer": _CONTROLLER,
}
UNITS = tuple(_UNITS)
UNIT_DIR = "/etc/systemd/system"

PIECES: tuple[Piece, ...] = (
    *(Piece(f"slurmd/{name}", f"{{prefix}}/libexec/sovctl/{name}", _NODE, 0o755) for name in HOOKS),
    *(Piece(f"systemd/{name}", f"{UNIT_DIR}/{name}", roles) for name, roles in _UNITS.items()),
    Piece("lua/job_submit.lua", "{conf_dir}/job_submit.lua", _CONTROLLER),
    Piece("lua/cli_filter.lua", "{conf_dir}/cli_filter.lua", _LOGIN),
    Piece("lua/sovctl_policy.lua", "{conf_dir}/sovctl_policy.lua", _CONTROLLER | _LOGIN),
    Piece("spank", "{prefix}/libexec/sovctl/sovctl_spank.so", _NODE | _LOGIN),
    Piece("etc/plugstack.conf", "{conf_dir}/plugstack.conf.d/sovctl.conf", _NODE | _LOGIN, config=True),
    Piece("etc/logrotate", "/etc/logrotate.d/sovctl", _NODE | _CONTROLLER, config=True),
    Piece("etc/tmpfiles", "/etc/tmpfiles.d/sovctl.conf", _NODE, config=True),
    Piece("etc/default", "/etc/default/sovctl", _ALL, config=True),
    Piece("toml", "/etc/sovctl/sovctl.toml", _ALL, config=True),
)


def hook_path(places: Places, name: str) -> str:
    """Where an install puts this program of HOOKS."""
    return f"{places.prefix.rstrip('/')}/libexec/sovctl/{name}"


def pieces_for(roles: Iterable[Role], *, spank: bool) -> tuple[Piece, ...]:
    """Those of a machine with these roles. Without a built plugin plugstack.conf must not name it: before 25.11 every
    srun complains about a plugin that is not there."""
    chosen = frozenset(roles)
    of_spank = ("spank", "etc/plugstack.conf")
    return tuple(piece for piece in PIECES if piece.roles & chosen and (spank or piece.source not in of_spank))


def wanted(piece: Piece, source: bytes, places: Places) -> Wanted:
    """The file itself, with the places of this site in it."""
    fields = {"prefix": places.prefix.rstrip("/"), "conf_dir": places.conf_dir.rstrip("/")}
    path = piece.target.format(**fields)
    data = source
    if piece.source != "spank":
        marks = {"PREFIX": fields["prefix"], "CONFDIR": fields["conf_dir"]}
        marks |= {"SOVCTL": places.sovctl, "PYTHON": places.python}
        for mark, value in marks.items():
            data = data.replace(f"@{mark}@".encode(), value.encode())
    return Wanted(path, data, piece.mode, piece.config)
