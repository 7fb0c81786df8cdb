"""Settings, read once and frozen.

Read in this order, later wins: built-in values; `/etc/sovctl/sovctl.toml` (or the file named in `SOVCTL_CONFIG`);
`~/.config/sovctl/sovctl.toml`; `SOVCTL_<SECTION>_<KEY>` variables. Unknown keys and wrong types are refused with
the file and the nearest known name. Where the site has a file, what only the site may set counts from there alone.

The text below a key is its documentation: docs/configuration.md and sovctl.toml(5) are made from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

from sovctl.errors import ConfigError
from sovctl.model.probe import ProbeSetting, ProbeState

SITE_FILE = Path("/etc/sovctl/sovctl.toml")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Where a node keeps what the checks read and write."""

    name: str = ""
    """NodeName in Slurm; empty: `SLURMD_NODENAME`, else the short host name."""
    nvml_library: str = ""
    """`libnvidia-ml.so.1`, where the loader does not find it."""
    kernel_log: str = "/dev/kmsg"
    """The kernel log, or a file in its format."""
    boot_id_file: str = "/proc/sys/kernel/random/boot_id"
    """Tells one boot from another."""
    run_dir: str = "/run/sovctl"
    """`verdict.json` and the cursor of the kernel log; emptied by a reboot."""
    state_dir: str = "/var/lib/sovctl"
    """What the node learnt, counted and remembers; survives a reboot."""
    expected_gpus: int = -1
    """This node must have so many; -1: what the inventory says, or not known."""
    host_root: str = "/"
    """Where `/sys`, `/proc` and `/run` are read; another directory for a simulated node."""
    inventory: str = ""
    """What nodes of this kind must have (`sovctl health probes --learn`); empty: `inventory.json` in
    `node.state_dir`."""


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """How a node is judged and what may be done about it."""

    act: bool = True
    """False: judge and record; drain nothing, refuse no job, and `sovctl sweep --act` only looks. `sovctl watch --act`
    then checks the nodes that runs suspect without draining them, and does everything else."""
    probe_timeout_s: float = 10.0
    """NVML gets so long; a driver that hangs is not waited for."""
    source_timeout_s: float = 2.0
    """Each other source (adapters, mounts, memory, ...) gets so long."""
    prolog_timeout_s: float = 2.0
    """Each source gets so long in the prolog and the epilog."""
    verdict_valid_s: float = 300.0
    """A verdict counts for so long."""
    drain_limit_per_hour: int = 4
    """Sovctl drains at most so many an hour over the cluster, then says so."""


@dataclass(frozen=True, slots=True)
class SlurmConfig:
    """How the Slurm commands are reached."""

    bin_dir: str = ""
    """Directory of scontrol, sbatch, ...; empty: `PATH`."""
    timeout_s: float = 15.0
    """A Slurm command gets so long."""
    pyslurm: bool = False
    """Read nodes, jobs and reservations, drain, resume and requeue by pyslurm where it is installed and fits this
    Slurm; otherwise, and for all else, by the commands."""


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """The watch on the controller."""

    interval_s: float = 1.0
    """Between two passes of `sovctl watch`."""
    silent_for_s: float = 6.0
    """A node's watcher must have been silent for so long before slurmd is asked."""
    alive_interval_s: float = 2.0
    """How often a node's watcher renews its mark."""
    ask_unwatched_s: float = 60.0
    """slurmd of a node without a watcher is asked so often whether it is there, which leaves a line in its log each
    time; 0: only when Slurm or a run suspects the node."""
    dead_limit_per_hour: int = 4
    """More dead nodes an hour look like a switch or a mistake: stop and say so."""
    dead_share_per_hour: float = 0.1
    """The same as a share of the nodes; whichever of the two is less, but at least one node."""
    silent_share: float = 0.25
    """More than this share (and more than two nodes) silent at once: `sovctl watch` distrusts itself, sets nothing down
    and says so."""
    ssh: bool = True
    """Ask a silent node over SSH as well; one that answers is never declared dead."""
    ssh_timeout_s: float = 5.0
    """A silent node gets so long to answer over SSH."""
    bmc_command: str = ""
    """Tells the power of a node, `{node}` and `{address}` in it; status 0 and the word `off` in its output: the power
    is off. Empty: nobody is asked."""
    bmc_timeout_s: float = 5.0
    """That command gets so long."""


