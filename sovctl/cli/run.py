"""`sovctl run`: your runs, why they moved, and the two things a person does to them."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.listing_words import ListingWords
from sovctl.cli.progress import progress
from sovctl.cli.run_ls import list_runs, names_of, say_problem
from sovctl.cli.tables import add_row, print_table, text_table
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import age, clock_time, folded, print_line, printable, say
from sovctl.errors import EXIT_DONE, RunNotFound
from sovctl.ledger.incident import Incident
from sovctl.ledger.report_json import incident_record
from sovctl.ledger.stamps import stages
from sovctl.model.progress import Progress
from sovctl.operations import runs
from sovctl.operations.runs import Act, KnownRun, RunPorts
from sovctl.recovery.attempts import Attempt, attempts, seconds, text
from sovctl.recovery.event_words import event_words
from sovctl.recovery.exclusion import Exclusion
from sovctl.recovery.explain import Why, Words, duration
from sovctl.recovery.run_state import RunState
from sovctl.recovery.stacks import SCHEMA as STACKS
from sovctl.recovery.stacks import looks_of, stacks_text
from sovctl.recovery.timeline import Timeline

app = typer.Typer(
    help="Your runs: how they stand, why they moved, stop and resume.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[str, typer.Argument(metavar="RUN", help="Job id, run id or directory of the run.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the Slurm command and change nothing.")]
ListFormat = Annotated[
    str, typer.Option("-o", "--format", metavar="FORMAT", help="Fields to show: '%.18i %j', or names: job,state:10.")
]
NoHeader = Annotated[bool, typer.Option("-n", "--noheader", help="No line of headers.")]
Stacks = Annotated[
    bool, typer.Option("--stacks", help="Where every rank stood when the run hung, ranks at the same place together.")
]
StacksOf = Annotated[
    int | None,
    typer.Option("--attempt", metavar="N", help="The end of this attempt, not the last one; also with --stacks."),
]
AttemptNumber = Annotated[
    int | None, typer.Option("--attempt", metavar="N", help="Explain the end of this attempt, not of the newest.")
]


def run(argv: Sequence[str]) -> int:
    """Run `sovctl run ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl run")


@app.command("ls")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Also old ones.")] = False,
    fmt: ListFormat = "",
    noheader: NoHeader = False,
    as_json: Json = False,
) -> int:
    """List your runs, newest first: all that are not over, and the newest 20.

    With -o, as in squeue: %i job, %j name, %T state, %M age, %V submitted, %t attempts, %s step, %D how many nodes,
    %N nodes, %r detail, %I run id, %Z directory; or these names with commas between, such as -o job,state,detail:40.

    Example: sovctl run ls --all
    """
    return list_runs(ListingWords(all_, fmt, noheader, as_json))


@app.command()
def show(name: Run, stacks: Stacks = False, attempt: StacksOf = None, as_json: Json = False) -> int:
    """Show one run: how it stands, how far its ranks are, the nodes it keeps away from, each of its attempts, and the
    newest incident moment by moment.

    Example: sovctl run show 1234
    """
    ports = wiring.run_ports()
    with progress(f"looking at the run {name}"):
        found = _found(name, ports, "show")
    if stacks:
        return _show_stacks(runs.stacks_of(found, ports, attempt), as_json)
    with progress(f"looking at the run {name}"):
        state, ranks, incidents = _looked_at(found, ports)
        excluded = runs.exclusions_of(found, state, ports)
    if as_json:
        record = _show_record(found, state, ranks, incidents)
        print_json("sovctl.run.show/1", {**record, "exclusions": [_exclusion_record(item) for item in excluded]})
        return EXIT_DONE
    _print_head(found, state, ranks)
    _print_exclusions(excluded)
    if found.events:
        _print_attempts(attempts(found.events), ranks)
        _print_incident(incidents, attempt)
    say_problem(state)
    return EXIT_DONE


@app.command()
def why(name: Run, attempt: AttemptNumber = None, as_json: Json = False) -> int:
    """Say in three lines why a run stopped or moved: what happened, what was done, what was lost.

    Example: sovctl run why 1234
    """
    ports = wiring.run_ports()
    with progress(f"looking at the run {name}"):
        found = _found(name, ports, "why")
        # Nobody knows in which zone the JSON is read.
        answer = runs.explain_run(found, Words(wiring.fold_hostlist, UTC if as_json else None), attempt)
        state = runs.state_of(found, ports) if attempt is None and not as_json else None
    if as_json:
        print_json("sovctl.run.why/1", _why_record(found, answer))
        return EXIT_DONE
    for line in answer.lines:
        print(folded(printable(line), 2))
    if state is not None:
        _say_other(found, state)
    return EXIT_DONE


@app.command()
def events(name: Run, as_json: Json = False) -> int:
    """Print the record of a run, one line an event.

    Example: sovctl run events 1234 --json
    """
    with progress(f"looking at the run {name}"):
        found = _found(name, wiring.run_ports(), "events")
    if as_json:
        print_json("sovctl.run.events/1", {**names_of(found), "events": list(found.events)})
        return EXIT_DONE
    for event in found.events:
        at = clock_time(seconds(event, "at"))
        number = event.get("attempt")
        attempt = f"#{number}" if isinstance(number, int) else ""
        words = printable(event_words(event, wiring.fold_hostlist))
        line = f"{at}  {attempt:<3} {printable(text(event, 'kind')):<17} {words}".rstrip()
        print(folded(line, 25))
    if not found.events:
        _say("Nothing is recorded yet: the run has not started.")
    return EXIT_DONE


@app.command()
def stop(name: Run, dry_run: DryRun = False) -> int:
    """Cancel a run, whether it runs, waits or is held. It does not come back.

    Example: sovctl run stop 1234 --dry-run
    """
    ports = wiring.run_ports()
    with progress(f"cancelling the run {name}"):
        act = runs.stop_run(_found(name, ports, "stop"), ports, dry_run=dry_run)
    return _report(act, dry_run)


@app.command()
def resume(name: Run, dry_run: DryRun = False) -> int:
    """Let a held run go on from its newest complete checkpoint.

    Example: sovctl run resume 1234
    """
    ports = wiring.run_ports()
    with progress(f"letting the run {name} go on") as waiting:
        act = runs.resume_run(_found(name, ports, "resume"), ports, dry_run=dry_run, say=waiting.beside(_say))
    return _report(act, dry_run)


def _found(name: str, ports: RunPorts, verb: str) -> KnownRun:
    try:
        return runs.find_run(name, ports, _here(), f"sovctl run {verb}")
    except RunNotFound as error:
        if os.geteuid() == 0 and name.replace("_", "", 1).isdecimal():  # root's list knows only root's runs
            error.hint = (
                f"A run of another user is named by its directory: sovctl run {verb} "
                f"WORKDIR/.sovctl/runs/CLUSTER-{name.partition('_')[0]}-...; your own are listed by `sovctl run ls`"
            )
        raise


def _show_stacks(record: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(STACKS, {key: value for key, value in record.items() if key != "schema"})
        return EXIT_DONE
    print(f"attempt {record.get('attempt')}, {clock_time(seconds(record, 'at'))}")
    silent = [name for name in record.get("silent", ()) if isinstance(name, str)]
    for line in stacks_text(looks_of(record), silent).splitlines():
        print(printable(line))
    return EXIT_DONE


def _looked_at(found: KnownRun, ports: RunPorts) -> tuple[RunState, Sequence[Progress], Sequence[Incident]]:
    return runs.state_of(found, ports), runs.progress_of(found, ports), runs.incidents_of(found, ports)


def _here() -> str:
    return str(Path.cwd())


def _say(line: str) -> None:
    say(line)


def _report(act: Act, dry_run: bool) -> int:
    if dry_run:
        for command in act.commands:
            print(shlex.join(command))
    if not dry_run or not act.commands:
        _say(act.said)
    return EXIT_DONE


def _say_other(run_: KnownRun, state: RunState) -> None:
    """The three lines are from the record; where Slurm knows better, say so."""
    if state.detail:
        _say(f"sovctl: now {state.word}: {state.detail}")
    elif not run_.events and not state.problem:
        _say(f"sovctl: now {state.word}")


# JSON


def _show_record(
    run_: KnownRun, state: RunState, progress: Sequence[Progress], incidents: Sequence[Incident]
) -> dict[str, Any]:
    return {
        **names_of(run_),
        "name": run_.name,
        "run_dir": run_.run_dir or None,
        "work_dir": text(run_.record, "work_dir") or None,
        "checkpoint_dir": run_.checkpoint_dir or None,
        "submitted": run_.submitted or None,
        "state": asdict(state),
        "attempts": [_attempt_record(item) for item in attempts(run_.events)],
        "incidents": [incident_record(item) for item in incidents],
        "ranks": [{**asdict(item), "loss": _finite(item.loss)} for item in progress],
    }


def _exclusion_record(item: Exclusion) -> dict[str, Any]:
    return {
        "node": item.node,
        "since": item.since,
        "until": item.until,
        "reason": item.evidence,
        "suspected": item.suspected,
    }


def _finite(value: float | None) -> float | str | None:
    """JSON has no word for a loss that is no number."""
    return value if value is None or math.isfinite(value) else str(value)


def _attempt_record(item: Attempt) -> dict[str, Any]:
    record = asdict(item)
    record["attempt"] = record.pop("number")
    return record


def _why_record(run_: KnownRun, answer: Why) -> dict[str, Any]:
    stop_, found = answer.stop, answer.timeline
    return {
        **names_of(run_),
        "story": answer.story.value,
        "lines": list(answer.lines),
        "culprit": stop_.culprit.value if stop_ else None,
        "blamed": list(stop_.blamed) if stop_ else [],
        "evidence": stop_.evidence if stop_ else None,
        "confidence": stop_.confidence or None if stop_ else None,
        "action": stop_.action if stop_ else None,
        "recovery": _timeline_record(found) if found else None,
    }


def _timeline_record(found: Timeline) -> dict[str, Any]:
    return {
        "attempt": found.stopped.number,
        "next_attempt": found.resumed.number if found.resumed else None,
        "excluded": list(found.excluded),
        "resumed_from": found.resumed.resume_from if found.resumed else None,
        "resume_step": found.resume_step,
        "last_step": found.last_step,
        "steps_lost": found.steps_lost,
        "restart_seconds": found.restart_s,
        "total_seconds": found.total_s,
        "stages": [asdict(stage) for stage in found.stages],
    }


# For people


def _print_head(run_: KnownRun, state: RunState, progress: Sequence[Progress]) -> None:
    lines = [
        ("run", f"{run_.run_id or 'not started yet'}  job {run_.job_id}  {run_.name}"),
        ("state", state.word + (f": {state.detail}" if state.detail else "")),
        ("submitted", clock_time(run_.submitted or None)),
        ("record", run_.run_dir or "none yet"),
        ("checkpoints", run_.checkpoint_dir or "not recorded"),
    ]
    if progress:
        lines.append(("ranks", _ranks(progress)))
    for name, value in lines:
        line = f"{name + ':':<13}{printable(value)}"
        print(folded(line, 13) if name in ("state", "ranks") else line)


def _print_exclusions(known: Sequence[Exclusion]) -> None:
    """What the run keeps away from, and until when."""
    if not known:
        return
    table = text_table("EXCLUDED", "SINCE", "UNTIL", "REASON", folded=("REASON",))
    for item in known:
        add_row(table, (item.node, clock_time(item.since), clock_time(item.until), item.evidence or "-"))
    print(flush=True)
    print_table(table)


def _ranks(progress: Sequence[Progress]) -> str:
    steps = [item.step for item in progress if item.step is not None]
    first = progress[0]
    parts = [f"{len(progress)} of attempt {first.attempt}"]
    if steps:
        parts.append(f"step {max(steps)}" if min(steps) == max(steps) else f"steps {min(steps)} to {max(steps)}")
    if first.loss is not None:
        parts.append(f"loss {first.loss:.6g}")
    if first.step_seconds is not None:
        parts.append(f"{first.step_seconds:.3g} s a step")
    if first.saved_step is not None:
        parts.append(f"saved step {first.saved_step}")
    return ", ".join([*parts, first.phase.value])


def _print_attempts(known: Sequence[Attempt], progress: Sequence[Progress]) -> None:
    table = text_table("#", "STARTED", "RAN", "FROM", "TO", "CULPRIT", "BLAMED", "NODES", folded=("BLAMED", "NODES"))
    now = time.time()
    reached = max((item.step for item in progress if item.step is not None), default=None)
    for item in known:
        stop_ = item.stop
        step = stop_.step if stop_ else reached
        cells = (
            str(item.number),
            clock_time(item.started_at),
            _ran(item, now),
            "-" if item.resume_step is None else str(item.resume_step),
            "-" if step is None else str(step),
            stop_.culprit.value if stop_ else "-",
            wiring.fold_hostlist(stop_.blamed) if stop_ and stop_.blamed else "-",
            wiring.fold_hostlist(item.nodes),
        )
        add_row(table, cells)
    print(flush=True)
    print_table(table)


_BAR = 24


def _print_incident(incidents: Sequence[Incident], attempt: int | None) -> None:
    """The newest incident, or that of an attempt, from the fault to the step at which it had caught up."""
    chosen = [item for item in incidents if attempt is None or item.attempt == attempt]
    if not chosen:
        return
    item = chosen[-1]
    blamed = f" {wiring.fold_hostlist(item.nodes)}" if item.nodes else ""
    code = f" {item.code}" if item.code else ""
    print()
    print_line(f"incident of attempt {item.attempt}: {item.culprit.value}{blamed}{code}, {item.outcome.value}")
    known = [stage for stage in stages(item.stamps) if stage.at is not None]
    most = max((stage.since_previous_s or 0.0 for stage in known), default=0.0) or 1.0
    table = text_table("STAGE", "AT", "TOOK", "AFTER", "")
    for stage in known:
        took = stage.since_previous_s
        cells = (
            stage.stamp.value,
            clock_time(stage.at)[11:],
            "-" if took is None else duration(took),
            "-" if stage.since_start_s is None else duration(stage.since_start_s),
            "=" * round((took or 0.0) / most * _BAR),
        )
        add_row(table, cells)
    print(flush=True)
    print_table(table)
    print_line(f"lost: {_lost(item)}")


def _lost(item: Incident) -> str:
    steps = "steps not recorded" if item.steps_lost is None else f"{item.steps_lost} steps done again"
    if item.lost_s is None:
        return steps
    gpus = "" if item.gpu_seconds_lost is None else f", {item.gpu_seconds_lost / 3600:.3g} GPU-hours"
    return f"{steps}, {duration(item.lost_s)} until it had caught up{gpus}"


def _ran(item: Attempt, now: float) -> str:
    if item.started_at is None or (item.stop and item.stop.at is None):
        return "-"
    until = item.stop.at if item.stop and item.stop.at is not None else now
    return age(until - item.started_at)
