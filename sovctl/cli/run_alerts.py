"""Tells the user of a run what happened to it, beside the supervisor and never in its way."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sovctl.cli import wiring
from sovctl.cli.words import printable
from sovctl.config import load_config
from sovctl.errors import SovctlError
from sovctl.operations.supervisor.live_run import RunPlan
from sovctl.ports.common import Journal

if TYPE_CHECKING:
    from sovctl.operations.send_alerts import AlertSender

_INTERVAL_S = 2.0
_LAST_WORDS_S = 10.0
"""How long the message that a run is held or over may take. Nothing waits for it then; a requeue waits for nothing."""


@contextmanager
def telling(plan: RunPlan, journal: Journal) -> Iterator[None]:
    """Messages about this run go out during the block, where [alerts] names somebody."""
    sender = _sender(plan)
    if sender is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(sender, stop), name="alerts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        with suppress(Exception):
            if _is_over(journal):
                thread.join(_LAST_WORDS_S)
                sender.flush(_LAST_WORDS_S)


def _sender(plan: RunPlan) -> AlertSender | None:
    """A mistake in [alerts] costs messages and nothing else."""
    try:
        config = load_config(plan.environment)
        record = {"run_id": plan.run_id, "job_id": plan.job_id, "name": plan.job_name, "cluster": plan.cluster}
        return wiring.run_alerts(config, plan.run_dir, record, _say)
    except SovctlError as error:
        _say(f"{error.message}; no alerts are sent")
        return None


def _run(sender: AlertSender, stop: threading.Event) -> None:
    with suppress(Exception):
        while not stop.wait(_INTERVAL_S):
            sender.turn()


def _is_over(journal: Journal) -> bool:
    events = journal.events()
    return bool(events) and events[-1].get("kind") in ("held", "run_ended")


def _say(words: str) -> None:
    print(printable(f"sovctl: {words}"), file=sys.stderr, flush=True)
