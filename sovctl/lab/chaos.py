"""One long run through many random faults, judged from outside: the run's journal, its losses file, and Slurm.

Everything drawn at random comes from one seed. Nodes that were broken are repaired after a while, as a site would, so
that the cluster never runs out. What a fault should lead to is in KINDS; what it led to is in the `Report`.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sovctl.checkpoint.find import scan
from sovctl.errors import SovctlError
from sovctl.lab import cluster, faults
from sovctl.lab.training import Training, TrainingSpec
from sovctl.model.blame import Culprit
from sovctl.model.checkpoint import CheckpointState
from sovctl.recovery.attempts import Attempt, Stop, attempts, names, number

T = TypeVar("T")
_WATCHED_S = 5.0
"""A fault that must not stop the run is looked at for so long."""
_CONTROLLER_AWAY_S = (2.0, 6.0)
_DISK_FULL_S = 3.0
_SECOND_SHARE = 0.25
"""Share of the stopping faults that get a second one while the run recovers."""
_FIRST_WITHIN_S, _SECOND_WITHIN_S = 3.0, 5.0
_DEADLINE_S = 240.0
"""A run that is not back by then is lost: longer than every wait of Slurm's but SlurmdTimeout (300 s)."""
_MORE_STEPS = 30
"""Steps after the last fault."""
_MENDED_LATELY_S = 10.0
"""A node that was mended less than this before a stop may still be named for what it had: the judgement rests on
evidence that is some seconds old."""
_ACCUSES = frozenset({Culprit.HARDWARE, Culprit.FABRIC, Culprit.STORAGE})
"""Culprits that are not nobody, with or without a node."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault and what it should lead to."""

    name: str
    weight: int
    stops: bool = True
    """The attempt ends; otherwise the run must go on as if nothing had happened."""
    blames: bool = False
    """The node it happened to is named."""
    breaks: bool = False
    """No run may go on there before the node is repaired."""
    batch_host: bool = True
    """May happen to the batch host."""
    second: bool = False
    """May come while the run recovers from another."""
    stands_still: bool = False
    """Nothing ends by itself: it shows only when the run has made no progress for the hang timeout."""


KINDS = (
    Kind("xid:79", 14, blames=True, breaks=True, second=True),
    Kind("ecc-uncorrectable", 6, blames=True, breaks=True, second=True),
    Kind("node-dead", 10, blames=True, breaks=True, second=True),
    Kind("node-frozen", 6, blames=True, breaks=True, batch_host=False, second=True, stands_still=True),
    Kind("rank-crash", 12, second=True),
    # What was stopped is one process; its node is named because nobody knows more.
    Kind("rank-hang", 6, blames=True, stands_still=True),
    Kind("supervisor-killed", 8, second=True),
    Kind("checkpoint-damaged", 6),
    Kind("requeue", 5),
    Kind("slurmctld-down", 6, stops=False, second=True),
    Kind("xid:13", 3, stops=False),
    Kind("xid:31", 3, stops=False),
    Kind("xid:45", 3, stops=False),
    Kind("thermal-throttle", 4, stops=False),
    Kind("gpu-slow", 4, stops=False),
    Kind("link-flap", 4, stops=False),
    Kind("disk-full", 4, stops=False),
)


@dataclass(frozen=True, slots=True)
class ChaosSpec:
    """What to run."""

    seed: int
    faults: int = 100
    nodes: int = 24
    job_nodes: int = 16
    spares: int = 2
    step_seconds: float = 0.1
    save_every: int = 10
    hang_timeout_s: int = 8
    repair_after_s: float = 20.0
    only: tuple[str, ...] = ()
    """Draw from these kinds alone; empty: from all."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault as drawn, before it is known what runs where. Shares are 0 to 1."""

    kind: Kind
    wait_s: float
    """After the run computes, or after the fault before."""
    place: float
    """Which of the nodes."""
    part: float
    """Which of its GPUs, or of the files."""
    away_s: float
    """How long the controller stays away."""


