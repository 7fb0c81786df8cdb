"""What isolation costs: the start of a step beside plain srun and other runtimes, and what random kills leave behind.

make bench NAME=isolation      (BENCH_KILLS=20 for fewer kills)
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
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))
from image_registry import make_layout, missing_programs
from report import Figure, figure, in_turns, publish

from sovctl.adapters.command import CommandRunner
from sovctl.errors import SovctlError
from sovctl.lab import cluster
from sovctl.lab.training import as_user

RUNS = 15
KILLS = int(os.environ.get("BENCH_KILLS", "200"))
USER = "sovctl-test"
OWN = ("plain", "image", "isolate")
DAEMONS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd")
"""Of the lab itself, which are not what is killed here."""
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

    def processes(self, word: str) -> list[int]:
        """Those of this bench's steps with this word in their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            program = words.partition("\0")[0].rpartition("/")[2]
            if word in words and str(self.place) in words and program not in DAEMONS:
                found.append(int(path.parent.name))
        return found

    def names(self) -> set[str]:
        """Files and directories of the user where steps could leave some, and all of the node's own directory."""
        owner = self.root.stat().st_uid if not self.user else _uid(self.user)
        found = {str(path) for path in (self.place / "node").glob("*/*")}
        for place in ("/tmp", "/var/tmp", "/dev/shm"):
            for path in Path(place).iterdir():
                if path == self.place or path.name.startswith("sov work "):  # of a test beside this
                    continue
                with suppress(OSError):
                    found |= {str(path)} if path.lstat().st_uid == owner else set()
        return found

    def left(self) -> int:
        """Processes, mounts and loop devices of isolated steps."""
        found = len(self.processes(END))
        found += Path("/proc/self/mountinfo").read_text().count(str(self.place / "cache"))
        loops = self.runner.run(["losetup", "-n", "-O", "BACK-FILE"], timeout_s=10).stdout
        return found + loops.count(str(self.place))


def start_figures(bench: Bench) -> list[Figure]:
    """What each runtime adds to a plain step, sample by sample; one that does not run on this machine is left out."""
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
    for name, way in list(ways.items()):
        try:
            way()
        except SovctlError as error:
            if name in OWN:
                raise
            print(f"{name} does not run on this machine: {error.message}", file=sys.stderr)
            del ways[name]
    samples = in_turns(ways, RUNS)
    plain = samples.pop("plain")
    added = {name: [one - other for one, other in zip(found, plain, strict=True)] for name, found in samples.items()}
    figures = [figure("plain srun hostname", plain, "ms")]
    others = [name for name in ("charliecloud", "podman", "apptainer") if name in added]
    figures += [
        figure("added by sovctl exec --image, cached", added["image"], "ms", target=300),
        figure("added by sovctl exec --isolate", added["isolate"], "ms"),
    ]
    return figures + [figure(f"added by {name}", added[name], "ms") for name in others]


def leftover_figures(bench: Bench) -> list[Figure]:
    """Start steps of two ranks by srun, kill some of each after a random time, and count what is left."""
    chance = random.Random(7)
    become = bench.become()
    env = {**os.environ, **bench.env}
    bench.step(bench.sovctl, "exec", "--image", bench.image, "--", "true")  # what a node unpacks once is to stay
    before, seen, killed, began = bench.names(), 0, 0, time.monotonic()
    for number in range(KILLS):
        job, null = f"kill-{number}", subprocess.DEVNULL
        words = [bench.sovctl, "exec", "--image", bench.image, "--", "sleep", "60"]
        argv = [*become, "srun", "-J", job, "-N1", "-n2", *words]
        srun = subprocess.Popen(argv, env=env, cwd="/", stdin=null, stdout=null, stderr=null)
        time.sleep(chance.uniform(0.0, 1.0))
        seen = max(seen, bench.left())
        there = bench.processes("")
        stepds = [pid for pid in map(_stepd_of, there) if pid]
        for victim in chance.sample(there, min(2, len(there))):
            with suppress(ProcessLookupError):
                os.kill(victim, chance.choice((signal.SIGKILL, signal.SIGTERM)))
        dead = 0
        if stepds and chance.random() < 0.25:
            with suppress(ProcessLookupError):
                os.kill(stepds[0], signal.SIGKILL)
                dead = 1
        killed += dead
        for _ in range(2):
            srun.terminate()
        # scancel itself tries again for minutes while a job is between two states.
        bench.runner.run([*become, "scancel", f"--name={job}"], timeout_s=300, check=False)
        try:
            # For a slurmstepd that is dead srun waits half a minute ("Job step aborted: Waiting up to 32 seconds").
            srun.wait(1 if dead else 20)
        except subprocess.TimeoutExpired:
            srun.kill()
            srun.wait(10)
        if number % 20 == 19:
            took = time.monotonic() - began
            print(
                f"{number + 1} of {KILLS} after {took:.0f} s, {killed} slurmstepds killed", file=sys.stderr, flush=True
            )
    if not seen:
        raise SovctlError("no isolated step was seen while it ran: what is left would not be seen either")
    deadline = time.monotonic() + 30
    while (bench.left() or bench.names() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    new = sorted(bench.names() - before)
    print("\n".join(f"left behind: {name}" for name in new), file=sys.stderr, end="\n" if new else "")
    after = f"after {KILLS} steps and random kills"
    return [
        figure(f"processes, mounts and loop devices left {after}", [float(bench.left())], "", target=0),
        figure(f"files and directories left {after}", [float(len(new))], "", target=0),
    ]


def _stepd_of(pid: int) -> int:
    """The slurmstepd that started this process; 0: it was another."""
    try:
        parent = int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
        return parent if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd" else 0
    except (OSError, IndexError):
        return 0


def _uid(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_uid


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
            figures = [*start_figures(bench), *leftover_figures(bench)]
        finally:
            cluster.down(lab.layout.root)
    publish("isolation", figures, {"cores": os.cpu_count(), "lab": "1 node", "user": bench.user or "root"})


if __name__ == "__main__":
    main()
