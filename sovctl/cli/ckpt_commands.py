"""The commands of `sovctl ckpt`: which checkpoints there are, which can be trusted, and what to do with the others."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sovctl.checkpoint.formats.registry import AUTO
from sovctl.checkpoint.prove import QUIET_S, Terms
from sovctl.cli.ckpt import default_directory, known_format, print_path
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.tables import Column, print_listing
from sovctl.cli.words import age, clock_time, print_line, printable, say
from sovctl.errors import EXIT_DONE, EXIT_FAILED, UsageError
from sovctl.model.byte_size import size_words
from sovctl.model.checkpoint import Tracker
from sovctl.operations import checkpoints, set_aside

if TYPE_CHECKING:
    from sovctl.operations.runs import KnownRun
    from sovctl.recovery.interval import Advice

app = typer.Typer(
    help="Checkpoints: which there are, and which of them are proven complete.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Directory = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="Directory of checkpoints; default: $SOVCTL_CHECKPOINT_DIR or here."),
]
CheckpointPath = Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint, or its directory with --step.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-format",
        metavar="FORMAT",
        help="auto (the default), dcp, torchtitan, megatron, deepspeed, lightning, hf-trainer, accelerate, nemo, "
        "safetensors, nvrx, neuronx.",
    ),
]
Step = Annotated[int | None, typer.Option("--step", metavar="N", help="The checkpoint of this step in PATH.")]
Run = Annotated[str | None, typer.Option("--run", metavar="RUN", help="The checkpoints of this run or job id.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ListFormat = Annotated[
    str, typer.Option("-o", "--format", metavar="FORMAT", help="Fields to show: '%.8s %T', or names: step,state:10.")
]
NoHeader = Annotated[bool, typer.Option("-n", "--noheader", help="No line of headers.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the commands and change nothing.")]

_CHANGE_SCHEMA = "sovctl.checkpoints.change/1"
_ADVICE_SCHEMA = "sovctl.checkpoints.advice/1"
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(s|m|min|h|d)?", re.ASCII)
_UNITS = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@app.command("ls")
def list_(
    directory: Directory = None,
    run: Run = None,
    fmt: Format = None,
    fields: ListFormat = "",
    noheader: NoHeader = False,
    as_json: Json = False,
) -> int:
    """List checkpoints, newest step first, with the reason why one is not complete.

    With -o: %s step, %a age, %S saved, %z size, %b bytes, %T state, %F format, %r why, %p path; or these names with
    commas between, such as -o step,state,path.

    Example: sovctl ckpt ls ./checkpoints
    """
    where, terms = _place(directory, run, fmt)
    with progress(f"looking at {where}"):
        found = checkpoints.list_checkpoints(where, terms.format, quiet_s=terms.quiet_s)
    if as_json:
        records = [checkpoints.checkpoint_record(one) for one in found.checkpoints]
        trackers = [checkpoints.tracker_record(one) for one in found.trackers]
        _print_json({"directory": str(where), "checkpoints": records, "trackers": trackers})
        return EXIT_DONE
    if found.checkpoints:
        print_listing(found.checkpoints, _COLUMNS, "sazTFr", fields, header=not noheader)
    else:
        say(f"There are no checkpoints in {where.absolute()}")
    _say_trackers(found.trackers)
    return EXIT_DONE


@app.command()
def verify(
    path: CheckpointPath,
    step: Step = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and compare checksums.")] = False,
    alone: Annotated[
        bool,
        typer.Option(
            "--alone",
            help="Judge it by itself, not by the times of its files nor by the checkpoints beside it: "
            "for a copy, or a run that changed what it saves.",
        ),
    ] = False,
    fmt: Format = None,
    as_json: Json = False,
) -> int:
    """Prove one checkpoint complete and record that; status 1 and the reason when it is not.

    Example: sovctl ckpt verify --deep ./checkpoints/step-500
    """
    terms = Terms(known_format(fmt or AUTO), alone=alone)
    with progress(f"{'reading' if deep else 'looking at'} {path}"):
        result = checkpoints.verify_checkpoint(path, terms, step=step, deep=deep)
    if as_json:
        record = checkpoints.checkpoint_record(result.checkpoint)
        _print_json(
            {"proven": result.proven, "deep": deep, "why": result.why, "note": result.note, "checkpoints": [record]}
        )
    elif result.proven:
        matched = ", content matches its checksums" if deep and not result.note else ""
        print_line(f"{path}: complete{matched}")
        if result.note:
            _say(result.note)
    else:
        _say(f"{printable(str(path))} is not proven complete: {printable(result.why)}")
    return EXIT_DONE if result.proven else EXIT_FAILED


@app.command()
def latest(directory: Directory = None, run: Run = None, fmt: Format = None, as_json: Json = False) -> int:
    """Print the path of the newest complete checkpoint; status 1 when there is none.

    Example: python train.py --resume "$(sovctl ckpt latest ./checkpoints)"
    """
    where, terms = _place(directory, run, fmt)
    with progress(f"looking at {where}"):
        found = checkpoints.latest_checkpoint(where.absolute(), terms.format, quiet_s=terms.quiet_s)
    if as_json:
        _print_json({"checkpoints": [checkpoints.checkpoint_record(found)]})
    else:
        print_path(found)
    return EXIT_DONE


@app.command()
def quarantine(
    path: CheckpointPath,
    step: Step = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Part of its new name.")] = "",
    even_complete: Annotated[bool, typer.Option("--even-complete", help="Also one that is proven complete.")] = False,
    fmt: Format = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Rename a broken checkpoint into .quarantine/<step>-<reason>, and repair the tracker file that named it.

    Nothing is deleted.

    Example: sovctl ckpt quarantine --dry-run ./checkpoints/iter_0000500
    """
    terms = Terms(known_format(fmt or AUTO))
    with progress(f"looking at {path}"):
        plan = set_aside.plan_quarantine(path.absolute(), terms, step=step, reason=reason, even_complete=even_complete)
    return _change(plan, dry_run, as_json)


