"""`sovctl run ls`. No typer: people type this all day."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from sovctl.recovery.attempts import Attempt, newest_attempt
from sovctl.recovery.run_state import RunState
from sovctl.recovery.timeline import step_reached


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
    rows = [_Row(item, *newest_attempt(item.run.events)) for item in shown]
    if words.as_json:
        print_json("sovctl.runs/1", {"runs": [_record(row) for row in rows]})
        return EXIT_DONE
    print_listing(rows, _COLUMNS, "ijTMtsNr", words.format, header=not words.noheader)
    if not rows:
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


@dataclass(frozen=True, slots=True)
class _Row:
    item: ListedRun
    tries: int
    last: Attempt | None

    @property
    def step(self) -> str:
        step = step_reached(self.last) if self.last else None
        return "-" if step is None else str(step)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where it runs or ran last; none of a run that is over."""
        return self.last.nodes if self.last and not self.item.state.over else ()

    @property
    def age(self) -> str:
        submitted = self.item.run.submitted
        return age(time.time() - submitted) if submitted else "-"

    @property
    def detail(self) -> str:
        return self.item.state.detail or (self.item.state.problem if self.item.run.remote else "")


_COLUMNS = (
    Column("i", "job", "JOB", lambda row: row.item.run.job_id),
    Column("j", "name", "NAME", lambda row: row.item.run.name or "-"),
    Column("T", "state", "STATE", lambda row: row.item.state.word),
    Column("M", "age", "AGE", lambda row: row.age),
    Column("V", "submitted", "SUBMITTED", lambda row: clock_time(row.item.run.submitted or None)),
    Column("t", "attempts", "TRIES", lambda row: str(row.tries)),
    Column("s", "step", "STEP", lambda row: row.step),
    Column("D", "count", "COUNT", lambda row: str(len(row.nodes))),
    Column("N", "nodes", "NODES", lambda row: wiring.fold_hostlist(row.nodes) or "-", folded=True),
    Column("r", "detail", "DETAIL", lambda row: row.detail, folded=True),
    Column("I", "run_id", "RUN ID", lambda row: row.item.run.run_id or "-"),
    Column("Z", "directory", "DIRECTORY", lambda row: row.item.run.run_dir or "-", folded=True),
)


def _record(row: _Row) -> dict[str, Any]:
    item, last = row.item, row.last
    run_ = item.run
    return {
        **names_of(run_),
        "name": run_.name,
        "run_dir": run_.run_dir or None,
        "submitted": run_.submitted or None,
        "state": asdict(item.state),
        "attempts": row.tries,
        "nodes": list(last.nodes) if last else [],
        "step": step_reached(last) if last else None,
    }
