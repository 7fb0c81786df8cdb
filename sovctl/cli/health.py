"""`sovctl health`: what runs on each node. Neither typer nor rich: slurmd starts this every minute on every node."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sovctl.cli.json_output import print_json
from sovctl.cli.words import print_line, say, say_next
from sovctl.errors import EXIT_DONE, EXIT_NODE_FAILED, SovctlError

if TYPE_CHECKING:
    import argparse

    from sovctl.operations.node.check_node import CheckOutcome

_CHECK_EXAMPLES = """\
examples:
  sovctl health check                judge this node; as root also drain it when it failed
  sovctl health check --dry-run      show the verdict and the command that would drain it
  sovctl health check --json         the verdict as one JSON object (sovctl.verdict/1)

exit status: 0 healthy, degraded or not known; 10 failed. A checker that cannot run exits 0 and says so on stderr.
"""
_WATCH_EXAMPLES = """\
examples:
  sovctl health watch                drain this node within a second of a fatal kernel line
  sovctl health watch --observe      only say what would be judged
"""
_PROLOG_EXAMPLES = """\
examples:
  sovctl health prolog               before a job starts here; plugins/slurmd/prolog runs it for slurmd
  sovctl health epilog               after a job ended here

exit status: 10 only when the node has explicitly failed, otherwise 0, also when the checker cannot run. slurmctld is
never asked. The job is taken from SLURM_JOB_ID.
"""
_PROBES_EXAMPLES = """\
examples:
  sovctl health probes               state, cost and record of every probe on this node
  sovctl health probes --learn       write down what this healthy node has; copy the file to its peers

States (off, shadow, warn, drain) are set in sovctl.toml:  [probes]  nvlink = "shadow"
"""
_BURN_IN_EXAMPLES = """\
examples:
  sovctl health burn-in              the piece that was done longest ago
  sovctl health burn-in --all        all of them: the loaded test before a node is given back
  sovctl health burn-in --all --dry-run

pieces: matmul (equal to the last bit, on every accelerator), memory, all-reduce. Does nothing while a job is
here, and ends at once when one comes. Needs a Python with torch (burn_in.python).
exit status: 0 all right; 10 a wrong answer or a slow one; 75 a job is here; 1 it could not be done, or proves nothing.
"""
_EXPLAIN_EXAMPLES = """\
examples:
  dmesg | sovctl health explain
  sovctl health explain /var/log/kern.log
  journalctl -k -b -1 | sovctl health explain --json

classes: ignore, app (the program's own mistake), sympathetic (follows from another fault), count (one says nothing),
warn, soft (the job is over, the node goes on), reset (no job on this GPU before a reset), drain (reboot or hands).
Needs neither root nor Slurm nor a GPU. Prints nothing for lines that are no fault.
"""


def run(argv: Sequence[str]) -> int:
    """Run one `sovctl health ...` command line."""
    if list(argv) in (["prolog"], ["epilog"]):
        # As slurmd starts it: not even the time to build a parser is spent.
        from sovctl.cli import guard

        return guard.prolog() if argv[0] == "prolog" else guard.epilog()
    arguments = make_parser().parse_args(argv)
    action: Callable[[argparse.Namespace], int] = arguments.action
    return action(arguments)


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sovctl health`."""
    from sovctl.cli.arguments import Parser

    parser = Parser(prog="sovctl health", description="Judge this node from its driver and kernel log.")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    check = _verb(verbs, "check", "Look once; as HealthCheckProgram of slurmd or by hand.", _CHECK_EXAMPLES)
    check.add_argument("--json", action="store_true", help="one JSON object on stdout")
    check.add_argument("--dry-run", action="store_true", help="show what would be done, change and record nothing")
    check.set_defaults(action=_check)
    watch = _verb(verbs, "watch", "Stay and look at every line of the driver at once.", _WATCH_EXAMPLES)
    watch.set_defaults(action=_watch)
    for name, words in (("prolog", "Before a job starts here."), ("epilog", "After a job ended here.")):
        verb = _verb(verbs, name, words, _PROLOG_EXAMPLES)
        verb.add_argument("--job", default="", metavar="ID", help="job id; default: SLURM_JOB_ID")
        verb.add_argument("--quiet", action="store_true", help="say nothing, only the exit status")
        verb.set_defaults(action=_guard, verb=name)
    probes = _verb(verbs, "probes", "The probes and their record on this node.", _PROBES_EXAMPLES)
    probes.add_argument("--json", action="store_true", help="one JSON object on stdout")
    fields = "fields to show: '%%.12p %%T', or names: probe,state,cost,hits,would_drain,confirmed,why"
    probes.add_argument("-o", "--format", default="", metavar="FORMAT", help=fields)
    probes.add_argument("-n", "--noheader", action="store_true", help="no line of headers")
    probes.add_argument("--learn", action="store_true", help="write down what this healthy node has")
    probes.add_argument("--dry-run", action="store_true", help="with --learn: show it, write nothing")
    probes.set_defaults(action=_probes)
    burn_in = _verb(verbs, "burn-in", "Short work with a known answer, on an idle node.", _BURN_IN_EXAMPLES)
    which = burn_in.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="every piece")
    which.add_argument("--piece", choices=("matmul", "memory", "all-reduce"), default="", help="this one")
    burn_in.add_argument("--json", action="store_true", help="one JSON object on stdout")
    burn_in.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    burn_in.set_defaults(action=_burn_in)
    explain = _verb(verbs, "explain", "Say what the driver's fault lines in a log mean.", _EXPLAIN_EXAMPLES)
    explain.add_argument("file", nargs="?", default="-", metavar="FILE", help="a log; - or nothing: standard input")
    explain.add_argument("--json", action="store_true", help="one JSON object a fault line")
    explain.set_defaults(action=_explain)
    for verb in (check, watch):
        verb.add_argument("--observe", action="store_true", help="judge only, never drain (health.act = false)")
    return parser


