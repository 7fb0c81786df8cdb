"""Slurm itself: its commands, its hostlists, its settings, and shells on its nodes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.config import Config, load_config
from sovctl.errors import SovctlError

if TYPE_CHECKING:
    from sovctl.adapters.slurm.cli import SlurmCli
    from sovctl.adapters.slurm.known_names import KnownNames
    from sovctl.ports.site import RemoteShell
    from sovctl.ports.slurm import Preemption

ASK_S = 5.0
"""How long a submission waits for what it can do without."""


def preemption() -> Preemption:
    """How Slurm preempts; a controller that is slow to answer is not waited for."""
    return slurm(ASK_S)


def known_names(kind: str) -> KnownNames:
    """Names of this kind that a shell completes. Raises KeyError for a kind that there is not."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.slurm.known_names import KnownNames

    return KnownNames(kind, CommandRunner(), os.environ, bin_dir=load_config().slurm.bin_dir)


def fold_hostlist(names: Iterable[str]) -> str:
    """Names as `n[001-003]`."""
    from sovctl.adapters.slurm.parse import fold

    return fold(names)


def expand_hostlist(hostlist: str) -> tuple[str, ...]:
    """`n[001-003]` as names."""
    from sovctl.adapters.slurm.parse import expand

    return expand(hostlist)


def slurm(timeout_s: float | None = None) -> SlurmCli:
    """The Slurm commands of this site; `timeout_s`: how long each may take, if not as configured."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.slurm.cli import SlurmCli

    config = load_config().slurm
    kind = SlurmCli
    if config.pyslurm:
        from sovctl.adapters.slurm.api import SlurmApi as kind
    return kind(CommandRunner(), bin_dir=config.bin_dir, timeout_s=timeout_s or config.timeout_s)


def local_shell() -> RemoteShell:
    """This machine, for the node it is."""
    from sovctl.adapters.site.local_shell import LocalShell

    return LocalShell()


def remote_shell(config: Config) -> RemoteShell:
    """SSH; inside `sovctl lab shell` without SSH settings of its own, the nodes are directories of this machine."""
    from sovctl.adapters.site.ssh import SshSettings, SshShell
    from sovctl.config import SshConfig

    lab = os.environ.get("SOVCTL_LAB_DIR")
    if lab and config.ssh == SshConfig():
        from sovctl.adapters.site.local_shell import LocalShell

        return LocalShell(Path(lab))
    ssh = config.ssh
    return SshShell(SshSettings(ssh.user, ssh.port, ssh.key_file, ssh.config_file, ssh.known_hosts, ssh.at_once))


def cluster_name() -> str:
    try:
        return slurm(ASK_S).settings().get("ClusterName", "")
    except SovctlError:
        return ""