@dataclass(frozen=True, slots=True)
class SshConfig:
    """How `sovctl sweep` and `sovctl node check` reach the nodes. What is empty comes from the OpenSSH files."""

    user: str = ""
    """User on the nodes; empty: what `ssh.config_file` says, else who runs the command."""
    port: int = 0
    """0: what `ssh.config_file` says, else 22."""
    key_file: str = ""
    """Private key; empty: those that `ssh.config_file` names."""
    config_file: str = "~/.ssh/config"
    """Read as OpenSSH does, `ProxyJump` and `ProxyCommand` included; nodes behind one jump host share a connection to
    it."""
    known_hosts: str = ""
    """Host keys, `@cert-authority` and `@revoked` lines included; empty: `~/.ssh/known_hosts` and
    `/etc/ssh/ssh_known_hosts`. A host that is not vouched for there is refused."""
    at_once: int = 64
    """Talked to at the same time."""
    timeout_s: float = 20.0
    """From the first packet to the last byte of a node's answer."""


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """One pass over the cluster."""

    check_command: str = "sovctl health check --json --observe"
    """Run on a node whose stored verdict is missing, too old, or would lead to a deed."""
    retest_command: str = "sovctl health burn-in --all"
    """A loaded test, run on a node that sovctl drained and that looks healthy again; status 0: it is given back.
    Empty: nothing is given back by itself."""
    retest_timeout_s: float = 900.0
    """The loaded test gets so long."""
    retest_pause_s: float = 3600.0
    """A node that did not pass is tried again after so long."""
    resume_limit_per_day: int = 2
    """A node is given back by itself so often; after that a person decides."""
    drain_share_per_hour: float = 0.1
    """At most this share of the nodes (and `health.drain_limit_per_hour`) for one and the same finding, at least one
    node."""
    completing_s: float = 900.0
    """A job that completes for so long on one node only is freed by setting that node down."""
    clock_offset_s: float = 2.0
    """A clock that differs by so much from most others is shown."""
    lemons_last: bool = True
    """Nodes with a bad record get a Slurm weight above all others, so that they are taken last; only with `--act`."""
    drain_codes: str = ""
    """Findings of the comparison with peers that drain, with blanks between; the others only warn."""


@dataclass(frozen=True, slots=True)
class BurnInConfig:
    """Short work with a known answer, on idle nodes."""

    after_jobs: bool = False
    """One piece of the burn-in in the epilog of a job that leaves the node idle."""
    python: str = ""
    """An interpreter that has torch (it need not have sovctl); empty: the one that runs sovctl."""
    device: str = "auto"
    """`cuda`, `cpu`, or `auto`: cuda where NVML or the inventory knows of GPUs."""
    seconds: float = 5.0
    """Of work for one piece; the start of torch comes on top."""
    timeout_s: float = 60.0
    """One piece gets so long, with everything."""
    every_s: float = 3600.0
    """At most one piece in so long after jobs."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How a run is supervised."""

    poll_s: float = 0.5
    """How often the supervisor looks at what ranks and site wrote; slurmctld is asked every 1.25 s at most while all is
    well, and never for more than a fiftieth of the time. Grows with the job above 128 nodes."""
    same_crash_limit: int = 2
    """The same crash at the same step: hold and explain."""
    unknown_limit: int = 3
    """Stops without progress and without a culprit, and time slices without a checkpoint: more are held."""
    hardware_limit: int = 50
    """Hardware faults without a new checkpoint in between: more are held."""
    stop_lead_s: float = 60.0
    """Before the time limit the ranks are asked to save, at most a quarter of the limit ahead."""
    epilog_s: float = 2.0
    """How long the batch host's epilog takes, where Slurm has one and it cannot be measured."""
    preemptible_qos: str = "preemptible"
    """The QOS of `sovctl submit --preemptible`."""
    preemptible_partition: str = "preemptible"
    """The partition of `sovctl submit --preemptible`, where the cluster has it."""
    hang_timeout_s: float = -1.0
    """Without progress for so long the ranks are looked at, and the run is restarted if it hangs; 0: never; -1:
    derived, below."""
    restart_stragglers: bool = False
    """Restart at once without a node that is persistently slower than the others."""


