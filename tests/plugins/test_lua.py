"""job_submit.lua and cli_filter.lua under plain lua, with a stub of Slurm: stamps, rules, and no crash on anything."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_cases import BROKEN, IMAGES, ISOLATED, OPTIONS, RULES

from sovctl.site.judge_policy import QUESTION
from sovctl.submit.options import OwnOptions
from sovctl.submit.script import Launch, batch_script, wrapped

PLUGINS = Path(__file__).parents[2] / "plugins" / "lua"
LUAS = [name for name in ("lua5.1", "lua5.3", "lua5.4") if shutil.which(name)]
"""Slurm 22.05 of Debian 12 loads liblua 5.1; other builds load later ones."""
pytestmark = pytest.mark.skipif(not LUAS, reason="no lua interpreter is installed")

NO_VAL16 = 65534
REFUSED = 2002
MANAGED = batch_script(wrapped("true"), OwnOptions(), Launch("/opt/my python", "0.1", 1)).decode()
PARTITIONS = {"main": {"flag_default": 1}, "gpu": {"flag_default": 0}}
ISOLATE = "_SLURM_SPANK_OPTION_sovctl_sov_isolate="
PYXIS = "_SLURM_SPANK_OPTION_pyxis_container_image"


def lua(value: object) -> str:
    """A Python value as a Lua expression; None in a dict is a field that is not there."""
    if isinstance(value, dict):
        return "{" + ",".join(f"[{lua(key)}]={lua(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, list):
        return "{" + ",".join(map(lua, value)) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(f"\\{byte:03d}" for byte in value.encode("utf-8", "surrogateescape")) + '"'
    return repr(value)


def answers(directory: Path, plugin: str, asks: list[dict[str, Any]], env: dict[str, str] | None = None) -> list[Any]:
    """What the plugin does with each question, the same under every Lua there is."""
    (directory / "asks.lua").write_text("return " + lua(asks))
    before = {path: path.readlink() if path.is_symlink() else path.read_bytes() for path in directory.glob("*.conf")}
    found: list[list[Any]] = []
    for interpreter in LUAS:
        for path in directory.glob("*.conf"):
            path.unlink()
        for path, text in before.items():
            path.symlink_to(text) if isinstance(text, Path) else path.write_bytes(text)
        done = subprocess.run(
            [interpreter, str(Path(__file__).parent / "stub.lua"), str(directory / plugin), "asks.lua"],
            cwd=directory,
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", **(env or {})},
        )
        assert done.returncode == 0, done.stderr
        found.append([json.loads(line) for line in done.stdout.split("\n") if line])
        assert found[-1] == found[0], interpreter
    return found[0]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory as it lies beside slurm.conf."""
    for file in PLUGINS.glob("*.lua"):
        shutil.copy(file, tmp_path)
    (tmp_path / "sovctl-policy.conf").write_text(RULES)
    return tmp_path


def submit(**job: object) -> dict[str, Any]:
    return {"call": "slurm_job_submit", "job": {"requeue": NO_VAL16, **job}, "partitions": PARTITIONS}


def test_a_managed_job_is_stamped_and_keeps_its_comment(site: Path) -> None:
    asks = [
        submit(script=MANAGED),
        submit(script=MANAGED, comment="ours; do not touch"),
        submit(script=MANAGED, comment="x sovctl:managed"),
        submit(script=MANAGED, requeue=0),
        submit(script="#!/bin/sh\necho python -P -m sovctl supervise x\n", comment="mine"),
        submit(),
    ]
    jobs = [answer["job"] for answer in answers(site, "job_submit.lua", asks)]
    assert [job.get("comment") for job in jobs] == [
        "sovctl:managed",
        "ours; do not touch sovctl:managed",
        "x sovctl:managed",
        "sovctl:managed",
        "mine",
        None,
    ]
    assert [job["requeue"] for job in jobs] == [1, 1, 1, 0, NO_VAL16, NO_VAL16]


BATCH = {"script": "#!/bin/sh\n", "environment": {}}
PLAIN = {**BATCH, "partition": "gpu", "spank_job_env": [ISOLATE]}


