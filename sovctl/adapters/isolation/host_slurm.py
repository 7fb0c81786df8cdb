"""Slurm's commands on this node, and what they are made of: for a container that is to have them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.errors import SovctlError
from sovctl.model.isolated import HostSlurm

_LIBRARY = re.compile(r"(?:=>\s*)?(/\S+)\s+\(0x[0-9a-f]+\)")
_MUNGE = "/run/munge"
_SETTING = re.compile(r"^\s*(AuthInfo|SlurmUser)\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_SOCKET = re.compile(r"(?:^|,)socket=([^,]+)", re.IGNORECASE)
_CONF = "/etc/slurm/slurm.conf"
_CONF_BYTES = 1 << 20
_SENT = ("/run/slurm", "/etc/slurm")
"""Where a node without slurm.conf keeps the one it was sent, and sackd's socket; certificates and keys of clients."""
_LDD_S = 20.0


def find_slurm(runner: CommandRunner, bin_dir: str, environment: Mapping[str, str], names: Sequence[str]) -> HostSlurm:
    """Of `names` those that are there. Raises SovctlError where there is no srun, or nobody knows what it loads."""
    found = shutil.which("srun", path=bin_dir or environment.get("PATH", ""))
    if found is None:
        raise SovctlError(
            f"there are no Slurm commands on {os.uname().nodename} to be shown in the image",
            hint="Install Slurm's client there, or leave --slurm-client out.",
        )
    program = Path(found).resolve()
    files = [
        str(Path(path).resolve()) for path in loaded_files(runner.run(["ldd", str(program)], timeout_s=_LDD_S).stdout)
    ]
    loader = loader_of(files)
    if not loader:
        raise SovctlError(f"it cannot be told what {program} loads", hint=f"Try: ldd {program}")
    conf = Path(environment.get("SLURM_CONF") or _CONF)
    munge, account = talked_to(_text(conf))
    plugins = next((str(Path(path).parent) for path in files if Path(path).name.startswith("libslurm")), "")
    places = dict.fromkeys(path for path in (str(conf.parent), munge, *_SENT) if Path(path).is_dir())
    return HostSlurm(
        prefix=str(program.parent.parent),
        loader=loader,
        libraries=tuple(dict.fromkeys(str(Path(path).parent) for path in files)),
        plugins=plugins,
        places=tuple(places),
        account=account,
        commands=tuple(name for name in names if (program.parent / name).exists()),
    )


def loaded_files(told: str) -> tuple[str, ...]:
    """Paths in the answer of ldd: libraries, and the loader."""
    return tuple(_LIBRARY.findall(told))


def loader_of(files: Iterable[str]) -> str:
    """The loader among them; empty where there is none."""
    return next((path for path in files if Path(path).name.startswith(("ld-", "ld64", "ld."))), "")


def talked_to(conf: str) -> tuple[str, str]:
    """By slurm.conf: the directory of munge's socket, and the account that Slurm runs as."""
    found = {name.lower(): value for name, value in _SETTING.findall(conf)}
    socket = _SOCKET.search(found.get("authinfo", ""))
    directory = str(Path(socket[1]).parent) if socket and socket[1].startswith("/") else _MUNGE
    return directory, found.get("slurmuser", "root")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_CONF_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
