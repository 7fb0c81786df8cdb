"""`sovctl lab`: a real Slurm cluster on this machine, to try things and to break them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import fitted, folded, printable
from sovctl.errors import UsageError
from sovctl.lab.faults import FAULTS

app = typer.Typer(
    help="A real Slurm cluster on this machine, with simulated GPUs and fault injection.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FAULTS = "\b\n" + fitted("\n".join(["Faults:", *(f"  {name:<18} {words}" for name, words in FAULTS.items())]), 72)
"""As typer takes lines that are to stay as they are."""
Dir = Annotated[
    Path | None, typer.Option("--dir", "-d", help="Directory of the lab (default: /var/tmp/sovctl-lab-<user>).")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def run(argv: Sequence[str]) -> int:
    """Run one `sovctl lab ...` command line."""
    return run_app(app, argv, "sovctl lab")


@app.command()
def up(
    nodes: Annotated[int, typer.Option(help="How many nodes, n001 to n...")] = 8,
    gpus: Annotated[int, typer.Option(help="Simulated GPUs a node.")] = 8,
    dir: Dir = None,
    port: Annotated[int | None, typer.Option(help="First port to use (default: free ones are found).")] = None,
    accounting: Annotated[bool, typer.Option("--accounting", help="Also slurmdbd with a MariaDB of its own.")] = False,
    preemption: Annotated[
        bool, typer.Option("--preemption", help="Ready for `sovctl spare set`; brings --accounting along.")
    ] = False,
    job_checks: Annotated[
        bool, typer.Option("--job-checks", help="Prolog and Epilog judge the node around each job.")
    ] = False,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Also storage of its own in DIR/scratch, to fill and to freeze (root).")
    ] = False,
    no_health: Annotated[bool, typer.Option("--no-health", help="Plain Slurm: no checks, no watchers.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A slurm.conf parameter.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a cluster and wait until every node is idle.

    Example: sovctl lab up --nodes 64
    """
    from sovctl.lab import cluster

    began = time.monotonic()
    request = cluster.Request(
        _root(dir),
        nodes,
        gpus,
        port,
        accounting or preemption,
        preemption,
        health=not no_health,
        job_checks=job_checks,
        scratch=scratch,
        overrides=_pairs(set_ or []),
    )
    with progress(f"starting {nodes} nodes"):
        lab = cluster.up(request)
    seconds = time.monotonic() - began
    if as_json:
        print_json("sovctl.lab.up/1", {"dir": str(lab.layout.root), "seconds": round(seconds, 3)})
        return
    typer.echo(f"{len(lab.nodes)} nodes with {lab.gpus} GPUs each are idle after {seconds:.1f} s")
    typer.echo(f"Use them: sovctl lab shell{_dir_words(dir)}")
    typer.echo(f"For Slurm's commands alone: export SLURM_CONF={lab.layout.slurm_conf}")


@app.command()
def down(
    dir: Dir = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the directory with its logs.")] = False,
) -> None:
    """Stop exactly what `lab up` started and remove the directory.

    Example: sovctl lab down --keep
    """
    from sovctl.lab import cluster

    with progress("stopping the lab"):
        stopped = cluster.down(_root(dir), keep=keep)
    typer.echo(f"stopped {stopped} daemons")


@app.command()
def status(dir: Dir = None, as_json: Json = False) -> None:
    """Show the daemons and the state of every node.

    Example: sovctl lab status --json
    """
    from sovctl.lab import cluster

    lab = cluster.load(_root(dir))
    nodes = cluster.slurm(lab.layout).nodes() if lab.alive else ()
    if as_json:
        print_json(
            "sovctl.lab.status/1",
            {
                "dir": str(lab.layout.root),
                "processes": [{**asdict(item), "alive": item.alive} for item in lab.processes],
                "nodes": [{"name": node.name, "state": str(node.state), "reason": node.reason} for node in nodes],
            },
        )
        return
    dead = [item.role for item in lab.processes if not item.alive]
    typer.echo(f"{lab.layout.root}: {len(lab.processes) - len(dead)} of {len(lab.processes)} daemons run")
    for role in dead:
        typer.echo(f"  not running: {role}")
    for node in nodes:
        line = f"  {node.name}  {node.state}" + (f"  {node.reason}" if node.reason else "")
        typer.echo(folded(printable(line), 8))


@app.command()
def shell(
    dir: Dir = None,
    command: Annotated[list[str] | None, typer.Argument(help="Run this instead of a shell.")] = None,
) -> None:
    """A shell (or one command) with SLURM_CONF pointing at the lab.

    Example: sovctl lab shell -- sinfo
    """
    from sovctl.lab import cluster

    cluster.become(cluster.load(_root(dir)), command or [os.environ.get("SHELL") or "/bin/sh"])


@app.command(epilog=_FAULTS)
def inject(
    fault: Annotated[str, typer.Argument(help="One of the faults below, such as xid:79, node-dead or rank-hang.")],
    node: Annotated[str, typer.Option(help="The node it happens to.")],
    gpu: Annotated[int | None, typer.Option(help="The GPU it happens to, by index.")] = None,
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Make something fail, now.

    Example: sovctl lab inject xid:79 --node n003 --gpu 5
    """
    from sovctl.lab import cluster, faults

    with progress(f"{fault} on {node}"):
        done = faults.inject(cluster.load(_root(dir)), fault, node, gpu)
    if as_json:
        print_json("sovctl.lab.inject/1", asdict(done))
    else:
        typer.echo(done.did)


@app.command()
def heal(node: Annotated[str, typer.Option(help="The node to repair.")], dir: Dir = None) -> None:
    """Undo what was injected into a node; a drain stays until somebody resumes the node.

    Example: sovctl lab heal --node n003
    """
    from sovctl.lab import cluster, faults

    with progress(f"repairing {node}"):
        done = faults.heal(cluster.load(_root(dir)), node)
    typer.echo(done)


@app.command()
def demo(
    as_json: Json = False, keep: Annotated[bool, typer.Option("--keep", help="Leave the lab running.")] = False
) -> None:
    """Train on a real 8-node cluster, kill a GPU, and show the recovery second by second.

    Example: sovctl lab demo --json
    """
    from sovctl.lab.demo import run_demo

    raise typer.Exit(run_demo(as_json=as_json, keep=keep))


def _root(dir: Path | None) -> Path:
    from sovctl.lab.layout import default_root

    return dir or default_root()


def _dir_words(dir: Path | None) -> str:
    return f" --dir {dir}" if dir else ""


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.isidentifier()) or "\n" in value:
            raise UsageError(
                f"--set takes KEY=VALUE, not {text!r}", hint="Write it as in: sovctl lab up --set SlurmctldDebug=debug2"
            )
        pairs[key] = value
    return pairs
