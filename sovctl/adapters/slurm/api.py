"""Slurm through pyslurm where it fits: the whole cluster's nodes and jobs without a process a question.

pyslurm runs in a process of its own (slurm_api_worker.py), asked with a deadline. Whatever goes wrong there but Slurm's
own answer (not installed, another release, ended, silent), the command does the work: `SlurmCli` is always complete.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.command import Child, CommandRunner, Completed, spawn
from sovctl.adapters.slurm import parse
from sovctl.adapters.slurm.cli import SlurmCli, slurm_error
from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.reservation import Reservation

_CONF = Path("/etc/slurm/slurm.conf")


class ApiUnusable(Exception):
    """pyslurm cannot answer here, now or ever; never leaves this module."""


class SlurmApi(SlurmCli):
    """Implements the same ports as SlurmCli. By pyslurm: nodes, jobs, reservations, drain, down, resume, requeue. By
    command: all else, also one job's record, of which pyslurm 25.11 does not tell whether the job may be expedited."""

    def __init__(
        self, runner: CommandRunner, *, bin_dir: str = "", timeout_s: float = 15.0, python: str = sys.executable
    ) -> None:
        super().__init__(runner, bin_dir=bin_dir, timeout_s=timeout_s)
        self._worker = _Worker(runner, python)
        self._patience_s = timeout_s

    @property
    def unusable(self) -> str:
        """Why pyslurm is not used; empty while it is. Asks it when nobody did."""
        with suppress(ApiUnusable):
            self._worker.ready(self._patience_s)
        return self._worker.unusable

    @property
    def answered(self) -> int:
        """How many answers came from pyslurm and not from a command."""
        return self._worker.answered

    def close(self) -> None:
        """End the process of pyslurm."""
        self._worker.stop()

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        """The named nodes, or all."""
        try:
            told = self._ask("nodes", list(names))
        except ApiUnusable:
            return super().nodes(names)
        return tuple(_node(record) for record in told)

    def jobs(self) -> tuple[JobView, ...]:
        """Every active job, each task of an array on its own."""
        try:
            told = self._ask("jobs")
        except ApiUnusable:
            return super().jobs()
        return tuple(job for record in told for job in _jobs(record) if _active(job))

    def jobs_on(self, nodes: Sequence[str]) -> tuple[JobView, ...]:
        """Active jobs that hold any of these nodes."""
        wanted = set(nodes)
        return tuple(job for job in self.jobs() if not wanted.isdisjoint(job.nodes))

    def reservations(self) -> tuple[Reservation, ...]:
        """Every reservation, also those that have not begun."""
        try:
            told = self._ask("reservations")
        except ApiUnusable:
            return super().reservations()
        return tuple(Reservation(**one | {"nodes": parse.expand(one["nodes"])}) for one in told)

    def own_jobs(self) -> tuple[JobView, ...]:
        """The caller's jobs that Slurm still knows."""
        try:
            told = self._ask("jobs")
        except ApiUnusable:
            return super().own_jobs()
        return tuple(job for record in told if record["uid"] == os.getuid() for job in _jobs(record))

    def drain(self, node: str, reason: str) -> None:
        """No new work on this node; what runs goes on."""
        self._update_node(node, "DRAIN", reason)

    def set_down(self, node: str, reason: str) -> None:
        """Declare a node dead."""
        self._update_node(node, "DOWN", reason)

    def resume(self, node: str) -> None:
        """Give a node back."""
        try:
            self._ask("update_node", node, "RESUME", None, about=f"node {node}")
        except ApiUnusable:
            super().resume(node)

    def requeue(self, job_id: str, *, hold: bool = False) -> None:
        """Requeue a running job; slurmctld itself refuses one that was cancelled meanwhile."""
        if not job_id.isdecimal():
            # One task of an array: only the command takes `120_4`.
            super().requeue(job_id, hold=hold)
            return
        try:
            self._ask("requeue", int(job_id), hold, about=job_id)
        except ApiUnusable:
            super().requeue(job_id, hold=hold)

    def _update_node(self, node: str, state: str, reason: str) -> None:
        try:
            self._ask("update_node", node, state, reason, about=f"node {node}")
        except ApiUnusable:
            # Asking twice does no harm: the same state for the same reason.
            (super().drain if state == "DRAIN" else super().set_down)(node, reason)

    def _ask(self, verb: str, *arguments: Any, about: str = "") -> Any:
        self._worker.ready(self._patience_s)
        told = self._worker.ask(verb, arguments, self._patience_s)
        if "refused" in told:
            raise slurm_error(["pyslurm", verb], Completed(1, "", told["refused"]), about)
        return told["value"]


