"""What is said of a machine, of the nodes together, and of answers that are no answers."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.adapters.slurm.parse import fold
from sovctl.model.site import FileTrial, HookFile, MachineView
from sovctl.operations.doctor import node_command
from sovctl.site.judge_machine import backup_lines, judge_machine
from sovctl.site.judge_nodes import NodeAnswer, judge_nodes, read_answer
from sovctl.site.judge_policy import TriedJob, judge_policy, scripts_asked
from sovctl.site.judge_steps import StepTrial, by_partition, judge_steps, srun_options
from sovctl.site.line import SCHEMA, Line, State, failed, passed, skipped, warned

WHOLE = FileTrial("/shared", "nfs4", "rw,hard", "", True, True, True, True, 0.0)
ALL_PROGRAMS = {name: f"/usr/bin/{name}" for name in ["bwrap", "skopeo", "umoci", "mksquashfs", "unsquashfs", "py-spy"]}
FIT = MachineView(
    node="n001",
    root=True,
    version="1",
    at=1000.0,
    clock_steered=True,
    gpus=8,
    expected_gpus=8,
    files=(WHOLE,),
    journal_dir="/shared/journal",
    watchers={"n001": 990.0},
    programs=ALL_PROGRAMS,
    user_namespaces=True,
    hooks=(HookFile("Prolog", "/p", True),),
    slurmd_running=True,
    spank_wanted="/usr/lib/sovctl_spank.so",
    spank_there=True,
    spank_loaded=True,
)


def judged(view: MachineView, *, has_gpus: bool = True) -> list[Line]:
    return judge_machine(view, is_node=True, has_gpus=has_gpus, site_mode=True)


def test_a_machine_where_all_is_right() -> None:
    assert {line.state for line in judged(FIT)} == {State.PASS}


@pytest.mark.parametrize(
    ("check", "change", "state"),
    [
        ("config", {"config_problem": "unknown key"}, "fail"),
        ("config", {"unknown_variables": ("SOVCTL_XYZZY sets nothing",)}, "warn"),
        ("clock", {"clock_steered": False}, "warn"),
        ("clock", {"clock_steered": None}, "skip"),
        ("clock", {"clock_error_ms": 900.0}, "warn"),
        ("shared-files", {"files": (replace(WHOLE, renames=False),)}, "fail"),
        ("shared-files", {"files": (replace(WHOLE, appends=False),)}, "fail"),
        ("shared-files", {"files": (replace(WHOLE, syncs=False),)}, "fail"),
        ("shared-files", {"files": (replace(WHOLE, locks=False),)}, "warn"),
        ("shared-files", {"files": (replace(WHOLE, options="rw,local_lock=all"),)}, "warn"),
        ("shared-files", {"files": (replace(WHOLE, clock_offset_s=-7.0),)}, "warn"),
        ("shared-files", {"files": (replace(WHOLE, problem="gave no answer within 10 s"),)}, "fail"),
        ("shared-files", {"files": (FileTrial("/", problem="cannot be written"),)}, "skip"),
        ("shared-files", {"files": (FileTrial("/nope", problem="is not there", missing=True),)}, "skip"),
        ("shared-files", {"files": (FileTrial("/nope", problem="is not there", missing=True, asked=True),)}, "fail"),
        ("nvml", {"gpus": 7}, "fail"),
        ("nvml", {"gpu_problem": "no library", "expected_gpus": 8}, "fail"),
        ("nvml", {"gpu_problem": "NVML is not there"}, "fail"),
        ("bubblewrap", {"programs": {}}, "warn"),
        ("py-spy", {"programs": {}}, "warn"),
        ("user-namespaces", {"user_namespaces": False}, "fail"),
        ("journal", {"journal_dir": ""}, "warn"),
        ("watchers", {"watchers": None}, "warn"),
        ("watchers", {"watchers": {"n001": 900.0}}, "warn"),
        ("Prolog", {"hooks": (HookFile("Prolog", "/p", False),)}, "fail"),
        ("spank", {"spank_wanted": ""}, "warn"),
        ("spank", {"spank_there": False}, "fail"),
        ("spank", {"spank_loaded": False}, "fail"),
        ("spank", {"spank_loaded": None}, "skip"),
        ("spank", {"spank_replaced": True}, "warn"),
        ("spank", {"spank_steps": (3, 4)}, "warn"),
        ("spank", {"hooks": (HookFile("TaskProlog", "/site/task", True),)}, "warn"),
        ("spank", {"hooks": (HookFile("TaskProlog", "/site/task", True),), "spank_kept": ("/site/t",)}, "warn"),
        ("spank", {"hooks": (HookFile("TaskProlog", "/site/task", True),), "spank_kept": ("/site",)}, "pass"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_type(check: str, change: dict[str, Any], state: str) -> None:
    (line,) = [line for line in judged(replace(FIT, **change)) if line.check == check]
    assert line.state == state
    assert bool(line.fix) or line.state not in (State.WARN, State.FAIL)


def test_no_driver_is_no_fault_where_there_are_no_gpus() -> None:
    view = replace(FIT, gpu_problem="NVML is not there", expected_gpus=None)
    states = {line.check: line.state for line in judged(view, has_gpus=False)}
    assert states["nvml"] is State.SKIP


LUA = {"JobSubmitPlugins": "lua", "CliFilterPlugins": "lua", "SlurmctldHost": "ctl1(10.0.0.1),ctl2"}
HERE = "sbatch: sovctl: cli_filter.lua is here: 2 rules in force"
THERE = "sbatch: sovctl: job_submit.lua is here: 2 rules in force"


@pytest.mark.parametrize(
    ("host", "job", "states"),
    [
        ("login1", TriedJob(0, f"{HERE}\n{THERE}\nsbatch: Job 3 to start at 2026-11-22T22:14:40"), "pass pass"),
        # Refused by something else behind them: they run all the same.
        ("login1", TriedJob(1, f"{HERE}\n{THERE}\nallocation failure: Invalid account"), "pass pass"),
        ("login1", TriedJob(0, f"{HERE}\nsbatch: Job 3 to start at"), "fail pass"),
        ("login1", TriedJob(0, THERE.replace("2 rules in force", "its policy file is broken")), "warn fail"),
        ("login1", TriedJob(0, f"{HERE}\n{THERE[:39]} its policy file cannot be read"), "warn pass"),
        ("login1", TriedJob(1, "sbatch: error: Unable to contact slurm controller"), "skip skip"),
        ("login1", None, "skip skip"),
        ("ctl2.site", None, "skip fail"),
    ],
)
def test_the_lua_scripts_are_those_that_answer(host: str, job: TriedJob | None, states: str) -> None:
    files = ("job_submit.lua", "sovctl_policy.lua") if host != "login1" else ("cli_filter.lua", "sovctl_policy.lua")
    lines = judge_policy(replace(FIT, host=host, lua_files=files), LUA, job)
    assert [line.check for line in lines] == ["job_submit.lua", "cli_filter.lua"]
    assert " ".join(line.state for line in lines) == states
    assert all(line.fix for line in lines if line.state is not State.PASS)


def test_a_controller_without_the_script_is_told_to_install_it() -> None:
    (line, _) = judge_policy(replace(FIT, host="ctl1"), LUA, TriedJob(0, HERE))
    assert (line.state, line.fix) == (State.FAIL, "sovctl site install --role controller")
    (_, line) = judge_policy(replace(FIT, host="login1"), LUA, TriedJob(0, THERE))
    assert (line.state, line.fix) == (State.FAIL, "sovctl site install --role login")
    whole = replace(FIT, host="login1", lua_files=("cli_filter.lua", "sovctl_policy.lua"))
    fixes = [one.fix.partition(";")[0] for one in judge_policy(whole, LUA, TriedJob(0, ""))]
    assert fixes == [
        "On the controller: sovctl site install --role controller",
        "sovctl site install --role login",
    ]
    assert judge_policy(FIT, {}, None) == [] and not scripts_asked({}) and scripts_asked(LUA)
    assert scripts_asked({"CliFilterPlugins": "cli_filter/lua"}) and not scripts_asked({"CliFilterPlugins": "evaluate"})


# Steps


def test_a_step_tells_of_each_node_whether_it_was_isolated() -> None:
    trial = StepTrial(
        ("n1", "n2", "n3"),
        1,
        "hello\nsovctl n1 NoNewPrivs:\t1\nsovctl n2 NoNewPrivs:\t0\nsovctl n9 NoNewPrivs:\t1\n",
        "srun: error: n3: task 2: Exited with exit code 2",
    )
    lines = judge_steps([trial], 4, fold)
    assert [(line.state, line.seen.partition(":")[0]) for line in lines] == [
        (State.PASS, "n1"),
        (State.FAIL, "n2"),
        (State.WARN, "n3"),
        (State.SKIP, "4 nodes have no room for a step now"),
    ]
    assert "Exited with exit code 2" in lines[2].seen and all(line.fix for line in lines[1:])


def test_an_srun_without_the_option_is_the_fault() -> None:
    (line,) = judge_steps([StepTrial(("n1",), 255, "", "srun: unrecognized option '--sov-isolate'")], 0, fold)
    assert (line.state, line.fix) == (State.FAIL, "sovctl site lines")


def test_nodes_of_one_partition_are_tried_together() -> None:
    assert by_partition({"n1": "main", "n2": "gpu", "n3": "main"}) == {"main": ["n1", "n3"], "gpu": ["n2"]}
    assert "--nodelist=n[1,3]" in srun_options("main", "n[1,3]", 2)
    assert not any(word.startswith("--partition") for word in srun_options("", "n1", 1))


TWO = {"SlurmctldHost": "ctl1(10.0.0.1),ctl2(10.0.0.2)", "StateSaveLocation": "/ha/slurmctld"}


@pytest.mark.parametrize(
    ("host", "change", "state"),
    [
        ("ctl1", {"files": (replace(WHOLE, directory="/shared/journal"),)}, "pass"),
        ("ctl2.site", {"files": (replace(WHOLE, directory="/shared/journal", kind="xfs"),)}, "warn"),
        ("ctl1", {"files": (replace(WHOLE, directory="/shared/journal", kind="tmpfs", problem="full"),)}, "warn"),
        ("login1", {"files": (replace(WHOLE, directory="/shared/journal", kind="xfs"),)}, "skip"),
        ("ctl1", {}, "skip"),
        ("ctl1", {"journal_dir": ""}, "warn"),
    ],
)
def test_two_controllers_need_one_journal(host: str, change: dict[str, Any], state: str) -> None:
    (line,) = backup_lines(replace(FIT, host=host, **change), TWO)
    assert line.state == state
    assert "ctl1 and ctl2" in line.seen
    if line.state is State.WARN:
        assert "journal_dir" in line.fix and "StateSaveLocation (/ha/slurmctld)" in line.fix
    assert backup_lines(replace(FIT, host=host, **change), {"SlurmctldHost": "ctl1(10.0.0.1)"}) == []


# The nodes together


def test_on_how_many_nodes_slurmd_has_the_plugin() -> None:
    loaded, unseen = passed("spank", "/p; slurmd has it"), skipped("spank", "/p is there; it is root's to see")
    lines = judge_nodes([answer("n001", loaded), answer("n002", loaded), answer("n003", unseen)], fold, 2.0)
    said = [(line.state, line.seen) for line in lines if line.check == "spank"]
    assert said == [
        (State.PASS, "slurmd has it in memory on 2 of 3 nodes"),
        (State.SKIP, "n003: /p is there; it is root's to see"),
    ]


def answer(node: str, *lines: Line, **more: Any) -> NodeAnswer:
    return NodeAnswer(node, lines, **{"version": "1", "config_digest": "aa", "clock_offset_s": 0.0, **more})


def test_nodes_alike_are_a_few_lines() -> None:
    lines = judge_nodes([answer(f"n{number:03d}", passed("nvml", "8")) for number in range(1, 64)], fold, 2.0)
    assert {line.state for line in lines} == {State.PASS}
    assert lines[0].seen == "63 of 63 nodes answered"


def test_who_is_not_like_the_rest_is_named() -> None:
    bad = failed("nvml", "7 GPUs", "look")
    answers = [
        answer("n001"),
        answer("n002", bad),
        answer("n003", bad, version="2"),
        answer("n004", config_digest="bb"),
        answer("n005", clock_offset_s=9.0),
        NodeAnswer("n006", problem="no route"),
    ]
    lines = judge_nodes(answers, fold, 2.0)
    said = [(line.check, line.state, line.seen.partition(":")[0]) for line in lines if line.state is not State.PASS]
    assert ("ssh", State.FAIL, "n006") in said
    assert ("nvml", State.FAIL, "n[002-003]") in said
    assert ("sovctl-version", State.WARN, "n003 differ from the other 4") in said
    assert ("site-config", State.WARN, "n004 differ from the other 4") in said
    assert ("clocks", State.WARN, "n005") in said
    fixes = {line.check: line.fix for line in lines}
    assert fixes["site-config"].endswith("ssh n004 sovctl config show")


def test_an_answer_is_read_back() -> None:
    record = {
        "schema": SCHEMA,
        "at": 105.0,
        "version": "1",
        "config_digest": "aa",
        "lines": [{"check": "clock", "state": "warn", "seen": "off", "fix": "x"}],
    }
    read = read_answer("n001", json.dumps(record).encode(), 100.0, 102.0)
    assert read.lines == (warned("clock", "off", "x"),)
    assert read.clock_offset_s == pytest.approx(3.0)


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: json.dumps({"schema": text}).encode())))
def test_garbage_is_a_problem_and_no_exception(data: bytes) -> None:
    assert read_answer("n001", data, 0.0, 1.0).problem


@given(st.text(alphabet=st.characters(blacklist_characters="\0"), max_size=40))
def test_what_slurm_conf_holds_is_one_word_of_the_nodes_shell(value: str) -> None:
    words = shlex.split(node_command("/opt/sovctl/bin/sovctl", {"Prolog": value}))
    assert words[:4] == ["/opt/sovctl/bin/sovctl", "doctor", "--node", "--json"]
    assert words[4:] == ([f"--told=Prolog={value}"] if value != "(null)" else [])
