"""Each setting of slurm.conf that matters, in the state that is right and in the one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.adapters.slurm.parse import parse_config, parse_preemptable_partitions, parse_preemptable_qos
from sovctl.model.site import Preemptable, SlurmView
from sovctl.site.judge_slurm import judge_slurm
from sovctl.site.line import Line, State

DATA = Path(__file__).parents[2] / "data/slurm"
RECORDED = {
    path.parent.name: {**parse_config(path.read_text("utf-8")), "PreemptType": "preempt/none", "PreemptMode": "OFF"}
    for path in sorted(DATA.glob("*/show_config.txt"))
}
"""Release -> what its scontrol prints; recorded with preemption on."""


@pytest.fixture(params=RECORDED)
def recorded(request: pytest.FixtureRequest) -> dict[str, str]:
    return RECORDED[request.param]


def line(check: str, settings: dict[str, str], **more: Any) -> Line:
    return next(one for one in judge_slurm(SlurmView(settings=settings, **more)) if one.check == check)


def test_every_release_is_judged_by_its_own_words(recorded: dict[str, str]) -> None:
    """The lab's Slurm: everything that it prints is understood, and the same is found on each release."""
    found = {one.check: one.state for one in judge_slurm(SlurmView(settings=recorded))}
    newer = {"expedite"} if recorded["SLURM_VERSION"] >= "25.11" else set()
    assert {check for check, state in found.items() if state is State.FAIL} == {"ConstrainDevices"}
    assert {check for check, state in found.items() if state is State.WARN} == {
        *newer,
        "hooks",
        "HealthCheck",
        "job-submit",
        "UnkillableStepTimeout",
        "PreemptType",
    }
    assert found["slurm-version"] is State.PASS


@pytest.mark.parametrize(
    ("check", "settings", "state"),
    [
        ("slurm-version", {"SLURM_VERSION": "21.08.8"}, "fail"),
        ("slurm-version", {"SLURM_VERSION": "22.05.8"}, "pass"),
        ("slurm-version", {"SLURM_VERSION": "26.05.5"}, "pass"),
        ("slurm-version", {"SLURM_VERSION": "27.11.0"}, "warn"),
        ("slurm-version", {"SLURM_VERSION": "new"}, "warn"),
        ("TaskProlog", {"SLURM_VERSION": "24.11.5", "TaskProlog": "/t"}, "warn"),
        ("TaskProlog", {"SLURM_VERSION": "25.05.1", "TaskProlog": "/t"}, "warn"),
        ("slurm-conf", {"HASH_VAL": "Match"}, "pass"),
        ("slurm-conf", {"HASH_VAL": "Different Ours=0x1 Slurmctld=0x2"}, "warn"),
        ("JobRequeue", {"JobRequeue": "1"}, "pass"),
        ("JobRequeue", {"JobRequeue": "0"}, "warn"),
        ("hooks", {"Prolog": "/a", "Epilog": "/b"}, "pass"),
        ("hooks", {"Prolog": "/a", "Epilog": "(null)"}, "warn"),
        ("PrologFlags", {"Prolog": "(null)"}, "skip"),
        ("PrologFlags", {"Prolog": "/a", "PrologFlags": "(null)"}, "warn"),
        ("PrologFlags", {"Prolog": "/a", "PrologFlags": "Alloc,Contain"}, "pass"),
        ("PrologFlags", {"Prolog": "/a", "PrologFlags": "X11"}, "pass"),
        ("nohold_on_prolog_fail", {"Prolog": "/a"}, "warn"),
        ("nohold_on_prolog_fail", {"Prolog": "/a", "SchedulerParameters": "bf_max=1,nohold_on_prolog_fail"}, "pass"),
        ("HealthCheck", {"HealthCheckProgram": "(null)"}, "warn"),
        ("HealthCheck", {"HealthCheckProgram": "/h", "HealthCheckInterval": "0 sec"}, "fail"),
        ("HealthCheck", {"HealthCheckProgram": "/h", "HealthCheckInterval": "60 sec"}, "pass"),
        (
            "HealthCheck",
            {"HealthCheckProgram": "/h", "HealthCheckInterval": "60 sec", "HealthCheckTimeout": "60 sec"},
            "warn",
        ),
        (
            "HealthCheck",
            {"HealthCheckProgram": "/h", "HealthCheckInterval": "60 sec", "HealthCheckTimeout": "50 sec"},
            "pass",
        ),
        (
            "HealthCheck",
            {"HealthCheckProgram": "/h", "HealthCheckInterval": "60 sec", "HealthCheckNodeState": "IDLE"},
            "warn",
        ),
        ("job-submit", {"JobSubmitPlugins": "lua,all_partitions"}, "pass"),
        ("job-submit", {"JobSubmitPlugins": "all_partitions, job_submit/lua"}, "pass"),
        ("job-submit", {"JobSubmitPlugins": "all_partitions"}, "warn"),
        ("KillWait", {"KillWait": "5 sec"}, "warn"),
        ("KillWait", {"KillWait": "30 sec"}, "pass"),
        ("SlurmdTimeout", {"SlurmdTimeout": "0 sec"}, "fail"),
        ("SlurmdTimeout", {"SlurmdTimeout": "300 sec"}, "pass"),
        ("SlurmdTimeout", {"SlurmdTimeout": "900 sec"}, "warn"),
        ("UnkillableStepTimeout", {"UnkillableStepTimeout": "60 sec"}, "warn"),
        ("UnkillableStepTimeout", {"UnkillableStepTimeout": "180 sec"}, "pass"),
        ("PrologEpilogTimeout", {"PrologEpilogTimeout": "20"}, "warn"),
        ("ConstrainDevices", {"GresTypes": "(null)"}, "skip"),
        ("ConstrainDevices", {"TaskPlugin": "task/none"}, "fail"),
        ("ConstrainDevices", {"TaskPlugin": "task/cgroup", "ConstrainDevices": "no"}, "fail"),
        ("ConstrainDevices", {"TaskPlugin": "task/affinity,task/cgroup", "ConstrainDevices": "yes"}, "pass"),
        ("ConstrainDevices", {"TaskPlugin": "affinity,cgroup", "ConstrainDevices": "yes"}, "pass"),
        ("ConstrainDevices", {"TaskPlugin": "affinity", "ConstrainDevices": "yes"}, "fail"),
        ("SelectType", {"SelectType": "select/linear"}, "fail"),
        ("PreemptType", {"PreemptType": "preempt/none"}, "warn"),
        ("PreemptType", {"PreemptType": "preempt/qos"}, "pass"),
        ("expedite", {"SLURM_VERSION": "25.05.1"}, "skip"),
        ("expedite", {"SLURM_VERSION": "25.11.0"}, "warn"),
        ("expedite", {"SLURM_VERSION": "25.11.0", "SlurmctldParameters": "enable_expedited_requeue"}, "pass"),
        ("accounting", {"AccountingStorageType": "accounting_storage/slurmdbd"}, "pass"),
        ("accounting", {"AccountingStorageType": "accounting_storage/none"}, "warn"),
    ],
)
def test_a_setting_is_judged(recorded: dict[str, str], check: str, settings: dict[str, str], state: str) -> None:
    found = line(check, {**recorded, **settings})
    assert found.state == state
    assert bool(found.fix) == (found.state in (State.WARN, State.FAIL))