@app.command()
def prune(
    directory: Directory = None,
    keep: Annotated[int, typer.Option("--keep", metavar="N", help="How many proven steps stay.")] = 3,
    delete: Annotated[bool, typer.Option("--delete", help="Delete instead of moving into .quarantine.")] = False,
    run: Run = None,
    fmt: Format = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Move all but the newest proven checkpoints away. The newest proven one stays, and what is not proven too.

    Example: sovctl ckpt prune --keep 3 --dry-run ./checkpoints
    """
    where, terms = _place(directory, run, fmt)
    with progress(f"looking at {where}"):
        plan = set_aside.plan_prune(where.absolute(), terms, keep, delete=delete)
    return _change(plan, dry_run, as_json)


@app.command()
def advise(
    run: Run = None,
    save_time: Annotated[str, typer.Option("--save-time", metavar="TIME", help="Until a save is on disk.")] = "",
    stall: Annotated[
        str, typer.Option("--stall", metavar="TIME", help="Training stands still; default: all of it.")
    ] = "",
    mttf: Annotated[str, typer.Option("--mttf", metavar="TIME", help="Mean time between failures of the job.")] = "",
    interval: Annotated[str, typer.Option("--interval", metavar="TIME", help="The present interval.")] = "",
    grace: Annotated[str, typer.Option("--grace", metavar="TIME", help="From the signal to the end of the job.")] = "",
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", help="GPUs of the job, all nodes together.")] = 1,
    as_json: Json = False,
) -> int:
    """Say how often to save, what the present interval costs, and how early --signal must come.

    Times are seconds, or 3m, 2h, 1d. With --run, saves, stalls, interval and failures come from its record.

    Example: sovctl ckpt advise --save-time 3m --stall 6s --mttf 61h --interval 1h --gpus 480
    """
    from sovctl.recovery.interval import Measured, measured
    from sovctl.recovery.interval import advise as judge

    known = measured(_known_run(run).events) if run is not None else Measured(None, 0, 0.0)
    save_s = _seconds("--save-time", save_time) or known.save_s
    if save_s is None:
        raise UsageError("how long a save takes is not recorded", hint="Say it: --save-time 3m")
    mttf_s = _seconds("--mttf", mttf) or known.mttf_s
    if not mttf_s:
        raise UsageError("how often the job fails is not known", hint="Say it: --mttf 60h, or --run RUN to measure it.")
    stall_s = _seconds("--stall", stall)
    # A stall that was measured belongs to the save that was measured.
    stall_s = known.stall_s if stall_s is None and not save_time else stall_s
    present = _seconds("--interval", interval) or known.interval_s
    advice = judge(
        save_s if stall_s is None else stall_s, save_s, mttf_s, interval_s=present, grace_s=_seconds("--grace", grace)
    )
    _print_advice(advice, present, mttf_s, gpus, as_json)
    if run is not None and not mttf and not known.failures:
        _say("it has not failed yet: its running time is taken for the time between failures, which is too low")
    return EXIT_DONE


def _change(plan: set_aside.Plan, dry_run: bool, as_json: bool) -> int:
    if not dry_run:
        with progress("moving checkpoints"):
            set_aside.carry_out(plan)
    if as_json:
        record = {
            "done": not dry_run,
            "moves": [{"from": str(source), "to": str(target)} for source, target in plan.moves],
            "deletes": [str(path) for path in plan.deletes],
            "trackers": [{"path": str(path), "text": text} for path, text in plan.writes],
            "notes": list(plan.notes),
            "commands": list(plan.commands),
        }
        print_json(_CHANGE_SCHEMA, record)
        return EXIT_DONE
    for command in plan.commands:
        print(printable(command))
    for note in plan.notes:
        _say(printable(note))
    if not plan.commands:
        _say("there is nothing to do")
    return EXIT_DONE


def _print_advice(advice: Advice, present: float | None, mttf_s: float, gpus: int, as_json: bool) -> None:
    best_cost, present_cost = advice.gpu_hours_a_day(gpus)
    if as_json:
        record = {
            "best_interval_s": advice.best_s,
            "young_s": advice.young_s,
            "daly_s": advice.daly_s,
            "mttf_s": mttf_s,
            "interval_s": present,
            "best_gpu_hours_a_day": best_cost,
            "present_gpu_hours_a_day": present_cost,
            "best_lost_share": advice.best_share,
            "present_lost_share": advice.present_share,
            "signal_lead_s": advice.lead_s,
            "warnings": list(advice.warnings),
        }
        print_json(_ADVICE_SCHEMA, record)
        return
    print(f"save every      {age(advice.best_s)} (Daly {age(advice.daly_s)}, Young {age(advice.young_s)})")
    print(f"that costs      {best_cost:.1f} GPU-hours a day, {100 * advice.best_share:.1f} % of {gpus} GPUs")
    if present is not None and present_cost is not None and advice.present_share is not None:
        share = f"{100 * advice.present_share:.1f} %"
        more = f"{present_cost - best_cost:.1f} more"
        print(f"every {age(present):<10}{present_cost:.1f} GPU-hours a day, {share}: {more}")
    print(f"signal lead     --signal=B:USR1@{advice.lead_s:.0f}")
    for warning in advice.warnings:
        _say(warning)


def _seconds(option: str, text: str) -> float | None:
    """`90`, `90s`, `3m`, `2h`, `1d`; `None` when nothing was said. Raises UsageError."""
    if not text:
        return None
    found = _DURATION.fullmatch(text)
    if found is None or float(found[1]) == 0:
        raise UsageError(
            f"{option} must be a time such as 90s, 3m or 2h, not {text!r}",
            hint=f"Write it as in: sovctl ckpt advise {option} 3m",
        )
    return float(found[1]) * _UNITS[found[2]]


def _place(directory: Path | None, run: str | None, fmt: str | None) -> tuple[Path, Terms]:
    """The directory of checkpoints, and how to look at it: a run that is over has no writer."""
    if run is None:
        return directory or default_directory(), Terms(known_format(fmt or AUTO))
    from sovctl.recovery.attempts import attempts, text

    known = _known_run(run)
    if not known.checkpoint_dir:
        raise UsageError(
            f"the run {run} has not started: where its checkpoints go is not recorded yet",
            hint=f"See how it stands: sovctl run show {run}",
        )
    done = attempts(known.events)
    over = bool(done) and done[-1].stop is not None
    chosen = known_format(fmt or text(known.record, "checkpoint_format") or AUTO)
    return Path(known.checkpoint_dir), Terms(chosen, 0.0 if over else QUIET_S)


def _known_run(name: str) -> KnownRun:
    from sovctl.cli import wiring
    from sovctl.operations.runs import find_run

    return find_run(name, wiring.run_ports(), str(Path.cwd()), "--run")


def _print_json(fields: dict[str, object]) -> None:
    print_json(checkpoints.SCHEMA, fields)


def _say(words: str) -> None:
    say(f"sovctl: {words}")


def _say_trackers(trackers: Sequence[Tracker]) -> None:
    for one in trackers:
        if one.problem:
            _say(f"the tracker file {one.name} names no checkpoint: {printable(one.problem)}")


_COLUMNS = (
    Column("s", "step", "STEP", lambda one: str(one.step), right=True),
    Column("a", "age", "AGE", lambda one: age(time.time() - one.saved_at) if one.saved_at else "-", right=True),
    Column("S", "saved", "SAVED", lambda one: clock_time(one.saved_at)),
    Column("z", "size", "SIZE", lambda one: size_words(one.size_bytes) if one.size_bytes else "-", right=True),
    Column("b", "bytes", "BYTES", lambda one: str(one.size_bytes or "-"), right=True),
    Column("T", "state", "STATE", lambda one: str(one.state.value)),
    Column("F", "format", "FORMAT", lambda one: one.format or "-"),
    Column("r", "why", "WHY NOT COMPLETE", lambda one: one.why, folded=True),
    Column("p", "path", "PATH", lambda one: str(one.path), folded=True),
)
