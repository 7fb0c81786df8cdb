"""The SPANK plugin: start of a step in a 2 GB image, and what random kills leave behind, with proctrack/cgroup.

make bench NAME=isolation_plugin      (as root; BENCH_IMAGE_MB=200 for a smaller image)

200 kills took 18 minutes on two busy cores: each waits until Slurm has noticed.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, figure, publish

from sovctl.adapters.command import CommandRunner
from sovctl.errors import SovctlError
from sovctl.lab import cluster
from sovctl.lab.training import as_user

RUNS = 15
KILLS = 200
IMAGE_MB = int(os.environ.get("BENCH_IMAGE_MB", "2048"))
USER = "sovctl-test"
SPANK = Path(__file__).parents[1] / "plugins" / "spank"
FREEZER = Path("/sys/fs/cgroup/freezer")
CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint=/sys/fs/cgroup\nConstrainDevices=yes\n"
BY_CGROUP = {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup,task/affinity"}


def make_image(place: Path) -> Path:
    """A squashfs with a shell, its libraries and `IMAGE_MB` of bytes that nothing can compress."""
    root = place / "rootfs"
    for name in ("sh", "sleep", "hostname"):
        found = Path(shutil.which(name) or f"/bin/{name}").resolve()
        said = subprocess.run(["ldd", str(found)], capture_output=True, text=True).stdout
        for path in [found, *map(Path, re.findall(r"(/\S+) \(", said))]:
            (root / str(path).lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / str(path).lstrip("/"))
        (root / "bin").mkdir(exist_ok=True)
        if not (root / "bin" / name).exists():
            (root / "bin" / name).symlink_to(found)
    with (root / "data").open("wb") as file:
        for _ in range(IMAGE_MB):
            file.write(os.urandom(1 << 20))
    words = ["mksquashfs", str(root), str(place / "i.sqsh"), "-quiet", "-no-progress", "-processors", "1", "-all-root"]
    subprocess.run([*words, "-noI", "-noD", "-noF", "-noX"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    return place / "i.sqsh"


class Bench:
    """A lab with the plugin, and an ordinary user in it."""

    def __init__(self, lab: cluster.Lab, place: Path, image: Path) -> None:
        self.lab = lab
        self.place = place
        self.image = image
        self.runner = CommandRunner(lab.environment)

    def step(self, *words: str) -> float:
        """Milliseconds of one step of one task."""
        began = time.perf_counter()
        self.runner.run([*as_user(USER), "srun", "-N1", "-n1", *words], timeout_s=60)
        return (time.perf_counter() - began) * 1000

    def processes(self, name: str) -> list[int]:
        """Of this lab, by their name or all of their command line."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                comm = (entry / "comm").read_text().strip()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                env = (entry / "environ").read_bytes()
            except OSError:
                continue
            if name in (comm, line) and os.fsencode(self.lab.layout.root) in env:
                found.append(int(entry.name))
        return found

    def left(self) -> dict[str, int]:
        """What is left of steps on the node."""
        loops = " ".join(path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file"))
        cgroups = [path for path in FREEZER.glob("slurm*/uid_*/job_*/step_*") if path.stat().st_mtime > self.began]
        return {
            "holders": len(self.processes("sovctl-holder")),
            "tasks": len(self.processes("sleep 54321")),
            "mounts": Path("/proc/self/mountinfo").read_text().count(str(self.place / "i.sqsh")),
            "loops": loops.count(str(self.image)),
            "cgroups": len(cgroups),
        }

    began = 0.0


def start_figures(bench: Bench) -> list[Figure]:
    """Interleaved, so that whatever else the machine does hits all of them alike."""
    ways = {
        "plain": ("hostname",),
        "isolate": ("--sov-isolate", "hostname"),
        "image": (f"--sov-image={bench.image}", "/bin/hostname"),
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    before = disk_used(bench.place)
    for _ in range(RUNS):
        for name, words in ways.items():
            samples[name].append(bench.step(*words))
    grown = max(0.0, disk_used(bench.place) - before)
    plain = samples.pop("plain")
    added = {name: [one - other for one, other in zip(found, plain, strict=True)] for name, found in samples.items()}
    return [
        figure("plain srun hostname", plain, "ms"),
        figure("added by srun --sov-isolate", added["isolate"], "ms", target=300),
        figure(f"added by srun --sov-image, {IMAGE_MB} MB", added["image"], "ms", target=300),
        figure(f"disk used by {RUNS} starts of it", [grown], "MB", target=100),
    ]


def disk_used(place: Path) -> float:
    """MB in use on its file system; other work on the machine counts too."""
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize / 1e6


def leftover_figures(bench: Bench) -> list[Figure]:
    """Start, kill slurmstepd, the holder or the srun after a random time, count what is left when all are over."""
    chance = random.Random(7)
    bench.began = time.time()
    seen = dict.fromkeys(("holders", "loops", "cgroups"), 0)
    null = subprocess.DEVNULL
    for number in range(KILLS):
        option = chance.choice(("--sov-isolate", f"--sov-image={bench.image}"))
        argv = [
            *as_user(USER),
            "srun",
            "-N1",
            "-n1",
            "-O",
            "--overlap",
            option,
            "sh",
            "-c",
            "sleep 54321 & sleep 54321",
        ]
        step = subprocess.Popen(argv, env=bench.lab.environment, cwd="/", stdout=null, stderr=null)
        time.sleep(chance.uniform(0.05, 0.5))
        now = bench.left() if number % 10 == 0 else seen  # a look at every process of the machine
        seen = {name: max(count, now[name]) for name, count in seen.items()}
        kill_something(bench, chance)
        step.terminate()
        step.terminate()
        subprocess.run([*as_user(USER), "scancel", "--user", USER], env=bench.lab.environment, stderr=null)
        try:
            step.wait(20)
        except subprocess.TimeoutExpired:
            step.kill()
            step.wait(10)
    if not all(seen.values()):
        raise SovctlError(f"steps were never seen while they ran ({seen}): what is left would not be seen either")
    deadline = time.monotonic() + 60
    while any(bench.left().values()) and time.monotonic() < deadline:
        time.sleep(0.5)
    left = bench.left()
    (node,) = cluster.slurm(bench.lab.layout).nodes()
    out = bool(node.reason) or bool(re.search("DRAIN|DOWN|FAIL", str(node.state)))
    print(f"left: {left}; node {node.state} {node.reason}", file=sys.stderr)
    cgroups = left.pop("cgroups")
    return [
        figure(f"left behind after {KILLS} starts and random kills", [float(sum(left.values()))], "", target=0),
        # Slurm's own: a killed slurmstepd leaves them for a step without isolation too (22.05). Nothing is in them.
        figure("empty cgroups of killed slurmstepds, left by Slurm", [float(cgroups)], ""),
        figure("nodes taken out by it", [float(out)], "", target=0),
    ]


def kill_something(bench: Bench, chance: random.Random) -> None:
    """kill -9 of slurmstepd, of the holder, of a task, or of nothing."""
    holders = bench.processes("sovctl-holder")
    what = chance.choice(("stepd", "holder", "task", "nothing"))
    victims = bench.processes("sleep 54321") if what == "task" else holders
    for victim in victims if what != "nothing" else ():
        try:
            if what == "stepd":
                status = Path(f"/proc/{victim}/status").read_text()
                victim = int(re.findall(r"PPid:\s+(\d+)", status)[0])
            if victim > 1:
                os.kill(victim, signal.SIGKILL)
        except OSError:
            continue


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0 or not Path("/usr/include/slurm/spank.h").exists():
        sys.exit("sovctl: this needs root and libslurm-dev")
    cgroups = FREEZER.is_dir()
    with tempfile.TemporaryDirectory(prefix="sovplugin-", dir="/opt") as name:
        place = Path(name)
        place.chmod(0o755)
        subprocess.run(["make", "-s", "-C", str(SPANK), f"OUT={name}"], check=True)
        image = make_image(place)
        words = "state={lab}/spank/%n keep={lab} policy={lab}/sovctl-policy.conf"
        beside = {"plugstack.conf": f"optional {name}/sovctl_spank.so {words}\n", "sovctl-policy.conf": ""}
        if cgroups:
            beside["cgroup.conf"] = CGROUPS
        overrides = BY_CGROUP if cgroups else {}
        request = cluster.Request(place / "lab", nodes=1, gpus=0, health=False, beside=beside, overrides=overrides)
        lab = cluster.up(request)
        try:
            bench = Bench(lab, place, image)
            figures = [*start_figures(bench), *leftover_figures(bench)]
        finally:
            cluster.down(lab.layout.root)
    track = "proctrack/cgroup" if cgroups else "proctrack/linuxproc"
    publish("isolation_plugin", figures, {"cores": os.cpu_count(), "lab": f"1 node, {track}", "user": USER})


if __name__ == "__main__":
    main()