def test_the_delay_is_the_one_of_this_site(recorded: dict[str, str]) -> None:
    def seen(**settings: str) -> str:
        return line("requeue_delay", {**recorded, **settings}).seen

    assert "120 s" in seen()
    assert "300 s" in seen(AuthInfo="socket=/run/munge,cred_expire=300")
    assert seen(SchedulerParameters="requeue_delay=0") == "0 s"


def test_grace_counts_only_where_jobs_are_preempted(recorded: dict[str, str]) -> None:
    assert line("GraceTime", recorded).state is State.SKIP
    parts = parse_preemptable_partitions(
        "PartitionName=main GraceTime=0 PreemptMode=REQUEUE State=UP\nPartitionName=calm GraceTime=0 PreemptMode=OFF\n"
    )
    assert parts == (Preemptable("main", 0, "REQUEUE"), Preemptable("calm", 0, "OFF"))
    seen = line("GraceTime", {**recorded, "PreemptType": "preempt/partition_prio"}, partitions=parts).seen
    assert "main 0 s" in seen and "calm" not in seen
    qos = parse_preemptable_qos("normal|00:00:00|cluster\nlow|1-00:02:00|requeue\n")
    assert qos[1].grace_s == 86520
    by_qos = {**recorded, "PreemptType": "preempt/qos"}
    assert line("GraceTime", by_qos, qos=qos).state is State.PASS
    assert line("GraceTime", {**by_qos, "PreemptMode": "REQUEUE"}, qos=qos).state is State.WARN
    assert line("GraceTime", by_qos).state is State.SKIP


def test_without_slurm_or_an_answer_there_is_one_line() -> None:
    (elsewhere,) = judge_slurm(SlurmView(missing=("/opt/slurm/scontrol",)))
    assert "sovctl config show slurm.bin_dir" in elsewhere.fix
    (absent,) = judge_slurm(SlurmView(missing=("scontrol", "sbatch")))
    assert absent.state is State.FAIL and "scontrol, sbatch" in absent.seen and "lab up" in absent.fix
    (silent,) = judge_slurm(SlurmView(problem="slurmctld does not answer", hint="wait"))
    assert (silent.state, silent.fix) == (State.FAIL, "wait")


@given(st.sampled_from(sorted(RECORDED)), st.data())
def test_no_value_of_a_setting_breaks_it(release: str, data: st.DataObject) -> None:
    known = RECORDED[release]
    settings = data.draw(st.dictionaries(st.sampled_from(sorted(known)), st.text(max_size=30)))
    for found in judge_slurm(SlurmView(settings={**known, **settings})):
        assert found.seen


@pytest.mark.parametrize(
    ("version", "task_prolog"),
    [
        ("22.05.8", "/t"),
        ("24.05.8", "/t"),
        ("24.11.7", "/t"),
        ("25.05.2", "/t"),
        ("26.05.5", "/t"),
        ("24.11.5", "(null)"),
    ],
)
def test_most_releases_start_a_task_prolog_by_itself(version: str, task_prolog: str) -> None:
    settings = {"SLURM_VERSION": version, "TaskProlog": task_prolog}
    assert "TaskProlog" not in [one.check for one in judge_slurm(SlurmView(settings=settings))]
