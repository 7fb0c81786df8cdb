"""`sovctl submit` and the supervisor with scripts of every kind, on a real cluster and without torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from format_builders import megatron

from sovctl.adapters.command import Completed
from sovctl.lab import cluster
from sovctl.lab.training import Training, TrainingSpec

pytestmark = pytest.mark.slurm

SAY_ARGUMENTS = f"""#!{sys.executable}
#SBATCH --nodes=1
import json, os, sys
names = ("SOVCTL_RUN_ID", "SOVCTL_ATTEMPT", "SOVCTL_RESUME_FROM", "SOVCTL_RESUME_STEP", "SOVCTL_EXCLUDED_NODES")
said = {{"argv": sys.argv[1:], "name": os.path.basename(sys.argv[0])}}
said["env"] = {{name: os.environ[name] for name in names}}
open("said.json", "w").write(json.dumps(said))
"""


@dataclass
class Scripts:
    """Runs scripts of the test's own; the waiting is Training's."""

    run: Training

    def submit(self, text: str, *options: str, name: str = "script.sh", arguments: tuple[str, ...] = ()) -> Completed:
        path = self.run.work_dir / name
        path.write_text(text)
        said = self.run.sovctl("submit", f"--chdir={self.run.work_dir}", *options, str(path), *arguments, check=False)
        self.run.job_id = said.stdout.strip().split(" ")[-1].partition(";")[0]
        return said

    def state(self) -> str:
        return cluster.slurm(self.run.lab.layout).job(self.run.job_id).state

    def await_state(self, *states: str, seconds: float = 60.0) -> None:
        self.run.wait(f"the job to be {states}", lambda: self.state() in states, seconds)


@pytest.fixture
def scripts(lab: cluster.Lab, work_dir: Path, user: str) -> Scripts:
    return Scripts(Training(lab, work_dir, TrainingSpec(), user))


ODD = ("a b", "", "it's", 'say "x"', "two\nlines", "-n", "--", "$HOME", "`id`", "*", "ünïcödé ✓", "\\", ":")


def test_arguments_and_names_survive(scripts: Scripts) -> None:
    said = scripts.submit(SAY_ARGUMENTS, name="mein 'Skript' ✓.py", arguments=ODD)
    assert said.stdout == f"Submitted batch job {scripts.run.job_id}\n"
    assert scripts.run.await_end()["outcome"] == "finished"
    found = json.loads((scripts.run.work_dir / "said.json").read_text())
    assert tuple(found["argv"]) == ODD
    assert found["name"] == "mein 'Skript' ✓.py"
    assert found["env"]["SOVCTL_ATTEMPT"] == "0"
    assert found["env"]["SOVCTL_RESUME_FROM"] == ""
    assert found["env"]["SOVCTL_RESUME_STEP"] == "0"
    scripts.await_state("COMPLETED")


@pytest.mark.parametrize("status", [0, 93])
def test_a_script_that_says_it_is_done_is_not_restarted(scripts: Scripts, status: int) -> None:
    scripts.submit(f"#!/bin/sh\nexit {status}\n", "--parsable")
    assert scripts.run.await_end()["outcome"] == "finished"
    scripts.await_state("COMPLETED")
    assert len(scripts.run.events("attempt_started")) == 1


def test_no_requeue_keeps_its_meaning_and_the_exit_status(scripts: Scripts) -> None:
    scripts.submit("#!/bin/sh\nexit 3\n", "--no-requeue", "--parsable")
    assert scripts.run.await_end()["outcome"] == "failed"
    scripts.await_state("FAILED")
    assert cluster.slurm(scripts.run.lab.layout).job(scripts.run.job_id).extra["ExitCode"] == "3:0"


def test_sbatch_speaks_for_itself(scripts: Scripts) -> None:
    ours = scripts.submit("#!/bin/sh\ntrue\n", "--partition=nowhere")
    theirs = scripts.run.command("sbatch", "--partition=nowhere", str(scripts.run.work_dir / "script.sh"), check=False)
    assert (ours.status, ours.stdout, ours.stderr) == (theirs.status, theirs.stdout, theirs.stderr)
    assert ours.status != 0


def test_a_signal_before_the_time_limit_reaches_the_script(scripts: Scripts) -> None:
    scripts.submit(
        "#!/bin/bash\ntrap 'echo got USR1 > got; exit 0' USR1\nwhile :; do sleep 0.2; done\n",
        "--time=1",
        "--signal=B:USR1@55",
        "--parsable",
    )
    assert scripts.run.await_end(90)["outcome"] == "finished"
    assert (scripts.run.work_dir / "got").read_text() == "got USR1\n"
    assert [event["name"] for event in scripts.run.events("signal")] == ["SIGUSR1"]


TRAPS = """#!/bin/bash
srun --ntasks=2 bash -c 'trap "echo rank $SLURM_PROCID >> got; exit 0" USR1; while :; do sleep 0.2; done'
"""


def test_a_signal_of_the_users_own_reaches_the_ranks_and_not_the_script(scripts: Scripts) -> None:
    """Without `B:` Slurm sends it to the steps alone, up to half a minute early."""
    scripts.submit(TRAPS, "--ntasks=2", "--time=1", "--signal=USR1@20", "--parsable")
    assert scripts.run.await_end(90)["outcome"] == "finished"
    assert sorted((scripts.run.work_dir / "got").read_text().splitlines()) == ["rank 0", "rank 1"]
    assert scripts.run.events("signal") == []
    assert len(scripts.run.events("attempt_started")) == 1


TWICE = """#!/bin/bash
until [ -e "go.$SOVCTL_ATTEMPT" ]; do sleep 0.1; done
"""


def test_dependencies_wait_for_the_end_of_a_run_and_not_of_its_first_execution(scripts: Scripts) -> None:
    run = scripts.run
    scripts.submit(TWICE, "--parsable")
    run.await_event("attempt_started", attempt=0)
    slurm = cluster.slurm(run.lab.layout)

    def after(kind: str) -> str:
        words = ("--parsable", f"--dependency={kind}:{run.job_id}", "--output=/dev/null", "--wrap=true")
        return run.command("sbatch", *words).stdout.strip()

    plain = {kind: after(kind) for kind in ("afterok", "afterany", "afternotok")}
    (run.work_dir / "next.sh").write_text("#!/bin/sh\ntrue\n")
    own = Training(run.lab, run.work_dir, TrainingSpec(), run.user)
    words = (
        "--parsable",
        f"--dependency=afterok:{run.job_id}",
        f"--chdir={run.work_dir}",
        str(run.work_dir / "next.sh"),
    )
    own.job_id = own.sovctl("submit", *words).stdout.strip()

    run.command("scontrol", "requeue", run.job_id)
    run.await_event("attempt_started", attempt=1)
    assert {slurm.job(job_id).state for job_id in (*plain.values(), own.job_id)} == {"PENDING"}
    (run.work_dir / "go.1").touch()
    assert run.await_end()["outcome"] == "finished"
    for kind in ("afterok", "afterany"):
        run.wait(f"the job {kind}", lambda kind=kind: slurm.job(plain[kind]).state == "COMPLETED", 60)  # type: ignore[misc]
    assert own.await_end()["outcome"] == "finished"
    assert slurm.job(plain["afternotok"]).state == "PENDING"
    run.command("scancel", plain["afternotok"])


def test_a_run_whose_steps_cannot_be_launched_is_tried_a_few_times_and_then_held(scripts: Scripts) -> None:
    run = scripts.run
    scripts.submit("#!/bin/bash\nsrun --gres=gpu:99 true\n", "--parsable")
    held = run.await_event("held", 150)
    assert "Slurm started no step for the script" in held["why"]
    ended = run.events("attempt_ended")
    assert [event["action"] for event in ended] == ["requeue"] * (len(ended) - 1) + ["hold"]
    assert 1 < len(ended) <= 4
    assert {(event["culprit"], *event["blamed"]) for event in ended} == {("unknown",)}
    scripts.run.wait("the job to be held", lambda: cluster.slurm(run.lab.layout).job(run.job_id).held, 45)
    why = run.sovctl("run", "why", run.job_id).stdout
    assert "nvalid generic resource" in why, why
    assert "sovctl run resume" in why
    run.sovctl("run", "stop", run.job_id)


def test_near_the_time_limit_the_run_saves_and_goes_on(scripts: Scripts) -> None:
    scripts.submit(
        "#!/bin/bash\n"
        '[ "$SOVCTL_ATTEMPT" = 1 ] && exit 0\n'
        'until [ -e "$SOVCTL_RUN_DIR/attempts/$SOVCTL_ATTEMPT/stop" ]; do sleep 0.1; done\n'
        "exit 75\n",
        "--time=1",
        "--parsable",
    )
    assert scripts.run.await_end(120)["outcome"] == "finished"
    assert [event["attempt"] for event in scripts.run.events("attempt_started")] == [0, 1]
    assert scripts.run.events("stop_asked")[0]["why"] == "time limit"
    assert scripts.run.events("attempt_ended")[0]["culprit"] == "stopped"


def test_every_task_of_an_array_is_a_run(scripts: Scripts) -> None:
    scripts.submit("#!/bin/sh\necho task $SLURM_ARRAY_TASK_ID attempt $SOVCTL_ATTEMPT\n", "--array=3-4", "--parsable")
    runs = scripts.run.work_dir / ".sovctl" / "runs"

    def ended() -> bool:
        journals = [path.read_text() for path in runs.glob("*/events.jsonl")]
        return sum('"run_ended"' in text for text in journals) == 2

    scripts.run.wait("both tasks to end", ended, 60)
    names = {json.loads(path.read_text())["job_id"] for path in runs.glob("*/run.json")}
    assert names == {f"{scripts.run.job_id}_3", f"{scripts.run.job_id}_4"}


def test_a_run_goes_on_from_what_another_framework_saved_and_never_starts_over(scripts: Scripts) -> None:
    checkpoints = scripts.run.work_dir / "theirs"
    for step in (500, 1000):
        megatron(checkpoints, step)
    (checkpoints / "iter_0001000" / "metadata.json").unlink()
    scripts.submit(SAY_ARGUMENTS, "--checkpoint-dir=theirs", "--checkpoint-format=megatron", "--parsable")
    assert scripts.run.await_end()["outcome"] == "finished"
    found = json.loads((scripts.run.work_dir / "said.json").read_text())["env"]
    assert found["SOVCTL_RESUME_FROM"] == str(checkpoints / "iter_0000500")
    assert found["SOVCTL_RESUME_STEP"] == "500"

    (checkpoints / "iter_0000500" / ".metadata").unlink()
    scripts.submit(SAY_ARGUMENTS, "--checkpoint-dir=theirs", "--parsable")
    held = scripts.run.await_event("held")
    assert "none is proven complete: iter_0001000: metadata.json is missing" in held["why"]
    assert scripts.run.events("attempt_started") == []
    scripts.run.sovctl("run", "stop", scripts.run.job_id)

    scripts.submit(SAY_ARGUMENTS, "--checkpoint-dir=theirs", "--fresh", "--parsable")
    assert scripts.run.await_end()["outcome"] == "finished"
    assert json.loads((scripts.run.work_dir / "said.json").read_text())["env"]["SOVCTL_RESUME_STEP"] == "0"


def test_an_unwritable_run_directory_submits_nothing(scripts: Scripts) -> None:
    file = scripts.run.work_dir / "a file"
    file.write_text("")
    said = scripts.submit("#!/bin/sh\ntrue\n", f"--run-dir={file}/runs", "--parsable")
    assert said.status == 1
    assert said.stdout == ""
    assert "cannot write the run directory" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_preempted_run_comes_back_when_there_is_room(
    story_lab: Callable[..., cluster.Lab], work_dir: Path, user: str
) -> None:
    lab = story_lab(
        nodes=2, health=False, overrides={"PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE"}
    )
    run = Training(lab, work_dir, TrainingSpec(), user)
    scripts = Scripts(run)
    root = Training(lab, work_dir, TrainingSpec())
    root.command("scontrol", "create", "PartitionName=high", "Nodes=ALL", "PriorityTier=10", "PreemptMode=off")
    scripts.submit(
        '#!/bin/bash\n[ "$SOVCTL_ATTEMPT" = 1 ] && exit 0\nsleep 600\n', "--nodes=2", "--exclusive", "--parsable"
    )
    run.await_event("attempt_started", attempt=0)
    high = run.command("sbatch", "--parsable", "-phigh", "-N2", "--exclusive", "-o/dev/null", "--wrap=sleep 5")
    assert run.await_end(100)["outcome"] == "finished"
    first = run.events("attempt_ended")[0]
    assert first["culprit"] == "preempted", first
    assert high.stdout.strip() != run.job_id