def draw(spec: ChaosSpec) -> tuple[tuple[Blow, ...], ...]:
    """Every fault of a run: episodes of one, or of two where the second meets the recovery. A function of the seed.

    It is the same for everybody: a full disk, which needs root, is drawn for an ordinary user too and then impossible.
    """
    source = random.Random(spec.seed)
    kinds = [kind for kind in KINDS if not spec.only or kind.name in spec.only]
    seconds = [kind for kind in kinds if kind.second]
    episodes: list[tuple[Blow, ...]] = []
    left = spec.faults
    while left:
        blows = [_blow(source, kinds, _FIRST_WITHIN_S)]
        if blows[0].kind.stops and seconds and source.random() < _SECOND_SHARE and left > 1:
            blows.append(_blow(source, seconds, _SECOND_WITHIN_S))
        episodes.append(tuple(blows))
        left -= len(blows)
    return tuple(episodes)


def _blow(source: random.Random, kinds: Sequence[Kind], within_s: float) -> Blow:
    kind = source.choices(kinds, [item.weight for item in kinds])[0]
    return Blow(
        kind, source.uniform(0.0, within_s), source.random(), source.random(), source.uniform(*_CONTROLLER_AWAY_S)
    )


@dataclass(slots=True)
class Struck:
    """One fault that was injected, and what became of it."""

    number: int
    kind: Kind
    node: str
    at: float
    attempt: int
    """The attempt that ran, or was starting."""
    during_recovery: bool = False
    back_at: float | None = None
    """First step of the attempt that went on after it."""
    problem: str = ""
    """What did not go as it should; empty: all did."""
    held: bool = False
    """Held as the budgets say; a person let it go on."""

    @property
    def back_s(self) -> float | None:
        return None if self.back_at is None else self.back_at - self.at


@dataclass(slots=True)
class Report:
    """What was measured."""

    spec: ChaosSpec
    struck: list[Struck] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    """Faults that were drawn and found nothing to break; they count in no figure."""
    lost: str = ""
    """Why the run did not get to its end; empty: it did."""
    attempts: int = 0
    on_blamed: list[str] = field(default_factory=list)
    """Attempts that got a node that had been blamed and not repaired."""
    on_unforgiven: list[str] = field(default_factory=list)
    """Attempts that got a node that the run's own journal still spoke against, whether or not anything was wrong with
    it: one that was mended, or was blamed though it was well, counts too."""
    steps_lost: int = 0
    """Beyond the last checkpoint that was proven when the attempt began."""
    misjudged: list[str] = field(default_factory=list)
    judged: int = 0
    """Stops whose blame was compared with what was injected."""
    chains: int = 0
    failed_chains: list[str] = field(default_factory=list)
    identical: bool = False
    compared_steps: int = 0
    seconds: float = 0.0

    @property
    def back_s(self) -> list[float]:
        """Seconds from each stopping fault to the run's next step; faults that met another recovery are left out."""
        alone = [item for item in self.struck if item.kind.stops and not item.during_recovery]
        return [item.back_s for item in alone if item.back_s is not None]

    @property
    def recovered_share(self) -> float:
        good = sum(not item.problem for item in self.struck)
        possible = self.spec.faults - len(self.impossible)
        return good / possible if possible else 0.0

    @property
    def chain_share(self) -> float:
        return 1.0 - len(self.failed_chains) / self.chains if self.chains else 0.0

    @property
    def blame_share(self) -> float:
        return 1.0 - len(self.misjudged) / self.judged if self.judged else 0.0


def _pick(items: Sequence[T], share: float) -> T:
    return items[int(share * len(items))]