class _Worker:
    """The process in which pyslurm lives; started when first asked, and again after it ended."""

    def __init__(self, runner: CommandRunner, python: str) -> None:
        self._runner = runner
        self._python = python
        self._child: Child | None = None
        self._requests = self._answers = -1
        self.unusable = ""
        self.answered = 0

    def ready(self, patience_s: float) -> None:
        """Raises ApiUnusable where pyslurm must not be used; a release that does not fit is not tried again."""
        if self.unusable:
            raise ApiUnusable(self.unusable)
        if self._child is not None and self._child.poll() is None:
            return
        self.stop()
        conf = Path(self._runner.variable("SLURM_CONF") or _CONF)
        if not conf.is_file():
            # libslurm would look for one in the DNS, then end the process.
            raise ApiUnusable(f"there is no {conf}")
        self._start()
        told = self.ask("hello", (), patience_s)
        if "value" not in told:
            raise ApiUnusable(told.get("refused", ""))
        self._must_fit(**told["value"])

    def ask(self, verb: str, arguments: Sequence[Any], patience_s: float) -> Mapping[str, Any]:
        """One answer. Raises ApiUnusable when the process ends or says nothing in time; it is then ended."""
        request = json.dumps({"verb": verb, "with": arguments}).encode() + b"\n"
        try:
            os.write(self._requests, request)
            told = json.loads(self._line(time.monotonic() + patience_s))
        except (OSError, ValueError) as error:
            self.stop()
            raise ApiUnusable(f"pyslurm gave no answer: {error}") from None
        if not isinstance(told, dict):
            self.stop()
            raise ApiUnusable("pyslurm gave an answer that is none")
        if "unusable" in told:
            self._never(told["unusable"])
        self.answered += 1
        return told

    def stop(self) -> None:
        """End the process and forget it."""
        for descriptor in (self._requests, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._requests = self._answers = -1
        if self._child is not None:
            self._child.kill_group()
            self._child.wait(1.0)
        self._child = None

    def _start(self) -> None:
        theirs, self._requests = os.pipe()
        self._answers, answer = os.pipe()
        argv = [self._python, "-P", "-m", "sovctl.adapters.slurm.api_worker", str(theirs), str(answer)]
        try:
            # What libslurm has to say about its end is said by the command that then does the work.
            with open(os.devnull, "wb") as nowhere:
                self._child = spawn(
                    argv, env=self._runner.environment(), stdout=nowhere.fileno(), pass_fds=(theirs, answer)
                )
        finally:
            os.close(theirs)
            os.close(answer)

    def _line(self, deadline: float) -> bytes:
        data = bytearray()
        poller = select.poll()
        poller.register(self._answers, select.POLLIN | select.POLLHUP)
        while not data.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                raise OSError("it was silent for too long")
            chunk = os.read(self._answers, 1 << 20)
            if not chunk:
                raise OSError("its process ended")
            data += chunk
        return bytes(data)

    def _must_fit(self, pyslurm: str, slurmctld: str) -> None:
        """One pyslurm speaks the language of one release: 25.11.2 is for Slurm 25.11."""
        if pyslurm.split(".")[:2] != slurmctld.split(".")[:2]:
            self._never(f"pyslurm {pyslurm} does not fit Slurm {slurmctld}")

    def _never(self, why: str) -> None:
        self.stop()
        self.unusable = why
        raise ApiUnusable(why)


def _node(record: Mapping[str, Any]) -> NodeView:
    """A node as scontrol's record would tell it."""
    return NodeView(
        name=record["name"],
        state=parse.parse_node_state(record["state"]),
        reason=record["reason"],
        reason_by=record["reason_by"],
        reason_at=record["reason_at"],
        address=record["address"],
        port=record["port"],
        gres=record["gres"],
        partitions=tuple(record["partitions"]),
        boot_time=record["boot_time"],
        weight=record["weight"],
    )


def _jobs(record: Mapping[str, Any]) -> list[JobView]:
    """The job, or every waiting task of an array that Slurm keeps in one record, as `squeue -r` prints them."""
    state, *flags = parse.parse_job_state(record["state"])
    return [
        JobView(
            job_id=job_id,
            name="",
            user="",
            uid=record["uid"],
            state=state,
            flags=frozenset(flags),
            nodes=parse.expand(record["nodes"]),
            batch_host=record["batch_host"],
            excluded=parse.expand(record["excluded"]),
            reason="" if record["reason"] == "None" else record["reason"],
        )
        for job_id in _job_ids(record)
    ]


def _job_ids(record: Mapping[str, Any]) -> list[str]:
    array = record["array"]
    if not array:
        return [str(record["id"])]
    if record["task"] is not None:
        return [f"{array}_{record['task']}"]
    from ClusterShell.RangeSet import RangeSet, RangeSetException

    try:
        return [f"{array}_{task}" for task in RangeSet(record["waiting"])]
    except RangeSetException:
        return [str(record["id"])]


def _active(job: JobView) -> bool:
    return not job.over or job.completing