@dataclass(frozen=True, slots=True)
class SpareConfig:
    """Spares in the pool; the last class and its partition are run.preemptible_qos and run.preemptible_partition."""

    classes: str = "high normal"
    """QOS whose jobs take nodes from preemptible ones, most important first, with blanks in between; the last class is
    `run.preemptible_qos`."""
    preempt_lower: bool = False
    """Every class may take nodes from every class below it; false: from the preemptible one only."""
    grace_s: float = 120.0
    """GraceTime of preemptible jobs: from SIGTERM to SIGKILL."""
    short_probability: float = 0.01
    """How often a moment may find no spare, for `sovctl spare advise`."""
    repair_hours: float = 72.0
    """Mean time until a failed node is back, as long as the journal knows of too few repairs."""
    test_every_s: float = 21600.0
    """A spare gets a piece of the burn-in so often: an idle one by `sovctl sweep --act`, one that is never idle in the
    gap between two jobs (`burn_in.after_jobs`). `sovctl spare status` names those whose last is twice as old. 0:
    never."""


@dataclass(frozen=True, slots=True)
class IsolationConfig:
    """Images and isolated steps. Lists are words with blanks in between."""

    cache_dir: str = ""
    """Images as squashfs, for every node; empty: below `XDG_CACHE_HOME` or `~/.cache`."""
    node_dir: str = "/var/tmp"
    """Where a node unpacks an image it cannot mount."""
    env_dir: str = ""
    """Named layers, `%u` in it is the user; empty: below `XDG_DATA_HOME` or `~/.local/share`."""
    allow_images: str = ""
    """Registries, `registry/name` prefixes and directories of images that may be used; empty: all."""
    allow_mounts: str = ""
    """Directories below which a mounted source must lie, links resolved; empty: all."""
    allow_env: str = ""
    """Patterns of variables that pass with a clean environment, beside the built-in ones."""
    runtime: str = "bubblewrap"
    """Of `sovctl submit` with an image: bubblewrap, spank, pyxis, slurm, apptainer, charliecloud or podman."""
    plain_http: str = ""
    """Registries (host:port) that are spoken to without TLS."""
    pull_timeout_s: float = 3600.0
    """Of one image, from the first byte to the squashfs."""


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Who is told, and how. Without webhook_file and email_to nobody is."""

    webhook_file: str = ""
    """Its first line is the address, which is a secret: a file that others cannot read."""
    webhook_format: str = "json"
    """`json`, or `slack`: only a text, as Slack and Mattermost take it."""
    email_to: str = ""
    """Addresses with blanks in between."""
    email_from: str = ""
    """The sender; empty: sovctl@ and the name of this host."""
    smtp_host: str = "localhost"
    """The mail server."""
    smtp_port: int = 25
    """Its port; most servers take `starttls` on 587 and `tls` on 465."""
    smtp_security: str = "none"
    """`none`, `starttls` or `tls`."""
    smtp_user: str = ""
    """Who logs in there; empty: nobody."""
    smtp_password_file: str = ""
    """Its first line is the password: a file that others cannot read."""
    kinds: str = "incident run-held limit spares-short"
    """What is told, with blanks in between; there is also `run-ended`."""
    subject: str = ""
    """A template, with the words of `alerts.text`; empty: cluster and what happened."""
    text: str = ""
    """A template of the body, with `$what`, `$kind`, `$where`, `$when`, `$cluster`, `$next`; empty: all of them."""
    limit_per_hour: int = 20
    """So many messages on each channel; what is above comes as one when there is room again."""
    timeout_s: float = 10.0
    """One try to send gets so long."""
    keep_s: float = 604800.0
    """A message that does not get through is tried again for so long."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What the whole site shares."""

    journal_dir: str = ""
    """Cluster journal on the shared file system (site mode); empty: `node.state_dir`."""


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
    spare: SpareConfig = field(default_factory=SpareConfig)
    isolation: IsolationConfig = field(default_factory=IsolationConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)


