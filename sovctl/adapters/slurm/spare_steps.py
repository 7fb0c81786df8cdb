"""Keeps the steps of a run's script off its spares: each spare has a step of the supervisor's own on it.

The script sees an allocation without the spares (sovctl.recovery.allocation_view), slurmctld sees them all. For a step
of N nodes it takes nodes on which no step runs before others (`_pick_step_nodes` in step_mgr.c, 22.05 to 26.05) and,
from 24.11 on, begins behind the last node of the step before (`next_step_node_inx`): `srun A; srun B` gets B on spares.
A step without --overlap and --exact holds every CPU of its node, and where none is left no other step goes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sovctl.adapters.command import Child, spawn
from sovctl.adapters.slurm.job_look import without_slurm_options
from sovctl.errors import CommandMissing

_BEGIN_S = 4.0
"""How long the steps may take to begin. The script starts without those that do not: they serve its order only."""
_END_S = 2.0
"""How long a step may take to end."""
_LOOK_S = 0.02
# A signal to every step of the job (`--signal=USR1@120`, `scancel --signal`) is meant for the script's.
_HOLD = "trap '' HUP INT QUIT USR1 USR2; echo held; exec sleep infinity"


class SrunHold:
    """ports.SpareHold by one srun a spare: one that is dead is in nobody's way."""

    def __init__(self, job_id: str, env: Mapping[str, str], *, bin_dir: str = "", begin_s: float = _BEGIN_S) -> None:
        """`job_id`: SLURM_JOB_ID, also for a task of an array; `env`: the supervisor's environment."""
        self._job_id = job_id
        self._env = without_slurm_options(env)
        self._srun = str(Path(bin_dir) / "srun") if bin_dir else "srun"
        self._begin_s = begin_s
        self._held: dict[str, Child] = {}

    def hold(self, nodes: Sequence[str]) -> None:
        """Hold exactly these nodes, anew. Returns when all are held, at the latest after `begin_s`; raises nothing."""
        # A recovery killed every step of the job; that a srun still lives does not mean that its step does.
        for node in self.release():
            self._held.pop(node).kill_group()
        if not nodes:
            return
        # A file without a name; the sruns share its offset.
        output = os.memfd_create("sovctl-spares")
        try:
            for node in nodes:
                self._held[node] = spawn(self._command(node), env=self._env, stdout=output)
            self._await(output)
        except CommandMissing:
            return
        finally:
            os.close(output)

    def release(self, nodes: Sequence[str] | None = None) -> tuple[str, ...]:
        """End the steps on these nodes, or on all; returns nodes whose step did not end.

        By their srun, which collects them: a slurmstepd whose srun is gone repeats its report for 4 s, and the job
        cannot leave the node meanwhile."""
        going = {node: child for node, child in self._held.items() if nodes is None or node in nodes}
        for child in going.values():
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + _END_S
        ended = [node for node, child in going.items() if _waited(child, deadline)]
        for node in ended:
            del self._held[node]
        return tuple(node for node in going if node in self._held)

    def _await(self, output: int) -> None:
        deadline = time.monotonic() + self._begin_s
        while time.monotonic() < deadline:
            waiting = sum(child.poll() is None for child in self._held.values())
            if os.pread(output, 64 * 1024, 0).count(b"held\n") >= waiting:
                return
            time.sleep(_LOOK_S)

    def _command(self, node: str) -> list[str]:
        return [
            *(self._srun, f"--jobid={self._job_id}", f"--nodelist={node}", "--nodes=1", "--ntasks=1"),
            *("--mem=0", "--gres=none", "--cpu-bind=none", "--mpi=none", "--kill-on-bad-exit=0", "--no-kill"),
            *("--input=none", "--immediate=4", "--quiet", "--job-name=sovctl-spare", "--chdir=/"),
            *("/bin/sh", "-c", _HOLD),
        ]


def _waited(child: Child, deadline: float) -> bool:
    return child.wait(max(0.0, deadline - time.monotonic())) is not None
