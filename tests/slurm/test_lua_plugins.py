"""job_submit.lua and cli_filter.lua in real slurmctld, sbatch and srun."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovctl.lab import cluster
from sovctl.lab.training import Training, TrainingSpec
from sovctl.site.judge_policy import QUESTION

pytestmark = pytest.mark.slurm
LUA = Path(__file__).parents[2] / "plugins" / "lua"
RULES = "images site-images partition=gpu /shared/images/*.sqsh\nisolate clean-gpu partition=gpu\n"


@pytest.fixture(scope="module")
def spank() -> Iterator[Path | None]:
    """The SPANK plugin, whose options slurmctld is told of; None where it cannot be built."""
    if not Path("/usr/include/slurm/spank.h").exists():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="sovlua", dir="/opt") as name:
        Path(name).chmod(0o755)
        subprocess.run(["make", "-s", "-C", str(LUA.parent / "spank"), f"OUT={name}"], check=True)
        yield Path(name) / "sovctl_spank.so"


@pytest.fixture(scope="module")
def lua_lab(
    spank: Path | None, new_root: Callable[[], Path], attach_logs: Callable[[Path], None]
) -> Iterator[cluster.Lab]:
    if not any(Path("/usr").glob("lib*/**/job_submit_lua.so")):
        pytest.skip("this Slurm has no job_submit/lua")
    root = new_root()
    attach_logs(root)
    beside = {path.name: path.read_text() for path in LUA.glob("*.lua")} | {"sovctl-policy.conf": RULES}
    if spank is not None:
        words = "state={lab}/spank keep={lab} policy={lab}/sovctl-policy.conf"
        beside["plugstack.conf"] = f"optional {spank} {words}\n"
    overrides = {"JobSubmitPlugins": "lua", "CliFilterPlugins": "lua", "JobRequeue": "0"}
    lab = cluster.up(cluster.Request(root, nodes=1, gpus=0, health=False, overrides=overrides, beside=beside))
    try:
        Training(lab, root, TrainingSpec()).command("scontrol", "create", "PartitionName=gpu", "Nodes=ALL")
        yield lab
    finally:
        cluster.down(root)


@pytest.fixture
def as_user(lua_lab: cluster.Lab, work_dir: Path, user: str) -> Training:
    return Training(lua_lab, work_dir, TrainingSpec(), user)


def _job(run: Training, job_id: str) -> dict[str, str]:
    return dict(cluster.slurm(run.lab.layout).job(job_id).extra)


def _log(run: Training) -> str:
    return (run.lab.layout.log_dir / "slurmctld.log").read_text("utf-8", "replace")


def test_a_managed_job_is_stamped_and_another_is_not(as_user: Training) -> None:
    script = as_user.work_dir / "s.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    hold = ("--hold", "--parsable", f"--chdir={as_user.work_dir}")
    ours = as_user.sovctl("submit", *hold, "--comment=my own words", str(script)).stdout.strip()
    theirs = as_user.command("sbatch", *hold, "--comment=my own words", str(script)).stdout.strip()
    assert (_job(as_user, ours)["Comment"], _job(as_user, ours)["Requeue"]) == ("my own words sovctl:managed", "1")
    assert (_job(as_user, theirs)["Comment"], _job(as_user, theirs)["Requeue"]) == ("my own words", "0")
    as_user.command("scontrol", "update", f"JobId={ours}", "Comment=other")
    assert _job(as_user, ours)["Comment"] == "other sovctl:managed"
    as_user.command("scancel", ours, theirs)


def test_a_refusal_names_its_rule_before_and_in_slurmctld(as_user: Training) -> None:
    sbatch = ("sbatch", "-pgpu", "-o/dev/null", "--comment=sovctl:managed", "--wrap=true")
    for words in (sbatch, (*sbatch, f"--comment={QUESTION}")):  # nor does doctor's own question let a job in
        early = as_user.command(*words, check=False)
        assert early.status != 0
        assert "refused by rule clean-gpu" in early.stderr
        assert "cli_filter plugin terminated with error" in early.stderr  # slurmctld was not even asked
        assert "is here" not in early.stderr
    # Whoever leaves the filter out is refused by slurmctld in the same words.
    conf = as_user.work_dir / "slurm.conf"
    lines = as_user.lab.layout.slurm_conf.read_text().splitlines()
    conf.write_text("\n".join(line for line in lines if not line.startswith("CliFilterPlugins")) + "\n")
    late = as_user.command("env", f"SLURM_CONF={conf}", *sbatch, check=False)
    assert late.status != 0
    assert "refused by rule clean-gpu: jobs here must be isolated" in late.stderr
    assert "PYXIS_CONTAINER_IMAGE" not in late.stderr
    image = as_user.command("env", f"SLURM_CONF={conf}", "PYXIS_CONTAINER_IMAGE=evil", *sbatch, check=False)
    assert "refused by rule site-images: the image evil is not allowed" in image.stderr


def _doctor(run: Training) -> dict[str, tuple[str, str]]:
    told = run.sovctl("doctor", "--json", check=False)
    lines = json.loads(told.stdout)["lines"]
    return {line["check"]: (line["state"], line["seen"]) for line in lines if line["check"].endswith(".lua")}


def test_the_doctor_hears_whether_both_scripts_run(as_user: Training, eventually: Callable[..., object]) -> None:
    script = as_user.lab.layout.root / "job_submit.lua"
    before, ours = as_user.command("squeue", "-h", "-t", "all").stdout, script.read_text()
    assert _doctor(as_user) == {
        "job_submit.lua": ("pass", "slurmctld runs it: 2 rules in force"),
        "cli_filter.lua": ("pass", "sbatch runs it: 2 rules in force"),
    }
    try:
        script.write_text("function slurm_job_submit() return 0 end\nfunction slurm_job_modify() return 0 end\n")
        found = eventually(lambda: (now := _doctor(as_user))["job_submit.lua"][0] == "fail" and now, "a foreign script")
        assert found["job_submit.lua"][1] == "slurmctld does not run sovctl's"
        assert found["cli_filter.lua"][0] == "pass"
    finally:
        script.write_text(ours)
        # Younger than slurmctld's last reading of it, in whole seconds, or it is not read again (22.05).
        os.utime(script, (time.time() + 2, time.time() + 2))
    eventually(lambda: _doctor(as_user)["job_submit.lua"][0] == "pass", "our script again")
    assert as_user.command("squeue", "-h", "-t", "all").stdout == before


def test_a_change_cannot_slip_past(as_user: Training) -> None:
    job_id = as_user.command("sbatch", "--hold", "--parsable", "-o/dev/null", "--wrap=true").stdout.strip()
    moved = as_user.command("scontrol", "update", f"JobId={job_id}", "Partition=gpu", check=False)
    assert moved.status != 0
    assert _job(as_user, job_id)["Partition"] == "main"
    said = "refused by rule clean-gpu: jobs there must be isolated; submit it anew with --sov-isolate"
    assert f"{said} (job {job_id})" in _log(as_user)
    as_user.command("scancel", job_id)


def test_a_broken_file_keeps_the_last_rules_and_is_told_once(as_user: Training) -> None:
    file = as_user.lab.layout.root / "sovctl-policy.conf"
    sbatch = ("sbatch", "-pgpu", "-o/dev/null", "--wrap=true")
    try:
        file.write_text("isolate\n")
        for _ in range(2):
            assert as_user.command(*sbatch, check=False).status != 0
        # Taken by slurmctld, which has its last rules; a node has only the file, so it is not started.
        as_user.command("sbatch", "--hold", "-pmain", "-o/dev/null", "--wrap=true")
        assert _log(as_user).count("is broken: line 1") == 1
        file.write_text("isolate nobody partition=none\n")
        as_user.command(*sbatch)
    finally:
        file.write_text(RULES)
        as_user.command("scancel", "--state=PENDING", "--name=wrap")
    assert "cannot judge" not in _log(as_user)


@pytest.mark.parametrize("filtered", [True, False])
def test_options_of_the_spank_plugin_are_seen(as_user: Training, spank: Path | None, filtered: bool) -> None:
    if spank is None:
        pytest.skip("libslurm-dev is not installed")
    conf = as_user.lab.layout.slurm_conf
    if not filtered:
        conf = as_user.work_dir / "slurm.conf"
        lines = as_user.lab.layout.slurm_conf.read_text().splitlines()
        plugins = f"PlugStackConfig={as_user.lab.layout.root}/plugstack.conf"
        kept = [line for line in lines if not line.startswith("CliFilterPlugins")]
        conf.write_text("\n".join([*kept, plugins]) + "\n")

    def submit(*options: str, script: str = "#!/bin/sh\ntrue\n") -> tuple[bool, str]:
        path = as_user.work_dir / "s.sh"
        path.write_text(script)
        command = ("env", f"SLURM_CONF={conf}", "sbatch", "--hold", "-pgpu", "-o/dev/null", *options, str(path))
        said = as_user.command(*command, check=False)
        return said.status == 0, said.stderr

    assert submit("--sov-isolate") == (True, "")
    assert submit(script="#!/bin/sh\n#SBATCH --sov-isolate\ntrue\n") == (True, "")
    assert submit("--sov-image=/shared/images/a.sqsh") == (True, "")
    taken, said = submit("--sov-image=/elsewhere/a.sqsh")
    assert not taken
    assert "refused by rule site-images: the image /elsewhere/a.sqsh is not allowed" in said
    assert not submit()[0]
    as_user.command("scancel", "--state=PENDING", "--partition=gpu")
    for command in ("srun", "salloc") if filtered else ():
        said = as_user.command(command, "-pgpu", "-n1", "--sov-image=/elsewhere/a.sqsh", "true", check=False)
        assert said.status != 0
        assert "refused by rule site-images" in said.stderr


_MANAGED = """#!/bin/bash
inside='echo $SOVCTL_ATTEMPT $0 $(grep -c NoNewPrivs:.1 /proc/self/status) $(readlink /proc/self/ns/mnt)'
sh -c "$inside" script >>"$SOVCTL_RUN_DIR/seen"
srun -n1 sh -c "$inside" step >>"$SOVCTL_RUN_DIR/seen"
[ "$SOVCTL_ATTEMPT" != 0 ]
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only a slurmd of root's can isolate its steps")
@pytest.mark.parametrize("runtime", ["spank", "bubblewrap"])
def test_a_run_where_jobs_must_be_isolated(
    as_user: Training, spank: Path | None, runtime: str, user: str, eventually: Callable[..., object]
) -> None:
    """The rule holds for the supervisor and the script too, and both do their work inside."""
    if spank is None:
        pytest.skip("libslurm-dev is not installed")
    with tempfile.TemporaryDirectory(dir="/opt") as name:  # /tmp and /var/tmp are private inside
        work = Path(name)
        if user:
            os.chown(work, pwd.getpwnam(user).pw_uid, -1)
        script = work / "train.sbatch"
        script.write_text(_MANAGED)
        run = Training(as_user.lab, work, TrainingSpec(), user)
        words = ("--parsable", f"--chdir={work}", "-pgpu", "-n1", "--isolate", f"--runtime={runtime}", str(script))
        refused = run.sovctl("submit", *words, check=False)
        assert refused.status != 0
        assert "refused by rule clean-gpu: jobs here must be isolated; add --sov-isolate" in refused.stderr
        run.sovctl("submit", "--sov-isolate", *words)
        events = work / ".sovctl" / "runs"
        read = lambda: "".join(path.read_text() for path in events.glob("*/events.jsonl"))  # noqa: E731
        eventually(lambda: "run_ended" in read(), "its end", 90.0)
        assert json.loads(read().splitlines()[-1])["outcome"] == "finished"
        (seen,) = events.glob("*/seen")
        lines = [line.split() for line in seen.read_text().splitlines()]
    assert [line[:3] for line in lines] == [[a, who, "1"] for a in "01" for who in ("script", "step")]
    for script_line, step_line in (lines[:2], lines[2:]):
        assert len({script_line[3], step_line[3], os.readlink("/proc/self/ns/mnt")}) == 3
