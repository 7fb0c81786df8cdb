"""`sovctl run ls`. No typer: people type this all day."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.listing_words import ListingWords, listing_words
from sovctl.cli.progress import progress
from sovctl.cli.tables import Column, print_listing
from sovctl.cli.words import age, clock_time, say
from sovctl.errors import EXIT_DONE
from sovctl.operations import runs
from sovctl.operations.runs import KnownRun, ListedRun
from sovctl.recovery.run_digest import RunDigest
from sovctl.recovery.run_state import RunState


def run(argv: Sequence[str]) -> int | None:
    """Run `sovctl run ls ARGV` if it is plainly that; else None."""
    words = listing_words(argv)
    return None if words is None else list_runs(words)


def list_runs(words: ListingWords) -> int:
    """Print the list."""
    gc.disable()  # one pass and out: there is nothing to collect among a thousand records
    ports, here = wiring.run_ports(), os.getcwd()  # noqa: PTH109 - text is wanted
    with progress("asking slurmctld and reading the records"):
        shown, older = (runs.list_runs(ports, here), 0) if words.everything else runs.recent_runs(ports, here)
    if words.as_json:
        print_json("sovctl.runs/1", {"runs": [_record(item) for item in shown]})
        return EXIT_DONE
    print_listing(shown, _COLUMNS, "ijTMtsNr", words.format, header=not words.noheader)
    if not shown:
        _say("There is no run of yours yet: start one with `sovctl submit SCRIPT`.")
    if older:
        _say(f"{older} older ones: sovctl run ls --all")
    say_problem(next((item.state for item in shown if item.state.problem and not item.run.remote), None))
    return EXIT_DONE


def names_of(run_: KnownRun) -> dict[str, Any]:
    """How JSON names a run."""
    return {"run_id": run_.run_id or None, "job_id": run_.job_id}


def say_problem(state: RunState | None) -> None:
    """That Slurm could not be asked."""
    if state is not None and state.problem:
        _say(f"sovctl: {state.problem}; this is what the runs' own records say")


def _say(line: str) -> None:
    say(line)


def _step(digest: RunDigest) -> str:
    return "-" if digest.step is None else str(digest.step)


def _nodes(item: ListedRun) -> tuple[str, ...]:
    """Where it runs or ran last; none of a run that is over."""
    return () if item.state.over else item.digest.nodes


def _age(run_: KnownRun) -> str:
    return age(time.time() - run_.submitted) if run_.submitted else "-"


def _detail(item: ListedRun) -> str:
    return item.state.detail or (item.state.problem if item.run.remote else "")


_COLUMNS = (
    Column("i", "job", "JOB", lambda item: item.run.job_id),
    Column("j", "name", "NAME", lambda item: item.run.name or "-"),
    Column("T", "state", "STATE", lambda item: item.state.word),
    Column("M", "age", "AGE", lambda item: _age(item.run)),
    Column("V", "submitted", "SUBMITTED", lambda item: clock_time(item.run.submitted or None)),
    Column("t", "attempts", "TRIES", lambda item: str(item.digest.attempts)),
    Column("s", "step", "STEP", lambda item: _step(item.digest)),
    Column("D", "count", "COUNT", lambda item: str(len(_nodes(item)))),
    Column("N", "nodes", "NODES", lambda item: wiring.fold_hostlist(_nodes(item)) or "-", folded=True),
    Column("r", "detail", "DETAIL", _detail, folded=True),
    Column("I", "run_id", "RUN ID", lambda item: item.run.run_id or "-"),
    Column("Z", "directory", "DIRECTORY", lambda item: item.run.run_dir or "-", folded=True),
)


def _record(item: ListedRun) -> dict[str, Any]:
    run_ = item.run
    return {
        **names_of(run_),
        "name": run_.name,
        "run_dir": run_.run_dir or None,
        "submitted": run_.submitted or None,
        "state": asdict(item.state),
        "attempts": item.digest.attempts,
        "nodes": list(item.digest.nodes),
        "step": item.digest.step,
    }
