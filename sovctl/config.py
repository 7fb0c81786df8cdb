"""Settings, read once and frozen.

Read in this order, later wins: built-in values; `/etc/sovctl/sovctl.toml` (or the file named in `SOVCTL_CONFIG`);
`~/.config/sovctl/sovctl.toml`; `SOVCTL_<SECTION>_<KEY>` variables. Unknown keys and wrong types are refused with
the file and the nearest known name.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from sovctl.errors import ConfigError
from sovctl.model.probe import ProbeSetting, ProbeState

SITE_FILE = Path("/etc/sovctl/sovctl.toml")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Where a node keeps what the checks read and write."""

    name: str = ""
    """NodeName in Slurm; empty: SLURMD_NODENAME, else the short host name."""
    nvml_library: str = ""
    """Path of libnvidia-ml.so.1 where the loader does not find it by itself."""
    kernel_log: str = "/dev/kmsg"
    boot_id_file: str = "/proc/sys/kernel/random/boot_id"
    run_dir: str = "/run/sovctl"
    state_dir: str = "/var/lib/sovctl"
    expected_gpus: int = -1
    """GPUs this node must have; -1: what the inventory says, or not known."""
    host_root: str = "/"
    """Where /sys, /proc and /run are read; another directory for a simulated node."""
    inventory: str = ""
    """What nodes of this kind must have (`sovctl health probes --learn`); empty: inventory.json in state_dir."""


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """How a node is judged and what may be done about it."""

    act: bool = True
    """False: observe only; findings are journaled, nothing is drained."""
    probe_timeout_s: float = 10.0
    """Of NVML; a driver in trouble takes seconds."""
    source_timeout_s: float = 2.0
    """Of each other source (adapters, mounts, memory, ...)."""
    prolog_timeout_s: float = 2.0
    """Of each source in the prolog, where every job waits."""
    verdict_valid_s: float = 300.0
    drain_limit_per_hour: int = 4
    """At most so many nodes drained by sovctl in an hour over the cluster; then stop and say so."""


@dataclass(frozen=True, slots=True)
class SlurmConfig:
    """How the Slurm commands are reached."""

    bin_dir: str = ""
    """Directory of scontrol, sbatch, ...; empty: PATH."""
    timeout_s: float = 15.0


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """The watch on the controller."""

    interval_s: float = 1.0
    silent_for_s: float = 6.0
    """A node whose slurmd and whose watcher were both silent for so long is declared dead."""
    alive_interval_s: float = 2.0
    """How often a node's watcher refreshes its mark in the cluster journal."""
    dead_limit_per_hour: int = 4
    """More dead nodes than this in an hour look like a switch or a mistake: stop and say so."""


@dataclass(frozen=True, slots=True)
class SshConfig:
    """How `sovctl sweep` and `sovctl node check` reach the nodes. What is empty comes from the OpenSSH files."""

    user: str = ""
    port: int = 0
    """0: of config_file, else 22."""
    key_file: str = ""
    config_file: str = "~/.ssh/config"
    known_hosts: str = ""
    """File of host keys; empty: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts. A key that is not there is refused."""
    at_once: int = 64
    """Nodes that are talked to at the same time."""
    timeout_s: float = 20.0
    """From the first packet to the last byte of a node's answer."""


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """One pass over the cluster."""

    check_command: str = "sovctl health check --json --observe"
    """Run on a node whose stored verdict is missing or too old."""
    retest_command: str = "sovctl health burn-in --all"
    """A loaded test, run on a node that sovctl drained and that looks healthy again; status 0: it is given back.
    Empty: nothing is ever given back by itself."""
    retest_timeout_s: float = 900.0
    retest_pause_s: float = 3600.0
    """A node that did not pass is tried again after so long."""
    resume_limit_per_day: int = 2
    """So often a node is given back by itself; after that a person decides."""
    drain_share_per_hour: float = 0.1
    """At most this share of the nodes (and health.drain_limit_per_hour) for one and the same finding, at least one."""
    completing_s: float = 900.0
    """A job that completes for so long on one node only is freed by setting that node down."""
    clock_offset_s: float = 2.0
    """A clock that differs by so much from most others is shown."""
    lemons_last: bool = True
    """Nodes with a bad record get a Slurm weight above all others, so that they are taken last."""
    drain_codes: str = ""
    """Findings of the comparison with peers that drain, with blanks in between (`PCIE_WIDTH`); the others only warn."""


