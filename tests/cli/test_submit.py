"""`sovctl submit` as its user meets it, with a stand-in for sbatch that records what it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SBATCH = f"""#!{sys.executable}
import json, os, stat, sys
from pathlib import Path

here = Path(os.environ["STAND_IN"])
script = next((Path(word) for word in sys.argv[1:] if word.startswith("/") and "/sovctl-" in word), None)
record = {{"argv": sys.argv[1:], "stdin": sys.stdin.buffer.read().decode()}}
if script is not None:
    record |= {{
        "script": script.read_bytes().decode("latin-1"),
        "name": script.name,
        "mode": stat.S_IMODE(script.parent.stat().st_mode),
        "directory": str(script.parent),
    }}
(here / "called.json").write_text(json.dumps(record))
says = json.loads((here / "says.json").read_text())
sys.stdout.write(says["stdout"])
sys.stderr.write(says["stderr"])
sys.exit(says["status"])
"""
SCRIPT = "#!/bin/bash\n#SBATCH -N2\necho train\n"


@dataclass
class Site:
    """A directory with a script in it, and an sbatch on PATH."""

    root: Path
    env: dict[str, str]

    def says(self, stdout: str = "Submitted batch job 42\n", stderr: str = "", status: int = 0) -> None:
        (self.root / "says.json").write_text(json.dumps({"stdout": stdout, "stderr": stderr, "status": status}))

    def submit(self, *argv: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sovctl", "submit", *argv],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.root / "work",
            env={**self.env, **env},
        )

    @property
    def called(self) -> dict[str, Any] | None:
        path = self.root / "called.json"
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in self.root.glob("state/sovctl/runs/*.json")]


def made_scontrol(root: Path, says: str) -> None:
    """What the controller of the site is like."""
    program = root / "bin" / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >>{root}/scontrol.said\n{says}\n')
    program.chmod(0o755)


NEWEST = """echo 'SLURM_VERSION = 26.05.5'; echo 'SlurmctldParameters = enable_expedited_requeue'"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    for name in ("bin", "work"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "sbatch"
    program.write_text(SBATCH)
    program.chmod(0o755)
    made_scontrol(tmp_path, "exit 1")
    (tmp_path / "work" / "train.sbatch").write_text(SCRIPT)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SBATCH_", "SLURM_", "SOVCTL_"))}
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "STAND_IN": str(tmp_path)}
    made = Site(tmp_path, {**clean, **home, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    made.says()
    return made


def test_a_script_with_options_and_arguments(site: Site) -> None:
    arguments = ["a b", "", "x\ny", "--lr", "é'\"$x"]
    done = site.submit("-N4", "--time", "5", "train.sbatch", *arguments)
    assert (done.returncode, done.stdout) == (0, "Submitted batch job 42\n")
    assert done.stderr == "sovctl: follow it with `sovctl run show 42`\n"
    called = site.called
    assert called is not None
    assert called["argv"][:5] == ["--requeue", "--open-mode=append", "-N4", "--time", "5"]
    assert called["argv"][6:] == arguments
    assert (called["name"], called["mode"]) == ("train.sbatch", 0o700)
    assert called["script"].startswith("#!/bin/bash\n#SBATCH -N2\n# Written by sovctl ")
    assert SCRIPT in called["script"]
    assert not Path(called["directory"]).exists()


@pytest.mark.parametrize(
    ("options", "script", "env", "task"),
    [(["--array=0-2%2"], "", {}, "0"), (["-a", "3,7"], "", {}, "3"), ([], "#SBATCH --array=[5-9]\n", {}, "5"),
     ([], "", {"SBATCH_ARRAY_INX": "12-14"}, "12")],
)  # fmt: skip
def test_the_tasks_of_an_array_are_what_is_followed(
    site: Site, options: list[str], script: str, env: dict[str, str], task: str
) -> None:
    (site.root / "work/train.sbatch").write_text(f"#!/bin/bash\n{script}echo train\n")
    done = site.submit(*options, "train.sbatch", **env)
    assert done.stderr == (f"sovctl: follow its tasks with `sovctl run ls`; one of them: `sovctl run show 42_{task}`\n")


def test_a_working_directory_that_is_private_inside_is_told(site: Site) -> None:
    work = site.root / "work"
    (work / "in.sh").write_text("#!/bin/bash\n#SOVCTL --isolate\nsrun ./train\n")
    if not str(work).startswith("/tmp/"):
        pytest.skip("the temporary directory of the tests is not in /tmp")
    said = site.submit("in.sh").stderr
    assert (
        f"sovctl: the working directory {work} is not seen inside, where /tmp is private; show it with: --mount ."
        in " ".join(said.split())
    )
    assert "is not seen" not in site.submit("--mount=.", "in.sh").stderr


def test_the_run_is_remembered_and_its_directory_made(site: Site) -> None:
    site.submit("train.sbatch")
    work = site.root / "work"
    [entry] = site.entries
    assert entry["submitted"] > 1_700_000_000
    assert entry == {
        "schema": "sovctl.submitted/1",
        "job_id": "42",
        "cluster": "",
        "submitted": entry["submitted"],
        "run_root": str(work / ".sovctl/runs"),
        "work_dir": str(work),
        "script": "train.sbatch",
    }
    called = site.called
    assert called is not None
    assert f"--submitted {entry['submitted']} --name train.sbatch" in called["script"]
    assert list((work / ".sovctl/runs").iterdir()) == []


@pytest.mark.parametrize(("stdout", "cluster"), [("42\n", ""), ("42;far\n", "far")])
def test_parsable_is_exactly_what_sbatch_prints(site: Site, stdout: str, cluster: str) -> None:
    site.says(stdout)
    done = site.submit("--parsable", "train.sbatch")
    assert (done.returncode, done.stdout, done.stderr) == (0, stdout, "")
    assert [(entry["job_id"], entry["cluster"]) for entry in site.entries] == [("42", cluster)]


def test_quiet_is_quiet(site: Site) -> None:
    site.says("")
    done = site.submit("-Q", "train.sbatch")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_errors_of_sbatch_arrive_unchanged(site: Site) -> None:
    words = "sbatch: error: invalid partition specified: gpu\nsbatch: error: Batch job submission failed\n"
    site.says("", words, 17)
    done = site.submit("-p", "gpu", "train.sbatch")
    assert (done.returncode, done.stdout, done.stderr) == (17, "", words)
    assert site.entries == []


def test_a_controller_that_is_down_gets_a_hint(site: Site) -> None:
    words = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n"
    site.says("", words, 1)
    done = site.submit("train.sbatch")
    assert done.returncode == 1
    assert done.stderr.startswith(words + "sovctl: Ask `scontrol ping`")


@pytest.mark.parametrize("option", ["--no-requeue", "#SBATCH --no-requeue", "SBATCH_NO_REQUEUE"])
def test_no_requeue_is_kept_and_explained(site: Site, option: str) -> None:
    (site.root / "work/t.sh").write_text(f"#!/bin/sh\n{option if option.startswith('#') else ''}\n")
    done = site.submit(*([option] if option.startswith("-") else []), "t.sh", **{option: "1"} if "_" in option else {})
    called = site.called
    assert called is not None
    assert "--requeue" not in called["argv"]
    assert done.stderr.splitlines()[0].startswith("sovctl: with --no-requeue a fault of this run is recorded")


@pytest.mark.parametrize("option", ["--no-kill", "-k", "#SBATCH --no-kill", "SBATCH_NO_KILL"])
def test_no_kill_is_refused_wherever_it_stands(site: Site, option: str) -> None:
    (site.root / "work/t.sh").write_text(f"#!/bin/sh\n{option if option.startswith('#') else ''}\n")
    words = [option] if option.startswith("-") else []
    variable = {option: ""} if "_" in option else {}
    done = site.submit(*words, "t.sh", **variable)
    assert (done.returncode, site.called) == (3, None)
    assert "keep the job running" in done.stderr
    assert "--no-kill=off" in done.stderr
    assert "--spare-nodes" in done.stderr
    assert site.submit(*words, "--no-kill=off", "t.sh", **variable).returncode == 0


@pytest.mark.parametrize("option", ["--signal=B:KILL@60", "#SBATCH --signal=B:KILL@60", "SBATCH_SIGNAL"])
def test_a_signal_that_cannot_be_passed_on_is_refused_wherever_it_stands(site: Site, option: str) -> None:
    (site.root / "work/t.sh").write_text(f"#!/bin/sh\n{option if option.startswith('#') else ''}\n")
    words = [option] if option.startswith("-") else []
    done = site.submit(*words, "t.sh", **{option: "B:KILL@60"} if "_" in option else {})
    assert (done.returncode, site.called) == (3, None)
    assert "--signal=B:KILL@60: sovctl cannot pass SIGKILL on to the script" in done.stderr
    assert "--signal=B:USR1@60" in done.stderr


@pytest.mark.parametrize("option", ["KILL@60", "B:QUIT@60", "B:14"])
def test_other_signals_are_left_to_sbatch(site: Site, option: str) -> None:
    assert site.submit(f"--signal={option}", "train.sbatch").returncode == 0


def test_own_options_of_line_and_script_reach_the_supervisor(site: Site) -> None:
    (site.root / "work/t.sh").write_text("#!/bin/sh\n#SOVCTL --checkpoint-dir=ck --same-crash-limit=4\n")
    site.submit("--run-dir", "my runs", "--max-hardware-faults=9", "t.sh")
    called = site.called
    assert called is not None
    work = site.root / "work"
    expected = f"--run-dir '{work}/my runs' --checkpoint-dir {work}/ck --max-hardware-faults 9 --same-crash-limit 4 --"
    assert expected in called["script"]
    assert not any("run-dir" in word for word in called["argv"])
    assert (work / "my runs").is_dir()


def test_the_working_directory_follows_chdir(site: Site) -> None:
    there = site.root / "there"
    there.mkdir()
    (there / "only-there.sh").write_text(SCRIPT)
    assert site.submit("--chdir", str(there), "only-there.sh").returncode == 0
    assert (there / ".sovctl/runs").is_dir()
    assert site.entries[0]["work_dir"] == str(there)


def test_a_script_on_stdin(site: Site) -> None:
    site.submit("-N1", stdin=SCRIPT)
    called = site.called
    assert called is not None
    assert (called["name"], called["stdin"]) == ("sbatch", "")
    assert SCRIPT in called["script"]


def test_wrap_and_command(site: Site) -> None:
    site.submit("--wrap", "echo $x 'y'")
    called = site.called
    assert called is not None
    assert called["name"] == "wrap"
    assert "echo $x 'y'\n" in called["script"]
    assert not any("--wrap" in word for word in called["argv"])
    site.submit("-N1", "--", "/usr/bin/python3", "-c", "print()")
    called = site.called
    assert called is not None
    assert called["name"] == "python3"
    assert called["argv"][-3:] == ["/usr/bin/python3", "-c", "print()"]
    assert '\nexec "$@"\n' in called["script"]


def test_a_lone_colon_that_sbatch_drops_still_arrives(site: Site) -> None:
    site.submit("train.sbatch", "a", ":", "b c")
    called = site.called
    assert called is not None
    assert "set -- a : 'b c'\n" in called["script"]


def test_dry_run_submits_nothing_and_needs_no_slurm(site: Site) -> None:
    done = site.submit("--dry-run", "-J", "a b", "train.sbatch", "x y", PATH="/nonexistent")
    assert done.returncode == 0
    assert SCRIPT in done.stdout
    assert done.stderr == "sbatch --requeue --open-mode=append -J 'a b' train.sbatch 'x y'\n"
    assert site.called is None
    assert not (site.root / "work/.sovctl").exists()


def test_wait_gives_the_status_of_the_job(site: Site) -> None:
    site.says(status=3)
    done = site.submit("--wait", "train.sbatch")
    assert (done.returncode, done.stdout) == (3, "Submitted batch job 42\n")


@pytest.mark.parametrize(
    "argv",
    [
        ["--version", "train.sbatch"],
        ["-V"],
        ["--usage"],
        ["-H", "-N"],
        ["--hold=x", "train.sbatch"],
        ["-Z", "--wrap", "x"],
    ],
)
def test_sbatch_answers_for_itself_without_a_script(site: Site, argv: list[str]) -> None:
    site.says("slurm 99\n", "said\n", 5)
    done = site.submit(*argv, stdin=SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (5, "slurm 99\n", "said\n")
    called = site.called
    assert called is not None
    assert called["stdin"] == "" and "script" not in called
    assert not any(word.startswith("--wrap") for word in called["argv"])


def test_help_is_ours(site: Site) -> None:
    done = site.submit("-N4", "--help", PATH="/nonexistent")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: sovctl submit")
    for option in ("--run-dir", "--checkpoint-dir", "--max-hardware-faults", "--same-crash-limit", "--dry-run"):
        assert option in done.stdout


def _bad(site: Site, *argv: str, stdin: str = "", **env: str) -> tuple[int, str]:
    """A refused submission: nothing on stdout, no traceback, nothing submitted, nothing remembered."""
    done = site.submit(*argv, stdin=stdin, **env)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert site.called is None
    assert site.entries == []
    return done.returncode, done.stderr


def test_a_script_that_does_not_exist(site: Site) -> None:
    assert _bad(site, "-N1", "none.sh") == (
        1,
        "sbatch: error: Unable to open file none.sh\nsovctl: See what is there: ls -l .\n",
    )
    assert _bad(site, "../work") == (
        1,
        "sbatch: error: Unable to open file ../work\nsovctl: See what is there: ls -l ../work\n",
    )


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("trian.sbatch", "did you mean train.sbatch?"),
        ("./trian.sbatch", "did you mean train.sbatch?"),
        ("../work/train.sbtch", "did you mean ../work/train.sbatch?"),
        ("away/none.sh", "See what is there: ls -l away"),
    ],
)
def test_the_script_that_was_probably_meant(site: Site, typed: str, hint: str) -> None:
    assert _bad(site, typed) == (1, f"sbatch: error: Unable to open file {typed}\nsovctl: {hint}\n")


def test_a_value_taken_for_the_script(site: Site) -> None:
    (site.root / "work/data.txt").write_text("data")
    status, words = _bad(site, "--site-thing", "data.txt", "train.sbatch")
    assert status == 2
    assert "data.txt, after the unknown option --site-thing, is no batch script" in words
    assert "write --site-thing=data.txt" in words
    status, words = _bad(site, "--site-thing", "7", "train.sbatch")
    assert status == 1
    assert "write --site-thing=7" in words


def test_wrap_takes_no_script(site: Site) -> None:
    words = "sbatch: error: Script arguments not permitted with --wrap option\n"
    words += "sovctl: Give one of them: the script, or --wrap COMMAND.\n"
    assert _bad(site, "--wrap=ls", "train.sbatch") == (1, words)


@pytest.mark.parametrize("command", ["", ".", "..", "./", "/bin/"])
def test_a_command_that_is_a_directory(site: Site, command: str) -> None:
    status, words = _bad(site, "-N1", "--", command)
    assert status == 2
    assert f"{command!r} is no command\n" in words


def test_stdin_that_is_closed(site: Site) -> None:
    """sbatch itself says that the script is empty."""
    words = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "sovctl", "submit", "-N1"]
    done = subprocess.run(words, capture_output=True, text=True, env=site.env, cwd=site.root / "work", timeout=60)
    assert "AttributeError" not in done.stderr
    assert done.returncode == 0, "the stand-in takes everything"


