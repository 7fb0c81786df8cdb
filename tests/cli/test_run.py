"""`sovctl run` as its user meets it, with stand-ins for the Slurm commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sovctl.model.progress import Phase, Progress

STAND_IN = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path

here = Path(os.environ["STAND_IN"])
program = Path(sys.argv[0]).name
with (here / "called").open("a") as called:
    called.write(" ".join([program, *sys.argv[1:]]) + "\\n")
answers = json.loads((here / "answers.json").read_text())
words = " ".join([program, *sys.argv[1:]])
for start, (status, out, err) in answers.items():
    if words.startswith(start):
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(status)
sys.exit(f"no answer for {{words}}")
"""
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
DENIED = "scancel: error: Kill job error on job id 7: Access/permission denied\n"
SUBMITTED = 1795385600


@dataclass
class Site:
    """A directory with one run, and Slurm commands that say what the test told them to."""

    root: Path
    env: dict[str, str]

    @property
    def run_dir(self) -> Path:
        return self.root / f"work/.sovctl/runs/lab-7-{SUBMITTED}"

    def says(self, **changes: tuple[int, str, str]) -> None:
        """By the first word of the command; `job` for the question about one job."""
        names = {"job": "scontrol -o show job", "release": "scontrol release", "update": "scontrol update"}
        known = {"squeue": (0, "", ""), "job": self.job("RUNNING"), "scancel": (0, "", ""), "release": (0, "", "")}
        answers = {names.get(name, name): answer for name, answer in {**known, **changes}.items()}
        (self.root / "answers.json").write_text(json.dumps(answers))

    def job(self, state: str, **fields: object) -> tuple[int, str, str]:
        values = {"Priority": 1, "Restarts": 0, "Reason": "None", "SubmitTime": SUBMITTED, **fields}
        words = " ".join(f"{key}={value}" for key, value in values.items())
        return 0, f"JobId=7 JobName=t UserId=u(1000) JobState={state} {words}\n", ""

    def event(self, kind: str, at: float = 0.0, **fields: Any) -> None:
        path = self.run_dir / "events.jsonl"
        seq = len(path.read_text().splitlines()) + 1 if path.exists() else 1
        with path.open("a") as file:
            file.write(json.dumps({"seq": seq, "at": SUBMITTED + at, "kind": kind, **fields}) + "\n")

    def run(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sovctl", "run", *argv],
            capture_output=True,
            text=True,
            cwd=self.root / "work",
            env={**self.env, **env},
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done

    def json(self, *argv: str) -> dict[str, Any]:
        done = self.run(*argv, "--json")
        assert done.returncode == 0, done.stderr
        record: dict[str, Any] = json.loads(done.stdout)
        return record

    @property
    def acts(self) -> list[str]:
        path = self.root / "called"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith(("squeue", "scontrol -o show"))]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "bin").mkdir()
    for name in ("scontrol", "squeue", "scancel"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SOVCTL_", "XDG_"))}
    home = {"HOME": str(tmp_path), "STAND_IN": str(tmp_path), "TZ": "UTC", "SOVCTL_SLURM_BIN_DIR": ""}
    made = Site(tmp_path, {**clean, **home, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    made.run_dir.mkdir(parents=True)
    record = {
        "schema": "sovctl.run/1",
        "run_id": made.run_dir.name,
        "cluster": "lab",
        "job_id": "7",
        "submitted": SUBMITTED,
        "name": "train.sbatch",
        "run_dir": str(made.run_dir),
        "checkpoint_dir": "/ck",
    }
    (made.run_dir / "run.json").write_text(json.dumps(record))
    nodes = [f"n{number:03}" for number in range(1, 5)]
    made.event("attempt_started", attempt=0, restarts=0, nodes=nodes, batch_host="n001", resume_step=0)
    made.says()
    return made


@pytest.fixture
def recovered(site: Site) -> Site:
    evidence = "n003: XID79 GPU 5 fell off the bus"
    site.event("detected", 83, attempt=0, nodes=["n003"], evidence=evidence)
    site.event(
        "attempt_ended",
        83,
        attempt=0,
        culprit="hardware",
        blamed=["n003"],
        evidence=evidence,
        step=47,
        checkpoint="/ck/step-40",
        checkpoint_step=40,
        action="requeue",
        why="run on without n003",
    )
    site.event("requeue_intent", 83.1, attempt=0, exclude=["n003"])
    site.event("requeued", 84, attempt=0, exclude=["n003"], given_up=[], begin=1)
    nodes = ["n001", "n002", "n005", "n006"]
    site.event("attempt_started", 86.9, attempt=1, restarts=1, nodes=nodes, resume_from="/ck/step-40", resume_step=40)
    site.event("checkpoint_loaded", 90, attempt=1, happened=SUBMITTED + 89.5, step=40)
    site.says(job=site.job("RUNNING", Restarts=1))
    return site


def test_why_in_three_lines(recovered: Site) -> None:
    done = recovered.run("why", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "n003 was blamed: XID79 GPU 5 fell off the bus (seen at 2026-11-22 22:14:43)",
        "requeued without n003; ran again on n[001-002,005-006] 3.9 s after the fault was seen",
        "resumed from step 40 of checkpoint /ck/step-40; 7 steps repeated",
    ]
    record = recovered.json("why", "7")
    assert (record["schema"], record["story"], record["blamed"]) == ("sovctl.run.why/1", "recovered", ["n003"])
    # Who reads it may live in another zone.
    assert record["lines"] == done.stdout.replace("22:14:43)", "22:14:43 UTC)").splitlines()
    assert (record["recovery"]["steps_lost"], record["recovery"]["restart_seconds"]) == (7, 3.9)


def test_why_says_where_slurm_knows_better(site: Site) -> None:
    site.says(job=(1, "", "slurm_load_jobs error: Invalid job id specified\n"))
    done = site.run("why", "7")
    assert done.returncode == 0
    assert done.stdout.startswith("started on n[001-004] at 2026-11-22 22:13:20; no trouble is recorded since")
    assert "now gone: Slurm no longer knows its job" in done.stderr


def test_show(recovered: Site) -> None:
    (recovered.run_dir / "progress").mkdir()
    rank = Progress(0, "n001", 5, 1, Phase.RUNNING, 0.0, step=52, loss=1.25, step_seconds=0.5, saved_step=50)
    (recovered.run_dir / "progress/0").write_bytes(rank.to_json())
    out = recovered.run("show", "7").stdout
    assert f"job 7  train.sbatch\nstate:       running\n" in out  # noqa: F541
    assert "ranks:       1 of attempt 1, step 52, loss 1.25, 0.5 s a step, saved step 50, running" in out
    head = next(index for index, line in enumerate(out.splitlines()) if line.startswith("#"))
    rows = [line.split() for line in out.splitlines()[head : head + 3]]
    assert rows[0] == ["#", "STARTED", "RAN", "FROM", "TO", "CULPRIT", "BLAMED", "NODES"]
    assert rows[1] == ["0", "2026-11-22", "22:13:20", "1m23s", "0", "47", "hardware", "n003", "n[001-004]"]
    assert rows[2][4:] == ["40", "52", "-", "-", "n[001-002,005-006]"]
    stages = [
        line.split("  ")
        for line in out.partition("incident of attempt 0: hardware n003 XID79, recovered")[2].splitlines()
    ]
    assert [stage[0] for stage in stages if stage[0] in ("detected", "decided")] == ["detected", "decided"]
    assert max(len(line) for line in recovered.run("show", "7", COLUMNS="80").stdout.splitlines()[head:]) <= 80
    record = recovered.json("show", str(recovered.run_dir))
    assert record["schema"] == "sovctl.run.show/1"
    assert [item["outcome"] for item in record["incidents"]] == ["recovered"]
    assert [item["attempt"] for item in record["attempts"]] == [0, 1]
    assert record["ranks"][0]["loss"] == 1.25
    assert record["state"]["word"] == "running"


def test_show_says_which_nodes_are_kept_away_from_and_until_when(site: Site) -> None:
    now = time.time() - SUBMITTED
    site.event("attempt_ended", now - 8 * 24 * 3600, attempt=0, culprit="hardware", blamed=["n009"], evidence="XID79")
    site.event("straggler", now - 60, attempt=0, node="n002", rank=1, evidence="30 % slower")
    site.event("attempt_ended", now - 30, attempt=1, culprit="hardware", blamed=["n003"], evidence="XID79")
    lines = site.run("show", "7").stdout.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("EXCLUDED"))
    assert [line.split()[0] for line in lines[head : head + 3]] == ["EXCLUDED", "n002", "n003"]
    assert lines[head + 1].endswith("30 % slower")
    items = site.json("show", "7")["exclusions"]
    assert [(item["node"], item["reason"], item["suspected"]) for item in items] == [
        ("n002", "30 % slower", True),
        ("n003", "XID79", False),
    ]
    assert [round(item["until"] - item["since"]) for item in items] == [6 * 3600, 7 * 24 * 3600]
    site.event("run_ended", outcome="finished")
    site.says(job=site.job("COMPLETED"))
    assert site.json("show", "7")["exclusions"] == []


def test_show_and_why_explain_a_hold_of_slurms_own(site: Site) -> None:
    site.says(job=site.job("PENDING", Priority=0, Restarts=1, Reason="launch_failed_requeued_held"))
    assert "then type: sovctl run resume 7" in " ".join(site.run("show", "7").stdout.split())
    assert "now held: launch_failed_requeued_held: Slurm could not launch it" in site.run("why", "7").stderr


def test_ls(recovered: Site) -> None:
    recovered.says(squeue=(0, "7|7|N/A|RUNNING|1000|n[001-002]|n001||None\n", ""))
    rows = [line.split() for line in recovered.run("ls").stdout.splitlines()]
    assert rows[0][:4] == ["JOB", "NAME", "STATE", "AGE"]
    assert rows[1][:3] == ["7", "train.sbatch", "running"]
    assert rows[1][4:] == ["2", "40", "n[001-002,005-006]"]
    record = recovered.json("ls")
    assert record["schema"] == "sovctl.runs/1"
    assert [(run["job_id"], run["state"]["word"], run["attempts"]) for run in record["runs"]] == [("7", "running", 2)]


def test_ls_without_any_run(site: Site, tmp_path: Path) -> None:
    for path in (site.run_dir / "run.json", site.run_dir / "events.jsonl"):
        path.unlink()
    site.run_dir.rmdir()
    done = site.run("ls")
    assert (done.returncode, done.stdout) == (0, "")
    assert "start one with `sovctl submit SCRIPT`" in done.stderr


def test_events(recovered: Site) -> None:
    lines = recovered.run("events", "7").stdout.splitlines()
    assert lines[0] == "2026-11-22 22:13:20  #0  attempt_started   on n[001-004], from the start"
    assert "hardware at step 47: n003: XID79 GPU 5 fell off the bus -> requeue: run on without n003" in lines[2]
    record = recovered.json("events", "7")
    assert record["schema"] == "sovctl.run.events/1"
    assert [event["kind"] for event in record["events"]][-1] == "checkpoint_loaded"


def test_hostile_records_neither_break_nor_paint(site: Site) -> None:
    site.event("attempt_ended", attempt=0, culprit=["x"], evidence="\x1b[31m[bold]forged\nline", blamed="n1", step="9")
    with (site.run_dir / "events.jsonl").open("ab") as file:
        file.write(
            b'{"half\n\xff\xfe\n[[[[\n{"seq": 9, "kind": 5}\n{"seq":10,"kind":"odd","at":1e300,"x":"\\u001b[2J"}\n'
        )
    for command in ("why", "show", "events"):
        done = site.run(command, "7")
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert site.run(command, "7", "--json").returncode == 0
    assert "\\x1b[31m[bold]forged\\nline" in site.run("why", "7").stdout


def test_without_slurmctld_the_record_is_shown(site: Site) -> None:
    site.says(job=(1, "", DOWN), squeue=(1, "", DOWN))
    for command in (["show", "7"], ["ls"]):
        done = site.run(*command)
        assert done.returncode == 0
        assert "running" in done.stdout
        assert "slurmctld does not answer" in done.stderr
    assert site.run("why", "7").returncode == 0


@pytest.mark.parametrize("verb", ["stop", "resume"])
def test_acting_without_slurmctld(site: Site, verb: str) -> None:
    site.says(job=(1, "", DOWN))
    done = site.run(verb, "7")
    assert (done.returncode, done.stdout) == (75, "")
    assert "scontrol ping" in done.stderr
    assert site.acts == []


def test_stop(site: Site) -> None:
    done = site.run("stop", "7", "--dry-run")
    assert (done.returncode, done.stdout, site.acts) == (0, "scancel 7\n", [])
    done = site.run("stop", "7")
    assert (done.returncode, done.stdout) == (0, "")
    assert site.acts == ["scancel 7"]
    assert "job 7 is cancelled" in done.stderr


def test_a_job_of_another_user(site: Site) -> None:
    site.says(scancel=(1, "", DENIED))
    done = site.run("stop", "7")
    assert done.returncode == 3
    assert "Slurm does not let you change job 7" in done.stderr


def test_resume(site: Site) -> None:
    site.says(job=site.job("PENDING", Priority=0, Reason="JobHeldUser", Restarts=1))
    done = site.run("resume", "7", "--dry-run")
    assert (done.returncode, done.stdout, site.acts) == (0, "scontrol release 7\n", [])
    assert site.run("resume", "7").returncode == 0
    assert site.acts == ["scontrol release 7"]


def test_resume_of_a_job_that_slurm_forgot(site: Site) -> None:
    site.says(job=(1, "", "slurm_load_jobs error: Invalid job id specified\n"))
    done = site.run("resume", "7")
    assert done.returncode == 1
    assert "sovctl submit --checkpoint-dir=/ck SCRIPT" in done.stderr


@pytest.mark.parametrize("command", ["show", "why", "events", "stop", "resume"])
def test_no_such_run(site: Site, command: str) -> None:
    done = site.run(command, "99")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no record of a run 99" in done.stderr
    assert "sovctl run ls" in done.stderr
    others = f"of another user is named by its directory: sovctl run {command} WORKDIR/.sovctl/runs/CLUSTER-99-..."
    assert (others in " ".join(done.stderr.split())) is (os.geteuid() == 0)


def test_no_slurm_on_path(site: Site) -> None:
    done = site.run("show", "7", PATH="/nonexistent")
    assert done.returncode == 0
    assert "scontrol is not on PATH" in done.stderr
    assert site.run("stop", "7", PATH="/nonexistent").returncode == 1


@pytest.mark.parametrize("command", ["ls", "show", "why", "events", "stop", "resume"])
def test_help_ends_with_an_example(site: Site, command: str) -> None:
    done = site.run(command, "--help")
    assert done.returncode == 0
    assert f"Example: sovctl run {command}" in done.stdout


def test_usage(site: Site) -> None:
    assert site.run("why").returncode == 2
    assert site.run("frobnicate").returncode == 2
    assert site.run("why", "7", "--attempt", "0").returncode == 2
    assert site.run("ls", "--frob").returncode == 2


# Stacks of a run that hung


def hung(site: Site) -> None:
    stack = ["all_reduce (dist.py:9)", "main (train.py:3)"]
    ranks = [{"rank": rank, "pid": 9, "state": "S", "stack": stack} for rank in range(3)]
    odd = {"rank": 3, "pid": 9, "state": "T", "stack": ["load (\x1b[31mdata.py:1)"]}
    nodes = [{"node": "n001", "ranks": ranks}, {"node": "n002", "ranks": [odd]}]
    record = {"schema": "sovctl.stacks/1", "attempt": 0, "at": SUBMITTED + 80, "silent": ["n004"], "nodes": nodes}
    (site.run_dir / "attempts" / "0").mkdir(parents=True)
    (site.run_dir / "attempts" / "0" / "stacks.json").write_text(json.dumps(record))
    site.event("hang", 80, attempt=0, ranks="3", idle_seconds=20.0, timeout_seconds=15.0, source="ranks")


def test_show_stacks_groups_the_ranks_and_marks_the_odd_one(site: Site) -> None:
    hung(site)
    done = site.run("show", "--stacks", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ranks 0-2 on n001\n  all_reduce (dist.py:9)\n" in done.stdout
    assert "rank 3 on n002, stopped <- odd" in done.stdout
    assert "n004: no answer" in done.stdout
    assert "\x1b" not in done.stdout
    record = json.loads(site.run("show", "--stacks", "--json", "--attempt", "0", "7").stdout)
    assert record["schema"] == "sovctl.stacks/1"


def test_a_run_that_never_hung_has_no_stacks(site: Site) -> None:
    done = site.run("show", "--stacks", "7")
    assert done.returncode == 1
    assert "has no stacks" in done.stderr
    (site.run_dir / "attempts" / "0").mkdir(parents=True)
    (site.run_dir / "attempts" / "0" / "stacks.json").write_text("[" * 10000)
    assert site.run("show", "--stacks", "--attempt", "0", "7").returncode == 1
