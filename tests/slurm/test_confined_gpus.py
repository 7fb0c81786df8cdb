"""ConstrainDevices on real cgroups: an isolated step sees its GPUs' device files, and can open no others.

The "GPUs" are character devices that every kernel has and no shell needs: /dev/zero, /dev/full and /dev/random. The
nodes see them as /dev/nvidia0 to 2, in a mount namespace of the lab's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sovctl.adapters.command import Completed
from sovctl.lab import cluster
from sovctl.lab.training import Training, TrainingSpec, as_user

SPANK = Path(__file__).parents[2] / "plugins" / "spank"
SOVCTL = (sys.executable, "-P", "-m", "sovctl")
TWINS = {"/dev/nvidia0": "/dev/zero", "/dev/nvidia1": "/dev/full", "/dev/nvidia2": "/dev/random"}
MINORS = (5, 7, 8)
CONTROLLERS = ("devices", "freezer", "cpuset", "memory")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can have cgroups for its steps"),
    pytest.mark.skipif(not Path("/usr/include/slurm/spank.h").exists(), reason="libslurm-dev is not installed"),
    pytest.mark.skipif(
        not all(Path("/sys/fs/cgroup", name, "tasks").exists() for name in CONTROLLERS),
        reason="this kernel has no cgroup v1 controllers mounted; without systemd a lab can confine nothing by v2",
    ),
    pytest.mark.skipif(
        not list(Path("/usr/lib").glob("*/slurm-wlm/cgroup_v1.so")), reason="this Slurm is built without cgroup/v1"
    ),
    pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has real GPUs"),
]

# In the lab's own mount namespace: a /dev of its own with the GPUs in it. Then the lab, told by a script of Python.
_UP = """
set -e
old=$(mktemp -d /run/sovdevXXXXXX)
mount --rbind /dev "$old"
mount -t tmpfs -o mode=755 none /dev
for name in null zero full random urandom tty ptmx fuse loop-control; do
    [ ! -e "$old/$name" ] || { touch "/dev/$name"; mount --bind "$old/$name" "/dev/$name"; }
done
for name in shm pts mqueue; do
    [ ! -d "$old/$name" ] || { mkdir "/dev/$name"; mount --bind "$old/$name" "/dev/$name"; }
done
ln -s /proc/self/fd /dev/fd
umount -l "$old"
rmdir "$old"
eval "$MADE"
exec "$@"
"""
_THREE_GPUS = 'for gpu in 0:5 1:7 2:8; do mknod -m 666 "/dev/nvidia${gpu%:*}" c 1 "${gpu#*:}"; done'
# One that is split in two, and what its driver tells of that: what opens a part is a device of its own.
_SPLIT_GPU = """
mknod -m 666 /dev/nvidia0 c 1 5
mkdir /dev/nvidia-caps
for cap in 1 12 13 21 22; do mknod -m 444 "/dev/nvidia-caps/nvidia-cap$cap" c 240 "$cap"; done
for part in gi1:12 gi1/ci0:13 gi2:21 gi2/ci0:22; do
    mkdir -p "$TOLD/proc/driver/nvidia/capabilities/gpu0/mig/${part%:*}"
    echo "DeviceFileMinor: ${part#*:}" >"$TOLD/proc/driver/nvidia/capabilities/gpu0/mig/${part%:*}/access"