def test_no_sbatch(site: Site) -> None:
    status, words = _bad(site, "train.sbatch", PATH="/nonexistent")
    assert status == 1
    assert words.startswith("sovctl: sbatch is not on PATH\n        Run this where Slurm is installed")


def test_slips_and_refusals(site: Site) -> None:
    assert _bad(site, "--rundir=x", "train.sbatch")[0] == 2
    assert _bad(site, "--max-hardware-faults", "many", "train.sbatch")[0] == 2
    assert _bad(site, "-N1", ":", "-N2", "train.sbatch")[0] == 3
    assert _bad(site, stdin="#!/bin/sh\n#SBATCH -N1\n#SBATCH hetjob\n")[0] == 3
    status, words = _bad(site, stdin="#!/bin/sh\n\n#SOVCTL --checkpoint-di=x\n")
    assert status == 2
    assert "sbatch:3: #SOVCTL knows no --checkpoint-di=x; did you mean --checkpoint-dir?" in words


def test_a_run_directory_that_cannot_be_written(site: Site) -> None:
    (site.root / "work/file").write_text("")
    for directory in ("file/below", "/proc/runs"):
        status, words = _bad(site, "--run-dir", directory, "train.sbatch")
        assert status == 1
        assert words.startswith("sovctl: cannot write the run directory ")
        assert "or name one with --run-dir" in words
    status, words = _bad(site, "--chdir", str(site.root / "mistyped"), "./train.sbatch")
    assert status == 1
    assert "No such file or directory" in words
    assert not (site.root / "mistyped").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to stand for a full disk")
