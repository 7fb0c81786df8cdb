"""The configuration files of a lab, as text. Pure.

Everything that affects timing keeps Slurm's default (KillWait, SlurmdTimeout, requeue delay, scheduler intervals)
unless the caller overrides it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sovctl.lab.layout import Layout


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What to build."""

    nodes: int
    gpus: int
    """GPUs a node."""
    port: int
    """slurmctld listens here; node number i (from 1) on port + i."""
    user: str
    host: str
    """This machine's host name, as slurmd will see it."""
    device_files: bool
    """GPUs have character devices (needs root); otherwise they are only counted."""
    accounting: bool = False
    preemption: bool = False
    """What spares in the pool need of slurm.conf: limits are enforced, a QOS may preempt another, and a second
    partition over the same nodes takes preemptible jobs."""
    health: bool = True
    """HealthCheckProgram, a watcher a node and the watch on the controller."""
    job_checks: bool = False
    """Prolog and Epilog judge the node around each job."""
    out_limit_per_hour: int | None = None
    """How many nodes an hour sovctl may drain or declare dead; None: its defaults."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """slurm.conf parameters by name."""
    backup: bool = False
    """A second slurmctld, which takes over from the first."""

    @property
    def controllers(self) -> tuple[str, ...]:
        """The host names of the slurmctlds. Two on one machine have an address each, and are called by it."""
        return ("127.0.0.1", "127.0.0.2") if self.backup else ("localhost",)

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"n{number:03d}" for number in range(1, self.nodes + 1))

    @property
    def dbd_port(self) -> int:
        return self.port + self.nodes + 1

    @property
    def database_port(self) -> int:
        return self.port + self.nodes + 2

    @property
    def ports(self) -> range:
        return range(self.port, self.port + self.nodes + (3 if self.accounting else 1))


def slurm_conf(spec: LabSpec, layout: Layout) -> str:
    """slurm.conf; a parameter in `overrides` replaces the lab's own line."""
    settings = _settings(spec, layout)
    if spec.health:
        settings |= {
            "HealthCheckProgram": str(layout.health_check),
            # 26.05 wants it longer than HealthCheckTimeout, 60 s there, which no older release knows.
            "HealthCheckInterval": "61",
            "HealthCheckNodeState": "ANY,CYCLE",
        }
    if spec.job_checks:
        settings |= {"Prolog": str(layout.prolog), "Epilog": str(layout.epilog)}
    known = {key.lower(): key for key in settings}
    for key, value in spec.overrides.items():
        settings[known.get(key.lower(), key)] = value
    lines = [f"{key}={value}" for key, value in settings.items()]
    # The first is among the settings; slurmctld counts them by their order.
    lines += [f"SlurmctldHost={name}({name})" for name in spec.controllers[1:]]
    gres = f" Gres=gpu:{spec.gpus}" if spec.gpus else ""
    lines.append(
        f"NodeName=n[001-{spec.nodes:03d}] NodeHostname={spec.host} NodeAddr=127.0.0.1 "
        f"Port={spec.port + 1}-{spec.port + spec.nodes} CPUs=32 RealMemory=64000{gres} State=UNKNOWN"
        if spec.nodes > 1
        else f"NodeName=n001 NodeHostname={spec.host} NodeAddr=127.0.0.1 Port={spec.port + 1} "
        f"CPUs=32 RealMemory=64000{gres} State=UNKNOWN"
    )
    lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
    if spec.preemption:
        lines.append("PartitionName=preemptible Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=0")
    return "\n".join(lines) + "\n"


def _settings(spec: LabSpec, layout: Layout) -> dict[str, str]:
    settings = {
        "ClusterName": "lab",
        "SlurmctldHost": "localhost(127.0.0.1)",
        "SlurmctldPort": str(spec.port),
        "SlurmUser": spec.user,
        "SlurmdUser": spec.user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.munge_socket}",
        "CredType": "cred/munge",
        "StateSaveLocation": str(layout.state_dir),
        "SlurmdSpoolDir": f"{layout.spool_dir}/%n",
        "SlurmctldPidFile": f"{layout.run_dir}/slurmctld.pid",
        "SlurmdPidFile": f"{layout.run_dir}/slurmd.%n.pid",
        "SlurmctldLogFile": f"{layout.log_dir}/slurmctld.log",
        "SlurmdLogFile": f"{layout.log_dir}/slurmd.%n.log",
        # Many nodes on one machine without systemd: processes are tracked by their place in the process tree.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        # The nodes claim more cores and memory than this machine has.
        "SlurmdParameters": "config_overrides",
        "JobAcctGatherType": "jobacct_gather/none",
        "ReturnToService": "0",
        "GresTypes": "gpu",
        "MailProg": "/bin/true",
    }
    if spec.backup:
        settings |= {
            "SlurmctldHost": f"{spec.controllers[0]}({spec.controllers[0]})",
            # Else each would listen on every address of the machine, and so on the other's.
            "CommunicationParameters": "NoCtldInAddrAny",
            "SlurmctldTimeout": "10",
        }
    if spec.accounting:
        settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": str(spec.dbd_port),
            # With auth/munge this is not a password but the socket for connections to slurmdbd.
            "AccountingStoragePass": str(layout.munge_socket),
        }
        if spec.preemption:
            settings |= {
                "AccountingStorageEnforce": "associations,limits,qos",
                "PreemptType": "preempt/qos",
                "PreemptMode": "REQUEUE",
                "PriorityType": "priority/multifactor",
                "PriorityWeightQOS": "10000",
            }
    else:
        settings["AccountingStorageType"] = "accounting_storage/none"
    return settings