def on_unforgiven(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Attempts that got a node that an earlier one was ended for by hardware, and that the journal never forgave."""
    against: dict[str, int] = {}
    found = []
    for event in events:
        if event["kind"] == "attempt_started":
            found += [
                f"attempt {number(event)} got {node}, blamed by attempt {against[node]} and not forgiven"
                for node in names(event, "nodes")
                if node in against
            ]
        elif event["kind"] == "attempt_ended" and event.get("culprit") == Culprit.HARDWARE:
            against |= {node: number(event) or 0 for node in names(event, "blamed")}
        elif event["kind"] == "forgiven":
            for node in names(event, "nodes"):
                against.pop(node, None)
    return found


def _after_another(one: Struck, during: Sequence[Struck]) -> bool:
    """Whether something else had stopped the run already: that is what is to be named, and the recovery finds this."""
    return any(other.at < one.at and other.kind.stops and not other.kind.stands_still for other in during)


class Chaos:
    """One run and what happens to it. `say` gets one line for each thing done."""

    def __init__(
        self, spec: ChaosSpec, root: Path, user: str = "", say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._spec = spec
        self._root = root
        self._say = say
        self._user = user
        # The storage that can be filled needs root to mount it.
        self._scratch = os.geteuid() == 0
        self._report = Report(spec)
        self._broken: dict[str, float] = {}
        self._healed: set[str] = set()
        """Mended, and not yet heard of by Slurm."""
        self._repaired: dict[str, list[float]] = {}
        """When each node was mended; some are more than once."""
        self._damaged: list[tuple[int, int]] = []
        """(step, attempt that ran) of checkpoints that were damaged."""
        self._judged_to = -1
        """The last attempt whose blame was judged."""
        self._lab: cluster.Lab | None = None
        self._run: Training | None = None

    def run(self, work_dir: Path) -> Report:
        """The whole of it; `work_dir` is an empty directory of the run's user. The lab is down afterwards, and its
        directory is gone unless the run was lost."""
        spec, began = self._spec, time.monotonic()
        self._lab = cluster.up(
            cluster.Request(
                self._root,
                nodes=spec.nodes,
                accounting=True,
                scratch=self._scratch,
                out_limit_per_hour=10 * spec.faults,
            )
        )
        try:
            self._start(work_dir / "run")
            self._strike_all()
            self._finish()
        except SovctlError as error:
            self._report.lost = error.message
            self._say(f"LOST: {error.message}")
        except BaseException as error:
            self._report.lost = f"ended early: {error!r}"
            raise
        finally:
            self._report.seconds = time.monotonic() - began
            try:
                self._judge()
            finally:
                # What its daemons said about a run that was lost stays for whoever looks for the reason.
                cluster.down(self._root, keep=bool(self._report.lost))
        if not self._report.lost:
            self._compare(work_dir / "undisturbed")
        self._report.seconds = time.monotonic() - began
        return self._report

    @property
    def report(self) -> Report:
        """What was measured so far: all there is when `run` raises."""
        return self._report

    @property
    def journal(self) -> list[dict[str, Any]]:
        """The run's events."""
        return self._training.events()

    @property
    def _training(self) -> Training:
        assert self._run is not None
        return self._run

    @property
    def _here(self) -> cluster.Lab:
        """The lab as it is now: each fault and repair writes its record anew."""
        assert self._lab is not None
        return cluster.load(self._lab.layout.root)

    # The run

    def _start(self, directory: Path) -> None:
        spec = self._spec
        checkpoints = self._here.layout.scratch if self._scratch else directory
        sbatch = [f"--hang-timeout={spec.hang_timeout_s}", f"--checkpoint-dir={checkpoints / 'checkpoints'}"]
        if spec.spares:
            sbatch.append(f"--spare-nodes={spec.spares}")
        self._checkpoints = checkpoints / "checkpoints"
        self._last_step = directory / "last-step"
        self._run = Training(
            self._here,
            self._own(directory),
            TrainingSpec(
                steps=10**9,
                save_every=spec.save_every,
                step_seconds=spec.step_seconds,
                nodes=spec.job_nodes,
                extra=(f"--last-step-file={self._last_step}", "--print-every=100"),
                sbatch=tuple(sbatch),
                toy=True,
            ),
            self._user,
        )
        self._run.submit()
        self._await_running(-1)

    def _own(self, directory: Path) -> Path:
        directory.mkdir()
        if self._user:
            import pwd

            account = pwd.getpwnam(self._user)
            os.chown(directory, account.pw_uid, account.pw_gid)
        return directory

    def _finish(self) -> None:
        """Let the run end by itself, some steps on."""
        last = max(item["step"] for item in self._training.losses()) + _MORE_STEPS
        self._last_step.write_text(str(last), "ascii")
        end = self._training.await_end(_DEADLINE_S)
        if end.get("outcome") != "finished":
            raise SovctlError(f"the run did not finish: {end}")

    def _compare(self, directory: Path) -> None:
        """The same training in a cluster where nothing happens."""
        last = int(self._last_step.read_text("ascii"))
        calm_lab = cluster.up(cluster.Request(self._root, nodes=self._spec.job_nodes, health=False))
        try:
            spec = TrainingSpec(steps=last, save_every=last, step_seconds=0.0, nodes=self._spec.job_nodes, toy=True)
            calm = Training(calm_lab, self._own(directory), spec, self._user)
            calm.submit()
            calm.await_end(60.0 + 0.1 * last)
            wanted = calm.loss_curve()
        finally:
            cluster.down(self._root)
        try:
            curve = self._training.loss_curve()
        except SovctlError as error:
            self._say(error.message)
            return
        self._report.compared_steps = len(wanted)
        self._report.identical = sorted(wanted) == list(range(1, last + 1)) and curve == wanted

    # The faults

    def _strike_all(self) -> None:
        for blows in draw(self._spec):
            self._repair()
            self._await_running(-1)
            self._episode(blows)

    def _episode(self, blows: Sequence[Blow]) -> None:
        """One fault, perhaps a second one on top, and the way back."""
        episode: list[Struck] = []
        for blow in blows:
            # A moment of the seed's choosing, not a wait for something.
            time.sleep(blow.wait_s)
            struck = self._strike(blow, during_recovery=bool(episode))
            episode += [struck] if struck else []
        if any(item.kind.name == "slurmctld-down" for item in episode):
            time.sleep(blows[-1].away_s)
            self._lab = cluster.restart_slurmctld(self._here)
        if any(item.kind.stops for item in episode):
            self._await_return(episode)
        elif episode:
            self._await_calm(episode[0])
        for item in episode:
            back = f"{item.back_s:5.1f} s" if item.back_s is not None else "       "
            held = "held " if item.held else ""
            self._say(f"{item.number:3} {item.kind.name:<18} {item.node} {back} {held}{item.problem}")
        self._judge_blames()

    def _judge_blames(self) -> None:
        """The stops that were not judged yet; what was misjudged is said at once."""
        known = len(self._report.misjudged)
        since = 0.0
        for item in attempts(self._training.events()):
            if item.stop is None:
                continue
            if item.number > self._judged_to:
                self._judged_to = item.number
                self._judge_blame(item, since)
            since = item.stop.at or since
        for words in self._report.misjudged[known:]:
            self._say(f"    misjudged: {words}")

    def _strike(self, blow: Blow, *, during_recovery: bool) -> Struck | None:
        """Inject one fault; None: there was nothing to break (no rank runs at this moment)."""
        kind, now = blow.kind, self._now()
        node = self._victim(blow, now)
        try:
            at = self._inject(blow, node)
        except SovctlError as error:
            self._report.impossible.append(f"{kind.name} on {node}: {error.message}")
            self._say(f"    {kind.name} on {node} was not possible: {error.message}")
            return None
        struck = Struck(len(self._report.struck) + 1, kind, node, at, now.number, during_recovery)
        self._report.struck.append(struck)
        if kind.breaks:
            self._healed.discard(node)
            self._broken[node] = at
        return struck

    def _victim(self, blow: Blow, now: Attempt) -> str:
        nodes = [node for node in now.nodes if node not in self._broken]
        if not blow.kind.batch_host:
            nodes = [node for node in nodes if node != now.batch_host]
        if blow.kind.name == "supervisor-killed" or not nodes:
            return now.batch_host
        return _pick(nodes, blow.place)

    def _inject(self, blow: Blow, node: str) -> float:
        kind, at = blow.kind, time.time()
        if kind.name == "requeue":
            self._training.command("scontrol", "requeue", self._training.job_id)
            return at
        if kind.name == "checkpoint-damaged":
            self._damage(blow)
            return faults.inject(self._here, "rank-crash", node).at
        injected = faults.inject(self._here, kind.name, node, _pick(range(self._here.gpus), blow.part))
        if kind.name == "disk-full":
            time.sleep(_DISK_FULL_S)
            faults.heal(self._here, node)
        return injected.at

    def _damage(self, blow: Blow) -> None:
        """Half of a shard of the newest checkpoint is gone."""
        complete = [item for item in scan(self._checkpoints) if item.state is CheckpointState.COMPLETE]
        if len(complete) < 2:
            # The run would rightly be held: starting over is for a person to decide.
            raise SovctlError("there is no older checkpoint to fall back on")
        newest = complete[0]
        shards = sorted(Path(newest.path).glob("__*.distcp"))
        if not shards:
            raise SovctlError("the newest checkpoint was just replaced")
        shard = _pick(shards, blow.part)
        self._damaged.append((newest.step, self._now().number))
        os.truncate(shard, shard.stat().st_size // 2)

    # The way back

    def _await_return(self, episode: Sequence[Struck]) -> None:
        """Wait until a later attempt computes, on none of the nodes that are broken."""
        first = episode[0]
        wanted = max(item.attempt for item in episode if item.kind.stops)
        broken = {item.node for item in episode if item.kind.breaks}
        running = self._await_running(wanted, broken, episode)
        for item in episode:
            item.back_at = running.first_step_at
        if first.kind.name == "requeue" and len(episode) == 1 and running.number != first.attempt + 1:
            first.problem = f"attempt {running.number} after one requeue"

    def _await_calm(self, struck: Struck) -> None:
        """The run must not notice."""
        reached = self._step()
        time.sleep(_WATCHED_S)
        self._await(f"steps after {struck.kind.name}", lambda: self._step() > reached)
        now = self._now()
        if now.number != struck.attempt or now.stop is not None:
            struck.problem = f"attempt {struck.attempt} ended: {now.stop.evidence if now.stop else 'another one runs'}"
            self._await_running(-1)
        if struck.kind.name in ("gpu-slow", "thermal-throttle"):
            faults.heal(self._here, struck.node)

    def _await_running(
        self, after: int, without: set[str] | frozenset[str] = frozenset(), episode: Sequence[Struck] = ()
    ) -> Attempt:
        """Wait for an attempt later than `after` that has done a step; a hold is judged and lifted."""
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            events = self._training.events()
            self._lift_hold(events, episode)
            if events and events[-1]["kind"] == "run_ended":
                raise SovctlError(f"the run ended: {events[-1]}")
            made = attempts(events)
            now = made[-1] if made else None
            if (
                now is not None
                and now.number > after
                and now.first_step_at is not None
                and now.stop is None
                and not without & set(now.nodes)
            ):
                return now
            if time.monotonic() > deadline:
                raise SovctlError(f"not back within {_DEADLINE_S:g} s; {self._state()}")
            if self._job_over():
                raise SovctlError(f"the job is over; {self._state()}")
            time.sleep(0.1)

    def _lift_hold(self, events: Sequence[Mapping[str, Any]], episode: Sequence[Struck]) -> None:
        """A hold is right when the last two stops without a fault of hardware had no new checkpoint in between."""
        if not events or events[-1]["kind"] != "held":
            return
        ends = [event for event in events if event["kind"] == "attempt_ended"]
        alike = [end for end in ends if end["culprit"] == ends[-1]["culprit"]]
        right = (
            ends[-1]["culprit"] in ("user-code", "unknown")
            and len(alike) > 1
            and alike[-2]["checkpoint_step"] >= alike[-1]["checkpoint_step"]
        )
        self._say(f"    held: {events[-1]['why']}")
        for item in episode:
            item.held = right
            item.problem = item.problem if right else f"held: {events[-1]['why']}"
        self._training.wait("the job to be held", self._job_held, _DEADLINE_S)
        self._training.sovctl("run", "resume", self._training.job_id)
        self._training.wait("the run to be let go", lambda: self.journal[-1]["kind"] != "held", _DEADLINE_S)

    def _job_over(self) -> bool:
        try:
            return cluster.slurm(self._here.layout).job(self._training.job_id).over
        except SovctlError:
            # The controller is away.
            return False

    def _job_held(self) -> bool:
        return cluster.slurm(self._here.layout).job(self._training.job_id).held

    def _now(self) -> Attempt:
        return attempts(self._training.events())[-1]

    def _step(self) -> int:
        losses = self._training.losses()
        return int(losses[-1]["step"]) if losses else 0

    def _await(self, what: str, ready: Callable[[], bool]) -> None:
        self._training.wait(what, ready, _DEADLINE_S)

    def _state(self) -> str:
        """Journal and Slurm at the moment when nothing went on, for the person who looks for the reason."""
        lines = [json.dumps(event) for event in self._training.events()[-14:]]
        job = cluster.slurm(self._here.layout).job(self._training.job_id)
        nodes = [
            f"{node.name} {node.state} {node.reason}"
            for node in cluster.slurm(self._here.layout).nodes()
            if not node.state.schedulable or node.name in self._broken
        ]
        words = f"job {job.state} {sorted(job.flags)} restarts {job.restarts} priority {job.priority} {job.reason}"
        return "\n".join([words, f"on {','.join(job.nodes)}, not {','.join(job.excluded)}", *nodes, *lines])

    # The site

    def _repair(self) -> None:
        """Nodes that broke a while ago and are no longer the job's are mended and given back; so is what Slurm put
        aside by itself (a step that could not be killed, a slurmd that was away)."""
        site = cluster.slurm(self._here.layout)
        job = site.job(self._training.job_id)
        for node in site.nodes():
            away = node.state.down or node.state.draining
            due = time.time() - self._broken.get(node.name, 0.0) > self._spec.repair_after_s
            if node.name in job.nodes or not due or not (away or node.name in self._broken):
                continue
            if "COMPLETING" in node.state.flags and node.name not in self._broken:
                continue
            if node.name not in self._healed:
                faults.heal(self._here, node.name)
                self._healed.add(node.name)
            # Until slurmd has answered Slurm would take the node at its old word; it is looked at again next time.
            if not site.node(node.name).state.responding:
                continue
            if away:
                site.resume(node.name)
            self._healed.discard(node.name)
            self._broken.pop(node.name, None)
            self._repaired.setdefault(node.name, []).append(time.time())

    # The judgement

    def _judge(self) -> None:
        if self._run is None or self._run.run_dir is None:
            return
        made = attempts(self._training.events())
        self._report.attempts = len(made)
        self._report.on_blamed = [words for item in made if (words := self._on_blamed(item, made))]
        self._report.on_unforgiven = on_unforgiven(self._training.events())
        self._report.steps_lost = sum(self._steps_lost(item) for item in made)
        self._judge_blames()
        self._judge_chains(made)

    def _on_blamed(self, item: Attempt, made: Sequence[Attempt]) -> str:
        """An attempt on a node that an earlier one was ended for and that nobody had repaired since."""
        for before in made[: item.number]:
            if before.stop is None or before.stop.culprit.value != "hardware":
                continue
            for node in set(before.stop.blamed) & set(item.nodes):
                if self._still_broken(node, before.stop.at or 0.0, item.started_at or 0.0):
                    return f"attempt {item.number} got {node}, blamed by attempt {before.number}"
        return ""

    def _still_broken(self, node: str, blamed_at: float, started_at: float) -> bool:
        """Whether what it was blamed for was not mended by then; one that was blamed though it was well is judged as
        such."""
        struck = [one.at for one in self._report.struck if one.node == node and one.kind.breaks and one.at <= blamed_at]
        return bool(struck) and not any(max(struck) < at < started_at for at in self._repaired.get(node, ()))

    def _steps_lost(self, item: Attempt) -> int:
        """Saved steps come from the losses file: what the training itself had committed by then."""
        saved = [
            record["saved"]
            for record in self._training.losses()
            if record["attempt"] < item.number
            and not any(step == record["saved"] and record["attempt"] <= at < item.number for step, at in self._damaged)
        ]
        return max(0, max(saved, default=0) - (item.resume_step or 0))

    def _judge_blame(self, item: Attempt, since: float = 0.0) -> None:
        """The nodes named at the end of an attempt against those that were struck in it; nobody, where none was.
        `since`: when the attempt before it stopped."""
        stop = item.stop
        if stop is None or stop.action == "finish":
            return
        during = [one for one in self._report.struck if self._met(one, item, since)]
        struck = {
            one.node
            for one in during
            if one.kind.blames and not self._too_early(one, stop) and not _after_another(one, during)
        }
        broken = {one.node for one in self._report.struck if self._stood_broken(one, item)}
        self._report.judged += 1
        named = set(stop.blamed)
        # Of two at once it is enough to name one: the other is named, or is out of service, before the next attempt.
        if (struck and not named) or not named <= broken or (not during and not named and stop.culprit in _ACCUSES):
            happened = ", ".join(f"{one.kind.name} on {one.node}" for one in during) or "no fault"
            self._report.misjudged.append(
                f"attempt {item.number}: {happened}; named {sorted(named) or 'nobody'} "
                f"({stop.culprit.value}: {stop.evidence})"
            )

    def _met(self, one: Struck, item: Attempt, since: float) -> bool:
        """Whether an attempt had to do with a fault: it ran then, or it got the node that was struck before it began
        and after the attempt before it had stopped."""
        if item.stop is None or one.at > (item.stop.at or 0.0):
            return False
        return one.attempt == item.number or (
            one.attempt < item.number and one.at > since and one.kind.breaks and one.node in item.nodes
        )

    def _stood_broken(self, one: Struck, item: Attempt) -> bool:
        """Whether a node may rightly be named for a fault at the end of an attempt."""
        at = (item.stop.at or 0.0) if item.stop is not None else 0.0
        if not one.kind.blames or one.at > at:
            return False
        if not one.kind.breaks:
            # What was stopped or killed is a process: it is gone with its attempt.
            return one.attempt == item.number
        return not any(one.at < mended < at - _MENDED_LATELY_S for mended in self._repaired.get(one.node, ()))

    def _too_early(self, one: Struck, stop: Stop) -> bool:
        """Something else stopped the run before anybody could know that a rank or a node stood still."""
        return one.kind.stands_still and (stop.at or 0.0) - one.at < self._spec.hang_timeout_s

    def _judge_chains(self, made: Sequence[Attempt]) -> None:
        """A chain is the attempts from a stop to the next new checkpoint; it succeeds when no person had to help."""
        held = [event["attempt"] for event in self._training.events() if event["kind"] == "held"]
        chain: list[int] = []
        for item in made:
            if chain and (item.saved_step or 0) > (item.resume_step or 0):
                self._close_chain(chain, held)
                chain = []
            if item.stop is not None and item.stop.action != "finish":
                chain.append(item.number)
        if chain and self._report.lost:
            self._report.chains += 1
            self._report.failed_chains.append(f"attempts {chain}: {self._report.lost[:80]}")

    def _close_chain(self, chain: Sequence[int], held: Sequence[int]) -> None:
        self._report.chains += 1
        if set(chain) & set(held):
            self._report.failed_chains.append(f"attempts {list(chain)}: held")