def test_a_list_of_runs_that_cannot_be_written_is_no_failure(site: Site) -> None:
    done = site.submit("train.sbatch", XDG_STATE_HOME="/dev/full")
    assert (done.returncode, done.stdout) == (0, "Submitted batch job 42\n")
    assert done.stderr.startswith("sovctl: the run is submitted, but not in your list of runs: ")


def test_where_the_site_lets_jobs_ask_for_it_they_are_expedited(site: Site) -> None:
    made_scontrol(site.root, NEWEST)
    site.says("slurm-wlm 26.05.5\n")
    shown = site.submit("--dry-run", "train.sbatch")
    assert "sbatch --requeue=expedite --open-mode=append train.sbatch" in shown.stderr
    assert "Requeue=0" in shown.stdout
    assert (site.root / "scontrol.said").read_text() == "show config\n"


@pytest.mark.parametrize(
    ("option", "asked"), [("--requeue", False), ("--no-requeue", False), ("--clusters=far", False), ("-N2", True)]
)
def test_the_controller_is_asked_only_where_the_answer_counts(site: Site, option: str, asked: bool) -> None:
    made_scontrol(site.root, NEWEST)
    site.says("slurm-wlm 22.05.8\n")
    shown = site.submit("--dry-run", option, "train.sbatch")
    assert "expedite" not in shown.stderr
    assert (site.root / "scontrol.said").exists() is asked


