"""The host of a simulated node: the files of /sys, /proc and /run that the checks read, with nothing wrong."""

from __future__ import annotations

from pathlib import Path

_COUNTERS = ("link_downed", "symbol_error", "link_error_recovery", "port_rcv_errors", "port_xmit_discards")
_MOUNTS = {"/": ("ext4", "/dev/vda1"), "/data": ("nfs4", "storage:/data")}
_SERVICES = ("nvidia-fabricmanager", "nvidia-persistenced", "chrony", "munge")


def write_healthy_host(root: Path, adapters: int = 2, memory_kib: int = 2 * 2**30) -> None:
    """A tree like `/` with InfiniBand adapters of one port, an interface, memory, mounts and services."""
    for number in range(adapters):
        write_port(root, f"mlx5_{number}")
    net = root / "sys" / "class" / "net" / "eth0"
    (net / "device").mkdir(parents=True, exist_ok=True)
    _write(net, {"operstate": "up", "speed": "25000", "carrier_changes": "2"})
    _write(root / "sys" / "devices" / "system" / "edac" / "mc" / "mc0", {"ce_count": "0", "ue_count": "0"})
    _write(root / "proc", {"meminfo": f"MemTotal: {memory_kib} kB\nMemAvailable: {memory_kib} kB\nShmem: 0 kB"})
    write_mounts(root, dict.fromkeys(_MOUNTS, "rw"))
    write_services(root, _SERVICES)
    _write(root / "run" / "systemd" / "timesync", {"synchronized": ""})
    (root / "dev" / "shm").mkdir(parents=True, exist_ok=True)


def write_port(
    root: Path, device: str, state: str = "4: ACTIVE", rate: str = "400 Gb/sec (4X NDR)", **counters: int
) -> None:
    """One adapter with one port; `counters` by the kernel's name, 0 when not given."""
    port = root / "sys" / "class" / "infiniband" / device / "ports" / "1"
    physical = "5: LinkUp" if state.endswith("ACTIVE") else "3: Disabled"
    _write(port.parent.parent, {"fw_ver": "28.43.1014"})
    _write(port, {"state": state, "phys_state": physical, "rate": rate, "link_layer": "InfiniBand"})
    _write(port / "counters", {name: str(counters.get(name, 0)) for name in {*_COUNTERS, *counters}})


def write_mounts(root: Path, mounts: dict[str, str]) -> None:
    """/proc/self/mountinfo and mountstats; by mount point `rw` or `ro`."""
    info, stats = [], []
    for number, (path, mode) in enumerate(mounts.items(), 20):
        kind, source = _MOUNTS.get(path, ("ext4", "/dev/vdb"))
        info.append(f"{number} 1 0:{number} / {path} {mode},relatime shared:1 - {kind} {source} {mode}")
        stats.append(f"device {source} mounted on {path} with fstype {kind} statvers=1.1")
        if kind == "nfs4":
            stats.append("\txprt:\ttcp 0 0 1 0 0 1000 1000 0 1000 0 2 0 0")
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    _write(root / "proc" / "self", {"mountinfo": "\n".join(info), "mountstats": "\n".join(stats)})


def write_services(root: Path, names: tuple[str, ...]) -> None:
    """systemd's marks of what runs."""
    units = root / "run" / "systemd" / "units"
    units.mkdir(parents=True, exist_ok=True)
    for old in units.iterdir():
        old.unlink()
    for name in names:
        (units / f"invocation:{name}.service").symlink_to("0" * 32)


def _write(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(content + "\n", "utf-8")
