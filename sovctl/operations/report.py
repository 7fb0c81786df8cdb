"""`sovctl report`: gather what is recorded of a period. Who is not root sees his own runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovctl.errors import SovctlError
from sovctl.health.ledger import ledger_from_record
from sovctl.health.tally import tallies_from_record
from sovctl.ledger.accounting import accounted_runs, by_job, with_queue_times
from sovctl.ledger.incident import RunAccount, SiteAccount
from sovctl.ledger.report import Report, make_report
from sovctl.ledger.runs import run_account
from sovctl.ledger.site import site_account, with_site
from sovctl.model.accounted import AccountedJob
from sovctl.operations.runs import RUNS, RunPorts, known_runs
from sovctl.ports import Accounting, SiteRecords
from sovctl.recovery.attempts import seconds, text


@dataclass(frozen=True, slots=True)
class ReportPorts:
    """The outside of a report."""

    runs: RunPorts
    accounting: Accounting
    active: Callable[[], frozenset[str]]
    """Numbers of the jobs that Slurm still has in the queue or running. Raises SovctlError."""
    site: SiteRecords | None = None
    """None: who asks sees only his own runs."""


@dataclass(slots=True)
class Gathered:
    """What was found, and what could not be had."""

    accounts: list[RunAccount] = field(default_factory=list)
    site: SiteAccount = field(default_factory=SiteAccount)
    problems: list[str] = field(default_factory=list)


def report(ports: ReportPorts, cwd: str, since: float) -> tuple[Report, list[str]]:
    """The report from `since` (seconds since the epoch) to now, and what it had to do without."""
    now = ports.runs.clock.now()
    found = gather(ports, cwd, since, now)
    return make_report(found.accounts, found.site, since, now), found.problems


def gather(ports: ReportPorts, cwd: str, since: float, now: float) -> Gathered:
    """Every run of the period: from its own record where there is one, else from Slurm's accounting."""
    found = Gathered()
    jobs = _accounted(ports, since, found)
    if ports.site is not None:
        found.site = _site(ports.site, found)
    active = _active(ports, found)
    accounts = _recorded(ports, cwd, jobs, since, active, now)
    executions = by_job(jobs)
    accounts = [with_queue_times(one, executions.get(_job_of(one), ())) for one in accounts]
    supervised = [_job_of(one) for one in accounts]
    accounts += accounted_runs(jobs, supervised, now)
    found.accounts = with_site(accounts, found.site)
    return found


def _accounted(ports: ReportPorts, since: float, found: Gathered) -> tuple[AccountedJob, ...]:
    try:
        return ports.accounting.jobs(since, everybody=ports.site is not None)
    except SovctlError as error:
        found.problems.append(f"without Slurm's accounting: {error.message}")
        return ()


def _active(ports: ReportPorts, found: Gathered) -> frozenset[str] | None:
    try:
        return ports.active()
    except SovctlError as error:
        found.problems.append(f"whether runs still go on is not known: {error.message}")
        return None


def _site(site: SiteRecords, found: Gathered) -> SiteAccount:
    entries, problems = site.entries()
    found.problems += problems
    ledgers = [ledger_from_record(record) for record in site.ledgers()]
    return site_account(entries, ledgers, [tallies_from_record(record) for record in site.tallies()])


def _recorded(
    ports: ReportPorts,
    cwd: str,
    jobs: Sequence[AccountedJob],
    since: float,
    active: frozenset[str] | None,
    now: float,
) -> list[RunAccount]:
    accounts = []
    for run_dir in _places(ports, cwd, jobs):
        record, events = ports.runs.records.record(run_dir), ports.runs.records.events(run_dir)
        last = max((at for event in events[-1:] if (at := seconds(event, "at")) is not None), default=0.0)
        going_on = active is None or text(record, "job_id").partition("_")[0] in active
        # A record that just stops is of a job that is gone: it was not in training ever since.
        until = now if going_on else min(now, last)
        if events and (going_on or last >= since):
            accounts.append(run_account(_named(record, run_dir), events, until))
    return accounts


def _named(record: Mapping[str, Any], run_dir: str) -> Mapping[str, Any]:
    return record if text(record, "run_id") else {**record, "run_id": Path(run_dir).name}


def _places(ports: ReportPorts, cwd: str, jobs: Iterable[AccountedJob]) -> Iterable[str]:
    """Directories of runs. Other users' are found below the directories their jobs ran in, and belong to them."""
    own = [run.run_dir for run in known_runs(ports.runs, cwd) if run.run_dir and not run.remote]
    if ports.site is None:
        return dict.fromkeys(own)
    owners: dict[str, int] = {}
    for job in jobs:
        if job.work_dir.startswith("/") and job.uid >= 0:
            owners.setdefault(job.work_dir, job.uid)
    others = [
        run_dir
        for work_dir, uid in owners.items()
        for run_dir in ports.runs.records.below(str(Path(work_dir, RUNS)))
        if ports.runs.records.owned_by(run_dir, uid)
    ]
    return dict.fromkeys([*own, *others])


def _job_of(account: RunAccount) -> tuple[str, str]:
    """Cluster and number: a run's id is `<cluster>-<job id>-<submit second>`."""
    head, _, _ = account.run.rpartition("-")
    cluster, _, job_id = head.rpartition("-")
    return cluster, job_id