@pytest.mark.parametrize(
    ("job", "rule"),
    [
        ({}, None),
        ({**BATCH, "partition": "main"}, None),
        ({**BATCH, "partition": "gpu"}, "clean-gpu"),
        ({**BATCH, "partition": "main,GPU"}, "clean-gpu"),
        ({**BATCH, "partition": "gpu", "comment": "sovctl:managed isolate sov-isolate"}, "clean-gpu"),
        ({**BATCH, "partition": "gpu", "environment": {"SOVCTL_SPANK_ISOLATE": "1"}}, "clean-gpu"),
        ({"partition": "gpu"}, None),  # srun and salloc: the node sees to it
        (PLAIN, None),
        ({**BATCH, "account": "Guests"}, "guests-clean"),
        ({**BATCH, "default_account": "visitors"}, "guests-clean"),
        ({**BATCH, "account": "staff", "default_account": "visitors"}, None),
        ({**PLAIN, "environment": {"PYXIS_CONTAINER_IMAGE": "evil"}}, "site-images"),
        ({**PLAIN, "environment": {"SOVCTL_SPANK_IMAGE": "evil"}}, "site-images"),
        ({**PLAIN, "spank_job_env": [ISOLATE, "_SLURM_SPANK_OPTION_pyxis_container_image=evil"]}, "site-images"),
        ({**BATCH, "partition": "gpu", "spank_job_env": ["_SLURM_SPANK_OPTION_sovctl_sov_image=evil"]}, "site-images"),
        ({**BATCH, "partition": "main", "container": "anything"}, None),
    ],
)
def test_rules(site: Path, job: dict[str, Any], rule: str | None) -> None:
    (answer,) = answers(site, "job_submit.lua", [submit(**job)])
    if rule is None:
        assert (answer["status"], answer["user"], answer["error"]) == (0, [], [])
    else:
        assert answer["status"] == REFUSED
        assert answer["user"][0].startswith(f"sovctl: refused by rule {rule}: ")


def test_images(site: Path) -> None:
    given_answers = answers(site, "job_submit.lua", [submit(**PLAIN, container=image) for image, _ in IMAGES])
    assert [answer["status"] == 0 for answer in given_answers] == [allowed for _, allowed in IMAGES]
    assert all("rule site-images" in answer["user"][0] for answer in given_answers if answer["status"])


def test_isolation(site: Path) -> None:
    asks = [submit(**BATCH, partition=partition, account=account) for partition, account, _ in ISOLATED]
    for answer, (*_, rule) in zip(answers(site, "job_submit.lua", asks), ISOLATED, strict=True):
        assert (f"rule {rule}:" in "".join(answer["user"])) == bool(rule)


def test_the_default_partition_counts(site: Path) -> None:
    (site / "sovctl-policy.conf").write_text("isolate all-main partition=main\n")
    (answer,) = answers(site, "job_submit.lua", [submit(**BATCH)])
    assert "rule all-main" in answer["user"][0]


@pytest.mark.parametrize(("text", "why"), BROKEN)
@pytest.mark.parametrize("word", ["accept", "refuse"])
def test_a_broken_file_fails_as_it_says_itself(site: Path, text: str, why: str, word: str) -> None:
    file = str(site / "sovctl-policy.conf")
    asks = [{"policy": {"path": file, "text": f"{text}\non-broken {word}\n"}}, submit(), submit()]
    (site / "sovctl-policy.conf").unlink()
    first, second = answers(site, "job_submit.lua", asks)
    if "\0" not in text:
        assert first["status"] == second["status"] == (0 if word == "accept" else REFUSED)
    assert why in " ".join(first["log"])
    assert second["log"] == []  # said once


@pytest.mark.parametrize("word", ["accept", "refuse"])
def test_an_endless_file_is_read_to_its_bound(site: Path, word: str) -> None:
    (site / "sovctl-policy.conf").write_text(f"on-broken {word}\n" + "#\n" * 40000 + "isolate a\n")
    (answer,) = answers(site, "job_submit.lua", [submit()])
    assert answer["status"] == (0 if word == "accept" else REFUSED)


