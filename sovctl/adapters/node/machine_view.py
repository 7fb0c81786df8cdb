"""Looks at this machine for `sovctl doctor`: files, programs, the driver, what slurmd has loaded. Reads only."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sovctl.adapters.run.rank_processes import find_py_spy
from sovctl.model.site import SPANK_PLUGIN, HookFile

PROGRAMS = (
    "bwrap",
    "skopeo",
    "umoci",
    "mksquashfs",
    "unsquashfs",
    "squashfuse",
    "apptainer",
    "ch-run",
    "podman",
    "enroot",
)
LUA = ("job_submit.lua", "cli_filter.lua", "sovctl_policy.lua")
_LARGEST = 1024 * 1024
_ROOTS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def programs() -> dict[str, str]:
    """Where the programs are that an isolated step or a look at a hung rank needs."""
    path = f"{os.environ.get('PATH', '')}:{_ROOTS_PATH}"
    found = {name: where for name in PROGRAMS if (where := shutil.which(name, path=path))}
    spy = find_py_spy()
    return {**found, "py-spy": os.path.normpath(spy)} if spy else found


def absent_programs(names: Iterable[str], bin_dir: str = "") -> tuple[str, ...]:
    """Those that are not installed here, or not in `bin_dir`; then with their whole path."""
    absent = (name for name in names if shutil.which(name, path=bin_dir or None) is None)
    return tuple(str(Path(bin_dir, name)) for name in absent)


def settings_digest(path: Path) -> str:
    """SHA-256 of what a file of settings sets beside [node], which is each node's own; empty: nothing, or it cannot be
    read."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST)
    except OSError:
        return ""
    with suppress(ValueError, RecursionError):  # of a broken file its bytes
        known = tomllib.loads(content.decode("utf-8"))
        known.pop("node", None)
        content = json.dumps(known, sort_keys=True, default=str).encode() if known else b""
    return hashlib.sha256(content).hexdigest() if content else ""


def driver_loaded() -> bool:
    """Whether the kernel has the NVIDIA driver."""
    return Path("/proc/driver/nvidia/version").exists()


def user_namespaces() -> bool | None:
    """Whether users may make user namespaces, by the kernel's own settings."""
    answers = []
    for name, closed in (
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        with suppress(OSError):
            answers.append(Path("/proc/sys", name).read_text("ascii").strip() != closed)
    return all(answers) if answers else None


def hooks(settings: Sequence[tuple[str, str]]) -> tuple[HookFile, ...]:
    """The programs behind Prolog, Epilog and their like; a pattern (glob(7), 22.05 on) stands for many."""
    found = []
    for setting, value in settings:
        for pattern in filter(None, (part.strip() for part in value.split(","))):
            paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
            found += [HookFile(setting, path, _runs(path)) for path in paths or [pattern]]
    return tuple(found)


def _runs(path: str) -> bool:
    try:
        return Path(path).is_file() and bool(os.stat(path).st_mode & 0o111)
    except OSError:
        return False


def slurmd_maps(node: str, conf: str = "", proc: Path = Path("/proc")) -> tuple[bool, bool | None, bool]:
    """Whether a slurmd runs here, whether it has our plugin in memory (None: root's to see), and whether the file on
    disk is another by now. Where several slurmds run on one machine, the one with `-N node` and `-f conf` is meant."""
    pids = [pid for pid in proc.glob("[0-9]*") if _is_slurmd(pid, node, conf)]
    if not pids:
        return False, None, False
    try:
        maps = (pids[0] / "maps").read_text("utf-8", "replace")
    except OSError:
        return True, None, False
    lines = [line for line in maps.splitlines() if SPANK_PLUGIN in line]
    return True, bool(lines), any(line.endswith("(deleted)") for line in lines)


def steps_with(plugin: str, proc: Path = Path("/proc")) -> tuple[int, int] | None:
    """Of how many running steps slurmstepd has our plugin in memory, and how many run; None: root's to see, or whose
    they are cannot be told, because several slurmds run here."""
    names = {pid: _comm(pid) for pid in proc.glob("[0-9]*")}
    if sum(name == "slurmd" for name in names.values()) != 1:
        return None
    having, seen = 0, 0
    for pid in (pid for pid, name in names.items() if name == "slurmstepd"):
        try:
            maps = (pid / "maps").read_text("utf-8", "replace")
        except FileNotFoundError:
            continue  # it has ended
        except OSError:
            return None
        if maps:
            having, seen = having + (plugin in maps), seen + 1
    return having, seen


def _comm(pid: Path) -> str:
    try:
        return (pid / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _is_slurmd(pid: Path, node: str, conf: str) -> bool:
    try:
        words = (pid / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    if os.path.basename(words[0]) != "slurmd":  # noqa: PTH119
        return False
    return all(
        told is None or not wanted or told[1] == wanted
        for option, wanted in (("N", node), ("f", conf))
        for told in (re.search(rf"\0-{option}\0?([^\0]+)", "\0".join(words)),)
    )


def beside(directory: Path) -> tuple[str, ...]:
    """Our Lua files in the directory of slurm.conf."""
    return tuple(name for name in LUA if (directory / name).is_file())


def own_program() -> str:
    """How this sovctl is started by its full name."""
    own = Path(sys.argv[0])
    return str(own.absolute()) if own.name == "sovctl" and own.is_file() else f"{sys.executable} -P -m sovctl"
