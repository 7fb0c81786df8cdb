"""Names that a shell completes: asked for from Slurm and the list of runs, and kept for some seconds in a file."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.own_place import own_place
from sovctl.adapters.run.run_index import index_directory
from sovctl.adapters.slurm.question_env import question_env
from sovctl.errors import SovctlError

COMMANDS: Mapping[str, Sequence[str]] = {
    "node": ("sinfo", "--noheader", "--Node", "--format=%N"),
    "partition": ("sinfo", "--noheader", "--all", "--format=%R"),
    "qos": ("sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "qos", "format=name"),
    "job": ("squeue", "--noheader", "--me", "--array", "--format=%i"),
}
"""Each prints one name a line."""
_KEPT_S = {"node": 60.0, "partition": 60.0, "qos": 60.0, "job": 5.0, "run": 5.0}
_NOTHING_KEPT_S = 5.0
_TIMEOUT_S = 0.75
_MOST = 8 << 20
"""Bytes of a file with names."""


def cache_directory(environ: Mapping[str, str]) -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/sovctl/names`."""
    return own_place(environ, "XDG_CACHE_HOME", ".cache") / "sovctl" / "names"


class KnownNames:
    """The names of one kind. Whatever fails gives fewer names, never an error."""

    def __init__(
        self,
        kind: str,
        runner: CommandRunner,
        environ: Mapping[str, str],
        *,
        bin_dir: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        """`kind`: node, partition, qos, job or run. Raises KeyError for another one."""
        self._kind, self._runner, self._environ = kind, runner, environ
        self._bin_dir, self._now = bin_dir, now
        self._kept_s = _KEPT_S[kind]
        # A person may work with several clusters from one home directory.
        place = f"{environ.get('SLURM_CONF', '')}\0{environ.get('SLURM_CLUSTERS', '')}\0{bin_dir}"
        self._path = cache_directory(environ) / f"{kind}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"

    def fitting(self, word: str) -> tuple[str, ...]:
        """Names that continue `word`, or for nodes and partitions what stands behind its last comma."""
        head, comma, tail = word.rpartition(",") if self._kind in ("node", "partition") else ("", "", word)
        taken = set(head.split(","))
        return tuple(f"{head}{comma}{name}" for name in self._names() if name.startswith(tail) and name not in taken)

    def _names(self) -> list[str]:
        kept = self._kept()
        if kept is not None:
            return kept
        found = sorted({name for name in self._asked() if name.isprintable() and not name.startswith("-")})
        self._keep(found)
        return found

    def _asked(self) -> list[str]:
        if self._kind == "run":
            return [path.name.partition("-")[0] for path in _entries(index_directory(self._environ))]
        program, *options = COMMANDS[self._kind]
        if self._bin_dir:
            program = str(Path(self._bin_dir) / program)
        try:
            done = self._runner.run([program, *options], timeout_s=_TIMEOUT_S, env=question_env(self._runner))
        except SovctlError:
            return []
        from sovctl.adapters.slurm.parse import (
            parse_names,
        )  # names that are kept need no parser, and TAB waits for each import

        return parse_names(done.stdout)

    def _kept(self) -> list[str] | None:
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                # No names is what a controller says that did not answer in time: ask it again before long.
                kept_s = self._kept_s if status.st_size else _NOTHING_KEPT_S
                if not 0 <= self._now() - status.st_mtime < kept_s:
                    return None
                return file.read(_MOST).decode("utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError):
            return None

    def _keep(self, names: Sequence[str]) -> None:
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh.write_text("".join(f"{name}\n" for name in names), "utf-8")
            fresh.replace(self._path)


def _entries(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.name.endswith(".json") and path.name[0] != "."]
    except OSError:
        return []
