"""Many runs at once on one controller: what they ask of slurmctld, what a supervisor costs, and whether every run
comes back when twenty are hit within a minute. Then what one question costs a slurmctld of 5,000 nodes.

    make bench NAME=scale        BENCH_NODES=40 BENCH_RUNS=10 BENCH_FAULTS=5 is a small one
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, at_least, figure, publish

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm.parse import RpcCount, parse_rpcs
from sovctl.errors import SovctlError
from sovctl.lab import cluster, faults, processes
from sovctl.lab.layout import Layout
from sovctl.lab.slurm_conf import LabSpec, slurm_conf
from sovctl.lab.training import Training, TrainingSpec
from sovctl.operations.supervisor.look_at_run import CALM_S, CALM_SHARE
from sovctl.recovery.attempts import Attempt, attempts

NODES = int(os.environ.get("BENCH_NODES") or 200)
RUNS = int(os.environ.get("BENCH_RUNS") or 50)
FAULTS = int(os.environ.get("BENCH_FAULTS") or 20)
SEED = int(os.environ.get("BENCH_SEED") or random.SystemRandom().randrange(10**6))
USER = "nobody" if os.geteuid() == 0 else ""
"""Whose the runs are: what they ask is told apart from what root's daemons ask."""
RUN_NODES = 2
KINDS = ("xid:79", "rank-crash", "node-dead", "rank-hang", "supervisor-killed")
BREAKS = frozenset({"xid:79", "node-dead"})
STEADY_S = float(os.environ.get("BENCH_STEADY_S") or 60)
MINUTE_S = 60.0
SETTLED_S = 40.0
"""After its start a run is looked at once, on every node; the steady state comes after that."""
BACK_S = 240.0
FAR_NODES = 5000
RPC_TARGET = 2.0
SPEC = TrainingSpec(
    steps=10**9,
    save_every=20,
    step_seconds=1.0,
    nodes=RUN_NODES,
    toy=True,
    extra=("--print-every=20",),
    sbatch=("--hang-timeout=30",),
)


def say(words: str) -> None:
    """To whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class Strike:
    """One fault and the run it hit."""

    kind: str
    run: Training
    node: str
    attempt: int
    at: float
    back_s: float | None = None
    problem: str = ""


@dataclass(slots=True)
class Load:
    """What was counted over a while."""

    seconds: float
    kinds: dict[str, RpcCount] = field(default_factory=dict)
    users: dict[str, RpcCount] = field(default_factory=dict)

    def rate(self, user: str) -> float:
        """Calls of a user a second."""
        return self.users.get(user, RpcCount(0, 0)).calls / self.seconds

    def busy(self, user: str) -> float:
        """Share of one core that slurmctld worked for this user."""
        return self.users.get(user, RpcCount(0, 0)).microseconds / 1e6 / self.seconds


class Counters:
    """sdiag, read twice."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner
        self._at = time.monotonic()
        self._text = self._read()

    def _read(self) -> str:
        return self._runner.run(["sdiag"], timeout_s=60).stdout

    def since(self) -> Load:
        """What came since the last reading."""
        at, text = time.monotonic(), self._read()
        load = Load(at - self._at)
        for by, counts in (("message type", load.kinds), ("user", load.users)):
            before = parse_rpcs(self._text, by)
            for name, now in parse_rpcs(text, by).items():
                old = before.get(name, RpcCount(0, 0))
                counts[name] = RpcCount(now.calls - old.calls, now.microseconds - old.microseconds)
        self._at, self._text = at, text
        return load