SITE_ONLY = frozenset(
    {
        *("node", "health", "watch", "sweep", "burn_in", "spare", "cluster", "probes"),
        *("isolation.allow_images", "isolation.allow_mounts"),
    }
)
"""Sections and keys that belong to the site: a person's own file and variables do not change them where the site has a
file. No wall against somebody who wants to get around it (who runs the command could change the command): a rule that
must hold is in the policy file, which slurmctld and root on the nodes obey."""


class Origin(StrEnum):
    """Where a value came from."""

    DEFAULT = "default"
    SITE = "site"
    USER = "user"
    VARIABLE = "variable"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value with its origin."""

    name: str
    """`section.key`; of a probe `probes.<name>`."""
    value: Any
    origin: Origin
    where: str = ""
    """File and line, or the variable; empty: built in."""


@dataclass(frozen=True, slots=True)
class UnknownVariable:
    """A variable that looks like one of ours and sets nothing: most likely a slip."""

    name: str
    nearest: str
    """The setting or variable that was meant, perhaps; empty: nothing is like it."""

    def __str__(self) -> str:
        return f"{self.name} sets nothing" + (f"; did you mean {self.nearest}?" if self.nearest else "")


@dataclass(frozen=True, slots=True)
class Traced:
    """The settings that count, where each came from, and what was said and does not count."""

    config: Config
    settings: tuple[Setting, ...]
    ignored: tuple[Setting, ...]
    """Of a person, where only the site may set it."""
    files: tuple[Path, ...]
    """Those that were read, the site's first."""
    unknown: tuple[UnknownVariable, ...] = ()
    """In the environment, and read by nothing here."""


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read every source. Raises ConfigError naming the file and the key."""
    return _read(os.environ if environ is None else environ, traced=False)[0]


def trace_config(environ: Mapping[str, str] | None = None) -> Traced:
    """As load_config, and say where each value came from."""
    env = os.environ if environ is None else environ
    config, log, files = _read(env, traced=True)
    settings = [log.said.get(name) or Setting(name, value, Origin.DEFAULT) for name, value in _plain(config)]
    settings += [setting for name, setting in log.said.items() if name.startswith("probes.")]
    return Traced(config, tuple(settings), tuple(log.ignored), files, unknown_variables(env))


def config_files(environ: Mapping[str, str] | None = None) -> list[Path]:
    """The files that `load_config` reads, those that are there, the site's first."""
    try:
        return [path for _, path in configuration_files(environ)]
    except ConfigError:
        return []


