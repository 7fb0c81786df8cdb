"""Strikes one run with the faults that were drawn, and waits for its return.

Nodes that were broken are repaired after a while, as a site would, so that the cluster never runs out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sovctl.checkpoint.find import scan
from sovctl.errors import SovctlError
from sovctl.lab import cluster, faults
from sovctl.lab.chaos.judge import Judge
from sovctl.lab.chaos.plan import Blow, ChaosSpec, draw
from sovctl.lab.chaos.report import Report, Struck
from sovctl.lab.training import Training, TrainingSpec
from sovctl.model.checkpoint import CheckpointState
from sovctl.recovery.attempts import Attempt, attempts

T = TypeVar("T")
_WATCHED_S = 5.0
"""A fault that must not stop the run is looked at for so long."""
_DISK_FULL_S = 3.0
_DEADLINE_S = 240.0
"""A run that is not back by then is lost: longer than every wait of Slurm's but SlurmdTimeout (300 s)."""
_MORE_STEPS = 30
"""Steps after the last fault."""


def _pick(items: Sequence[T], share: float) -> T:
    return items[int(share * len(items))]


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
        self._judge = Judge(self._report)
        self._broken: dict[str, float] = {}
        self._healed: set[str] = set()
        """Mended, and not yet heard of by Slurm."""
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
                self._judge_all()
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
        for words in self._judge.blames(self.journal):
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
        self._judge.damaged.append((newest.step, self._now().number))
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
            events = self.journal
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
        return attempts(self.journal)[-1]

    def _step(self) -> int:
        losses = self._training.losses()
        return int(losses[-1]["step"]) if losses else 0

    def _await(self, what: str, ready: Callable[[], bool]) -> None:
        self._training.wait(what, ready, _DEADLINE_S)

    def _state(self) -> str:
        """Journal and Slurm at the moment when nothing went on, for the person who looks for the reason."""
        lines = [json.dumps(event) for event in self.journal[-14:]]
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
            self._judge.repaired.setdefault(node.name, []).append(time.time())

    def _judge_all(self) -> None:
        if self._run is not None and self._run.run_dir is not None:
            self._judge.whole_run(self.journal, self._run.losses())
