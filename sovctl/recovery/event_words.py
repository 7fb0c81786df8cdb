"""One line a person reads for each event of a run. Pure; whoever prints it escapes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from sovctl.recovery.attempts import Event, names, text, whole

Fold = Callable[[Iterable[str]], str]
_SHOWN_APART = frozenset({"seq", "at", "kind", "attempt", "happened"})


def event_words(event: Event, fold: Fold = ",".join) -> str:
    """What it says beyond its kind; of a kind not known here every field as it stands."""
    tell = _TELLERS.get(text(event, "kind"))
    return tell(event, fold) if tell is not None else _fields(event)


def _fields(event: Event) -> str:
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for key, value in event.items()
        if key not in _SHOWN_APART and value not in ("", None, [])
    )


def _started(event: Event, fold: Fold) -> str:
    words = f"on {fold(names(event, 'nodes'))}"
    resume = text(event, "resume_from")
    words += f", from step {whole(event, 'resume_step')} of {resume}" if resume else ", from the start"
    excluded = names(event, "excluded")
    return words + (f", away from {fold(excluded)}" if excluded else "")


def _ended(event: Event, _fold: Fold) -> str:
    step = whole(event, "step")
    at = f" at step {step}" if step is not None else ""
    words = f"{text(event, 'culprit')}{at}: {text(event, 'evidence')}"
    return f"{words} -> {text(event, 'action')}: {text(event, 'why')}"


def _requeued(event: Event, fold: Fold) -> str:
    excluded, given_up = names(event, "exclude"), names(event, "given_up")
    words = f"without {fold(excluded)}" if excluded else "with no node excluded"
    words += f"; allowed again: {fold(given_up)}" if given_up else ""
    short = text(event, "short")
    return words + (f"; it waits: {short}" if short else "")


def _restarted(event: Event, fold: Fold) -> str:
    dropped = names(event, "dropped")
    words = f"{text(event, 'how')} on {fold(names(event, 'nodes'))}"
    return words + (f", {fold(dropped)} dropped from the job" if dropped else "")


def _step(event: Event, _fold: Fold) -> str:
    step = whole(event, "step")
    return f"step {step}" if step is not None else ""


def _run_ended(event: Event, _fold: Fold) -> str:
    because = text(event, "why")
    return text(event, "outcome") + (f": {because}" if because else "")


_TELLERS: dict[str, Callable[[Event, Fold], str]] = {
    "attempt_started": _started,
    "attempt_ended": _ended,
    "detected": lambda event, _fold: text(event, "evidence"),
    "requeue_intent": lambda event, _fold: text(event, "because"),
    "requeued": _requeued,
    "out_of_service": lambda event, fold: fold(names(event, "nodes")),
    "lapsed": lambda event, fold: f"{fold(names(event, 'nodes'))}: blamed so long ago that it may be tried again",
    "forgiven": lambda event, fold: f"{fold(names(event, 'nodes'))}: {text(event, 'why')}",
    "restart_intent": lambda event, _fold: f"{text(event, 'how')}: {text(event, 'because')}",
    "restarted": _restarted,
    "restart_refused": lambda event, _fold: f"{text(event, 'how')} was not to be had; requeue instead",
    "site_checked": lambda event, _fold: (
        f"the site checked {text(event, 'node')}, {text(event, 'state')}: {text(event, 'evidence')}"
    ),
    "spare_lost": lambda event, fold: f"{fold(names(event, 'nodes'))}: {text(event, 'evidence')}",
    "hold_intent": lambda event, _fold: text(event, "why"),
    "held": lambda event, _fold: text(event, "why"),
    "run_ended": _run_ended,
    "run_reopened": lambda _event, _fold: "somebody requeued it after its end",
    "misplaced": lambda event, fold: f"on {fold(names(event, 'nodes'))}: {text(event, 'why')}",
    "rank_up": lambda event, _fold: f"rank {whole(event, 'rank')} on {text(event, 'node')}",
    "survivors_ended": lambda event, _fold: (
        f"what was left of step {whole(event, 'step')} after one of its ranks failed, and outlived SIGTERM"
    ),
    "checkpoint_loaded": _step,
    "first_step": _step,
    "checkpoint_saved": _step,
    "command_refused": lambda event, _fold: text(event, "detail"),
    "slurm_silent": lambda event, _fold: text(event, "detail"),
    "requeue_asked": lambda event, _fold: f"scontrol {text(event, 'command')}, by the script itself",
    "stop_asked": lambda event, _fold: text(event, "why"),
}