def test_rules_are_read_again_and_the_last_good_ones_stay(site: Path) -> None:
    path = str(site / "sovctl-policy.conf")
    job = submit(**{**BATCH, "partition": "gpu"})
    asks = [
        job,
        {"policy": {"path": path, "text": "isolate other partition=none\n"}},
        job,
        {"policy": {"path": path, "text": RULES}},
        job,
        {"policy": {"path": path, "text": "nonsense\non-broken accept\n"}},
        job,
        {"remove": path},
        job,
        job,
    ]
    given_answers = answers(site, "job_submit.lua", asks)
    assert [answer["status"] for answer in given_answers] == [REFUSED, 0, REFUSED, REFUSED, REFUSED, REFUSED]
    assert [len(answer["log"]) for answer in given_answers] == [0, 1, 1, 1, 1, 0]
    assert "the rules last read stay in force" in given_answers[3]["log"][0]


NOT_TO_READ = ("sovctl-policy.conf", ".")
"""What a link leads to so that not even root can open it (itself), or open but not read it (a directory)."""


@pytest.mark.parametrize("target", NOT_TO_READ)
def test_a_file_that_is_there_and_cannot_be_read_is_broken(site: Path, target: str) -> None:
    path = site / "sovctl-policy.conf"
    path.unlink()
    path.symlink_to(target)
    asks = [submit(comment=QUESTION), submit(), {"remove": str(path)}, submit(), submit()]
    asked_first, second, third, fourth = answers(site, "job_submit.lua", asks)
    assert [one["status"] for one in (asked_first, second, third, fourth)] == [REFUSED, REFUSED, 0, 0]
    assert "sovctl: job_submit.lua is here: its policy file cannot be read" in asked_first["user"][0]
    assert "rule on-broken" in second["user"][0]
    assert [len(one["log"]) for one in (second, third, fourth)] == [0, 1, 0]  # said once
    assert "there is no" in third["log"][0]
    path.symlink_to(target)
    (early,) = answers(site, "cli_filter.lua", [asked(type="sbatch")])
    assert (early["status"], early["error"]) == (0, [])  # it need not be so on the controller


@pytest.mark.parametrize("target", NOT_TO_READ)
def test_a_file_that_cannot_be_read_any_more_leaves_the_rules(site: Path, target: str) -> None:
    path = str(site / "sovctl-policy.conf")
    job = submit(**{**BATCH, "partition": "gpu"})
    asks = [job, {"link": path, "to": target}, job, job, {"remove": path}, {"policy": {"path": path, "text": ""}}, job]
    first, second, third, last = answers(site, "job_submit.lua", asks)
    assert [one["status"] for one in (first, second, third, last)] == [REFUSED, REFUSED, REFUSED, 0]
    assert "rule clean-gpu" in second["user"][0]
    assert "the rules last read stay in force" in second["log"][0] and third["log"] == []


def test_a_change_cannot_slip_past_a_rule(site: Path) -> None:
    def modify(change: dict[str, Any], record: dict[str, Any], uid: int = 1000) -> dict[str, Any]:
        return {"call": "slurm_job_modify", "job": change, "record": record, "partitions": PARTITIONS, "uid": uid}

    main, gpu = {"partition": "main", "account": "staff"}, {"partition": "gpu", "account": "staff"}
    asks = [
        modify({"partition": "gpu"}, main),
        modify({"partition": "gpu"}, gpu),
        modify({"account": "guests"}, main),
        modify({"partition": "gpu"}, main, uid=0),
        modify({"partition": "gpu"}, {**gpu, "container": "evil"}),
        modify({"time_limit": 5}, main),
        modify({"comment": "new"}, {**main, "comment": "old sovctl:managed"}),
        modify({"comment": "new"}, {**main, "comment": "old"}),
        modify({}, {}),
    ]
    given_answers = answers(site, "job_submit.lua", asks)
    assert [answer["status"] for answer in given_answers] == [REFUSED, 0, REFUSED, 0, REFUSED, 0, 0, 0, 0]
    # log_user in job_modify is an error in slurmctld.
    assert all(answer["user"] == [] for answer in given_answers)
    assert "refused by rule clean-gpu" in given_answers[0]["log"][0]
    assert [answer["job"].get("comment") for answer in given_answers[6:8]] == ["new sovctl:managed", "new"]


