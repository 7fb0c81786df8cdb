"""`sovctl report`: gather what is recorded of a period. Who is not root sees his own runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.errors import SovctlError
from sovctl.health.ledger import ledger_from_record
from sovctl.health.tally import tallies_from_record
from sovctl.ledger.accounting import accounted_runs, by_job, with_queue_times
from sovctl.ledger.belief import borne_out, doubt
from sovctl.ledger.incident import RunAccount, SiteAccount
from sovctl.ledger.report import Report, make_report
from sovctl.ledger.runs import run_account
from sovctl.ledger.site import record_directories, site_account, with_site
from sovctl.model.accounted import AccountedJob
from sovctl.operations.runs import RUNS, RunPorts, known_runs
from sovctl.recovery.attempts import seconds, text

if TYPE_CHECKING:  # a report is waited for: what it does not need is not imported for it
    from sovctl.model.user_run import UserRun
    from sovctl.ports.common import Beside, Pending
    from sovctl.ports.site import SiteRecords, UserRecords
    from sovctl.ports.slurm import Accounting


@dataclass(frozen=True, slots=True)
class SitePorts:
    """What only root reads."""

    records: SiteRecords
    users: UserRecords
    uid: int
    """Root's own: what his runs say is taken as it is."""


@dataclass(frozen=True, slots=True)
class ReportPorts:
    """The outside of a report."""

    runs: RunPorts
    accounting: Accounting
    active: Callable[[], Mapping[str, int]]
    """Numbers of the jobs that Slurm still has in the queue or running, and whose they are. Raises SovctlError."""
    beside: Beside
    site: SitePorts | None = None
    """None: who asks sees only his own runs."""


@dataclass(slots=True)
class Gathered:
    """What was found, and what could not be had."""

    accounts: list[RunAccount] = field(default_factory=list)
    site: SiteAccount = field(default_factory=SiteAccount)
    directories: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """By user: where the watch saw his runs keep their records."""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Period:
    since: float
    now: float
    active: Mapping[str, int] | None
    """None: not known."""


_Executions = Mapping[tuple[str, str], Sequence[AccountedJob]]
"""By cluster and number of their job."""


def report(ports: ReportPorts, cwd: str, since: float) -> tuple[Report, list[str]]:
    """The report from `since` (seconds since the epoch) to now, and what it had to do without."""
    now = ports.runs.clock.now()
    found = gather(ports, cwd, since, now)
    return make_report(found.accounts, found.site, since, now), found.problems


def gather(ports: ReportPorts, cwd: str, since: float, now: float) -> Gathered:
    """Every run of the period: from its own record where there is one, else from Slurm's accounting."""
    found = Gathered()
    # sacct and slurmdbd take their time; meanwhile there are journals to read.
    accounting = ports.beside(lambda: ports.accounting.jobs(since, everybody=ports.site is not None))
    if ports.site is not None:
        _look_at_site(ports.site.records, found)
    period = _Period(since, now, _active(ports, found))
    own = [run.run_dir for run in known_runs(ports.runs, cwd) if run.run_dir and not run.remote]
    accounts = _own_accounts(ports, own, period) if ports.site is None else []
    accounted = _accounted(accounting, found)
    jobs = accounted or ()
    executions = by_job(jobs)
    if ports.site is not None:
        users = _UserAccounts(ports, ports.site, executions, period, found, accounted is not None)
        accounts = users.read(own, jobs)
    accounts = [with_queue_times(one, executions.get(_job_of(one.run), ())) for one in accounts]
    supervised = [_job_of(one.run) for one in accounts]
    accounts += accounted_runs(jobs, supervised, now)
    found.accounts = with_site(accounts, found.site)
    return found


def _accounted(accounting: Pending[tuple[AccountedJob, ...]], found: Gathered) -> tuple[AccountedJob, ...] | None:
    try:
        return accounting.result()
    except SovctlError as error:
        found.problems.append(f"without Slurm's accounting: {error.message}")
        return None


def _active(ports: ReportPorts, found: Gathered) -> Mapping[str, int] | None:
    try:
        return ports.active()
    except SovctlError as error:
        found.problems.append(f"whether runs still go on is not known: {error.message}")
        return None


