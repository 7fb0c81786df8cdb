"""Slurm's commands in an image: what is shown, and the program that starts them."""

from __future__ import annotations

from sovctl.adapters.isolation.host_slurm import loaded_files, loader_of, talked_to
from sovctl.isolation.bubblewrap import sandbox_argv
from sovctl.isolation.slurm_client import client_mounts, starter
from sovctl.model.image import Mount
from sovctl.model.isolated import HostSlurm, IsolatedStep, SlurmClient

_LIB = "/usr/lib/x86_64-linux-gnu"
_LDD = f"""\tlinux-vdso.so.1 (0x00007ffd3a3f2000)
\tlibslurmfull.so => {_LIB}/slurm-wlm/libslurmfull.so (0x00007f2a)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1a)
\tlibgone.so => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f5a)
"""
_SLURM = HostSlurm(
    prefix="/usr",
    loader=f"{_LIB}/ld-linux-x86-64.so.2",
    libraries=(f"{_LIB}/slurm-wlm", _LIB, "/opt/munge/lib"),
    plugins=f"{_LIB}/slurm-wlm",
    places=("/etc/slurm", "/run/munge"),
    account="slurm",
    commands=("squeue",),
)


def test_what_ldd_says() -> None:
    files = loaded_files(_LDD)
    assert files == (
        f"{_LIB}/slurm-wlm/libslurmfull.so",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/ld-linux-x86-64.so.2",
    )
    assert loader_of(files) == "/lib64/ld-linux-x86-64.so.2"
    assert loader_of(["/lib/ld-musl-x86_64.so.1"]) == "/lib/ld-musl-x86_64.so.1"
    assert loader_of(files[:2]) == ""


def test_what_slurm_conf_says() -> None:
    conf = "# AuthInfo=socket=/no\nSlurmUser=slurm\n authinfo = ttl=60,socket=/run/m/munge.socket\n"
    assert talked_to(conf) == ("/run/m", "slurm")
    assert talked_to("AuthInfo=socket=relative\n") == ("/run/munge", "root")
    assert talked_to("") == ("/run/munge", "root")


def test_the_nodes_loader_and_libraries_run_the_nodes_programs() -> None:
    host = "/run/sovctl/slurm/host"
    assert starter(_SLURM).splitlines()[-1] == (
        f"exec {host}{_LIB}/ld-linux-x86-64.so.2 --inhibit-cache --library-path "
        f"{host}{_LIB}/slurm-wlm:{host}{_LIB}:{host}/opt/munge/lib"
        f' {host}/usr/bin/"${{0##*/}}" "$@"'
    )
    mounts = client_mounts(_SLURM, ["/etc/slurm"])
    assert all(mount.read_only for mount in mounts)
    assert [(mount.source, mount.target) for mount in mounts] == [
        ("/usr", f"{host}/usr"),
        ("/opt/munge/lib", f"{host}/opt/munge/lib"),
        (f"{_LIB}/slurm-wlm", f"{_LIB}/slurm-wlm"),
        ("/run/munge", "/run/munge"),
    ]


def test_the_commands_lie_in_the_run_of_the_step() -> None:
    step = IsolatedStep(
        squashfs="/c/x", client=SlurmClient("#!", ("squeue", "srun"), "slurm"), mounts=(Mount("/a", "/a"),)
    )
    words = " ".join(sandbox_argv(step, "/dev/shm/root", uid=1, gid=1, block_fd=5, info_fd=6))
    assert (
        "--tmpfs /run --ro-bind /dev/shm/client /run/sovctl/slurm/client"
        " --symlink ../client /run/sovctl/slurm/bin/squeue --symlink ../client /run/sovctl/slurm/bin/srun --bind /a /a"
    ) in words