FIELDS = ("script", "comment", "partition", "account", "default_account", "container", "requeue", "environment")
ANY = st.one_of(st.none(), st.just(4294967294), st.just(NO_VAL16), st.text(max_size=30), st.just({}), st.booleans())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=st.lists(st.dictionaries(st.sampled_from((*FIELDS, "spank_job_env")), ANY), min_size=8, max_size=20))
def test_no_field_breaks_it(site: Path, jobs: list[dict[str, Any]]) -> None:
    """Whatever a field holds, a job is taken or refused; nothing is raised to slurmctld, where it would pass."""
    given_answers = answers(site, "job_submit.lua", [submit(**job) for job in jobs])
    assert len(given_answers) == len(jobs)
    assert {answer["status"] for answer in given_answers} <= {0, REFUSED}
    assert all(answer["error"] == [] for answer in given_answers)


UNSET = {"sov-isolate": "unset", "sov-private-network": "unset", "sov-clean-env": "unset"}
"""How sbatch tells cli_filter of flags of a SPANK plugin that were not given (spank_option_get in Slurm)."""


def asked(**options: object) -> dict[str, Any]:
    return {"call": "slurm_cli_pre_submit", "job": options}


def test_cli_filter_gives_the_same_answer(site: Path) -> None:
    asks = [
        asked(type="sbatch", partition="gpu"),
        asked(type="sbatch", partition="gpu", spank={"sovctl": UNSET}),
        asked(type="sbatch", partition="gpu", spank={"sovctl": {**UNSET, "sov-isolate": "set"}}),
        asked(type="srun", partition="gpu"),
        asked(type="srun", partition="gpu", spank={"pyxis": {"container-image": "evil"}}),
        asked(type="srun", partition="gpu", spank={"sovctl": {"sov-image": "/shared/images/a.sqsh"}}),
        asked(type="sbatch"),
        asked(),
    ]
    given_answers = answers(site, "cli_filter.lua", asks)
    assert [answer["status"] for answer in given_answers] == [-1, -1, 0, 0, -1, 0, 0, 0]
    (theirs,) = answers(site, "job_submit.lua", [submit(**{**BATCH, "partition": "gpu"})])
    assert given_answers[0]["error"] == theirs["user"]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"type": "srun", "partition": "gpu", "task-epilog": "/home/u/e.sh"}, "clean-gpu"),
        ({"type": "srun", "account": "guests", "task-epilog": "e"}, "guests-clean"),
        (
            {"type": "srun", "partition": "gpu", "spank": {"sovctl": {"sov-isolate": "set"}}, "task-epilog": "e"},
            "clean-gpu",
        ),
        ({"type": "srun", "partition": "main", "task-epilog": "e"}, None),
        ({"type": "srun", "partition": "gpu", "task-epilog": ""}, None),
        ({"type": "srun", "partition": "gpu", "task-prolog": "p"}, None),  # the task itself runs it, isolated
        # What is not an option of srun, as slurm_option_get has it.
        ({"type": "salloc", "partition": "gpu", "task-epilog": "invalid-context"}, None),
    ],
)
def test_cli_filter_refuses_a_task_epilog_where_a_rule_isolates(
    site: Path, options: dict[str, Any], rule: str | None
) -> None:
    (answer,) = answers(site, "cli_filter.lua", [asked(**options)])
    assert answer["status"] == (-1 if rule else 0)
    said = f"sovctl: refused by rule {rule}: slurmstepd would run --task-epilog outside of the isolation; leave it out"
    assert answer["error"] == ([said] if rule else [])


def test_cli_filter_refuses_a_task_epilog_of_a_step_by_its_job(site: Path) -> None:
    env = {"SLURM_JOB_ID": "1", "SLURM_JOB_PARTITION": "gpu"}
    step = {"type": "srun", "partition": "main", "task-epilog": "e"}
    (answer,) = answers(site, "cli_filter.lua", [asked(**step)], env)
    assert "refused by rule clean-gpu: " in answer["error"][0]


def of_filter(job: dict[str, Any]) -> dict[str, Any]:
    """What sbatch tells cli_filter of a job that slurmctld is told of so."""
    spank: dict[str, dict[str, str]] = {"sovctl": {**UNSET}}
    for entry in job.get("spank_job_env", ()):
        plugin, _, option = entry.removeprefix("_SLURM_SPANK_OPTION_").partition("=")[0].partition("_")
        spank.setdefault(plugin, {})[option.replace("_", "-")] = entry.partition("=")[2] or "set"
    told = {name: job[name] for name in ("partition", "account", "container") if name in job}
    return asked(type="sbatch", spank=spank, **told)