def site_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where settings of the site belong, whether the file is there or not."""
    return Path((os.environ if environ is None else environ).get("SOVCTL_CONFIG") or SITE_FILE)


def configuration_files(environ: Mapping[str, str] | None = None) -> tuple[tuple[Origin, Path], ...]:
    """The files that count here. Raises ConfigError when SOVCTL_CONFIG names none."""
    site, user = _files(os.environ if environ is None else environ)
    return tuple((origin, path) for origin, path in ((Origin.SITE, site), (Origin.USER, user)) if path is not None)


def check_file(path: Path, origin: Origin = Origin.SITE) -> Traced:
    """What one file sets, read by itself. Raises ConfigError naming the line."""
    log = _Log(origin)
    config = _merge_file(Config(), path, log)
    return Traced(config, tuple(log.said.values()), (), (path,))


def unknown_variables(environ: Mapping[str, str] | None = None) -> tuple[UnknownVariable, ...]:
    """Said where a person asks for settings, never an error: it may be of another release, or of the site."""
    import difflib

    settings = {
        f"SOVCTL_{section}_{key}".upper()
        for section in _SECTIONS - {"probes"}
        for key in get_type_hints(type(getattr(Config(), section)))
    }
    # What all have in common would make any two alike.
    known = {name.removeprefix("SOVCTL_"): name for name in settings | OTHER_VARIABLES}
    found = []
    for name in sorted(os.environ if environ is None else environ):
        if name.startswith("SOVCTL_") and name not in known.values() and not name.startswith(_OTHER_PREFIXES):
            close = difflib.get_close_matches(name.removeprefix("SOVCTL_"), known, n=1)
            found.append(UnknownVariable(name, known[close[0]] if close else ""))
    return tuple(found)


def is_site_only(name: str) -> bool:
    """Whether only the site may set `section.key`."""
    return name in SITE_ONLY or name.partition(".")[0] in SITE_ONLY


class _Log:
    """Who said what, while the sources are read."""

    def __init__(self, origin: Origin, *, traced: bool = True) -> None:
        """`traced` False: lines are not looked for, which the start of a prolog would feel."""
        self.origin, self.traced = origin, traced
        self.closed = False
        self.said: dict[str, Setting] = {}
        self.ignored: list[Setting] = []

    def counts(self, name: str, value: Any, where: Callable[[str], str], key: str) -> bool:
        """Note a value; False: this source may not set it."""
        setting = Setting(name, value, self.origin, where(key) if self.traced else "")
        if self.closed and self.origin is not Origin.SITE and is_site_only(name):
            self.ignored.append(setting)
            return False
        self.said[name] = setting
        return True


def _read(env: Mapping[str, str], *, traced: bool) -> tuple[Config, _Log, tuple[Path, ...]]:
    site, user = _files(env)
    config, log = Config(), _Log(Origin.SITE, traced=traced)
    if site is not None:
        log.closed = not _own(site)
        config = _merge_file(config, site, log)
    log.origin = Origin.USER
    if user is not None:
        config = _merge_file(config, user, log)
    log.origin = Origin.VARIABLE
    return _merge_environment(config, env, log), log, tuple(path for path in (site, user) if path is not None)


def _own(path: Path) -> bool:
    """Who owns the site's file is the site: root, and whoever runs a lab."""
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _plain(config: Config) -> list[tuple[str, Any]]:
    return [
        (f"{section}.{key}", value)
        for section, values in asdict(config).items()
        if section != "probes"
        for key, value in values.items()
    ]


def _files(env: Mapping[str, str]) -> tuple[Path | None, Path | None]:
    named = env.get("SOVCTL_CONFIG")
    site = site_file(env)
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "/nonexistent")) / ".config")
    user = home / "sovctl" / "sovctl.toml"
    if named and not _there(site):
        raise ConfigError("SOVCTL_CONFIG", f"there is no file {site}")
    return site if _there(site) else None, user if _there(user) else None


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A home directory that is not ours to look into (su without -l) holds no settings of ours.
        return False


