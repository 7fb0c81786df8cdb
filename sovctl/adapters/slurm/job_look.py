"""Starts `sovctl look` on every node of a running job, as an overlapping job step with the user's rights.

`srun --overlap` shares the cores, the memory and the GPUs of the job's other steps (Slurm 20.11 and later), so the look
needs nothing of its own. The step's environment is the supervisor's without Slurm's variables: those of the batch
script (SLURM_NTASKS, SLURM_KILL_BAD_EXIT, SLURM_CPU_BIND, ...) are options of the user's own sruns.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sovctl.adapters.command import Child, spawn
from sovctl.adapters.run.rank_processes import A_LOOK
from sovctl.errors import CommandMissing
from sovctl.model.rank_look import NodeLook, parse_looks
from sovctl.model.step_id import LOOK_STEP
from sovctl.ports.supervised import LookAnswer

_FIRST_S = 12.0
"""How long the first node may take to answer: slurmctld has to make a step, Python has to start."""
_AFTER_FIRST_S = 2.0
"""How long the others may take after the first, at least; half as long as it took, where that is longer. Who is later
is asked again."""
_ENDS_S = 5.0
"""So long an srun gets to collect the tasks of its step, once nobody waits for its answer."""
_END_S = 10.0
"""So long a step may take that ends another one."""
_FLAT = 6
"""The most nodes of a step without a tree."""
_MOST_STEPS = 64
_MOST_OUTPUT = 256 * 1024 * 1024
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")


class SrunLook:
    """ports.JobLooks by srun, several steps side by side.

    A step of seven nodes or more reports its end through a tree of its slurmstepds, and the one above a node that does
    not answer waits 60 s for it, in the way of whatever comes next (REVERSE_TREE_WIDTH, 22.05 to 26.05). So steps are
    kept smaller, up to _MOST_STEPS of them.
    """

    def __init__(
        self, job_id: str, env: Mapping[str, str], *, bin_dir: str = "", python: str = "", first_s: float = _FIRST_S
    ) -> None:
        """`job_id`: SLURM_JOB_ID, also for a task of an array; `env`: the supervisor's environment."""
        self._job_id = job_id
        self._env = without_slurm_options(env) | {A_LOOK: "1"}
        self._srun = str(Path(bin_dir) / "srun") if bin_dir else "srun"
        self._python = python or sys.executable
        self._first_s = first_s
        self._children: list[Child] = []
        self._ending: list[tuple[Child, float]] = []
        """Sruns nobody waits for, and when each is killed."""
        self._output = -1
        self._nodes: tuple[str, ...] = ()
        self._began = 0.0
        self._answered_at = 0.0
        self._within_s = first_s

    def begin(
        self, nodes: Sequence[str], *, since: float, stacks: bool, gpus: int | None, within_s: float | None = None
    ) -> None:
        """Start it; nothing happens while an earlier one goes on. Nodes that are asked again (`within_s`) get a step
        each: where one cannot be reached, Slurm refuses the step for all."""
        if self._children:
            return
        self._collect()
        # A file without a name: a disk in trouble is what may have to be found.
        self._output = os.memfd_create("sovctl-look")
        self._nodes, self._began, self._answered_at = tuple(nodes), time.monotonic(), 0.0
        self._within_s = self._first_s if within_s is None else within_s
        try:
            for part in _parts(nodes, 1 if within_s is not None else _FLAT):
                argv = self._command(part, since, stacks=stacks, gpus=gpus)
                self._children.append(spawn(argv, env=self._env, stdout=self._output))
        except CommandMissing:
            self.cancel()
            self._close()
            raise

    def end(self, nodes: Sequence[str], step: int) -> None:
        """End what is left of a step on these nodes, beside whatever goes on; nothing is waited for. Raises
        CommandMissing."""
        self._collect()
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for part in _parts(nodes, _FLAT):
                argv = [*self._step(part), "--end", str(step)]
                self._ending.append((spawn(argv, env=self._env, stdout=nowhere), time.monotonic() + _END_S))
        finally:
            os.close(nowhere)

    def _command(self, nodes: Sequence[str], since: float, *, stacks: bool, gpus: int | None) -> list[str]:
        return [
            *self._step(nodes),
            *("--since", f"{since:.3f}", "--stacks", "1" if stacks else "0"),
            *(() if gpus is None else ("--gpus", str(gpus))),
        ]

    def _step(self, nodes: Sequence[str]) -> list[str]:
        return [
            *(self._srun, "--overlap", f"--jobid={self._job_id}", f"--nodelist={','.join(nodes)}"),
            *(f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--cpus-per-task=1"),
            *("--mem=0", "--cpu-bind=none", "--mpi=none", "--kill-on-bad-exit=0", "--no-kill", "--input=none"),
            *("--immediate=5", "--quiet", f"--job-name={LOOK_STEP}", "--chdir=/"),
            *(self._python, "-P", "-m", "sovctl", "look", "--job", self._job_id),
        ]

    @property
    def going_on(self) -> bool:
        return bool(self._children)

    def poll(self) -> LookAnswer | None:
        """What came back; None while it goes on. Nodes that say nothing are waited for only so long."""
        self._collect()
        if not self._children:
            return None
        statuses = [child.poll() for child in self._children]
        looks, rest = self._read()
        now = time.monotonic()
        if looks and not self._answered_at:
            self._answered_at = now
        if None in statuses and len(looks) < len(self._nodes) and now < self._deadline():
            return None
        answered = {look.node for look in looks}
        silent = tuple(name for name in self._nodes if name not in answered)
        ended = next((status for status in statuses if status), None)
        problem = "" if looks else _problem(rest, ended)
        self._let_go(asked_to_end=len(looks) < len(self._nodes))
        return LookAnswer(tuple(looks), silent, problem, max(0.0, self._answered_at - self._began))

    def cancel(self) -> None:
        """End it without an answer, and wait for nothing: a recovery may be about to begin."""
        self._let_go(asked_to_end=True)

    def _let_go(self, *, asked_to_end: bool) -> None:
        """Srun is not killed at once: a slurmstepd whose srun is gone repeats its report for 4 s (22.05 to 26.05), and
        until then the job is not over on that node. At SIGTERM it kills its tasks and collects them."""
        for child in self._children:
            if asked_to_end:
                child.send(signal.SIGTERM)
            self._ending.append((child, time.monotonic() + _ENDS_S))
        self._children = []
        self._collect()
        self._close()

    def _collect(self) -> None:
        """Forget the sruns that have ended; one that does not is killed, and its step ends with the job."""
        left = []
        for child, until in self._ending:
            if child.poll() is not None:
                continue
            if time.monotonic() < until:
                left.append((child, until))
            else:
                child.kill_group()
        self._ending = left

    def _deadline(self) -> float:
        if not self._answered_at:
            return self._began + self._within_s
        return self._answered_at + max(_AFTER_FIRST_S, (self._answered_at - self._began) / 2)

    def _read(self) -> tuple[list[NodeLook], list[str]]:
        size = os.fstat(self._output).st_size
        text = os.pread(self._output, min(size, _MOST_OUTPUT), 0).decode("utf-8", "replace")
        looks, rest = parse_looks(text.split("\n"))
        return [look for look in looks if look.node in self._nodes], [line for line in rest if line.strip()]

    def _close(self) -> None:
        if self._output >= 0:
            os.close(self._output)
        self._output = -1


def without_slurm_options(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a batch script without what Slurm set in it, for a step that is not the script's."""
    return {key: value for key, value in env.items() if not key.startswith("SLURM") or key in _KEPT}


def _parts(nodes: Sequence[str], flat: int) -> list[Sequence[str]]:
    size = max(flat, math.ceil(len(nodes) / _MOST_STEPS))
    return [nodes[at : at + size] for at in range(0, len(nodes), size)]


def _problem(rest: Sequence[str], status: int | None) -> str:
    if rest:
        return rest[-1].removeprefix("srun: error: ")[:300]
    return "no node answered in time" if status is None else f"srun ended with status {status}"
