"""What isolation costs: the start of a step beside plain srun and other runtimes, and what random kills leave behind.

make bench NAME=isolation
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))
from image_registry import make_layout, missing_programs
from report import Figure, figure, publish

from sovctl.adapters.command import CommandRunner
from sovctl.errors import SovctlError
from sovctl.lab import cluster
from sovctl.lab.training import as_user

RUNS = 15
KILLS = 200
USER = "sovctl-test"
OWN = ("plain", "image", "isolate")
END = "sovctl-end-of-step"
"""In the command line of every sandbox."""


class Bench:
    """A lab, an image in several forms, and an ordinary user where we are root."""

    def __init__(self, lab: cluster.Lab, place: Path) -> None:
        self.place = place
        layout = make_layout(place)
        self.image = f"oci:{layout}:1"
        self.user = USER if os.geteuid() == 0 and _known(USER) else ""
        settings = {
            "SOVCTL_ISOLATION_CACHE_DIR": str(place / "cache"),
            "SOVCTL_ISOLATION_NODE_DIR": str(place / "node"),
        }
        for name in ("home", "node"):
            (place / name).mkdir()
            (place / name).chmod(0o777)
        self.env = {**lab.environment, **settings, "HOME": str(place / "home"), "USER": self.user or "root"}
        self.runner = CommandRunner(self.env)
        self.sovctl = str(Path(sys.executable).with_name("sovctl"))
        self.runner.run([self.sovctl, "image", "prefetch", self.image], timeout_s=60)
        squashfs = next((place / "cache").glob("*.sqsh"))
        self.root = place / "root"
        self.runner.run(["unsquashfs", "-q", "-n", "-d", str(self.root), str(squashfs)], timeout_s=60)
        for name in ("dev", "proc", "sys", "tmp", "run", "home", "mnt", "var/tmp", "usr/bin"):
            (self.root / name).mkdir(parents=True, exist_ok=True)  # Charliecloud mounts there and makes none
        for name in ("hosts", "resolv.conf"):
            (self.root / "etc" / name).touch()
        subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
        (place / "cache").chmod(0o755)

    def become(self) -> list[str]:
        """Words before a command of the user; the home tells this bench's steps from others."""
        return [*as_user(self.user), "env", f"HOME={self.place / 'home'}"] if self.user else []

    def step(self, *words: str, as_root: bool = False) -> float:
        """Milliseconds of one step of one task."""
        become = [] if as_root else self.become()
        began = time.perf_counter()
        self.runner.run([*become, "srun", "-N1", "-n1", *words], timeout_s=60)
        return (time.perf_counter() - began) * 1000

    def left(self) -> int:
        """Processes, mounts and loop devices of isolated steps."""
        found = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            found += END in words and str(self.place) in words
        found += Path("/proc/self/mountinfo").read_text().count(str(self.place / "cache"))
        loops = self.runner.run(["losetup", "-n", "-O", "BACK-FILE"], timeout_s=10).stdout
        return found + loops.count(str(self.place))


def start_figures(bench: Bench) -> list[Figure]:
    """Interleaved, so that whatever else the machine does hits all of them alike."""
    inside = (bench.sovctl, "exec", "--image", bench.image, "--", "hostname")
    podman = (
        "podman",
        "run",
        "--rm",
        "--network=host",
        "--cgroups=disabled",
        "--ulimit=host",
        "--rootfs",
        str(bench.root),
    )
    ways = {
        "plain": lambda: bench.step("hostname"),
        "image": lambda: bench.step(*inside),
        "isolate": lambda: bench.step(bench.sovctl, "exec", "--isolate", "--", "hostname"),
    }
    if shutil.which("ch-run"):
        ways["charliecloud"] = lambda: bench.step("ch-run", str(bench.root), "--", "/bin/hostname")
    if shutil.which("podman"):
        # Rootless podman needs a range of user ids of its own; as root it starts without one.
        ways["podman"] = lambda: bench.step(*podman, "/bin/hostname", as_root=True)
    if shutil.which("apptainer"):
        ways["apptainer"] = lambda: bench.step("apptainer", "exec", str(bench.root), "hostname")
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in list(ways.items()):
        try:
            way()
        except SovctlError as error:
            if name in OWN:
                raise
            print(f"{name} does not run on this machine: {error.message}", file=sys.stderr)
            del ways[name], samples[name]
    for _ in range(RUNS):
        for name, way in ways.items():
            samples[name].append(way())
    plain = samples.pop("plain")
    added = {name: [one - other for one, other in zip(found, plain, strict=True)] for name, found in samples.items()}
    figures = [figure("plain srun hostname", plain, "ms")]
    others = [name for name in ("charliecloud", "podman", "apptainer") if name in added]
    figures += [
        figure("added by sovctl exec --image, cached", added["image"], "ms", target=300),
        figure("added by sovctl exec --isolate", added["isolate"], "ms"),
    ]
    return figures + [figure(f"added by {name}", added[name], "ms") for name in others]


def leftover_figure(bench: Bench) -> Figure:
    """Start, kill something at random after a random time, count what is left when all was killed."""
    chance = random.Random(7)
    become = bench.become()
    seen = 0
    for number in range(KILLS):
        env = {**os.environ, **bench.env, "SLURM_JOB_ID": str(number + 1), "SLURM_STEP_ID": "0"}
        argv = [*become, bench.sovctl, "exec", "--image", bench.image, "--", "sleep", "60"]
        null = subprocess.DEVNULL
        ranks = [subprocess.Popen(argv, env=env, cwd="/", stdout=null, stderr=null) for _ in range(2)]
        time.sleep(chance.uniform(0.0, 0.6))
        seen = max(seen, bench.left())
        for rank in chance.sample(ranks, 2):
            rank.send_signal(chance.choice((signal.SIGKILL, signal.SIGTERM)))
        for rank in ranks:
            rank.kill()
            rank.wait(30)
    if not seen:
        raise SovctlError("no isolated step was seen while it ran: what is left would not be seen either")
    deadline = time.monotonic() + 20
    while bench.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    return figure(f"left behind after {KILLS} starts and random kills", [float(bench.left())], "", target=0)


def _known(user: str) -> bool:
    import pwd

    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False


def main() -> None:
    """Measure and print."""
    if missing := missing_programs() + ([] if shutil.which("bwrap") else ["bubblewrap"]):
        sys.exit(f"sovctl: not installed: {', '.join(missing)}; run: make test-packages")
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        lab = cluster.up(cluster.Request(Path(name) / "lab", nodes=1, health=False))
        try:
            bench = Bench(lab, Path(name))
            figures = [*start_figures(bench), leftover_figure(bench)]
        finally:
            cluster.down(lab.layout.root)
    publish("isolation", figures, {"cores": os.cpu_count(), "lab": "1 node", "user": bench.user or "root"})


if __name__ == "__main__":
    main()
