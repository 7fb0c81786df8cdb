"""What `sovctl doctor` and `sovctl site` see of Slurm and of a machine. `None`: could not be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SPANK_PLUGIN = "sovctl_spank.so"
"""The file name of our SPANK plugin."""


@dataclass(frozen=True, slots=True)
class Preemptable:
    """A partition or a QOS whose jobs may be preempted."""

    name: str
    grace_s: float | None
    """GraceTime: from the warning to the end of a preempted job."""
    mode: str
    """PreemptMode as Slurm prints it."""

    def interrupted(self, fallback: str) -> bool:
        """Whether its jobs are ended to make room. `fallback`: PreemptMode of slurm.conf."""
        mode = (self.mode if self.mode.lower() not in ("", "cluster") else fallback).upper()
        return "REQUEUE" in mode or "CANCEL" in mode


@dataclass(frozen=True, slots=True)
class SlurmView:
    """Slurm as its own commands show it."""

    missing: tuple[str, ...] = ()
    """Commands that are not installed here."""
    problem: str = ""
    """Why the controller said nothing; then the rest is empty."""
    hint: str = ""
    """What to type about the problem."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """`scontrol show config`."""
    partitions: tuple[Preemptable, ...] = ()
    qos: tuple[Preemptable, ...] | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Of every node, by NodeName."""
    gres: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)
    """A partition of each node on which a step could start now."""


@dataclass(frozen=True, slots=True)
class FileTrial:
    """What a directory did when it was tried with scratch files."""

    directory: str
    kind: str = ""
    """Type of the file system, as in /proc/mounts."""
    options: str = ""
    problem: str = ""
    """Why it could not be tried, or what failed first; the rest is then as far as it came."""
    renames: bool | None = None
    """A rename replaces a file, and the old one is never seen again."""
    syncs: bool | None = None
    """fsync of a file and of its directory."""
    appends: bool | None = None
    """Two processes append with O_APPEND and no line is lost or torn."""
    locks: bool | None = None
    """flock keeps a second process out."""
    clock_offset_s: float | None = None
    """Of the file server; positive: it is ahead of this machine."""
    missing: bool = False
    """There is no such directory."""
    asked: bool = False
    """A person named it."""


@dataclass(frozen=True, slots=True)
class HookFile:
    """A program that slurm.conf names for the nodes."""

    setting: str
    path: str
    runs: bool
    """There, and root can execute it."""


@dataclass(frozen=True, slots=True)
class HookProgram:
    """A program that Slurm finds by the value of a setting such as Prolog."""

    path: str
    target: str
    """What it comes down to when every link is followed; it need not be there."""
    by_pattern: bool = False
    """Named by a pattern such as `/etc/slurm/prolog.d/*`: without the file Slurm misses nothing."""
    text: str = ""
    """Of a script."""


@dataclass(frozen=True, slots=True)
class MachineView:
    """One machine as a process on it sees it."""

    node: str
    root: bool
    version: str
    """Of sovctl."""
    at: float
    """Seconds since the epoch, by its own clock."""
    host: str = ""
    """As the machine calls itself."""
    config_files: tuple[str, ...] = ()
    config_problem: str = ""
    config_digest: str = ""
    unknown_variables: tuple[str, ...] = ()
    """What is said of those in the environment that set nothing."""
    """Of the site's configuration file; empty: there is none."""
    clock_steered: bool | None = None
    clock_error_ms: float | None = None
    gpus: int | None = None
    gpu_problem: str = ""
    driver_loaded: bool = False
    """The NVIDIA driver runs here."""
    expected_gpus: int | None = None
    files: tuple[FileTrial, ...] = ()
    journal_dir: str = ""
    watchers: Mapping[str, float] | None = None
    """When each node's watcher was last alive; None: no journal that could be read."""
    programs: Mapping[str, str] = field(default_factory=dict)
    """Where the programs of image runtimes and py-spy are; only those that are installed."""
    user_namespaces: bool | None = None
    hooks: tuple[HookFile, ...] = ()
    slurmd_running: bool = False
    spank_wanted: str = ""
    """The plugin's path in plugstack.conf; empty: it is not there."""
    spank_kept: tuple[str, ...] = ()
    """What its line names as `keep=`, for this node."""
    spank_there: bool = False
    spank_loaded: bool | None = None
    """slurmd has it in memory; None: no slurmd here, or not ours to see."""
    spank_replaced: bool = False
    """slurmd has an older file in memory than the one on disk."""
    spank_steps: tuple[int, int] | None = None
    """Running steps whose slurmstepd has it in memory, and all of them; None: not to be seen."""
    lua_files: tuple[str, ...] = ()
    """Of job_submit.lua, cli_filter.lua and sovctl_policy.lua, those beside slurm.conf."""