done
ln -s /dev "$TOLD/dev"
"""
_LAB = """
import sys
from pathlib import Path
from sovctl.lab import cluster
root, plugin, gpus, gres, told = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
words = "state={lab}/spank/%n keep={lab} policy={lab}/none.conf"
words += f" capabilities={told}/proc/driver/nvidia/capabilities"
beside = {
    "gres.conf": gres,
    "plugstack.conf": f"optional {plugin} {words}\\n",
    "cgroup.conf": "\\n".join((
        *("CgroupPlugin=cgroup/v1", "CgroupAutomount=no", "CgroupMountpoint=/sys/fs/cgroup", "ConstrainDevices=yes\\n"),
    )),
}
overrides = {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup"}
cluster.up(cluster.Request(root, nodes=1, gpus=gpus, health=False, beside=beside, overrides=overrides))
"""
# What can be opened: the device files, and the same devices by their other name.
_LOOK = """
import glob, json, os, sys
def tries(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
        return "open"
    except OSError as error:
        return error.strerror
twins = json.loads(sys.argv[1])
print(json.dumps({
    "seen": sorted(glob.glob("/dev/nvidia*")),
    "files": {path: tries(path) for path in twins},
    "devices": {path: tries(twin) for path, twin in twins.items()},
    "mounted": {path: tries(path) for path in sys.argv[2:]},
    "told": os.environ.get("SLURM_STEP_GPUS") or os.environ["SLURM_JOB_GPUS"],
}))
"""


@pytest.fixture(scope="module")
def confined(new_root: Callable[[], Path], attach_logs: Callable[[Path], None]) -> Iterator[cluster.Lab]:
    root = new_root()
    attach_logs(root)
    with _lab(root, 3, _THREE_GPUS, "NodeName=n001 Name=gpu File=/dev/nvidia[0-2]\n") as (lab, _):
        yield lab


@contextmanager
def _lab(root: Path, gpus: int, made: str, gres: str) -> Iterator[tuple[cluster.Lab, Path]]:
    """`made`: shell that makes the device files; `gres`: text of gres.conf. Also given: where a driver tells things."""
    with tempfile.TemporaryDirectory(prefix="sovgpu", dir="/opt") as place:
        Path(place).chmod(0o755)
        told = Path(place) / "told"
        told.mkdir()
        subprocess.run(["make", "-s", "-C", str(SPANK), f"OUT={place}"], check=True)
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _UP, "sh"]
        words += [sys.executable, "-P", "-c", _LAB, str(root), f"{place}/sovctl_spank.so", str(gpus), gres, str(told)]
        env = {**os.environ, "MADE": made, "TOLD": str(told)}
        up = subprocess.run(words, env=env, capture_output=True, text=True)
        assert up.returncode == 0, up.stderr
        try:
            yield cluster.load(root), told
        finally:
            cluster.down(root)


@contextmanager
def _first_gpu_taken(lab: cluster.Lab, user: str) -> Iterator[None]:
    """While another job of the user's has it."""
    other = subprocess.Popen(
        [*as_user(user), "srun", "-n1", "--gres=gpu:1", "sh", "-c", "echo up; sleep 300"],
        env=lab.environment,
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        yield
    finally:
        other.terminate()
        other.communicate(timeout=30)


def _looked(done: Completed) -> dict[str, object]:
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("runtime", ["none", "builtin", "spank"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_step_opens_its_gpus_and_no_others(
    confined: cluster.Lab, user: str, runtime: str, count: int, eventually: Callable[..., object]
) -> None:
    run, slurm = Training(confined, Path("/"), TrainingSpec(), user), cluster.slurm(confined.layout)
    # A job whose cgroup is made while that of the user's last one is taken away is killed with it (22.05).
    eventually(lambda: str(slurm.node("n001").state) == "IDLE", "an idle node")
    # Another job has the first GPU, so that the second one's are not the first by chance.
    with _first_gpu_taken(confined, user):
        inside: dict[str, tuple[str, ...]] = {
            "none": ("srun", "-n1", f"--gres=gpu:{count}"),
            "spank": ("srun", "-n1", f"--gres=gpu:{count}", "--sov-isolate"),
            # The user's own mounts of others' device files are no way around.
            "builtin": ("srun", "-n1", f"--gres=gpu:{count}", *SOVCTL, "exec", "--isolate", "--mount=/dev:/mnt", "--"),
        }
        mounted = [f"/mnt/{Path(path).name}" for path in TWINS] if runtime == "builtin" else []
        look = (sys.executable, "-c", _LOOK, json.dumps(TWINS), *mounted)
        found = _looked(run.command(*inside[runtime], *look))
    own = {f"/dev/nvidia{number}" for number in range(1, 1 + count)}
    assert found["told"] == ",".join(str(number) for number in range(1, 1 + count))
    devices = {path: "open" if path in own else "Operation not permitted" for path in TWINS}
    assert found["devices"] == devices
    hidden = {"none": "Operation not permitted", "builtin": "No such file or directory", "spank": "Permission denied"}
    assert found["files"] == {path: "open" if path in own else hidden[runtime] for path in TWINS}
    assert found["seen"] == (sorted(own) if runtime == "builtin" else sorted(TWINS))
    if mounted:
        # Not even the own one: what a user mounts is no device file.
        assert found["mounted"] == dict.fromkeys(mounted, "Permission denied")


def test_a_step_without_gpus_opens_none(confined: cluster.Lab, user: str) -> None:
    run = Training(confined, Path("/"), TrainingSpec(), user)
    for words in (("--sov-isolate",), (*SOVCTL, "exec", "--isolate", "--")):
        text = "for i in 0 1 2; do (: </dev/nvidia$i) 2>/dev/null && echo $i; done; (: </dev/full) 2>&1; echo end"
        said = run.command("srun", "-n1", *words, "sh", "-c", text).stdout
        assert "Operation not permitted" in said
        assert said.endswith("\nend\n")
        assert "0\n" not in said


_PARTS = (
    "NodeName=n001 Name=gpu MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap{},/dev/nvidia-caps/nvidia-cap{}\n"
)
# Nothing answers behind these numbers: what may be opened is not there, and what may not is not permitted.
_LOOK_AT_PARTS = """
import glob, json, os
def tries(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
        return "open"
    except OSError as error:
        return "open" if error.strerror == "No such device or address" else error.strerror
paths = ["/dev/nvidia0", *sorted(glob.glob("/dev/nvidia-caps/*"))]
print(json.dumps({path.rpartition("/")[2]: tries(path) for path in paths}))
"""


_HANDED_IN = """
import os, sys
from sovctl.adapters.node.device_files import node_devices
from sovctl.isolation.devices import step_gpus, visible_devices
print(*visible_devices(node_devices(sys.argv[1]), step_gpus(os.environ)).paths)
"""


def test_a_step_opens_its_part_of_a_gpu_and_no_others(
    new_root: Callable[[], Path], attach_logs: Callable[[Path], None], user: str, eventually: Callable[..., object]
) -> None:
    """Slurm calls the part that a job has 1, and no device file has that number."""
    root = new_root()
    attach_logs(root)
    with _lab(root, 2, _SPLIT_GPU, _PARTS.format(12, 13) + _PARTS.format(21, 22)) as (lab, told):
        run, slurm = Training(lab, Path("/"), TrainingSpec(), user), cluster.slurm(lab.layout)
        with _first_gpu_taken(lab, user):
            step, python = ("srun", "-n1", "--gres=gpu:1"), (sys.executable, "-P", "-c")
            # What the built-in runtime hands in; where somebody covered a part of /proc, bubblewrap can mount none.
            handed = run.command(*step, *python, _HANDED_IN, str(told)).stdout.split()
            assert handed == ["/dev/nvidia-caps/nvidia-cap21", "/dev/nvidia-caps/nvidia-cap22", "/dev/nvidia0"]
            eventually(lambda: slurm.node("n001").state.base == "MIXED", "the step's job to be over")
            own = dict.fromkeys(("nvidia0", "nvidia-cap21", "nvidia-cap22"), "open")
            hidden = dict.fromkeys(("nvidia-cap1", "nvidia-cap12", "nvidia-cap13"), "Permission denied")
            assert _looked(run.command(*step, "--sov-isolate", *python, _LOOK_AT_PARTS)) == {**own, **hidden}