def test_naming_a_node_with_a_bad_record_is_said_and_sbatch_decides(site: Site, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.mkdir()
    record = {"schema": "sovctl.lemons/1", "at": 1.0, "scores": {"n003": 8.0}, "taken_last": {"n003": 1}, "where": {}}
    (journal / "lemons.json").write_text(json.dumps(record))
    told = {"SOVCTL_CLUSTER_JOURNAL_DIR": str(journal)}
    assert "n003, with a bad record" in site.submit("-w", "n[002-004]", "train.sbatch", **told).stderr
    assert site.called is not None
    assert "bad record" not in site.submit("-w", "n004", "train.sbatch", **told).stderr
    assert "bad record" not in site.submit("train.sbatch", **told).stderr


PARTITIONS = (
    """echo 'PartitionName=main AllowQos=ALL Nodes=n[001-002]'; echo 'PartitionName=preemptible Nodes=n[001-002]'"""
)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preemptible",), ["--qos=preemptible", "--partition=preemptible"]),
        (("--preemptible", "--partition=other"), ["--qos=preemptible"]),
        (("--preemptible", "--qos=low"), ["--partition=preemptible"]),
        (("--preemptible", "-M", "far"), ["--qos=preemptible"]),
        ((), []),
    ],
)
def test_preemptible_means_a_qos_and_a_partition_where_there_is_one(
    site: Site, options: tuple[str, ...], words: list[str]
) -> None:
    made_scontrol(site.root, PARTITIONS)
    site.submit(*options, "train.sbatch")
    assert site.called is not None
    own = [word for word in site.called["argv"] if word in ("--qos=preemptible", "--partition=preemptible")]
    assert own == words


