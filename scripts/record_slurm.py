"""Records what the installed Slurm prints, for the parser's tests: starts a lab of its own, brings nodes and jobs into
the states that are printed in a way of their own, and writes one file a command.

usage (as root): record_slurm.py DIR    DIR: tests/data/slurm/RELEASE
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sovctl.adapters.slurm import known_names, parse
from sovctl.lab import cluster

USER = "alice"
UID = 1001
REQUEST = {"nodes": 8, "gpus": 8, "health": False, "accounting": True, "preemption": True}
ACCOUNTING = ("sacct", "-a", "-X", "-D", "-P", "-n", "--delimiter=|", "-o", ",".join(parse.ACCOUNT_COLUMNS))
OPEN_QOS = ("sacctmgr", "-nP", "show", "assoc", "where", "account=root", f"format={parse.ROOT_FORMAT}")


def main(target: Path) -> None:
    """Start the lab, record, take it down."""
    make_user()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rec", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        lab = cluster.up(cluster.Request(Path(name) / "lab", **REQUEST))  # type: ignore[arg-type]
        try:
            Recorder(lab, target).record()
        finally:
            cluster.down(lab.layout.root)


def make_user() -> None:
    """Who submits one of the jobs."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--uid", str(UID), "--home-dir", "/nonexistent", USER], check=True)


class Recorder:
    """One lab and the directory the records go to."""

    def __init__(self, lab: cluster.Lab, target: Path) -> None:
        self._lab = lab
        self._target = target
        self._env = lab.environment | {"SLURM_TIME_FORMAT": "%s"}
        self._work = lab.layout.root / "work"
        self._work.mkdir(mode=0o777)
        self._work.chmod(0o777)

    def record(self) -> None:
        """Jobs 1 to 7 and nodes n001 to n008; the tests say what each is."""
        self.sacctmgr("add", "account", "ai", "Description=x", "Organization=x")
        self.sacctmgr("add", "qos", "high", "Priority=1000", "GraceTime=30", "Preempt=normal", "GrpTRES=node=6")
        self.sacctmgr("add", "user", f"{USER},root", "Account=ai", "QOS=normal,high", "DefaultQOS=normal")
        self.run("scontrol", "update", "PartitionName=preemptible", "DenyQos=high", "PreemptMode=REQUEUE")
        self.run("scontrol", "update", "NodeName=n002", "State=DRAIN", "Reason=sovctl:20261122-1a2b XID79 GPU 5 bus")
        self.jobs()
        self.note("show_job", "scontrol", "-o", "show", "job")
        self.note("show_node", "scontrol", "-o", "show", "node")
        self.note("show_partition", "scontrol", "-o", "show", "partition", "-a")
        self.note("show_config", "scontrol", "show", "config")
        self.note("squeue", "squeue", "-h", "-a", "-o", parse.QUEUE_FORMAT)
        self.note("squeue_pool", "squeue", "-h", "-a", "-r", "-o", parse.POOL_FORMAT)
        self.note("squeue_preempted", "squeue", "-h", "-a", "-r", "-O", parse.PREEMPTED_FORMAT)
        self.note("squeue_steps", "squeue", "-h", "-s", "-o", "%i")
        self.note("sdiag", "sdiag")
        self.note("qos", "sacctmgr", "-nP", "show", "qos", f"format={parse.QOS_FORMAT}")
        self.note("open_qos", *OPEN_QOS)
        self.note("accounting", *ACCOUNTING)
        for kind, argv in known_names.COMMANDS.items():
            self.note(f"names_{kind}", *argv)
        self.requeued()
        self.reservations()

    def jobs(self) -> None:
        """One of each kind."""
        step = "srun sleep 600"
        self.submit("-N4", "--exclusive", wrap=step, user=USER)
        evil = "evil JobState=RUNNING NodeList=n001 x"
        # The shell ignores SIGTERM, so that the job completes for as long as KillWait.
        stubborn = "trap '' TERM; srun sh -c 'trap \"\" TERM; while :; do sleep 1; done'"
        self.submit("-N2", f"--job-name={evil}", "--comment=a=b Reason=c", wrap=stubborn)
        self.wait("two running jobs with their steps", lambda: self.out("squeue", "-h", "-s").count(".0 ") == 2)
        self.submit("--array=1-3%1", "--job-name=arr", wrap="sleep 600")
        self.wait("a task of the array", lambda: "3_1|" in self.out("squeue", "-h", "-t", "R", "-o", "%i|"))
        self.submit("-N2", "--begin=now+3600", "--exclude=n[002-003]", "--job-name=späte\tArbeit", wrap="true")
        self.submit("--hold", "--job-name=held", wrap="true")
        gone = self.submit("--job-name=gone", wrap="sleep 600")
        self.wait("the job that is cancelled to run", lambda: gone in self.out("squeue", "-h", "-t", "R", "-o", "%i"))
        self.run("scancel", gone)
        self.wait("it to be over", lambda: "JobState=CANCELLED" in self.out("scontrol", "-o", "show", "job", gone))

    def requeued(self) -> None:
        """The second job, while what it left on its nodes is still being ended."""
        self.run("scontrol", "requeue", "2")
        self.wait("the job to complete", lambda: "COMPLETING" in self.out("scontrol", "-o", "show", "job", "2"))
        self.note("show_job_completing", "scontrol", "-o", "show", "job", "2")

    def reservations(self) -> None:
        """One of maintenance that is to come, one that has begun and has no end, with an odd name."""
        soon = ("StartTime=now+2hours", "Duration=60", "Nodes=ALL", "Users=root", "Flags=MAINT,IGNORE_JOBS")
        self.run("scontrol", "create", "ReservationName=maint", *soon)
        odd = "a team Nodes=n001 EndTime=1"
        now = ("StartTime=now", "Duration=UNLIMITED", "Nodes=n001,n003", "Users=root,alice", "Flags=IGNORE_JOBS")
        self.run("scontrol", "create", f"ReservationName={odd}", *now)
        self.note("show_reservation", "scontrol", "-o", "show", "reservation")

    def submit(self, *options: str, wrap: str, user: str = "root") -> str:
        """Hand a job to sbatch, as a user; its id."""
        argv = ["sbatch", "--parsable", "--requeue", f"--chdir={self._work}", *options, f"--wrap={wrap}"]
        account = pwd.getpwnam(user)
        done = subprocess.run(
            argv, env=self._env, user=account.pw_uid, group=account.pw_gid, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def sacctmgr(self, *words: str) -> None:
        """Change the accounts at once."""
        self.run("sacctmgr", "-i", *words)

    def run(self, *argv: str) -> None:
        """Run a command that must succeed."""
        subprocess.run(argv, env=self._env, check=True, stdout=subprocess.DEVNULL)

    def out(self, *argv: str) -> str:
        """What a command prints."""
        return subprocess.run(argv, env=self._env, check=True, capture_output=True, text=True).stdout

    def note(self, name: str, *argv: str) -> None:
        """Record a command without this machine's names."""
        text, machine = self.out(*argv), os.uname()
        for own, plain in (
            (str(self._lab.layout.root), "/srv/lab"),
            (machine.nodename, "host1"),
            (machine.release, "6.1.0-13-amd64"),
        ):
            text = text.replace(own, plain)
        (self._target / f"{name}.txt").write_text(text, "utf-8")

    def wait(self, what: str, look: Callable[[], bool]) -> None:
        """Until it is so."""
        deadline = time.monotonic() + 60
        while not look():
            if time.monotonic() > deadline:
                raise SystemExit(f"not within 60 s: {what}")
            time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