def _verb(verbs: Any, name: str, words: str, examples: str) -> argparse.ArgumentParser:

    parser: argparse.ArgumentParser = verbs.add_parser(name, help=words, description=words, epilog=examples)
    return parser


def _explain(arguments: argparse.Namespace) -> int:
    from sovctl.cli.explain import run_explain

    return run_explain(arguments)


def _burn_in(arguments: argparse.Namespace) -> int:
    from sovctl.cli.burn_in import run_burn_in

    return run_burn_in(arguments.piece, everything=arguments.all, as_json=arguments.json, dry_run=arguments.dry_run)


def _guard(arguments: argparse.Namespace) -> int:
    from sovctl.cli import guard

    act = guard.prolog if arguments.verb == "prolog" else guard.epilog
    return act(arguments.job, quiet=arguments.quiet)


def _probes(arguments: argparse.Namespace) -> int:
    from sovctl.cli import probes

    if arguments.learn:
        return probes.learn(as_json=arguments.json, dry_run=arguments.dry_run)
    return probes.show(as_json=arguments.json, wanted=arguments.format, noheader=arguments.noheader)


def _check(arguments: argparse.Namespace) -> int:
    try:
        outcome, valid_s = _look(arguments)
    except SovctlError as error:
        return _broken(error.message, error.hint)
    except Exception as error:
        # Fail open: slurmd, or a site's own wrapper around this, must never take our mistake for a sick node.
        return _broken(f"{type(error).__name__}: {error}", "Please report this.")
    _show(outcome, valid_s, as_json=arguments.json)
    return EXIT_NODE_FAILED if outcome.verdict.state == "failed" else EXIT_DONE


def _look(arguments: argparse.Namespace) -> tuple[CheckOutcome, float]:
    from sovctl.cli import wiring
    from sovctl.config import load_config
    from sovctl.operations.node.check_node import check_node

    config = load_config()
    settings = wiring.check_settings(config, observe=arguments.observe, dry_run=arguments.dry_run)
    return check_node(wiring.node_ports(config), settings), config.health.verdict_valid_s


def _show(outcome: CheckOutcome, valid_s: float, *, as_json: bool) -> None:
    from sovctl.operations.node.check_node import explain

    if as_json:
        record = _record(outcome, valid_s)
        print_json(record.pop("schema"), record)
    else:
        for line in explain(outcome):
            print_line(line)
    for note in outcome.notes:
        say(f"sovctl: {note}")


def _record(outcome: CheckOutcome, valid_s: float) -> dict[str, Any]:
    from sovctl.health.drain import Drain
    from sovctl.model.verdict_json import verdict_record

    decision = outcome.decision
    if isinstance(decision, Drain):
        said = {"action": "drain", "reason": str(decision.reason), "command": list(decision.argv)}
    else:
        said = {"action": "none", "why": decision.why}
    return {**verdict_record(outcome.verdict, valid_s), "decision": {**said, "done": outcome.drained}}


def _watch(arguments: argparse.Namespace) -> int:
    from sovctl.cli import wiring
    from sovctl.config import load_config
    from sovctl.operations.node.check_node import explain
    from sovctl.operations.node.watch_node import WatchPace, watch_node

    config = load_config()
    stop = _StopSignals()

    def report(outcome: CheckOutcome) -> None:
        for line in explain(outcome):
            print_line(line)
        sys.stdout.flush()

    watch_node(
        wiring.node_ports(config, wake=stop.descriptor, host=False),
        wiring.check_settings(config, observe=arguments.observe),
        WatchPace(alive_s=config.watch.alive_interval_s),
        wiring.alive_mark(config),
        lambda: stop.arrived,
        report,
        lambda words: say(f"sovctl: {words}"),
        wiring.host_watch(config),
        wiring.step_freer(config),
    )
    return EXIT_DONE


class _StopSignals:
    """SIGTERM and SIGINT as a flag and a readable descriptor, so that a drain in progress ends before we do."""

    def __init__(self) -> None:
        self.arrived = False
        self.descriptor, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._note)

    def _note(self, *_: object) -> None:
        self.arrived = True


def _broken(message: str, hint: str) -> int:
    say(f"sovctl: health check could not run, the node is not judged: {message}")
    lab_shell = os.environ.get("SOVCTL_LAB_DIR") and not {"SOVCTL_LAB_NODE", "SLURMD_NODENAME"} & os.environ.keys()
    say_next("This shell is no node of the lab: sovctl node check n003" if lab_shell else hint)
    return EXIT_DONE