def owner() -> str:
    """Whose calls sdiag counts for the runs."""
    return USER or os.environ.get("USER", "root")


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and of the children it has waited for; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return 0.0
    ticks = [int(word) for word in text[text.rfind(")") + 2 :].split()[11:15]]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, key: str) -> float:
    """Of one process, from smaps_rollup; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def supervisors(layout: Layout) -> list[list[int]]:
    """The two processes of each supervisor: the one that waits and the one that works."""
    found = [pid for pid in processes.all_pids() if _supervises(pid, layout)]
    return [[pid, *(kid for kid in found if processes.parent(kid) == pid)] for pid in found if _first(pid, found)]


def _supervises(pid: int, layout: Layout) -> bool:
    words = processes.command(pid).split()
    ours = processes.environment(pid).get("SLURM_CONF") == str(layout.slurm_conf)
    return "supervise" in words and words[max(0, words.index("supervise") - 1)] == "sovctl" and ours


def _first(pid: int, found: Sequence[int]) -> bool:
    return processes.parent(pid) not in found


class Scale:
    """The lab, its runs and what happens to them."""

    def __init__(self, lab: cluster.Lab, directory: Path) -> None:
        self.lab = lab
        self._directory = directory
        self._random = random.Random(SEED)
        self._runner = CommandRunner(lab.environment)
        self.runs: list[Training] = []
        self.strikes: list[Strike] = []
        self.finished = 0

    def start(self) -> float:
        """Submit all; seconds until each has done a step."""
        began = time.monotonic()
        for number in range(RUNS):
            place = self._directory / f"run{number:02d}"
            place.mkdir()
            if USER:
                shutil.chown(place, USER)
            extra = (*SPEC.extra, f"--last-step-file={place / 'last-step'}")
            run = Training(self.lab, place, TrainingSpec(**{**_fields(SPEC), "extra": extra}), USER)
            run.submit()
            self.runs.append(run)
        self._await("every run's first step", lambda: all(self._running(run) for run in self.runs), 300.0)
        return time.monotonic() - began

    def steady(self) -> tuple[Load, list[float], list[float], list[float], dict[str, float]]:
        """A minute in which nothing happens: RPCs; memory (PSS, private) and CPU of each supervisor; CPU of daemons."""
        time.sleep(SETTLED_S)
        pairs = supervisors(self.lab.layout)
        daemons = {item.role: item.pid for item in self.lab.processes if item.role in ("slurmctld", "watch", "munged")}
        before = [sum(map(cpu_s, pair)) for pair in pairs]
        daemons_before = {role: cpu_s(pid) for role, pid in daemons.items()}
        counters = Counters(self._runner)
        time.sleep(STEADY_S)
        load = counters.since()
        cpu = [(sum(map(cpu_s, pair)) - was) / load.seconds for pair, was in zip(pairs, before, strict=True)]
        shares = {role: (cpu_s(pid) - daemons_before[role]) / load.seconds for role, pid in daemons.items()}
        pss = [sum(memory_mb(pid, "Pss:") for pid in pair) for pair in pairs]
        own = [sum(memory_mb(pid, "Private_") for pid in pair) for pair in pairs]
        return load, pss, own, cpu, shares

    def strike_all(self) -> Load:
        """Twenty faults in a minute, each on another run; then the wait for all of them."""
        struck = self._random.sample(self.runs, FAULTS)
        kinds = [KINDS[number % len(KINDS)] for number in range(FAULTS)]
        self._random.shuffle(kinds)
        counters, began = Counters(self._runner), time.monotonic()
        for number, (kind, run) in enumerate(zip(kinds, struck, strict=True)):
            time.sleep(max(0.0, began + number * MINUTE_S / FAULTS - time.monotonic()))
            self._strike(kind, run)
        say(f"{FAULTS} faults in {time.monotonic() - began:.0f} s")
        self._await("all runs to be back", self._all_back, BACK_S, fatal=False)
        return counters.since()

    def _strike(self, kind: str, run: Training) -> None:
        now = attempts(run.events())[-1]
        node = now.batch_host if kind == "supervisor-killed" else self._random.choice(now.nodes)
        strike = Strike(kind, run, node, now.number, time.time())
        self.strikes.append(strike)
        try:
            strike.at = faults.inject(cluster.load(self.lab.layout.root), kind, node, 5).at
        except SovctlError as error:
            strike.problem = f"not possible: {error.message}"

    def _all_back(self) -> bool:
        for item in self.strikes:
            if item.back_s is None and not item.problem:
                item.back_s = self._back(item)
        return all(item.back_s is not None or item.problem for item in self.strikes)

    def _back(self, item: Strike) -> float | None:
        """Seconds from the fault to the first step of a later attempt, which still runs, off a broken node."""
        now = attempts(item.run.events())[-1]
        if now.number <= item.attempt or now.first_step_at is None or now.stop is not None:
            return None
        if item.kind in BREAKS and item.node in now.nodes:
            item.problem = f"attempt {now.number} runs on {item.node}"
        return now.first_step_at - item.at

    def finish(self) -> None:
        """Every run comes to its end by itself."""
        for run in self.runs:
            last = max((item["step"] for item in run.losses()), default=0) + 5
            (run.work_dir / "last-step").write_text(str(last), "ascii")

        def over() -> bool:
            ends = [run.events("run_ended")[-1:] for run in self.runs]
            self.finished = sum(bool(end) and end[0]["outcome"] == "finished" for end in ends)
            return all(ends)

        self._await("every run's end", over, 240.0, fatal=False)

    def disturbed(self) -> list[str]:
        """Runs that nothing was done to and that stopped all the same."""
        struck = {item.run.job_id for item in self.strikes}
        return [
            f"job {run.job_id}: {made[0].stop.evidence if made[0].stop else 'no word'}"
            for run in self.runs
            if run.job_id not in struck and len(made := attempts(run.events())) > 1
        ]

    def _running(self, run: Training) -> bool:
        made: Sequence[Attempt] = attempts(run.events())
        return bool(made) and made[-1].first_step_at is not None

    def _await(self, what: str, ready: Callable[[], bool], seconds: float, *, fatal: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                say(f"waited {seconds:g} s for {what}")
                if fatal:
                    raise SystemExit(f"{what} did not come within {seconds:g} s")
                return
            time.sleep(2.0)


def _fields(spec: TrainingSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def far_controller(directory: Path) -> tuple[float, float, float]:
    """A slurmctld that knows of 5,000 nodes: microseconds of work for the nodes and for the partitions, and seconds
    `scontrol show node` of 100 takes there."""
    root = directory / "far"
    cluster.prepare_root(root)
    layout = Layout(root)
    for path in (layout.run_dir, layout.log_dir, layout.state_dir):
        path.mkdir()
    spec = LabSpec(
        nodes=FAR_NODES,
        gpus=0,
        port=random.randrange(10000, 14000),
        user=_own_name(),
        host=os.uname().nodename.partition(".")[0],
        device_files=False,
    )
    # Nobody listens on the nodes' ports, and they count as down.
    text = slurm_conf(spec, layout, health_checks=False).replace("State=UNKNOWN", "State=DOWN")
    layout.slurm_conf.write_text(text, "utf-8")
    started: list[processes.ProcessMark] = []
    try:
        cluster.start_munge(layout, started)
        started.append(cluster.start_slurmctld(layout))
        return _questions(cluster.client_environment(layout))
    finally:
        processes.stop(started)


def _questions(env: dict[str, str]) -> tuple[float, float, float]:
    runner = CommandRunner(env)
    argv = ["scontrol", "-o", "show", "node", "n[001-100]"]
    deadline = time.monotonic() + 20
    while runner.run(argv, timeout_s=30, check=False).status:
        if time.monotonic() > deadline:
            raise SystemExit("the controller of 5,000 nodes gave no answer")
        time.sleep(0.5)
    counters, took = Counters(runner), []
    for _ in range(50):
        began = time.monotonic()
        runner.run(argv, timeout_s=30)
        took.append(time.monotonic() - began)
    kinds = counters.since().kinds
    nodes, partitions = (kinds[f"REQUEST_{what}_INFO"] for what in ("NODE", "PARTITION"))
    return nodes.microseconds / nodes.calls, partitions.microseconds / partitions.calls, statistics.median(took)


def _own_name() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def measure(directory: Path) -> tuple[list[Figure], dict[str, object]]:
    """All of it in one lab."""
    began = time.monotonic()
    request = cluster.Request(
        directory / "lab",
        nodes=NODES,
        out_limit_per_hour=10 * FAULTS,
        # A check a minute on each of 200 nodes is 0.8 of a core, and all of them share two.
        overrides={"HealthCheckInterval": "900"},
    )
    lab = cluster.up(request)
    try:
        up_s = time.monotonic() - began
        say(f"{NODES} nodes up in {up_s:.0f} s")
        scale = Scale(lab, directory)
        started_s = scale.start()
        say(f"{RUNS} runs compute after {started_s:.0f} s")
        load, pss, own, cpu, daemons = scale.steady()
        say(f"steady state: {load.rate(owner()) / RUNS:.2f} RPC/s a run")
        under_fire = scale.strike_all()
        scale.finish()
        disturbed = scale.disturbed()
    finally:
        cluster.down(lab.layout.root)
    return figures(scale, load, pss, own, cpu, disturbed), {
        "nodes": NODES,
        "runs": RUNS,
        "nodes_of_a_run": RUN_NODES,
        "cores": os.cpu_count(),
        "seed": SEED,
        "lab_up_s": round(up_s, 1),
        "all_runs_compute_after_s": round(started_s, 1),
        "rpc_in_the_steady_minute": {name: count.calls for name, count in load.kinds.items() if count.calls},
        "rpc_of_site_daemons_a_second": round(load.rate("root"), 2) if USER else None,
        "rpc_a_second_a_run_while_faults_are_recovered": round(under_fire.rate(owner()) / RUNS, 2),
        "slurmctld_busy_for_runs": round(load.busy(owner()), 4),
        "cpu_of_daemons": {role: round(share, 3) for role, share in daemons.items()},
        "faults": {kind: sum(item.kind == kind for item in scale.strikes) for kind in KINDS},
        "not_recovered": [f"{i.kind} on {i.node}: {i.problem or 'not back'}" for i in _lost(scale)],
        "disturbed": disturbed,
        "changed": ["HealthCheckInterval=900", "health.drain_limit_per_hour", "watch.dead_limit_per_hour"],
        "load_average": os.getloadavg(),
    }


def _lost(scale: Scale) -> list[Strike]:
    return [item for item in scale.strikes if item.back_s is None or item.problem]


def figures(
    scale: Scale, load: Load, pss: list[float], own: list[float], cpu: list[float], disturbed: list[str]
) -> list[Figure]:
    """What the lab showed."""
    for item in scale.strikes:
        back = f"{item.back_s:6.1f} s" if item.back_s is not None else "        "
        say(f"{item.kind:<18} {item.node} job {item.run.job_id} {back} {item.problem}")
    back = [item.back_s for item in scale.strikes if item.back_s is not None]
    good = FAULTS - len(_lost(scale))
    by_kind = {
        kind: [item.back_s for item in scale.strikes if item.kind == kind and item.back_s is not None] for kind in KINDS
    }
    return [
        figure("RPCs of a run, steady state", [load.rate(owner()) / RUNS], "a second", target=RPC_TARGET),
        at_least(f"runs back of {FAULTS} hit within a minute", good, "", target=FAULTS),
        figure("runs that stopped though nothing happened to them", [len(disturbed)], "", target=0),
        at_least(f"runs that came to their end, of {RUNS}", scale.finished, "", target=RUNS),
        *([figure("fault to next step, median", back, "s"), figure("worst", [max(back)], "s")] if back else []),
        *(figure(f"  {kind}", samples, "s") for kind, samples in by_kind.items() if samples),
        figure("memory of a supervisor (PSS of its two processes)", pss, "MB"),
        figure("  of that not shared", own, "MB"),
        figure("CPU of a supervisor, Slurm's commands included", [100 * share for share in cpu], "% of a core"),
        figure("RPCs of the site's daemons, all nodes", [load.rate("root")], "a second"),
    ]


def far_figures(directory: Path) -> list[Figure]:
    """What as many runs would ask of that slurmctld, by the supervisor's own rule."""
    nodes_us, partitions_us, took_s = far_controller(directory)
    every_s = max(CALM_S, took_s / CALM_SHARE)
    # A question is one call for the nodes and one for the partitions.
    busy = 100 * RUNS / every_s * (nodes_us + partitions_us) / 1e6
    return [
        figure(f"slurmctld, work for one REQUEST_NODE_INFO, {FAR_NODES} nodes", [nodes_us / 1000], "ms"),
        figure(f"scontrol show node of 100 nodes, {FAR_NODES} nodes", [1000 * took_s], "ms"),
        figure(f"a run asks every so often, {FAR_NODES} nodes", [every_s], "s"),
        figure(f"slurmctld busy for {RUNS} such runs, {FAR_NODES} nodes", [busy], "% of a core"),
    ]


def main() -> None:
    """One lab, then the large controller."""
    directory = Path(tempfile.mkdtemp(prefix="sovscale-", dir="/var/tmp"))
    directory.chmod(0o755)
    say(f"seed {SEED}")
    try:
        found, conditions = measure(directory)
        found += far_figures(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    publish("scale", found, conditions)


if __name__ == "__main__":
    main()
