"""Where everything of a lab lies. One directory holds it all; removing it removes the lab."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sovctl.adapters.own_place import own_name


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of the lab in `root`."""

    root: Path

    @property
    def record(self) -> Path:
        """What runs: nodes, ports, process ids."""
        return self.root / "lab.json"

    @property
    def slurm_conf(self) -> Path:
        return self.root / "slurm.conf"

    @property
    def gres_conf(self) -> Path:
        return self.root / "gres.conf"

    @property
    def site_config(self) -> Path:
        """sovctl.toml for commands on the "login node" and the controller."""
        return self.root / "sovctl.toml"

    @property
    def munge_dir(self) -> Path:
        return self.root / "munge"

    @property
    def munge_socket(self) -> Path:
        return self.root / "run" / "munge.sock"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def log_dir(self) -> Path:
        return self.root / "log"

    @property
    def state_dir(self) -> Path:
        """StateSaveLocation of slurmctld."""
        return self.root / "state"

    @property
    def spool_dir(self) -> Path:
        return self.root / "spool"

    @property
    def device_dir(self) -> Path:
        return self.root / "dev"

    @property
    def lib_dir(self) -> Path:
        """Holds the simulated libnvidia-ml.so.1."""
        return self.root / "lib"

    @property
    def journal_dir(self) -> Path:
        """The cluster journal; on a real site it lies on shared storage."""
        return self.root / "journal"

    @property
    def scratch(self) -> Path:
        """Storage of the lab's own, where it has any."""
        return self.root / "scratch"

    @property
    def health_check(self) -> Path:
        return self.root / "bin" / "health_check"

    @property
    def prolog(self) -> Path:
        return self.root / "bin" / "prolog"

    @property
    def epilog(self) -> Path:
        return self.root / "bin" / "epilog"

    def node_dir(self, node: str) -> Path:
        """What a real node would have of its own: kernel log, boot id, NVML state, verdict."""
        return self.root / "nodes" / node

    def node_config(self, node: str) -> Path:
        return self.node_dir(node) / "sovctl.toml"


def default_root() -> Path:
    """Outside the home directory, so that jobs of other users can read slurm.conf."""
    return Path(os.environ.get("SOVCTL_LAB_DIR") or f"/var/tmp/sovctl-lab-{own_name()}")