def _merge_file(config: Config, path: Path, log: _Log) -> Config:
    import tomllib  # where no file is there, a command need not wait for it

    try:
        text = path.read_text("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read: {error.strerror}", hint=f"Check its name and mode: ls -l {path}"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        words = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(str(path), words, hint="Correct the file; what can be set: man sovctl.toml") from error
    for section, values in table.items():
        where = _Place(path, text, section)
        if section not in _SECTIONS:
            raise ConfigError(where(), f"unknown section [{section}]{_nearest(section, _SECTIONS)}")
        if not isinstance(values, dict):
            raise ConfigError(where(), f"[{section}] must be a table")
        config = _merge_section(config, section, values, where, log)
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
            elif inside and line.partition("=")[0].strip().strip("\"'") == key:
                return f"{self.path}:{number}"
        return str(self.path)


def _merge_section(
    config: Config, section: str, values: Mapping[str, Any], where: Callable[[str], str], log: _Log
) -> Config:
    if section == "probes":
        return _merge_probes(config, values, where, log)
    current = getattr(config, section)
    hints = get_type_hints(type(current))
    checked = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(where(key), f"unknown key {section}.{key}{_nearest(key, hints)}")
        typed = _typed(value, hints[key], f"{section}.{key}", where, key)
        if isinstance(typed, float) and not 0 <= typed <= _LARGEST and typed != getattr(type(current)(), key):
            raise ConfigError(where(key), f"{section}.{key} must be from 0 to {_LARGEST:.0f}, not {value!r}")
        if log.counts(f"{section}.{key}", typed, where, key):
            checked[key] = typed
    return replace(config, **{section: replace(current, **checked)})


def _merge_probes(config: Config, values: Mapping[str, Any], where: Callable[[str], str], log: _Log) -> Config:
    settings = list(config.probes.settings)
    for name, value in values.items():
        if value not in [*ProbeState]:
            known = ", ".join(ProbeState)
            raise ConfigError(where(name), f"probes.{name} must be one of {known}, not {value!r}")
        if log.counts(f"probes.{name}", value, where, name):
            settings.append(ProbeSetting(name, ProbeState(value), where(name)))
    return replace(config, probes=ProbesConfig(tuple(settings)))


def _typed(value: Any, kind: type, name: str, where: Callable[[str], str], key: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(where(key), f"{name} must be {_WORDS[kind]}, not {value!r}")
    return value


def _merge_environment(config: Config, env: Mapping[str, str], log: _Log) -> Config:
    named = [name for name in env if name.startswith("SOVCTL_")]
    for section in _SECTIONS - {"probes"}:
        if not any(name.startswith(f"SOVCTL_{section.upper()}_") for name in named):
            continue
        hints = get_type_hints(type(getattr(config, section)))
        for key, kind in hints.items():
            name = f"SOVCTL_{section}_{key}".upper()
            if name in env:
                value = _from_text(env[name], kind, name)
                config = _merge_section(config, section, {key: value}, _variable(name), log)
    prefix = "SOVCTL_PROBES_"
    for name in sorted(name for name in env if name.startswith(prefix)):
        probe = name.removeprefix(prefix).lower().replace("_", "-")
        config = _merge_probes(config, {probe: env[name].lower()}, _variable(name), log)
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


OTHER_VARIABLES = frozenset(
    {
        *("SOVCTL_CONFIG", "SOVCTL_DEBUG", "SOVCTL_LOOK", "SOVCTL_MASTER_ADDR", "SOVCTL_REMOVE_ANYWAY"),
        *("SOVCTL_LAB_DIR", "SOVCTL_LAB_NODE", "SOVCTL_LAB_NVML_STATE"),
        *("SOVCTL_PYTHON", "SOVCTL_PACKAGE_DIR", "SOVCTL_OTHER_HEALTH_CHECK"),
        *("SOVCTL_WATCH_OPTIONS", "SOVCTL_SWEEP_OPTIONS"),
        *("SOVCTL_RUN_ID", "SOVCTL_RUN_DIR", "SOVCTL_ATTEMPT", "SOVCTL_EXCLUDED_NODES"),
        *("SOVCTL_CHECKPOINT_DIR", "SOVCTL_LOCAL_CHECKPOINT_DIR", "SOVCTL_RESUME_FROM", "SOVCTL_RESUME_STEP"),
    }
)
"""What sovctl itself, its hooks and its lab set or read beside the settings."""
_OTHER_PREFIXES = ("SOVCTL_PROBES_", "SOVCTL_SPANK_")
"""Probes are known to the table of probes, which refuses others; the SPANK plugin has its own."""
_SECTIONS = {item.name for item in fields(Config)}
_LARGEST = 1e9
"""Seconds or shares; more, or infinity, would be no number for a deadline."""
_WORDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