def _look_at_site(site: SiteRecords, found: Gathered) -> None:
    entries, problems = site.entries()
    found.problems += problems
    ledgers = [ledger_from_record(record) for record in site.ledgers()]
    found.site = site_account(entries, ledgers, [tallies_from_record(record) for record in site.tallies()])
    found.directories = record_directories(entries)


def _own_accounts(ports: ReportPorts, run_dirs: Sequence[str], period: _Period) -> list[RunAccount]:
    records = ports.runs.records
    found = (_account(one, records.record(one), records.events(one), period) for one in dict.fromkeys(run_dirs))
    return [account for account in found if account is not None]


def _account(
    run_dir: str, record: Mapping[str, Any], events: Sequence[Mapping[str, Any]], period: _Period
) -> RunAccount | None:
    """None: it was over before the period."""
    last = max((at for event in events[-1:] if (at := seconds(event, "at")) is not None), default=0.0)
    going_on = period.active is None or text(record, "job_id").partition("_")[0] in period.active
    # A record that just stops is of a job that is gone: it was not in training ever since.
    until = period.now if going_on else min(period.now, last)
    named = record if text(record, "run_id") else {**record, "run_id": Path(run_dir).name}
    return run_account(named, events, until) if events and (going_on or last >= period.since) else None


def _job_of(run: str) -> tuple[str, str]:
    """Cluster and number: a run's id is `<cluster>-<job id>-<submit second>`."""
    head, _, _ = run.rpartition("-")
    cluster, _, job_id = head.rpartition("-")
    return cluster, job_id


# Everybody's, of which nothing is believed that Slurm contradicts


@dataclass(slots=True)
class _UserAccounts:
    ports: ReportPorts
    site: SitePorts
    executions: _Executions
    period: _Period
    found: Gathered
    accounted: bool
    """False: there is no accounting that could contradict a user."""
    _taken: set[tuple[int, str, str]] = field(default_factory=set)
    _doubted: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def read(self, known: Sequence[str], jobs: Sequence[AccountedJob]) -> list[RunAccount]:
        """Of the runs that root knows, of those below the directories that each user's own jobs ran in, and of those
        that the watch saw elsewhere, where there is an accounting to hold against them."""
        places: dict[int, dict[str, None]] = defaultdict(dict)
        for run_dir in known:
            owner = self.ports.runs.records.owner(run_dir)
            if owner is not None:
                places[owner][str(Path(run_dir).parent)] = None
        for work_dir, uid in dict.fromkeys((job.work_dir, job.uid) for job in jobs):
            if work_dir.startswith("/") and uid >= 0:
                places[uid][str(Path(work_dir, RUNS))] = None
        for uid, directories in self.found.directories.items() if self.accounted else ():
            places[uid] |= dict.fromkeys(directories)
        roots = {uid: list(own) for uid, own in places.items()}
        runs = self.site.users.read(roots, self.found.problems.append)
        accounts = [account for run in runs if (account := self._account(run)) is not None]
        self.found.problems += [_words(doubted) for doubted in self._doubted.values()]
        return accounts

    def _account(self, run: UserRun) -> RunAccount | None:
        if run.uid == self.site.uid:
            return _account(run.run_dir, run.record, run.events, self.period)
        name = Path(run.run_dir).name
        key = (run.uid, *_job_of(name))
        own = [job for job in self.executions.get(key[1:], ()) if job.uid == run.uid]
        if self.accounted and not own and not self._just_came(name, run.uid):
            return None
        account = _account(run.run_dir, {**run.record, "run_id": name}, run.events, self.period)
        if account is None:
            return None
        why = doubt(account, own, self.period.since, self.period.now)
        if key in self._taken:
            why = "a newer record has its number"
        if why:
            self._doubted[run.uid].append(f"{run.run_dir}: {why}")
            return None
        self._taken.add(key)
        return borne_out(account, own, name)

    def _just_came(self, run: str, uid: int) -> bool:
        """Its job is in the queue and not in the accounting yet, or there is none."""
        active = self.period.active
        return active is not None and active.get(_job_of(run)[1]) == uid


def _words(runs: Sequence[str]) -> str:
    others = f", and {len(runs) - 1} more of the same user" if len(runs) > 1 else ""
    return f"not believed, and accounted for by Slurm's word alone: {runs[0]}{others}"
