"""`sovctl site`: what an administrator puts on nodes, controller and login nodes."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sovctl.cli import wiring
from sovctl.cli.arguments import nearest
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import print_line, printable, say
from sovctl.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from sovctl.operations.site import Outcome
    from sovctl.site.catalogue import Role
    from sovctl.site.conf_lines import ConfLine
    from sovctl.site.plan import Step

app = typer.Typer(
    help="Set up this machine for site mode. slurm.conf is never written.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_Root = Annotated[Path, typer.Option("--root", metavar="DIR", help="Below DIR, as staged for an image of nodes.")]
_Prefix = Annotated[str, typer.Option("--prefix", metavar="DIR", help="Programs go to DIR/libexec/sovctl.")]
_ConfDir = Annotated[
    str, typer.Option("--conf-dir", metavar="DIR", help="The directory of slurm.conf; default: Slurm's own.")
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, do nothing.")]
_CHANGE, _STATUS, _LINES = "sovctl.site.change/1", "sovctl.site.status/1", "sovctl.site.lines/1"


def run(argv: Sequence[str]) -> int:
    """Run `sovctl site ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl site")


@app.command()
def install(
    role: Annotated[
        list[str], typer.Option("--role", metavar="ROLE", help="node, controller or login; may be repeated.")
    ],
    prefix: _Prefix = "/usr/local",
    spank: Annotated[str, typer.Option("--spank", metavar="FILE", help="The SPANK plugin, built for this Slurm.")] = "",
    conf_dir: _ConfDir = "",
    root: _Root = Path("/"),
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> int:
    """Write hooks, units, Lua plugins and settings for this machine, and print the lines that slurm.conf wants.

    A file that somebody changed is kept, and the new one laid beside it as FILE.new. Doing it twice changes nothing.

    Example: sovctl site install --role node --dry-run
    """
    from sovctl import __version__
    from sovctl.operations.site import install as put

    ports = wiring.site(root)
    places = wiring.site_places(prefix, conf_dir)
    roles = _roles(role)
    with progress("asking slurmctld"):
        found = put(ports, places, roles, spank=spank, version=__version__, dry_run=dry_run)
    if as_json:
        print_json(_CHANGE, {"dry_run": dry_run, **_record(found)})
        return EXIT_DONE
    _show_steps(found.steps, dry_run=dry_run)
    _show_lines(found.lines, found.slurm_problem)
    _show_next(found)
    return EXIT_DONE


@app.command()
def uninstall(
    root: _Root = Path("/"),
    force: Annotated[bool, typer.Option("--force", help="Also while Slurm or systemd may still use it.")] = False,
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> int:
    """Remove what `sovctl site install` wrote; what you changed stays, and is named.

    Refused while slurm.conf, or a link in a directory that it names, leads to a hook, and when slurmctld does not
    answer: Slurm drains a node whose prolog is not there.

    Example: sovctl site uninstall --dry-run
    """
    from sovctl.operations.site import uninstall as take

    with progress("asking slurmctld"):
        found = take(wiring.site(root), force=force, dry_run=dry_run)
    if as_json:
        files = [_file(step) for step in found.steps]
        print_json(_CHANGE, {"dry_run": dry_run, "files": files, "links": list(found.links)})
        return EXIT_DONE
    _show_steps(found.steps, dry_run=dry_run)
    if found.links:
        print("\n# these links lead nowhere then; Slurm drains a node that meets one:")
        print("\n".join(f"rm {shlex.quote(printable(link))}" for link in found.links))
    return EXIT_DONE


@app.command()
def status(root: _Root = Path("/"), as_json: _Json = False) -> int:
    """What is installed here, whether somebody changed it, and what slurm.conf lacks.

    Example: sovctl site status
    """
    from sovctl.operations.site import status as look

    with progress("asking slurmctld"):
        found = look(wiring.site(root), wiring.site_places("/usr/local", ""))
    if as_json:
        print_json(_STATUS, _record(found))
        return EXIT_DONE
    if not found.steps:
        print("nothing is installed here by `sovctl site install`")
    _show_steps(found.steps, dry_run=False)
    _show_lines([line for line in found.lines if not line.there], found.slurm_problem)
    return EXIT_DONE


@app.command()
def lines(prefix: _Prefix = "/usr/local", conf_dir: _ConfDir = "", as_json: _Json = False) -> int:
    """The lines that slurm.conf and plugstack.conf want, each with its reason; a line that is there is marked.

    Example: sovctl site lines --prefix /usr
    """
    from sovctl.operations.site import lines as ask

    with progress("asking slurmctld"):
        found, problem = ask(wiring.site(Path("/")), wiring.site_places(prefix, conf_dir))
    if as_json:
        print_json(_LINES, {"lines": [_line(one) for one in found], "slurm_problem": problem})
    else:
        _show_lines(found, problem)
    return EXIT_DONE


def _roles(names: Sequence[str]) -> frozenset[Role]:
    from sovctl.site.catalogue import Role

    for name in names:
        if name not in [*Role]:
            known = nearest(name, [*Role])
            raise UsageError(f"there is no role {name!r}{known}", hint=f"Name one with --role: {', '.join(Role)}")
    return frozenset(Role(name) for name in names)


def _show_steps(steps: Sequence[Step], *, dry_run: bool) -> None:
    for step in steps:
        why = f"  ({step.why})" if step.why else ""
        would = "would " if dry_run and step.deed in ("create", "update", "remove") else ""
        print_line(f"{would}{step.deed}: {step.path}{why}")


def _show_lines(found: Sequence[ConfLine], problem: str) -> None:
    if problem:
        say(f"sovctl: these are the lines for a slurm.conf without any: {problem}")
    for file in sorted({line.file for line in found}, reverse=True):
        print(f"\n# {file}")
        for line in found:
            if line.file == file:
                reason = f"{'there already: ' if line.there else ''}{printable(line.reason)}"
                print("\n".join(textwrap.wrap(reason, 80, initial_indent="# ", subsequent_indent="# ")))
                for command in line.commands:
                    print(f"#   on every node first: {printable(command)}")
                print(f"{'#' if line.there else ''}{printable(line.line)}")


def _show_next(found: Outcome) -> None:
    from sovctl.site.catalogue import UNIT_DIR

    units = [Path(step.path).name for step in found.steps if step.path.startswith(UNIT_DIR)]
    starts = [unit for unit in units if unit != "sovctl-sweep.service" and not unit.endswith(".new")]
    if starts:
        print("\n# then, to observe:\n#   systemctl daemon-reload")
        print("\n".join(f"#   systemctl enable --now {unit}" for unit in starts))
    print("# and have it looked at: sovctl doctor")


def _record(found: Outcome) -> dict[str, object]:
    return {
        "roles": sorted(found.roles),
        "prefix": found.places.prefix,
        "files": [_file(step) for step in found.steps],
        "lines": [_line(line) for line in found.lines],
        "slurm_problem": found.slurm_problem,
    }


def _file(step: Step) -> dict[str, str]:
    return {"path": step.path, "deed": step.deed, "why": step.why}


def _line(line: ConfLine) -> dict[str, object]:
    return {
        "file": line.file,
        "line": line.line,
        "reason": line.reason,
        "there": line.there,
        "commands": list(line.commands),
    }