def _spank(option: str) -> str:
    value = "/shared/images/a.sqsh" if option == "sov-image" else "x"
    return f"_SLURM_SPANK_OPTION_sovctl_{option.replace('-', '_')}={value}"


SAME = [
    *[({**PLAIN, "container": image}, allowed) for image, allowed in IMAGES],
    *[({**PLAIN, "spank_job_env": [ISOLATE, f"{PYXIS}={image}"]}, allowed) for image, allowed in IMAGES],
    *[({**BATCH, "partition": partition, "account": account}, not rule) for partition, account, rule in ISOLATED],
    *[({**BATCH, "partition": "gpu", "spank_job_env": [_spank(option)]}, isolates) for option, isolates in OPTIONS],
]


def test_cli_filter_says_of_every_case_what_slurmctld_says(site: Path) -> None:
    early = answers(site, "cli_filter.lua", [of_filter(job) for job, _ in SAME])
    late = answers(site, "job_submit.lua", [submit(**job) for job, _ in SAME])
    for (job, taken), first, second in zip(SAME, early, late, strict=True):
        assert (first["status"] == 0, second["status"] == 0) == (taken, taken), job
        assert first["error"] == second["user"], job


def test_cli_filter_does_not_know_the_defaults_that_slurmctld_knows(site: Path) -> None:
    (site / "sovctl-policy.conf").write_text("isolate all-main partition=main\nisolate guests account=guests\n")
    for told in ({}, {"partition": "other", "default_account": "guests"}):
        job = {**BATCH, **told}
        (early,) = answers(site, "cli_filter.lua", [of_filter(job)])
        (late,) = answers(site, "job_submit.lua", [submit(**job)])
        assert (early["status"], late["status"]) == (0, REFUSED)


def test_cli_filter_goes_by_the_job_inside_a_job(site: Path) -> None:
    env = {"SLURM_JOB_ID": "1", "SLURM_JOB_PARTITION": "gpu", "PYXIS_CONTAINER_IMAGE": "evil"}
    (answer,) = answers(site, "cli_filter.lua", [asked(type="srun", partition="main")], env)
    assert "rule site-images" in answer["error"][0]


def test_the_doctor_is_answered_and_the_rules_hold_all_the_same(site: Path) -> None:
    fine, refused, other = answers(
        site,
        "job_submit.lua",
        [submit(comment=QUESTION), submit(**{**BATCH, "partition": "gpu", "comment": QUESTION}), submit(comment="x")],
    )
    words = "sovctl: job_submit.lua is here: 3 rules in force"
    assert (fine["status"], fine["user"], other["user"]) == (0, [words], [])
    assert (refused["status"], refused["user"][0], len(refused["user"])) == (REFUSED, words, 2)
    question = {"type": "sbatch", "partition": "gpu", "comment": QUESTION}
    asks = [asked(**question, **{"test-only": "set"}), asked(type="sbatch", comment="x", **{"test-only": "set"})]
    here, silent = answers(site, "cli_filter.lua", asks)
    assert (here["status"], here["log"]) == (0, ["sovctl: cli_filter.lua is here: 3 rules in force"])
    assert silent["log"] == []
    # A job that would run gains nothing by the comment.
    for test_only in ({}, {"test-only": "unset"}, {"test-only": "invalid-context"}):
        (runs,) = answers(site, "cli_filter.lua", [asked(**question, **test_only)])
        assert (runs["status"], runs["log"], len(runs["error"])) == (-1, [], 1)
    (site / "sovctl-policy.conf").write_text("nonsense\n")
    (broken,) = answers(site, "job_submit.lua", [submit(comment=QUESTION)])
    assert broken["user"][0] == "sovctl: job_submit.lua is here: its policy file is broken"


def test_cli_filter_is_silent_where_it_is_half_installed(site: Path) -> None:
    (site / "sovctl-policy.conf").unlink()
    (site / "sovctl_policy.lua").unlink()
    (answer,) = answers(site, "cli_filter.lua", [asked(type="sbatch", partition="gpu")])
    assert (answer["status"], answer["error"]) == (0, [])
