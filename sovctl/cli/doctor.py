"""`sovctl doctor`: what works here, proven by trying it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from sovctl.cli import wiring
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import printable
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE, EXIT_FAILED
from sovctl.operations.prove_isolation import SCHEMA, prove

app = typer.Typer(
    help="What works here, proven by trying it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    """Keeps `isolation` a subcommand while it is the only one."""


def run(argv: Sequence[str]) -> int:
    """Run `sovctl doctor ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl doctor")


@app.command()
def isolation(
    image: Annotated[str, typer.Option("--image", metavar="IMAGE", help="In this image, not on the host's root.")] = "",
    partition: Annotated[str, typer.Option("--partition", "-p", help="Of the step.")] = "",
    node: Annotated[str, typer.Option("--nodelist", "-w", metavar="NODE", help="Where the step runs.")] = "",
    here: Annotated[bool, typer.Option("--here", help="On this machine, without Slurm.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> int:
    """Run an isolated step, measure from inside it, and print pass or fail of each property; status 1 on any fail.

    Then have every runtime run a program of a tiny image, and print which work here.

    Example: sovctl doctor isolation --partition gpu
    """
    config = load_config()
    options = [f"--partition={partition}"] if partition else []
    options += [f"--nodelist={node}"] if node else []
    found = prove(image, wiring.step_command(config, here=here), options, config.isolation.allow_env.split())
    runtimes = wiring.runtime_proofs(config, options, here=here)
    if as_json:
        checks = [{"name": check.name, "passed": check.passed, "seen": check.seen} for check in found.checks]
        print(
            json.dumps(
                {
                    "schema": SCHEMA,
                    "node": found.node,
                    "by_step": found.by_step,
                    "passed": found.passed,
                    "checks": checks,
                    "runtimes": [{"name": one.name, "works": one.works, "why": one.why} for one in runtimes],
                }
            )
        )
    else:
        where = "by a step of Slurm" if found.by_step else "without Slurm"
        print(f"{printable(found.node)}, {where}:")
        for check in found.checks:
            print(f"  {'pass' if check.passed else 'FAIL'}  {check.name:<14} {printable(check.seen)}")
        print("runtimes, each with a program of an image:")
        for one in runtimes:
            words = f"  {'works' if one.works else 'no':<5} {one.name:<14} {printable(one.why)}"
            print(words.rstrip())
    return EXIT_DONE if found.passed else EXIT_FAILED
