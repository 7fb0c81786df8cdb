"""From one look at a healthy node to what every node of its kind must have. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sovctl.model.facts import firmware_of
from sovctl.model.inventory import Inventory
from sovctl.model.node import NodeSnapshot

LEARNT_SERVICES = frozenset(
    {
        "nvidia-fabricmanager",
        "nvidia-persistenced",
        "nvidia-imex",
        "nvidia-dcgm",
        "chrony",
        "chronyd",
        "ntp",
        "ntpd",
        "ntpsec",
        "systemd-timesyncd",
        "munge",
        "openibd",
        "sssd",
        "rpcbind",
    }
)
"""Services whose absence matters to jobs; all else that runs on the node is its own affair."""
_STORAGE = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "vast"}
)
_OWN_SYSTEM = ("/boot", "/snap", "/var/lib/docker", "/var/lib/containerd", "/run", "/var/lib/kubelet")
"""Mounts that come and go, or that no job needs."""


def learn(snapshot: NodeSnapshot) -> Inventory:
    """What this node has now. Only a healthy one may be asked; of links that differ within it, the best is meant."""
    gpus = [gpu for gpu in snapshot.gpus if not gpu.error]
    host = snapshot.host
    return Inventory(
        gpus=len(snapshot.gpus) or None,
        gpu_names=_all(gpu.name for gpu in gpus),
        vbios=_all(gpu.vbios_version for gpu in gpus),
        drivers=_all(gpu.driver_version for gpu in gpus),
        pcie_generation=max((gpu.pcie_generation_max for gpu in gpus if gpu.pcie_generation_max), default=None),
        pcie_width=max((gpu.pcie_width for gpu in gpus if gpu.pcie_width), default=None),
        nvlinks=max((gpu.nvlinks_active for gpu in gpus if gpu.nvlinks_active is not None), default=None),
        ports={port.name: port.rate_gbps or 0.0 for port in host.ports or () if port.state == "ACTIVE"},
        ethernets={link.name: link.speed_mbps or 0 for link in host.ethernets or () if link.state == "up"},
        memory_kib=host.ram[0].total_kib if host.ram else None,
        mounts={
            mount.path: "ro" if mount.read_only else "rw"
            for mount in host.mounts or ()
            if mount.kind in _STORAGE and not mount.automatic and not mount.path.startswith(_OWN_SYSTEM)
        },
        services=tuple(sorted(service.name for service in host.services or () if service.name in LEARNT_SERVICES)),
        clock_synchronised=bool(host.clock and host.clock[0].synchronised),
        firmware={name: (version,) for name, version in firmware_of(snapshot).items()},
    )


def _all(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))