def gres_conf(spec: LabSpec, layout: Layout) -> str:
    """gres.conf: character devices of the lab's own where they can be made."""
    if not spec.gpus:
        return ""
    last = spec.gpus - 1
    numbers = "0" if last == 0 else f"[0-{last}]"
    if not spec.device_files:
        # slurmd 22.05 finds none of the GPUs of a line with a bare Count. It looks at the files' type only, so the
        # consoles, which every machine has and nobody needs to open, stand in for devices we may not make.
        return "".join(f"NodeName={node} Name=gpu File=/dev/tty{numbers}\n" for node in spec.node_names)
    return "".join(
        f"NodeName={node} Name=gpu File={layout.device_dir}/{node}/nvidia{numbers}\n" for node in spec.node_names
    )


def slurmdbd_conf(spec: LabSpec, layout: Layout, password: str) -> str:
    """slurmdbd.conf for the lab's own MariaDB."""
    return "\n".join(
        [
            "DbdHost=localhost",
            "DbdAddr=127.0.0.1",
            f"DbdPort={spec.dbd_port}",
            f"SlurmUser={spec.user}",
            "AuthType=auth/munge",
            f"AuthInfo=socket={layout.munge_socket}",
            f"PidFile={layout.run_dir}/slurmdbd.pid",
            f"LogFile={layout.log_dir}/slurmdbd.log",
            "StorageType=accounting_storage/mysql",
            "StorageHost=127.0.0.1",
            f"StoragePort={spec.database_port}",
            "StorageUser=slurm",
            f"StoragePass={password}",
            "StorageLoc=slurm_acct",
            "",
        ]
    )


def node_toml(spec: LabSpec, layout: Layout, node: str) -> str:
    """sovctl.toml of one node: its own kernel log, boot id and state, the cluster's journal."""
    own = layout.node_dir(node)
    return f"""[node]
name = "{node}"
kernel_log = "{own}/kmsg"
boot_id_file = "{own}/boot_id"
run_dir = "{own}/run"
state_dir = "{own}/state"
host_root = "{own}/host"
expected_gpus = {spec.gpus if spec.gpus else -1}

[burn_in]
device = "cpu"
seconds = 0.2

[cluster]
journal_dir = "{layout.journal_dir}"
{_limit("health", "drain_limit_per_hour", spec.out_limit_per_hour)}"""


def site_toml(spec: LabSpec, layout: Layout) -> str:
    """sovctl.toml of the controller and the login node. A command for a node runs in that node's directory."""
    limit = _limit("watch", "dead_limit_per_hour", spec.out_limit_per_hour)
    return f"""[cluster]
journal_dir = "{layout.journal_dir}"

[node]
boot_id_file = "boot_id"
{f"{limit}dead_share_per_hour = 1.0{chr(10)}" if limit else ""}"""


def _limit(section: str, key: str, value: int | None) -> str:
    return "" if value is None else f"\n[{section}]\n{key} = {value}\n"


def node_script(layout: Layout, python: str, path: str, package_dir: str, verb: str) -> str:
    """HealthCheckProgram, Prolog or Epilog: slurmd tells which node it is; the rest is in the node's sovctl.toml.

    Every slurmd runs the health check before it registers, and 64 at once on two cores would take longer than
    everything else, so there is none until the lab is up. (To leave it out of slurm.conf until then needs a
    reconfiguration, in which a slurmd of 26.05 ends now and then without a word: it starts itself anew.)
    """
    return f"""#!/bin/sh
# Run by slurmd. A checker that cannot run must never look like a sick node: only status 10, failed, is an error.
node="$SLURMD_NODENAME"
[ -n "$node" ] || exit 0
{f'[ -e "{layout.record}" ] || exit 0' if verb == "check" else ""}
export SLURM_CONF="{layout.slurm_conf}" SOVCTL_CONFIG="{layout.root}/nodes/$node/sovctl.toml"
export SOVCTL_LAB_DIR="{layout.root}" SOVCTL_LAB_NODE="$node" LD_LIBRARY_PATH="{layout.lib_dir}"
# slurmd starts it with an empty environment.
export PATH="{path}" PYTHONPATH="{package_dir}"
{_START[verb].format(python=python, verb=verb)}
"""


_JUDGE = """"{python}" {options} -c '
import gc, os, sys
gc.disable()
from sovctl.cli.main import run
status = run(["health", "{verb}"])
sys.stdout.flush()
os._exit(status)'
[ $? -eq 10 ] && exit 1
exit 0"""
_START = {
    "check": 'exec "{python}" -P -m sovctl health check',
    "prolog": _JUDGE.replace("{options}", "-SP"),
    "epilog": _JUDGE.replace("{options}", "-P"),
}
"""As the scripts in plugins/slurmd do it."""
