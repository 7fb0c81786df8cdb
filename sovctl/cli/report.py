"""`sovctl report`: the figures of a period, as a table, as JSON or as one page with plots."""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sovctl.cli import wiring
from sovctl.cli.arguments import Parser
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.tables import add_row, print_table, text_table
from sovctl.cli.words import clock_time, say
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE, SovctlError, UsageError
from sovctl.ledger.intervals import MeanTime
from sovctl.ledger.period import since
from sovctl.ledger.report import ChainFigure, NamedCount, Report
from sovctl.ledger.report_json import SCHEMA, report_record
from sovctl.recovery.explain import duration

_EXAMPLES = """\
examples:
  sovctl report                        your runs of the last 30 days; root: everybody's, and the site's
  sovctl report --since 8w --json      the same figures and every incident as one JSON object
  sovctl report --html report.html     one page with plots, for a browser without a network
"""
_SHOWN = 12


def run(argv: Sequence[str]) -> int:
    """Run `sovctl report ARGV` and return its exit status."""
    options = make_parser().parse_args(list(argv))
    config = load_config()
    # A hundred thousand records that all stay until the end: looking for garbage among them is a third of the time.
    gc.disable()
    from sovctl.operations.report import report

    began = _since(options.since)
    with progress("reading the records"):
        found, problems = report(wiring.report_ports(config), str(Path.cwd()), began)
    for problem in problems:
        say(f"sovctl: {problem}")
    if options.html:
        _write_page(options.html, found)
    if options.json:
        print_json(SCHEMA, report_record(found))
    elif not options.html:
        print_report(found)
    return EXIT_DONE


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sovctl report`."""
    parser = Parser(
        prog="sovctl report",
        description="How often runs failed, how long each stage of the way back took, and what was lost.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--since", default="30d", metavar="WHEN", help="30d, 12h, 8w, or a day (default: 30d)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page; - is stdout")
    return parser


def _since(words: str) -> float:
    try:
        return since(words, time.time())
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--since {words}: {error}", hint="Write it as in --since 30d, 12h, 8w or 2026-11-01."
        ) from None


def _write_page(name: str, found: Report) -> None:
    from sovctl.cli.report_page import page

    text = page(found, wiring.fold_hostlist)
    if name == "-":
        print(text)
        return
    path = Path(name)
    fresh = ""
    try:
        descriptor, fresh = tempfile.mkstemp(prefix=".sovctl-report-", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(fresh).chmod(0o644)
        Path(fresh).replace(path)
    except OSError as error:
        if fresh:
            Path(fresh).unlink(missing_ok=True)
        words = f"cannot write {name}: {error.strerror or error}"
        raise SovctlError(words, hint="Name a file in a directory you may write: --html FILE") from error
    say(f"sovctl: the report is in {name}")


# For people


def print_report(found: Report) -> None:
    """Everything that has a figure."""
    print(f"from {clock_time(found.since)} to {clock_time(found.until)}")
    table = text_table("", " ", folded=(" ",))
    for name, value in headlines(found):
        add_row(table, (f"{name + ':':<18}", value))
    print_table(table, header=False)
    _print_stages(found)
    _print_runs(found)
    _print_counts("NODE", found.nodes)
    _print_counts("GPU SERIAL", found.gpus)
    _print_probes(found)


def headlines(found: Report) -> list[tuple[str, str]]:
    """The figures that stand for the period."""
    culprits = ", ".join(f"{culprit.value} {count}" for culprit, count in found.by_culprit) or "none"
    lines = [
        ("interruptions", culprits),
        ("MTTF", hours(found.mttf)),
        ("  hardware only", hours(found.mttf_hardware)),
        ("  of a node", days(found.node_days)),
        ("MTTR", mttr(found)),
        ("ETTR", share(found.ettr)),
        ("retry chains", chains(found.chains)),
        ("lost", lost(found)),
    ]
    if found.hardware_chains.chains:
        lines.insert(7, ("  after hardware", chains(found.hardware_chains)))
    return lines


def hours(found: MeanTime) -> str:
    """`17.2 h (95 %: 9.1 to 31 h); 14 failures in 240 h of training`."""
    return _mean_time(found, "h", "h of training")


def days(found: MeanTime) -> str:
    """The same in days of a node."""
    return _mean_time(found, "days", "node-days of training, hardware")


def _mean_time(found: MeanTime, unit: str, of: str) -> str:
    failures = f"{_count(found.failures, 'failure', 'failures')} in {plain(found.observed)} {of}"
    if found.lower is None:
        return "nothing ran"
    if found.mean is None or found.upper is None:
        return f"at least {plain(found.lower)} {unit} (95 %); {failures}"
    return f"{plain(found.mean)} {unit} (95 %: {plain(found.lower)} to {plain(found.upper)}); {failures}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def plain(value: float) -> str:
    """Three figures, and no powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def mttr(found: Report) -> str:
    """Median and 90th percentile."""
    if found.restart is None:
        return "nothing came back by itself"
    way = f"{duration(found.restart.median)} in the median, 9 of 10 within {duration(found.restart.p90)}"
    again = f"; caught up after {duration(found.caught_up.median)}" if found.caught_up else ""
    return f"{way}{again} ({_count(found.restart.count, 'recovery', 'recoveries')})"


def share(value: float | None) -> str:
    """As per cent."""
    return "not known" if value is None else f"{value:.1%}"


def chains(found: ChainFigure) -> str:
    """`3 of 4 led on (75 %), 7 retries, 11 s from stop to start in the median`."""
    if not found.chains:
        return "none"
    done = found.chains - found.open
    words = f"{found.successes} of {done} led on" + (f" ({found.share:.0%})" if found.share is not None else "")
    words += f", {_count(found.retries, 'retry', 'retries')}"
    if found.interval_median_s is not None:
        words += f", {duration(found.interval_median_s)} from stop to start in the median"
    return words + (f"; {found.open} still tried" if found.open else "")


def lost(found: Report) -> str:
    """Steps and GPU time."""
    gpu = f"{plain(found.gpu_seconds_lost / 3600)} GPU-hours"
    part = f" ({found.gpu_seconds_lost / found.gpu_seconds:.2%} of the time of GPUs)" if found.gpu_seconds else ""
    if found.gpu_seconds_unknown:
        unknown = f"{duration(found.gpu_seconds_unknown)} of runs whose GPUs are not known"
        gpu = f"{gpu}{part}, and {unknown}" if found.gpu_seconds_lost else unknown
        part = ""
    return f"{found.steps_lost:,} steps done again, {gpu}{part}"


def gpu_hours(found: Report) -> str:
    """Lost, where it is known of any run."""
    if found.gpu_seconds_unknown and not found.gpu_seconds_lost:
        return "not known"
    return f"{plain(found.gpu_seconds_lost / 3600)} GPU-hours"


def _print_stages(found: Report) -> None:
    if not found.stages:
        return
    table = text_table("STAGE", "COUNT", "MEDIAN", "P90", "FIRST HALF", "SECOND HALF")
    for item in found.stages:
        halves = [duration(one) if one is not None else "-" for one in (item.earlier_median, item.later_median)]
        figure = item.spread
        cells = (item.stamp.value, str(figure.count), duration(figure.median), duration(figure.p90), *halves)
        add_row(table, cells)
    print(flush=True)
    print_table(table)


def _print_runs(found: Report) -> None:
    if not found.runs:
        return
    table = text_table("JOB", "USER", "NAME", "TIME", "ETTR", "FAILURES", "STEPS LOST", "GPU-H LOST", folded=("NAME",))
    for item in found.runs[:_SHOWN]:
        at_most = "<=" if item.source.value == "accounting" else ""
        ettr = "-" if item.ettr is None else f"{at_most}{item.ettr:.1%}"
        cells = (
            item.job_id,
            item.user or "-",
            item.name or "-",
            duration(item.wall_s),
            ettr,
            str(item.failures),
            str(item.steps_lost),
            plain(item.gpu_seconds_lost / 3600),
        )
        add_row(table, cells)
    print(flush=True)
    print_table(table)
    if len(found.runs) > _SHOWN:
        print(f"{len(found.runs) - _SHOWN} shorter ones: --json")


def _print_counts(title: str, counts: Sequence[NamedCount]) -> None:
    if not counts:
        return
    table = text_table(title, "INCIDENTS", "SHARE", "LAST", "WHAT", folded=("WHAT",))
    for item in counts:
        where = f" on {item.where}" if item.where else ""
        cells = (item.name, str(item.incidents), f"{item.share:.0%}", clock_time(item.last_at), item.last + where)
        add_row(table, cells)
    print(flush=True)
    print_table(table)


def _print_probes(found: Report) -> None:
    if not found.probes:
        return
    table = text_table("PROBE", "HITS", "DRAINED", "FALSE", "SHADOW", "CONFIRMED")
    for item in found.probes:
        count = item.count
        figures = (count.hits, item.drained, item.cleared, count.would_have_drained, count.confirmed)
        add_row(table, (item.name, *(str(figure) for figure in figures)))
    print(flush=True)
    print_table(table)