@dataclass(frozen=True, slots=True)
class BurnInConfig:
    """Short work with a known answer, on idle nodes."""

    after_jobs: bool = False
    """One piece in the epilog of a job that leaves the node idle."""
    python: str = ""
    """An interpreter that has torch; empty: the one that runs sovctl."""
    device: str = "auto"
    """`cuda`, `cpu`, or `auto`: cuda where NVML shows GPUs."""
    seconds: float = 5.0
    """Of work for one piece; the start of torch comes on top."""
    timeout_s: float = 60.0
    """For one piece, with everything."""
    every_s: float = 3600.0
    """At most one piece in so long after jobs."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How a run is supervised."""

    poll_s: float = 0.5
    same_crash_limit: int = 2
    """The same crash at the same step so many times: hold and explain."""
    unknown_limit: int = 3
    """Stops without progress and without a culprit: hold and explain."""
    hardware_limit: int = 50
    """Hardware faults without a new checkpoint in between: hold and explain."""
    stop_lead_s: float = 60.0
    """So long before the time limit the script is asked to save and stop."""
    epilog_s: float = 2.0
    """How long the batch host's epilog takes after the supervisor left, where it cannot be measured."""
    preemptible_qos: str = "preemptible"
    """The QOS that `sovctl submit --preemptible` asks for."""
    hang_timeout_s: float = -1.0
    """Without progress for so long a run is looked at, and restarted if it hangs; 0: never; -1: derived from its own
    steps. `sovctl submit --hang-timeout` wins."""
    restart_stragglers: bool = False
    """Restart at once without a node that is persistently slower than the others, not only at the next restart."""


@dataclass(frozen=True, slots=True)
class IsolationConfig:
    """Images and isolated steps. Lists are words with blanks in between."""

    cache_dir: str = ""
    """Images as squashfs, for every node; empty: $XDG_CACHE_HOME/sovctl/images, else ~/.cache/sovctl/images."""
    node_dir: str = "/var/tmp"
    """Where a node unpacks an image it cannot mount, in sovctl-<uid>/."""
    env_dir: str = ""
    """Named layers (--env-name); empty: $XDG_DATA_HOME/sovctl/env, else ~/.local/share/sovctl/env."""
    allow_images: str = ""
    """Registries, registry/name prefixes and directories of images that may be used; empty: all."""
    allow_mounts: str = ""
    """Directories below which sources of --mount must lie, links resolved; empty: all."""
    allow_env: str = ""
    """Patterns of variables that pass with a clean environment, beside the built-in ones."""
    runtime: str = "bubblewrap"
    """Of `sovctl submit --image`: bubblewrap, spank, pyxis, slurm, apptainer, charliecloud or podman."""
    plain_http: str = ""
    """Registries (host:port) that are spoken to without TLS."""
    pull_timeout_s: float = 3600.0
    """Of one image, from the first byte to the squashfs."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What the whole site shares."""

    journal_dir: str = ""
    """Cluster journal on the shared file system (site mode); empty: the node's state_dir."""


