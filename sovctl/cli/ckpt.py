"""`sovctl ckpt`: which checkpoints there are, and which of them can be trusted."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sovctl.cli.typer_app import run_app
from sovctl.cli.words import printable
from sovctl.errors import EXIT_DONE, EXIT_FAILED, UsageError
from sovctl.model.checkpoint import Checkpoint
from sovctl.operations import checkpoints

app = typer.Typer(
    help="Checkpoints: which there are, and which of them are proven complete.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Directory = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="Directory with step-<N>; default: $SOVCTL_CHECKPOINT_DIR or here."),
]
Run = Annotated[str | None, typer.Option("--run", metavar="RUN", help="The checkpoints of this run or job id.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def run(argv: Sequence[str]) -> int:
    """Run `sovctl ckpt ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl ckpt")


@app.command("ls")
def list_(directory: Directory = None, run: Run = None, as_json: Json = False) -> int:
    """List checkpoints, newest step first, with the reason why one is not complete.

    Example: sovctl ckpt ls ./checkpoints
    """
    where = _directory(directory, run)
    found = checkpoints.list_checkpoints(where)
    if as_json:
        _print_json({"directory": str(where), "checkpoints": [checkpoints.checkpoint_record(one) for one in found]})
    elif found:
        _print_table(found)
    else:
        print(f"There are no checkpoints in {printable(str(where))}.", file=sys.stderr)
    return EXIT_DONE


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint: .../step-<N>.")],
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and compare checksums.")] = False,
    as_json: Json = False,
) -> int:
    """Prove one checkpoint complete; status 1 and the reason when it is not.

    Example: sovctl ckpt verify --deep ./checkpoints/step-500
    """
    result = checkpoints.verify_checkpoint(path, deep=deep)
    if as_json:
        record = checkpoints.checkpoint_record(result.checkpoint)
        _print_json({"proven": result.proven, "deep": deep, "why": result.why, "checkpoints": [record]})
    elif result.proven:
        print(f"{printable(str(path))}: complete{', content matches its checksums' if deep else ''}")
    else:
        print(f"sovctl: {printable(str(path))} is not proven complete: {printable(result.why)}", file=sys.stderr)
    return EXIT_DONE if result.proven else EXIT_FAILED


@app.command()
def latest(directory: Directory = None, run: Run = None, as_json: Json = False) -> int:
    """Print the path of the newest complete checkpoint; status 1 when there is none.

    Example: python train.py --resume "$(sovctl ckpt latest ./checkpoints)"
    """
    found = checkpoints.latest_checkpoint(_directory(directory, run).absolute())
    if as_json:
        _print_json({"checkpoints": [checkpoints.checkpoint_record(found)]})
    else:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), os.fsencode(found.path) + b"\n")  # a path is bytes, and scripts need them all
    return EXIT_DONE


def _directory(directory: Path | None, run: str | None) -> Path:
    if run is not None:
        return _of_run(run)
    return directory or Path(os.environ.get("SOVCTL_CHECKPOINT_DIR") or ".")


def _of_run(name: str) -> Path:
    from sovctl.cli import wiring
    from sovctl.operations.runs import find_run

    where = find_run(name, wiring.run_ports(), str(Path.cwd())).checkpoint_dir
    if not where:
        raise UsageError(f"the run {name} has not started: where its checkpoints go is not recorded yet")
    return Path(where)


def _print_json(fields: dict[str, object]) -> None:
    print(json.dumps({"schema": checkpoints.SCHEMA, **fields}))


def _print_table(found: Sequence[Checkpoint]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("STEP", "AGE", "SIZE"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("STATE", no_wrap=True)
    table.add_column("WHY NOT COMPLETE", overflow="fold")
    now = time.time()
    for one in found:
        age = _age(now - one.saved_at) if one.saved_at else "-"
        size = _size(one.size_bytes) if one.size_bytes else "-"
        table.add_row(str(one.step), age, size, one.state.value, Text(printable(one.why)))
    Console().print(table)


def _age(seconds: float) -> str:
    """Two figures are enough: `42s`, `3m05s`, `7h12m`, `9d04h`."""
    whole = max(int(seconds), 0)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole}s"


def _size(count: float) -> str:
    """Bytes in binary units: `412 B`, `1.8 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
