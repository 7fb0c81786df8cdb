"""Writes a run's events the way the supervisor does, with times in seconds after a fixed moment."""

from __future__ import annotations

from typing import Any

T0 = 1795385600.0
"""2026-11-22 22:13:20 UTC."""
NODES = ["n001", "n002", "n003", "n005"]
XID = "n003: XID79 GPU 5 at 0000:64:00 fell off the bus"
CRASH = "the script ended with status 1 at step 57 and no node shows a fault: ValueError: bad batch N"
RECORD = {"job_id": "34", "checkpoint_dir": "/w/ck"}


class Record:
    """Events one after the other; every method is one event."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, at: float, kind: str, **fields: Any) -> Record:
        self.events.append({"seq": len(self.events) + 1, "at": T0 + at, "kind": kind, **fields})
        return self

    def started(self, at: float, attempt: int, resume: int = 0, nodes: list[str] | None = None) -> Record:
        path = f"/w/ck/step-{resume}" if resume else ""
        return self.add(
            at,
            "attempt_started",
            attempt=attempt,
            job_id="34",
            restarts=attempt,
            nodes=NODES if nodes is None else nodes,
            batch_host="n001",
            resume_from=path,
            resume_step=resume,
            excluded=[],
        )

    def steps(self, at: float, attempt: int, loaded: int | None = None) -> Record:
        """The ranks come up: seen by the journal half a second after it happened."""
        self.add(at + 0.5, "rank_up", attempt=attempt, happened=T0 + at, rank=0, node="n001")
        if loaded is not None:
            self.add(at + 1.5, "checkpoint_loaded", attempt=attempt, happened=T0 + at + 1, step=loaded)
        step = (loaded or 0) + 1
        return self.add(at + 2.5, "first_step", attempt=attempt, happened=T0 + at + 2, step=step)

    def saved(self, at: float, attempt: int, step: int) -> Record:
        return self.add(at, "checkpoint_saved", attempt=attempt, step=step, happened=T0 + at)

    def ended(self, at: float, attempt: int, culprit: str, evidence: str = "", **fields: Any) -> Record:
        checkpoint = fields.pop("checkpoint_step", 0)
        return self.add(
            at,
            "attempt_ended",
            **{
                "attempt": attempt,
                "culprit": culprit,
                "blamed": [],
                "evidence": evidence,
                "signature": "",
                "step": None,
                "checkpoint": f"/w/ck/step-{checkpoint}" if checkpoint else "",
                "checkpoint_step": checkpoint,
                "action": "requeue",
                "why": "",
                "exit_status": None,
                **fields,
            },
        )

    def faulted(self, at: float, attempt: int, *, step: int | None = 47, checkpoint_step: int = 40) -> Record:
        """A GPU of n003 dies; seen, judged, and the requeue begun."""
        self.add(at, "detected", attempt=attempt, nodes=["n003"], evidence=XID)
        fields = {"blamed": ["n003"], "step": step, "checkpoint_step": checkpoint_step}
        self.ended(at + 0.01, attempt, "hardware", XID, **fields, why="run on without n003")
        return self.add(at + 0.2, "requeue_intent", attempt=attempt, exclude=["n003"], because=XID)

    def requeued(self, at: float, attempt: int, *exclude: str, given_up: tuple[str, ...] = ()) -> Record:
        return self.add(at, "requeued", attempt=attempt, exclude=list(exclude), given_up=list(given_up), begin=1)

    def crashed(self, at: float, attempt: int, action: str = "requeue", why: str = "try once more") -> Record:
        fields = {"signature": "ended with status 1|ValueError", "step": 57, "action": action, "why": why}
        return self.ended(at, attempt, "user-code", CRASH, checkpoint_step=40, exit_status=1, **fields)


def recovered() -> Record:
    """A GPU dies at second 83.0; the script runs again 3.9 s later and steps 7 s after it."""
    run = Record().started(0, 0).steps(2, 0).saved(60, 0, 40).faulted(83, 0).requeued(84.5, 0, "n003")
    return run.started(86.9, 1, 40, ["n001", "n002", "n005", "n006"]).steps(88, 1, loaded=40)


def lost_with_its_host(**end: Any) -> Record:
    """The batch host dies at second 85 with the supervisor; the next attempt writes down the end."""
    run = Record().started(0, 0).steps(2, 0).saved(60, 0, 40)
    fields = {"blamed": ["n001"], "step": 47, "checkpoint_step": 40, **end}
    run.ended(200, 0, "hardware", "n001: NODE_DEAD slurmd silent 3 s", **fields)
    return run.started(200.1, 1, 40, ["n002", "n003", "n005", "n006"]).steps(202, 1, loaded=40)