@dataclass(frozen=True, slots=True)
class ProbesConfig:
    """`[probes]`: the state of single probes, by name. The names are checked where the probes are known."""

    settings: tuple[ProbeSetting, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set; frozen."""

    node: NodeConfig = field(default_factory=NodeConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    ssh: SshConfig = field(default_factory=SshConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    burn_in: BurnInConfig = field(default_factory=BurnInConfig)
    run: RunConfig = field(default_factory=RunConfig)
    isolation: IsolationConfig = field(default_factory=IsolationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read every source. Raises ConfigError naming the file and the key."""
    env = os.environ if environ is None else environ
    config = Config()
    for path in _files(env):
        config = _merge_file(config, path)
    return _merge_environment(config, env)


def _files(env: Mapping[str, str]) -> list[Path]:
    named = env.get("SOVCTL_CONFIG")
    site = Path(named) if named else SITE_FILE
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "/nonexistent")) / ".config")
    user = home / "sovctl" / "sovctl.toml"
    if named and not _there(site):
        raise ConfigError(str(site), "SOVCTL_CONFIG names a file that is not there")
    return [path for path in (site, user) if _there(path)]


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A home directory that is not ours to look into (su without -l) holds no settings of ours.
        return False


def _merge_file(config: Config, path: Path) -> Config:
    try:
        text = path.read_text("utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(path), str(error), hint="Correct the file; see sovctl.toml(5).") from error
    for section, values in table.items():
        where = _Place(path, text, section)
        if section not in _SECTIONS:
            raise ConfigError(where(), f"unknown section [{section}]{_nearest(section, _SECTIONS)}")
        if not isinstance(values, dict):
            raise ConfigError(where(), f"[{section}] must be a table")
        config = _merge_section(config, section, values, where)
    return config


@dataclass(frozen=True, slots=True)
class _Place:
    """File and line of a section or of a key in it."""

    path: Path
    text: str
    section: str

    def __call__(self, key: str = "") -> str:
        inside = False
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
                inside = header[1].strip("\"'") == self.section
                if inside and not key:
                    return f"{self.path}:{number}"
            elif inside and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return f"{self.path}:{number}"
        return str(self.path)


def _merge_section(config: Config, section: str, values: Mapping[str, Any], where: Callable[[str], str]) -> Config:
    if section == "probes":
        return _merge_probes(config, values, where)
    current = getattr(config, section)
    hints = get_type_hints(type(current))
    checked = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(where(key), f"unknown key {section}.{key}{_nearest(key, hints)}")
        checked[key] = _typed(value, hints[key], f"{section}.{key}", where(key))
    return replace(config, **{section: replace(current, **checked)})


def _merge_probes(config: Config, values: Mapping[str, Any], where: Callable[[str], str]) -> Config:
    settings = list(config.probes.settings)
    for name, value in values.items():
        if value not in [*ProbeState]:
            known = ", ".join(ProbeState)
            raise ConfigError(where(name), f"probes.{name} must be one of {known}, not {value!r}")
        settings.append(ProbeSetting(name, ProbeState(value), where(name)))
    return replace(config, probes=ProbesConfig(tuple(settings)))


def _typed(value: Any, kind: type, name: str, source: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(source, f"{name} must be {_WORDS[kind]}, not {value!r}")
    return value


def _merge_environment(config: Config, env: Mapping[str, str]) -> Config:
    named = [name for name in env if name.startswith("SOVCTL_")]
    for section in _SECTIONS - {"probes"}:
        if not any(name.startswith(f"SOVCTL_{section.upper()}_") for name in named):
            continue
        hints = get_type_hints(type(getattr(config, section)))
        for key, kind in hints.items():
            name = f"SOVCTL_{section}_{key}".upper()
            if name in env:
                value = _from_text(env[name], kind, name)
                config = _merge_section(config, section, {key: value}, _variable(name))
    prefix = "SOVCTL_PROBES_"
    for name in sorted(name for name in env if name.startswith(prefix)):
        probe = name.removeprefix(prefix).lower().replace("_", "-")
        config = _merge_probes(config, {probe: env[name].lower()}, _variable(name))
    return config


def _variable(name: str) -> Callable[[str], str]:
    return lambda _: name


def _from_text(text: str, kind: type, name: str) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigError(name, f"must be {_WORDS[kind]}, not {text!r}")
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(name, f"must be {_WORDS[kind]}, not {text!r}") from None


def _nearest(name: str, known: Any) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f" (known: {', '.join(sorted(known))})"


_SECTIONS = {item.name for item in fields(Config)}
_WORDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
