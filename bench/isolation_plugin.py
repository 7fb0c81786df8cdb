"""The SPANK plugin: start of a step in a 2 GB image, and what random kills leave behind, with proctrack/cgroup.

make bench NAME=isolation_plugin      (as root)

    BENCH_PARTS=start           how long steps take to start; BENCH_IMAGE_MB=200 for a smaller image than 2 GB
    BENCH_PARTS=isolate,batch   kills of these only: isolate, image (steps), batch (a script and its step)
    BENCH_KILLS=40              in all, for fewer than 200
    BENCH_SEED=7                repeats the choices of a run

After every 20 kills it waits until nothing is left, says so, and stops where something is.
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
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, figure, in_turns, publish

from sovctl.adapters.command import CommandRunner
from sovctl.errors import SovctlError
from sovctl.lab import cluster
from sovctl.lab.training import as_user

RUNS = 15
KILLS = int(os.environ.get("BENCH_KILLS") or 200)
SEED = int(os.environ.get("BENCH_SEED") or random.SystemRandom().randrange(10**6))
WAYS = ("isolate", "image", "batch")
PARTS = tuple(filter(None, os.environ.get("BENCH_PARTS", "").split(","))) or ("start", *WAYS)
IMAGE_MB = int(os.environ.get("BENCH_IMAGE_MB") or (2048 if "start" in PARTS else 16))
AT_ONCE = 4
"""Steps that live and are killed side by side: each takes seconds until Slurm has noticed."""
ROUND = 20
SETTLE_S = 90.0
USER = "sovctl-test"
TASK = "echo >/tmp/sov54321; echo >/dev/shm/sov54321; sleep 54321 & sleep 54321"
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
        places = [Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm")]
        files = [path for place in places for path in place.glob("sov54321*")]
        return {
            "holders": len(self.processes("sovctl-holder")),
            "tasks": len(self.processes("sleep 54321")),
            "mounts": Path("/proc/self/mountinfo").read_text().count(str(self.place / "i.sqsh")),
            "loops": loops.count(str(self.image)),
            "files": len(files) + len(list((self.lab.layout.root / "spank").glob("*/*"))),
        }

    def cgroups(self, since: float) -> int:
        """Directories of steps that Slurm made since then and did not remove."""
        found = FREEZER.glob("slurm*/uid_*/job_*/step_*")
        return len([path for path in found if path.stat().st_mtime > since])

    def settle(self) -> dict[str, int]:
        """Wait until nothing is left; what is left all the same."""
        deadline = time.monotonic() + SETTLE_S
        while any(self.left().values()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return {name: count for name, count in self.left().items() if count}

    def trouble(self) -> str:
        """Why the node takes no more jobs; empty: it does."""
        (node,) = cluster.slurm(self.lab.layout).nodes()
        out = node.reason or re.search("DRAIN|DOWN|FAIL", str(node.state))
        return f"{node.state} {node.reason}" if out else ""


def start_figures(bench: Bench) -> list[Figure]:
    """What the plugin adds to a plain step, sample by sample."""
    ways = {
        "plain": lambda: bench.step("hostname"),
        "isolate": lambda: bench.step("--sov-isolate", "hostname"),
        "image": lambda: bench.step(f"--sov-image={bench.image}", "/bin/hostname"),
    }
    before = disk_used(bench.place)
    samples = in_turns(ways, RUNS)
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


class Kills:
    """Starts steps, and kills slurmstepd, the holder, a task or the srun of each after a random time."""

    def __init__(self, bench: Bench, ways: Sequence[str]) -> None:
        self._bench = bench
        self._ways = ways
        self.killed: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    def one(self, number: int) -> None:
        """Start, kill, and end what is left of the job."""
        chance = random.Random(f"{SEED}:{number}")
        name, null = f"kill-{number}", subprocess.DEVNULL
        argv = [*as_user(USER), *self._argv(self._ways[number % len(self._ways)], name)]
        step = subprocess.Popen(argv, env=self._bench.lab.environment, cwd="/", stdin=null, stdout=null, stderr=null)
        until = time.monotonic() + (5.0 if chance.random() < 0.7 else 0.0)
        while time.monotonic() < until and not self._bench.processes("sovctl-holder"):
            time.sleep(0.1)
        time.sleep(chance.uniform(0.1, 1.0))
        for kind, count in self._bench.left().items():
            self.seen[kind] = max(self.seen[kind], count)
        self._kill(chance)
        for _ in range(2):
            step.terminate()
        # scancel itself tries again for minutes while a job is between two states.
        cancel = [*as_user(USER), "scancel", f"--name={name}"]
        self._bench.runner.run(cancel, timeout_s=300, check=False)
        try:
            step.wait(20)
        except subprocess.TimeoutExpired:
            step.kill()
            step.wait(10)

    def _argv(self, way: str, name: str) -> list[str]:
        if way == "batch":
            inner = f"srun --overlap sh -c '{TASK}' & wait"
            return ["sbatch", "--wait", "-J", name, "-n1", "-o/dev/null", "--sov-isolate", f"--wrap={inner}"]
        option = "--sov-isolate" if way == "isolate" else f"--sov-image={self._bench.image}"
        return ["srun", "-J", name, "-N1", "-n1", option, "sh", "-c", TASK]

    def _kill(self, chance: random.Random) -> None:
        """kill -9 of one slurmstepd, holder or task, or of none."""
        what = chance.choice(("stepd", "stepd", "holder", "task", "nothing"))
        victims = self._bench.processes("sleep 54321" if what == "task" else "sovctl-holder")
        if what == "nothing" or not victims:
            self.killed["nothing"] += 1
            return
        victim = chance.choice(victims)
        try:
            if what == "stepd":
                status = Path(f"/proc/{victim}/status").read_text()
                victim = int(re.findall(r"PPid:\s+(\d+)", status)[0])
            if victim > 1:
                os.kill(victim, signal.SIGKILL)
                self.killed[what] += 1
        except OSError:  # gone meanwhile
            self.killed["nothing"] += 1


def leftover_figures(bench: Bench, ways: Sequence[str]) -> list[Figure]:
    """Kills in rounds; after each, what is left once all of it is over."""
    kills, began, done = Kills(bench, ways), time.time(), 0
    left: dict[str, int] = {}
    trouble = ""
    while done < KILLS and not left and not trouble:
        numbers = range(done, min(done + ROUND, KILLS))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(kills.one, numbers):  # raises what one of them raised
                pass
        done = numbers.stop
        left, trouble = bench.settle(), bench.trouble()
        about = ", ".join(f"{what} {count}" for what, count in sorted(kills.killed.items()))
        print(
            f"{done} of {KILLS} after {time.time() - began:.0f} s (kill -9 of {about}): "
            f"{f'LEFT {left}' if left else 'nothing left'}{f', node {trouble}' if trouble else ''}",
            file=sys.stderr,
            flush=True,
        )
    wanted = {"holders", "tasks", "files"} | ({"loops"} if "image" in ways else set())
    unseen = sorted(name for name in wanted if not kills.seen[name])
    if unseen or not kills.killed["stepd"]:
        what = ", ".join(unseen) or "a slurmstepd to kill"
        raise SovctlError(
            f"never seen while steps ran: {what}; what is left would not be seen either",
            hint="Ask for more kills: BENCH_KILLS=40",
        )
    return [
        figure(f"left behind after {done} starts and random kills", [float(sum(left.values()))], "", target=0),
        figure("of these, slurmstepds killed with -9", [float(kills.killed["stepd"])], ""),
        # Slurm's own: a killed slurmstepd leaves them for a step without isolation too (22.05). Nothing is in them.
        figure("empty cgroups of killed slurmstepds, left by Slurm", [float(bench.cgroups(began))], ""),
        figure("nodes taken out by it", [float(bool(trouble))], "", target=0),
    ]


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0 or not Path("/usr/include/slurm/spank.h").exists():
        sys.exit("sovctl: this needs root and libslurm-dev")
    if wrong := sorted(set(PARTS) - {"start", *WAYS}):
        sys.exit(f"sovctl: BENCH_PARTS has no {', '.join(wrong)}; there are start, {', '.join(WAYS)}")
    print(
        f"seed {SEED}; parts {', '.join(PARTS)}; an image of {IMAGE_MB} MB is made first", file=sys.stderr, flush=True
    )
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
            ways = [way for way in WAYS if way in PARTS]
            figures = start_figures(bench) if "start" in PARTS else []
            figures += leftover_figures(bench, ways) if ways else []
        finally:
            cluster.down(lab.layout.root)
    track = "proctrack/cgroup" if cgroups else "proctrack/linuxproc"
    about = {"cores": os.cpu_count(), "lab": f"1 node, {track}", "user": USER, "seed": SEED, "parts": list(PARTS)}
    publish("isolation_plugin", figures, about)


if __name__ == "__main__":
    main()
