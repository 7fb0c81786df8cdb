"""`sovctl doctor`: what of this site fits sovctl, and what to type where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import print_line, printable
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE, EXIT_FAILED
from sovctl.isolation.runtimes import BUILT_IN
from sovctl.operations.isolation.prove_isolation import SCHEMA, prove, prove_each

if TYPE_CHECKING:
    from sovctl.isolation.proof import Check
    from sovctl.operations.doctor import Diagnosis
    from sovctl.operations.isolation.prove_isolation import Proof
    from sovctl.operations.isolation.prove_runtimes import RuntimeProof

app = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def everything(
    ctx: typer.Context,
    nodes: Annotated[bool, typer.Option("--nodes", help="Ask every node too, over SSH.")] = False,
    steps: Annotated[
        bool, typer.Option("--steps", help="Run an isolated step on every idle node too: does the plugin isolate?")
    ] = False,
    directory: Annotated[
        list[Path] | None, typer.Option("--dir", metavar="DIR", help="A shared directory to try; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    node: Annotated[bool, typer.Option("--node", hidden=True)] = False,
    told: Annotated[list[str] | None, typer.Option("--told", hidden=True)] = None,
) -> int:
    """Look at Slurm's settings and at this machine, change nothing, and say what to type; status 1 on any FAIL.

    Shared directories are tried with scratch files that are gone afterwards: the cluster journal, and the current
    directory, where runs keep their record.

    Whether slurmctld and sbatch run sovctl's Lua scripts is asked with a job that is only tested (`--test-only`).

    Each line is `pass`; `WARN`: it works, with something lost; `FAIL`: it does not work, or not safely; or `skip`: it
    does not apply here or could not be asked, and the line says why.

    Example: sovctl doctor
    """
    if ctx.invoked_subcommand is not None:
        return EXIT_DONE
    from sovctl.operations.doctor import diagnose
    from sovctl.site.line import State

    pairs = dict(pair.partition("=")[::2] for pair in told or []) if node else None
    ports, settings = wiring.doctor(directory or [], ask_nodes=nodes, try_steps=steps, told=pairs)
    with progress("asking every node" if nodes or steps else "looking at Slurm and at this machine"):
        found = diagnose(ports, settings)
    if as_json:
        print_json("sovctl.doctor/1", _record(found))
    else:
        print(_table(found))
    return EXIT_FAILED if found.worst is State.FAIL else EXIT_DONE


def _record(found: Diagnosis) -> dict[str, object]:
    machine = found.machine
    return {
        "node": machine.node,
        "at": machine.at,
        "version": machine.version,
        "config_digest": machine.config_digest,
        "state": found.worst,
        "lines": [
            {"group": group, "check": line.check, "state": line.state, "seen": line.seen, "fix": line.fix}
            for group, lines in found.groups.items()
            for line in lines
        ],
    }


def _table(found: Diagnosis) -> str:
    """Narrow: the check, then what was seen; what to type stands below."""
    out: list[str] = []
    for group, lines in found.groups.items():
        out += [f"{printable(group)}:"] if lines else []
        for line in lines:
            state = line.state.upper() if line.state in ("warn", "fail") else line.state
            start = f"  {state:<4}  {line.check:<{_LONGEST_NAME}} "
            if len(line.check) > _LONGEST_NAME:
                out.append(start.rstrip())
                start = " " * 8
            out += _wrapped(start, printable(line.seen))
            if line.fix:
                out += _wrapped(" " * 8 + "-> ", printable(line.fix))
    counted = {state: sum(line.state == state for line in found.lines) for state in ("fail", "warn")}
    out.append(f"{counted['fail']} to mend, {counted['warn']} to think about")
    return "\n".join(out)


_LONGEST_NAME = 21


def _wrapped(start: str, text: str) -> list[str]:
    """At most 80 columns; a long word, such as a path, stays whole."""
    import textwrap

    return textwrap.wrap(
        text,
        80,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start]


def run(argv: Sequence[str]) -> int:
    """Run `sovctl doctor ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl doctor")


@app.command()
def isolation(
    image: Annotated[str, typer.Option("--image", metavar="IMAGE", help="In this image, not on the host's root.")] = "",
    partition: Annotated[str, typer.Option("--partition", "-p", help="Of the step.")] = "",
    nodes: Annotated[str, typer.Option("--nodelist", "-w", metavar="NODES", help="Each of them; n[001-064] too.")] = "",
    runtime: Annotated[
        str, typer.Option("--runtime", metavar="NAME", help="Whose isolation is measured: bubblewrap or spank.")
    ] = BUILT_IN,
    here: Annotated[bool, typer.Option("--here", help="On this machine, without Slurm.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> int:
    """Run an isolated step, measure from inside it, and print pass or fail of each property; status 1 on any fail.

    Then have every runtime run a program of a tiny image, on all nodes that were named, and print which work where.

    Example: sovctl doctor isolation --partition gpu -w n[001-008]
    """
    config = load_config()
    options = [f"--partition={partition}"] if partition else []
    named = () if here else wiring.expand_hostlist(nodes)
    step, allowed = wiring.step_command(config, here=here), config.isolation.allow_env.split()
    with progress("waiting for the isolated step"):
        proofs = (
            prove_each(image, step, options, allowed, named, runtime)
            if len(named) > 1
            else (prove(image, step, [*options, *(f"--nodelist={node}" for node in named)], allowed, runtime),)
        )
        runtimes = wiring.runtime_proofs(config, options, named, here=here)
    passed = all(proof.passed for proof in proofs)
    if as_json:
        first = next((proof for proof in proofs if not proof.passed), proofs[0])
        each = [_proof_record(proof) for proof in proofs]
        fields = {
            "node": first.node,
            "by_step": first.by_step,
            "passed": passed,
            "checks": _proof_record(first)["checks"],
        }
        told = [{"name": one.name, "works": one.works, "why": one.why, "nodes": list(one.nodes)} for one in runtimes]
        print_json(SCHEMA, {**fields, "nodes": each, "runtimes": told})
    else:
        _print_proofs(proofs)
        _print_runtimes(runtimes)
    return EXIT_DONE if passed else EXIT_FAILED


def _proof_record(proof: Proof) -> dict[str, object]:
    checks = [{"name": check.name, "passed": check.passed, "seen": check.seen} for check in proof.checks]
    return {"node": proof.node, "passed": proof.passed, "checks": checks}


def _print_proofs(proofs: Sequence[Proof]) -> None:
    """Nodes that saw the same stand together."""
    alike: dict[tuple[Check, ...], list[Proof]] = {}
    for proof in proofs:
        alike.setdefault(proof.checks, []).append(proof)
    for checks, those in alike.items():
        where = "by a step of Slurm" if those[0].by_step else "without Slurm"
        print_line(f"{', '.join(proof.node for proof in those)}, {where}:")
        for check in checks:
            print_line(f"  {'pass' if check.passed else 'FAIL'}  {check.name:<14} {check.seen}", 23)


def _print_runtimes(runtimes: Sequence[RuntimeProof]) -> None:
    print("runtimes, each with a program of an image:")
    for one in runtimes:
        why = f"{', '.join(one.nodes)}: {one.why}" if one.nodes else one.why
        print_line(f"  {'works' if one.works else 'no':<5} {one.name:<14} {why}".rstrip(), 23)
