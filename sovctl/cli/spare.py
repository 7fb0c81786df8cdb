"""`sovctl spare`: nodes that only preemptible jobs may use, until a run needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.tables import Column, add_row, print_listing, print_table, text_table
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import age, clock_time, folded, print_line, printable, say
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE, EXIT_REFUSED, EXIT_TRY_LATER, UsageError
from sovctl.operations import spares
from sovctl.operations.spares import Advised, Asked, SetOutcome
from sovctl.recovery.spare_count import Enough
from sovctl.recovery.spare_status import SpareNode, SpareStatus

app = typer.Typer(
    help="Spares in the pool: nodes that run preemptible work until the second a run needs them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ListFormat = Annotated[
    str, typer.Option("-o", "--format", metavar="FORMAT", help="Fields to show: '%.18N %T', or names: node,state:10.")
]
NoHeader = Annotated[bool, typer.Option("-n", "--noheader", help="No line of headers.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the exact commands, change nothing.")]
PartitionName = Annotated[
    str, typer.Option("--partition", "-p", metavar="NAME", help="Whose spares; the default partition if left out.")
]


def run(argv: Sequence[str]) -> int:
    """Run `sovctl spare ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl spare")


@app.command("set")
def set_(
    count: Annotated[int, typer.Argument(metavar="K", min=0, help="How many nodes; 0 undoes everything.")],
    partition: PartitionName = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Keep K nodes of a partition that only preemptible jobs may use, and set up the priority classes for it.

    No node is fixed: all other jobs together get all nodes but K. Every command is shown before it runs. What
    slurm.conf has to say is printed with the reason; it is never edited.

    Exit status: 0; 3 when slurm.conf lacks something; 75 when a part can be undone only later.

    Example: sovctl spare set 3 --dry-run
    """
    config = load_config()
    show = (lambda _: None) if as_json else (lambda line: print(printable(line), flush=True))
    classes, ports = wiring.spare_classes(config), wiring.spare_ports(config)
    with progress("asking slurmctld and slurmdbd") as waiting:
        outcome = spares.set_spares(count, partition, classes, ports, waiting.beside(show), dry_run=dry_run)
    if as_json:
        print_json("sovctl.spare.set/1", _set_record(outcome, dry_run=dry_run))
    else:
        _tell(outcome, dry_run=dry_run)
    if outcome.blocked and not dry_run:
        return EXIT_REFUSED
    return EXIT_TRY_LATER if outcome.wait and not dry_run else EXIT_DONE


@app.command()
def status(
    partition: PartitionName = "", fmt: ListFormat = "", noheader: NoHeader = False, as_json: Json = False
) -> int:
    """Show the spares: who uses them, how soon a run could have them, what is known of their health.

    With -o the nodes only: %P partition, %N node, %T state, %F free_in, %i jobs, %u user, %v verdict, %t tested; or
    these names with commas between, such as -o node,verdict.

    Example: sovctl spare status
    """
    config = load_config()
    with progress("asking slurmctld"):
        tests = spares.LoadedTests(config.spare.test_every_s, config.burn_in.after_jobs)
        found = spares.status(partition, wiring.spare_classes(config), wiring.spare_ports(config), tests)
    if as_json:
        print_json("sovctl.spares/1", {"partitions": [_status_record(item) for item in found]})
        return EXIT_DONE
    if fmt:
        rows = [_Row(item.partition, node) for item in found for node in item.pool]
        print_listing(rows, _COLUMNS, "", fmt, header=not noheader)
        for problem in (problem for item in found for problem in item.problems):
            _say(problem)
        return EXIT_DONE
    if not found:
        _say("no spares are kept; `sovctl spare advise` says how many are enough, `sovctl spare set K` keeps them")
    for index, item in enumerate(found):
        print("\n" * bool(index), end="")
        _show_status(item, header=not noheader)
    return EXIT_DONE


@app.command()
def advise(
    partition: PartitionName = "",
    nodes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Nodes that may fail; those of the partition.")
    ] = None,
    failures: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Counted failures; else the journal's.")
    ] = None,
    node_hours: Annotated[
        float | None, typer.Option(metavar="H", min=0.001, help="Nodes times hours they were counted in.")
    ] = None,
    repair_hours: Annotated[
        float | None, typer.Option(metavar="H", min=0.001, help="Mean time until a node is back.")
    ] = None,
    present: Annotated[
        int | None, typer.Option("--spares", metavar="N", min=0, help="Spares there are; else those set.")
    ] = None,
    short: Annotated[
        float | None, typer.Option("--short", metavar="P", help="Accepted probability of running short.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Say how many spares are enough for the failures seen here, and when the present number no longer is.

    Example: sovctl spare advise --nodes 63 --failures 17 --node-hours 90720 --repair-hours 72 --spares 3
    """
    config = load_config()
    wanted = config.spare.short_probability if short is None else short
    if not 0.0 < wanted < 1.0:
        raise UsageError(f"a probability lies between 0 and 1, and {wanted:g} does not", hint="Try --short 0.01.")
    asked = Asked(partition, nodes, failures, node_hours, repair_hours, present)
    classes, ports = wiring.spare_classes(config), wiring.spare_ports(config)
    with progress("reading the journals"):
        advised = spares.advise_spares(
            asked, classes, ports, wiring.failure_journals(config), wanted, config.spare.repair_hours
        )
    if as_json:
        record = {
            "observed": asdict(advised.observed),
            "nodes": advised.nodes,
            "assumed_repair": advised.assumed_repair,
        }
        print_json("sovctl.spare.advice/1", {**record, **asdict(advised.advice)})
    else:
        _show_advice(advised)
    return EXIT_DONE


@app.command()
def test(dry_run: DryRun = False, as_json: Json = False) -> int:
    """Give the idle spare that waited longest for it a piece of the burn-in, as `sovctl sweep --act` does.

    It ends by itself when a job comes. What it finds the node's own check judges.

    Example: sovctl spare test
    """
    config = load_config()
    with progress("testing a spare"):
        done = spares.test_next(wiring.spare_ports(config), 0.0, config.sweep.retest_timeout_s, dry_run=dry_run)
    if as_json:
        print_json("sovctl.spare.test/1", {"tested": asdict(done) if done else None})
    elif done is None:
        _say("no spare is idle, or none are kept")
    elif dry_run:
        print(f"ssh {printable(done.node)} {spares.TEST_COMMAND}")
    else:
        print_line(f"{done.node}: {done.outcome}: {done.why}")
    return EXIT_DONE


def _tell(outcome: SetOutcome, *, dry_run: bool) -> None:
    for need in outcome.needs:
        verb = "has to have" if need.blocking else "should have"
        _say(f"slurm.conf {verb}: {need.line}")
        _say(f"  because {need.why}")
    if outcome.blocked and not dry_run:
        _say("nothing was changed; restart slurmctld with these lines, then type this again")
        return
    for words in outcome.left:
        _say(words)
    if outcome.wait and not dry_run:
        _say(f"the rest goes with the same command later: sovctl spare set 0 --partition {outcome.partition}")
    if not outcome.commands and (outcome.done or (dry_run and not outcome.blocked)):
        _say("everything is so already" if not outcome.left else "nothing else is left to undo")
    if outcome.keep:
        _say("slurmctld forgets these at its next start unless slurm.conf says them; put them there now:")
        for line in outcome.keep:
            _say(f"  {line}")


def _show_status(item: SpareStatus, *, header: bool) -> None:
    limit = "no limit" if item.limit is None else f"other jobs hold {item.held} of at most {item.limit}"
    print_line(f"{item.partition}: {item.left} of {item.wanted} spares left; {item.nodes} nodes, {limit}")
    if item.out:
        print_line(f"  out of service: {wiring.fold_hostlist(item.out)}")
    print_listing([_Row(item.partition, node) for node in item.pool], _COLUMNS, "NTFiuvt", header=header)
    for problem in item.problems:
        _say(problem)


@dataclass(frozen=True, slots=True)
class _Row:
    partition: str
    node: SpareNode

    @property
    def free(self) -> str:
        return "now" if self.node.free_in_s == 0 and not self.node.jobs else f"{age(self.node.free_in_s)} at most"

    @property
    def tested(self) -> str:
        word = self.node.word
        return f"{word.tested} {clock_time(word.tested_at)}" if word.tested else "-"


_COLUMNS = (
    Column("P", "partition", "PARTITION", lambda row: row.partition),
    Column("N", "node", "NODE", lambda row: row.node.name),
    Column("T", "state", "STATE", lambda row: row.node.state),
    Column("F", "free_in", "FREE IN", lambda row: row.free),
    Column("i", "jobs", "JOBS", lambda row: ",".join(row.node.jobs) or "-", folded=True),
    Column("u", "user", "USER", lambda row: ",".join(row.node.users) or "-"),
    Column("v", "verdict", "VERDICT", lambda row: row.node.word.verdict),
    Column("t", "tested", "TESTED", lambda row: row.tested),
)


_HOURS_A_DAY = 24.0


def _show_advice(advised: Advised) -> None:
    advice, seen = advised.advice, advised.observed
    rate = advice.rate
    repair = f"{seen.repair_hours:.3g} h of repair{' (assumed)' if advised.assumed_repair else ''}"
    if advice.spares >= advised.nodes and seen.node_hours < _HOURS_A_DAY * advised.nodes:
        print_line(f"less than a day of {advised.nodes} nodes was seen yet, which is too little for an advice")
    elif advice.spares >= advised.nodes:
        print_line(f"no number of spares is enough for {advised.nodes} nodes that fail so often, for so long")
    else:
        for_nodes = f"{advice.spares} spares are enough for {advised.nodes} nodes"
        print_line(f"{for_nodes}, short at most {advice.wanted:.2%} of the time")
    for line in (
        f"  seen: {seen.failures} failures in {seen.node_hours:.0f} node-hours, {repair}",
        f"  rate: {rate.value:.2f} failures per 1000 node-days, "
        f"{rate.low:.2f} to {rate.high:.2f} with {rate.confidence:.0%} confidence",
        f"  by the measured rate alone {advice.by_rate} would be enough; the advice holds at its upper end",
    ):
        print(folded(line, 4))
    table = text_table("SPARES", "SHORT", "BETWEEN", "AND")
    for item in advice.options:
        add_row(table, (str(item.spares), *(f"{value:.2%}" for value in (item.short, item.short_low, item.short_high))))
    print_table(table)
    if advice.present is not None:
        _show_present(advised, advice.present)


def _show_present(advised: Advised, present: Enough) -> None:
    advice, limits = advised.advice, advised.advice.limits
    good = present.short <= advice.wanted
    print_line(
        f"the present {present.spares} are {'enough' if good else 'not enough'}: short {present.short:.2%} of the time"
    )
    if limits is None:
        return
    bounds = [
        ("{:.2f} failures per 1000 node-days", limits.failures_per_1000_node_days),
        ("{:.3g} h of repair", limits.repair_hours),
        ("{:.0f} nodes", limits.nodes),
    ]
    said = ", or ".join(words.format(value) for words, value in bounds if value is not None)
    print_line(f"  they are enough up to {said}, with the rest as it is")


def _set_record(outcome: SetOutcome, *, dry_run: bool) -> dict[str, object]:
    return {
        "partition": outcome.partition,
        "spares": outcome.spares,
        "dry_run": dry_run,
        "commands": [list(argv) for argv in outcome.commands],
        "needs": [asdict(need) for need in outcome.needs],
        "keep": list(outcome.keep),
        "left": list(outcome.left),
        "wait": outcome.wait,
        "done": outcome.done,
    }


def _status_record(item: SpareStatus) -> dict[str, object]:
    return {**asdict(item), "short": item.short, "pool": [{**asdict(node), "good": node.good} for node in item.pool]}


def _say(words: str) -> None:
    say(f"sovctl: {words}")
