"""pyslurm in a process of its own: one JSON request a line, one JSON line back. The only place that imports pyslurm.

libslurm ends its process when it cannot find a slurm.conf or cannot make sense of one (`fatal()`), and blocks it, with
the interpreter's lock held, for as long as a controller does not answer. Neither may happen to who asks: slurm_api.py.

usage: python -P -m sovctl.adapters.slurm.api_worker REQUEST_FD ANSWER_FD
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from typing import Any

_RUNNING = 1
"""JOB_RUNNING of slurm.h: slurmctld refuses a job that has ended (`requeue incomplete`; 22.05 to 26.05)."""
_REQUEUE_HOLD = 1 << 12
"""JOB_REQUEUE_HOLD of slurm.h."""


def hello(pyslurm: Any) -> dict[str, str]:
    """The release pyslurm was made for, and that of the controller."""
    return {"pyslurm": pyslurm.__version__, "slurmctld": pyslurm.slurmctld.Config.load().version}


def nodes(pyslurm: Any, names: list[str]) -> list[dict[str, Any]]:
    """The named nodes in Slurm's order, or all."""
    loaded = pyslurm.Nodes.load()
    found = {node.name: node for node in loaded.values()}
    unknown = [name for name in names if name not in found]
    if unknown:
        raise pyslurm.RPCError(msg=f"Node {unknown[0]} not found")
    wanted = set(names) or found.keys()
    return [_node(node) for name, node in found.items() if name in wanted]


def _node(node: Any) -> dict[str, Any]:
    gres = node.configured_gres or {}
    return {
        "name": node.name,
        "state": node.state,
        "reason": node.reason or "",
        "reason_by": node.reason_user or "" if node.reason else "",
        "reason_at": node.reason_time or None if node.reason else None,
        "address": node.address or node.name,
        "port": node.slurmd_port or 6818,
        "gres": ",".join(f"{name}:{count}" for name, count in gres.items()),
        "partitions": node.partitions or [],
        "boot_time": node.boot_time or None,
        "weight": 1 if node.weight is None else node.weight,
    }


def jobs(pyslurm: Any) -> list[dict[str, Any]]:
    """Every job the controller still knows."""
    return [_job(job) for job in pyslurm.Jobs.load().values()]


def _job(job: Any) -> dict[str, Any]:
    return {
        "id": job.id,
        "array": job.array_id or None,
        "task": job.array_task_id,
        "waiting": job.array_tasks_waiting or "",
        "state": job.state,
        "uid": job.user_id,
        "nodes": job.allocated_nodes or "",
        "batch_host": job.batch_host or "",
        "excluded": job.excluded_nodes or "",
        "reason": job.state_reason or "",
    }


def reservations(pyslurm: Any) -> list[dict[str, Any]]:
    """Every reservation the controller knows."""
    over_others = pyslurm.ReservationFlags.MAINTENANCE | pyslurm.ReservationFlags.OVERLAP
    return [
        {
            "name": one.name,
            "nodes": one.nodes or "",
            "begins_at": one.start_time or 0,
            "ends_at": one.end_time or None,
            "over_others": bool(one.flags & over_others),
        }
        for one in pyslurm.Reservations.load().values()
    ]


def update_node(pyslurm: Any, name: str, state: str, reason: str | None) -> None:
    """State and reason of one node."""
    changes = pyslurm.Node(state=state)
    if reason is not None:
        changes.reason = reason
    pyslurm.Node(name).modify(changes)


def requeue(pyslurm: Any, job_id: int, hold: bool) -> None:
    """pyslurm's own requeue has no `incomplete`, without which a cancelled job comes back to life."""
    library = ctypes.CDLL(None)
    flags = _RUNNING | (_REQUEUE_HOLD if hold else 0)
    if library.slurm_requeue(ctypes.c_uint32(job_id), ctypes.c_uint32(flags)) != 0:
        raise pyslurm.RPCError()


_VERBS: dict[str, Callable[..., Any]] = {
    "hello": hello,
    "nodes": nodes,
    "jobs": jobs,
    "reservations": reservations,
    "update_node": update_node,
    "requeue": requeue,
}


def serve(requests: int, answers: int) -> None:
    """Answer until nobody asks any more."""
    # Without this the import itself looks for slurm.conf; so a broken pyslurm is told apart from a missing slurm.conf.
    os.environ["PYSLURM_DISABLE_AUTO_INIT"] = "1"
    try:
        import pyslurm
    except ImportError as error:
        _answer(answers, {"unusable": f"pyslurm cannot be imported: {error}"})
        return
    pyslurm.slurm_init()
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            try:
                told = {"value": _VERBS[request["verb"]](pyslurm, *request["with"])}
            except pyslurm.RPCError as error:
                told = {"refused": str(error)}
            _answer(answers, told)


def _answer(descriptor: int, told: dict[str, Any]) -> None:
    data = json.dumps(told).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