def test_preemptible_on_a_cluster_without_such_a_partition_or_a_controller(site: Site) -> None:
    for says in ("echo 'PartitionName=main Nodes=n001'", "exit 1"):
        made_scontrol(site.root, says)
        site.submit("--preemptible", "train.sbatch")
        assert site.called is not None
        assert "--qos=preemptible" in site.called["argv"]
        assert not [word for word in site.called["argv"] if word.startswith("--partition")]


def test_a_signal_and_a_grace_time_too_short_for_the_last_saves_are_told(site: Site) -> None:
    says = """case "$*" in
    *config) echo 'PreemptType = preempt/partition_prio'; echo 'PreemptMode = REQUEUE' ;;
    *) echo 'PartitionName=main Default=YES GraceTime=30 PreemptMode=REQUEUE' ;;
esac"""
    made_scontrol(site.root, says)
    assert "the last time" not in site.submit("--signal=USR1@60", "train.sbatch").stderr
    (entry,) = site.entries
    run_dir = Path(entry["run_root"]) / f"lab-42-{entry['submitted']}"
    run_dir.mkdir(parents=True)
    saved = {"seq": 1, "at": 1.0, "kind": "checkpoint_saved", "step": 9, "save_seconds": 80.0}
    (run_dir / "events.jsonl").write_text(json.dumps(saved) + "\n")
    said = site.submit("--signal=USR1@60", "train.sbatch").stderr
    assert "--signal=USR1@60 comes 60 s before the end, but saving took up to 80 s" in said
    assert "a preempted job of partition main has GraceTime=30 s" in said
    assert "--signal" not in site.submit("train.sbatch").stderr
