"""Slurm's own words, as recorded from the real commands, and hostile ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sovctl.adapters.slurm import parse
from sovctl.model.job import JobView
from sovctl.model.node import NodeState

DATA = Path(__file__).parents[2] / "data" / "slurm"
RELEASES = sorted(path.name for path in DATA.iterdir())
REST = (
    "UserId=alice(1001) GroupId=alice(1001) MCS_label=N/A Priority=7 JobState=PENDING "
    "Reason=Priority Restarts=2 Requeue=1"
)


def one_job(text: str) -> JobView:
    (record,) = parse.parse_records(text)
    return parse.parse_job(record)


# What each release prints: scripts/record_slurm.py says what its jobs and nodes were brought to


class Recorded:
    def __init__(self, release: str) -> None:
        self.release = release

    def __call__(self, name: str) -> str:
        return (DATA / self.release / f"{name}.txt").read_text("utf-8")

    def jobs(self) -> dict[str, JobView]:
        views = [parse.parse_job(record) for record in parse.parse_records(self("show_job"))]
        return {job.job_id: job for job in views}


@pytest.fixture(params=RELEASES)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_there_are_records_of_the_oldest_and_both_newer_releases() -> None:
    assert RELEASES == ["22.05", "24.11", "26.05"]
    for release in RELEASES:
        assert parse.parse_config(Recorded(release)("show_config"))["SLURM_VERSION"].startswith(f"{release}.")


def test_every_recorded_job_is_found_by_the_id_that_names_only_it(recorded: Recorded) -> None:
    assert sorted(recorded.jobs()) == ["1", "2", "3", "3_1", "5", "6", "7"]


def test_a_running_job(recorded: Recorded) -> None:
    job = recorded.jobs()["2"]
    assert (job.state, job.running, job.pending, job.over) == ("RUNNING", True, False, False)
    assert (job.nodes, job.batch_host) == (("n007", "n008"), "n007")
    assert job.started_at is not None and 1795900000 < job.started_at < 1800000000
    assert (job.ends_at, job.preempted_at, job.eligible_at is None) == (None, None, False)
    assert (job.user, job.uid, job.requeue, job.restarts, job.reason) == ("root", 0, True, 0, "")
    assert (job.user, recorded.jobs()["1"].user, recorded.jobs()["1"].uid) == ("root", "alice", 1001)
    assert job.extra["QOS"] == "normal"


def test_where_a_job_prints_to(recorded: Recorded) -> None:
    """26.05 prints no StdErr where it is the file of the output."""
    job = recorded.jobs()["2"]
    assert (job.work_dir, job.stdout) == ("/srv/lab/work", "/srv/lab/work/slurm-2.out")
    assert job.stderr == job.stdout


def test_a_job_name_cannot_forge_fields_of_its_record(recorded: Recorded) -> None:
    assert recorded.jobs()["2"].name == "evil JobState=RUNNING NodeList=n001 x"
    assert recorded.jobs()["2"].nodes == ("n007", "n008")


def test_a_comment_cannot_forge_fields_of_its_record(recorded: Recorded) -> None:
    """26.05 prints the whole command line of sbatch as well, the comment in it."""
    assert recorded.jobs()["2"].extra["Comment"] == "a=b"
    assert recorded.jobs()["2"].reason == ""


def test_a_pending_job_with_exclusions_and_begin_time(recorded: Recorded) -> None:
    job = recorded.jobs()["5"]
    assert (job.name, job.pending, job.held, job.reason) == ("späte\tArbeit", True, False, "BeginTime")
    assert (job.excluded, job.nodes, job.batch_host) == (("n002", "n003"), (), "")
    assert job.eligible_at == int(job.extra["SubmitTime"]) + 3600


def test_a_held_and_a_cancelled_job(recorded: Recorded) -> None:
    jobs = recorded.jobs()
    assert jobs["6"].held
    assert (jobs["7"].state, jobs["7"].over, jobs["7"].held) == ("CANCELLED", True, False)


def test_a_requeued_job_that_completes_shows_only_completing(recorded: Recorded) -> None:
    job = one_job(recorded("show_job_completing"))
    assert (job.state, job.restarts, job.completing, job.running, job.over) == ("COMPLETING", 1, True, False, False)
    assert job.nodes == ("n007", "n008")


def test_nodes(recorded: Recorded) -> None:
    nodes = {node.name: node for node in parse.parse_nodes(recorded("show_node"))}
    assert sorted(nodes) == [f"n{number:03d}" for number in range(1, 9)]
    sick = nodes["n002"]
    assert sick.state == NodeState("IDLE", frozenset({"DRAIN"}))
    assert (sick.reason, sick.reason_by) == ("sovctl:20261122-1a2b XID79 GPU 5 bus", "root")
    assert (sick.address, sick.gres, sick.partitions) == ("127.0.0.1", "gpu:8", ("main", "preemptible"))
    assert sick.port == nodes["n001"].port + 1 > 20000
    assert nodes["n001"].reason == ""
    assert nodes["n003"].boot_time is not None and nodes["n003"].boot_time > 1795900000
    assert {name: node.state.base for name, node in nodes.items() if node.state.base != "IDLE"} == {
        "n001": "MIXED", "n003": "ALLOCATED", "n004": "ALLOCATED", "n005": "ALLOCATED", "n006": "ALLOCATED",
        "n007": "MIXED", "n008": "MIXED",
    }  # fmt: skip


def test_queue(recorded: Recorded) -> None:
    jobs = {job.job_id: job for job in parse.parse_queue(recorded("squeue"))}
    assert sorted(jobs) == ["1", "2", "3_1", "3_[2-3%1]", "5", "6"]
    assert jobs["1"].nodes == ("n003", "n004", "n005", "n006")
    assert (jobs["1"].uid, jobs["1"].batch_host, jobs["5"].batch_host) == (1001, "n003", "")
    assert jobs["5"].excluded == ("n002", "n003")


def test_steps_without_the_batch_script(recorded: Recorded) -> None:
    assert parse.parse_step_ids(recorded("squeue_steps")) == ["1.0", "2.0"]


def test_names_that_a_shell_completes(recorded: Recorded) -> None:
    # Each node once for each of its partitions.
    assert parse.parse_names(recorded("names_node")) == [f"n00{number}" for number in range(1, 9) for _ in range(2)]
    assert sorted(parse.parse_names(recorded("names_partition"))) == ["main", "preemptible"]
    assert sorted(parse.parse_names(recorded("names_qos"))) == ["high", "normal"]
    # root's own: not job 1, which is alice's; an array by its tasks.
    assert sorted(parse.parse_names(recorded("names_job"))) == ["2", "3_1", "3_2", "3_3", "5", "6"]


def test_scheduler_passes_are_those_of_the_main_scheduler(recorded: Recorded) -> None:
    text = recorded("sdiag")
    main = text.index("Main schedule statistics")
    assert parse.parse_scheduler_passes(text) == int(text[main:].split("Total cycles:")[1].split()[0]) > 0
    assert parse.parse_scheduler_passes("Main schedule statistics (microseconds):\n\tTotal cycles: 12\n") == 12
    assert parse.parse_scheduler_passes("Total cycles: 12\n") is None


def test_calls_by_kind_and_by_user(recorded: Recorded) -> None:
    assert parse.parse_rpcs(recorded("sdiag"))["REQUEST_NODE_INFO"][0] > 0
    assert "root" in parse.parse_rpcs(recorded("sdiag"), "user")
    assert parse.parse_rpcs("") == {}


def test_settings(recorded: Recorded) -> None:
    config = parse.parse_config(recorded("show_config"))
    assert config["KillWait"] == "30 sec"
    assert config["SlurmUser"] == "root(0)"
    assert config["SlurmdTimeout"] == "300 sec"
    assert config["PreemptType"] == "preempt/qos"
    assert config.get("Epilog", "(null)") == "(null)"


def test_recorded_partitions(recorded: Recorded) -> None:
    main, preemptible = parse.parse_partitions(recorded("show_partition"))
    assert (main.name, main.default, main.priority_tier, len(main.nodes)) == ("main", True, 1, 8)
    assert (main.qos, main.allow_qos, main.deny_qos) == ("", None, frozenset())
    assert (preemptible.default, preemptible.priority_tier, preemptible.deny_qos) == (False, 0, {"high"})
    modes = [(item.name, item.mode) for item in parse.parse_preemptable_partitions(recorded("show_partition"))]
    assert modes == [("main", "REQUEUE"), ("preemptible", "REQUEUE")]


def test_recorded_qos(recorded: Recorded) -> None:
    by_name = {item.name: item for item in parse.parse_qos(recorded("qos"))}
    high = by_name["high"]
    assert (high.priority, high.grace_s, high.preempts, high.node_limit) == (1000, 30, {"normal"}, 6)
    assert by_name["normal"].preempts == frozenset()
    assert parse.parse_open_qos(recorded("open_qos")) == {"normal"}


def test_recorded_jobs_of_the_pool(recorded: Recorded) -> None:
    jobs = {job.job_id: job for job in parse.parse_pool_jobs(recorded("squeue_pool"))}
    assert sorted(jobs) == ["1", "2", "3_1", "3_2", "3_3", "5", "6"]
    assert (jobs["1"].uid, jobs["1"].qos, jobs["1"].partitions) == (1001, "normal", ("main",))
    assert (jobs["1"].holds_nodes, jobs["6"].holds_nodes) == (True, False)
    assert (jobs["1"].reason, bool(jobs["6"].reason)) == ("None", True)


def test_recorded_jobs_none_of_which_was_told_to_leave(recorded: Recorded) -> None:
    assert recorded("squeue_preempted").strip()
    assert parse.parse_preempted(recorded("squeue_preempted")) == []


def test_recorded_accounting(recorded: Recorded) -> None:
    jobs = {job.job_id: job for job in parse.parse_accounting(recorded("accounting"), "|")}
    assert set(jobs) >= {"1", "2", "4", "7"}
    assert (jobs["7"].state, jobs["7"].nodes, jobs["7"].name) == ("CANCELLED", ("n001",), "gone")
    assert jobs["7"].submitted <= (jobs["7"].started or 0) <= (jobs["7"].ended or 0)
    assert (jobs["1"].state, jobs["1"].uid, jobs["1"].ended, len(jobs["1"].nodes)) == ("RUNNING", 1001, None, 4)
    assert jobs["2"].name == "evil JobState=RUNNING NodeList=n001 x"


# Other versions


@pytest.mark.parametrize(
    ("text", "base", "flags"),
    [
        ("IDLE", "IDLE", ""),
        ("idle", "IDLE", ""),
        ("IDLE+DRAIN", "IDLE", "DRAIN"),
        ("MIXED+DRAIN+NOT_RESPONDING", "MIXED", "DRAIN NOT_RESPONDING"),
        ("ALLOCATED+COMPLETING", "ALLOCATED", "COMPLETING"),
        ("DOWN*", "DOWN", "NOT_RESPONDING"),
        ("DOWN*+DRAIN", "DOWN", "NOT_RESPONDING DRAIN"),
        ("ALLOCATED*+COMPLETING", "ALLOCATED", "NOT_RESPONDING COMPLETING"),
        ("IDLE~", "IDLE", "POWERED_DOWN"),
        ("IDLE~#", "IDLE", "POWERED_DOWN POWERING_UP"),
        ("IDLE+CLOUD+POWERED_DOWN", "IDLE", "CLOUD POWERED_DOWN"),
        ("MIXED$", "MIXED", "MAINT"),
        ("IDLE-", "IDLE", "PLANNED"),
        ("IDLE+PLANNED", "IDLE", "PLANNED"),
        ("DOWN+REBOOT_ISSUED", "DOWN", "REBOOT_ISSUED"),
        ("IDLE+FAIL", "IDLE", "FAIL"),
        ("drained", "IDLE", "DRAIN"),
        ("drained*", "IDLE", "DRAIN NOT_RESPONDING"),
        ("draining", "ALLOCATED", "DRAIN"),
        ("DOWN+DRAIN+INVALID_REG", "DOWN", "DRAIN INVALID_REG"),
        ("FUTURE", "FUTURE", ""),
        ("", "UNKNOWN", ""),
        ("*", "UNKNOWN", "NOT_RESPONDING"),
    ],
)
def test_node_states_of_every_version(text: str, base: str, flags: str) -> None:
    assert parse.parse_node_state(text) == NodeState(base, frozenset(flags.split()))


def test_job_states_of_newer_versions_carry_flags() -> None:
    job = one_job(f"JobId=5 JobName=x {REST}".replace("JobState=PENDING", "JobState=PENDING+COMPLETING+REQUEUED"))
    assert (job.state, job.flags) == ("PENDING", frozenset({"COMPLETING", "REQUEUED"}))
    assert job.pending
    assert job.completing


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ("JobId=33 ArrayJobId=29 ArrayTaskId=1 JobName=a", "29_1"),
        # The bare id of the last task would mean the whole array.
        ("JobId=29 ArrayJobId=29 ArrayTaskId=3 JobName=a", "29_3"),
        ("JobId=29 ArrayJobId=29 ArrayTaskId=2-3%1 JobName=a", "29"),
        ("JobId=40 HetJobId=39 HetJobOffset=1 JobName=a", "40"),
    ],
)
def test_array_ids(line: str, own: str) -> None:
    assert one_job(f"{line} {REST}").job_id == own


# What people write into free text


@pytest.mark.parametrize(
    "name",
    [
        "a JobState=CANCELLED Restarts=99",
        "a\nJobState=CANCELLED",
        "x\x0by\x1ez\u2028\x85",
        "=", "Key=", "lr=0.1,bs=8", "[n001]", "späte Arbeit", "a UserId=", "%s%n",
    ],
)  # fmt: skip
def test_a_hostile_job_name_stays_a_name(name: str) -> None:
    job = one_job(f"JobId=5 JobName={name} {REST} Comment=JobId=6 JobState=FAILED\n")
    assert job.name == name.strip()
    assert (job.job_id, job.state, job.restarts, job.uid) == ("5", "PENDING", 2, 1001)


@pytest.mark.parametrize(
    "where", ["Command=/a {}", "Command=/a SubmitLine=sbatch -J {} WorkDir=/w", "Command=/a Comment={}"]
)
def test_what_slurm_leaves_out_is_not_taken_from_free_text(where: str) -> None:
    forged = "ArrayJobId=7 ArrayTaskId=1 PreemptTime=5 BatchHost=n9 Priority=0 JobState=FAILED"
    job = one_job(f"JobId=5 JobName=a {REST} {where.format(forged)} WorkDir=/w StdOut=/o")
    assert (job.job_id, job.preempted_at, job.batch_host, job.held) == ("5", None, "", False)
    assert (job.state, job.work_dir, job.stdout) == ("PENDING", "/w", "/o")


def test_an_owner_in_the_name_makes_the_owner_unknown() -> None:
    """Root reads and writes a run's record with its owner's rights."""
    job = one_job(f"JobId=5 JobName=x UserId=root(0) GroupId=root(0) MCS_label=N/A {REST} Command=/a")
    assert (job.user, job.uid, job.extra["GroupId"]) == ("", -1, "")


def test_a_comment_with_line_breaks_ends_no_record() -> None:
    text = f"JobId=5 JobName=a {REST} Comment=one\ntwo JobState=X  StdErr=/e StdOut=/o\nJobId=6 JobName=b {REST}\n"
    first, second = (parse.parse_job(record) for record in parse.parse_records(text))
    assert (first.job_id, first.state, first.stdout) == ("5", "PENDING", "/o")
    assert second.job_id == "6"


@pytest.mark.parametrize(
    ("tail", "reason", "author"),
    [
        ("Reason=bad DIMM Slot=3 [root@1795386948]", "bad DIMM Slot=3", "root"),
        ("Reason=bad DIMM [maybe] a@b [root@1795386948]", "bad DIMM [maybe] a@b", "root"),
        ("Reason=dead [slurm@1795386948] Comment=hello Reason=no [x@1]", "dead", "slurm"),
        ("Reason=no author here", "no author here", ""),
        ("Extra=x State=DOWN", "", ""),
    ],
)
def test_a_reason_ends_with_its_author(tail: str, reason: str, author: str) -> None:
    (node,) = parse.parse_nodes(f"NodeName=n001 State=IDLE+DRAIN Port=7 Partitions=main  {tail}\n")
    assert (node.reason, node.reason_by, node.state.base, node.port) == (reason, author, "IDLE", 7)


@pytest.mark.parametrize("printed", ["EXPEDITING", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"])
def test_a_flag_that_is_printed_in_place_of_pending(printed: str) -> None:
    record = {"JobId": "7", "JobState": printed, "Priority": "0", "Requeue": "1", "ExpeditedRequeue": "Yes"}
    job = parse.parse_job(record)
    assert (job.pending, job.held, job.flags, job.expedited) == (True, True, {printed}, True)
    [listed] = parse.parse_queue(f"7|7|N/A|{printed}|1001||n/a||None")
    assert (listed.state, listed.flags) == ("PENDING", {printed})


def test_queue_lines_with_other_columns_are_passed_over() -> None:
    assert parse.parse_queue("1|1|N/A|RUNNING|0|n1|n1||None|extra\nrubbish\n|||||||||\n1|1|x|RUNNING|²|n|n||r") == []


@given(st.text() | st.text(alphabet="JobIdNameUserStateReason=()[]@ \n\t0123456789²,-|"))
@example("JobId=1 ")
@example("NodeName= ")
@example("NodeName=n1 Port=²")
@example("JobId=1 Restarts=x Priority=9999999999999999999999999999999999")
@example("JobId=1 NodeList=n[ ExcNodeList=n[1-")
@example("JobId=1 UserId=a(" + "9" * 5000 + ")")
@example("JobId=1 NodeList=@all[1]")
def test_no_text_makes_the_parser_raise(text: str) -> None:
    for whole in (text, f"JobId=1 {text}", f"NodeName=n1 {text}", f"JobId=1 NodeList={text}"):
        for record in parse.parse_records(whole):
            assert parse.parse_job(record).extra == record
        assert all(node.port >= 0 and node.state.base for node in parse.parse_nodes(whole))
    assert all(job.uid >= 0 for job in parse.parse_queue(text))
    assert "" not in parse.parse_step_ids(text)
    assert "" not in parse.parse_step_names(text)
    assert "" not in parse.parse_step_starts(text)
    assert not any(name.strip() != name or not name for name in parse.parse_names(text))
    parse.parse_config(text)
    passes = parse.parse_scheduler_passes(text)
    assert passes is None or passes >= 0
    assert parse.parse_node_state(text).base


names = st.builds("n{:03d}".format, st.integers(1, 999))


@given(st.lists(names, unique=True))
def test_expanding_what_was_folded_gives_the_names_back(listed: list[str]) -> None:
    assert sorted(parse.expand(parse.fold(listed))) == sorted(listed)


hostlists = st.from_regex(r"\A(n|rack1-n|n0|)\[[0-9]{1,3}(-[0-9]{1,3})?(,[0-9]{1,3}(-[0-9]{1,3})?){0,3}\]\Z")


@given(hostlists)
@example("n[8-12]")
@example("n[08-12,13]")
@example("n[0,10]")
@example("n[00,1]")
@example("n[1-01]")
@example("n[3,1]")
@example("n[1-01]")
@example("n[1-3,3]")
def test_ranges_are_expanded_as_the_library_does_it(text: str) -> None:
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        known = tuple(NodeSet(text, resolver=RESOLVER_NOGROUP))
    except NodeSetException:
        known = (text,)
    assert parse.expand(text) == known


@pytest.mark.parametrize("text", ["n[0-65535]", "n[1-2]x[1-2]", "n[-]", "n[]"])
def test_lists_that_are_not_plain_end_too(text: str) -> None:
    assert parse.expand(text)


folded_names = st.builds(
    "{}{}".format,
    st.sampled_from(("n", "gpu-", "n.", "a_b", "n1-", "", "-", "n[", "@", "é")),
    st.sampled_from(("1", "01", "2", "9", "10", "009", "010", "011", "1.x", "²", "4294967296", "")),
)


@given(st.lists(folded_names.filter(lambda name: "[" not in name and "@" not in name and name), min_size=1))
@example([f"n{number:05d}" for number in range(5000)])
@example(["n1", "n2", "n3", "n5", "n2"])
def test_folding_thousands_is_folding_as_the_library_does(listed: list[str]) -> None:
    """But for text behind a bracket, which Slurm does not read before 23.11."""
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        library = str(NodeSet.fromlist(listed, resolver=RESOLVER_NOGROUP)) if len(listed) > 1 else listed[0]
    except NodeSetException:
        return
    if not re.search(r"\][^,]", library):
        assert parse.fold(listed) == library
        return
    assert set(parse.fold(listed).split(",")) == set(listed)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["n1-ib", "n2-ib", "n10-ib"], "n1-ib,n2-ib,n10-ib"),
        (["n1.cluster", "n2.cluster"], "n1.cluster,n2.cluster"),
        (["r4c2n04", "r4c3n04"], "r4c2n04,r4c3n04"),
        (["r4c2n04", "r4c2n05", "r4c3n04"], "r4c2n[04-05],r4c3n04"),
        (["x1000c0s0b0n0", "x1000c0s0b0n1"], "x1000c0s0b0n[0-1]"),
        (["n1-ib", "login", "n1-ib"], "login,n1-ib"),
    ],
)
def test_no_text_stands_behind_a_bracket(names: list[str], folded: str) -> None:
    assert parse.fold(names) == folded


@pytest.mark.parametrize("text", ["", "(null)", "None", "n/a"])
def test_no_hosts(text: str) -> None:
    assert parse.expand(text) == ()


def test_a_group_name_is_never_looked_up() -> None:
    assert parse.expand("@compute[1]") != ()
    assert parse.fold(["@a", "@b"])


def test_programs_with_a_number_each() -> None:
    text = "Epilog[0]      = /a/epilog\nEpilog[1]      = /b/epilog\nEpilogMsgTime  = 2000 usec\n"
    assert parse.parse_config(text) == {"Epilog": "/a/epilog,/b/epilog", "EpilogMsgTime": "2000 usec"}
    hosts = "SlurmctldHost[0]        = ctl1(10.0.0.1)\nSlurmctldHost[1]        = ctl2(10.0.0.2)\n"
    assert parse.parse_config(hosts) == {"SlurmctldHost": "ctl1(10.0.0.1),ctl2(10.0.0.2)"}


# Spares in the pool

PARTITIONS = """\
PartitionName=main AllowGroups=ALL AllowAccounts=ALL DenyQos=debug,preemptible Default=YES QoS=sovctl-spare-main \
Nodes=n[001-003] PriorityTier=10 State=UP TRES=cpu=192,mem=375G,node=3
PartitionName=empty AllowQos=high,normal Default=NO QoS=N/A Nodes=(null) PriorityTier=0
PartitionName=emptied DenyQos= QoS=N/A Nodes=n001
"""


def test_partitions() -> None:
    main, empty, emptied = parse.parse_partitions(PARTITIONS)
    assert (main.nodes, main.qos, main.priority_tier, main.default) == (
        ("n001", "n002", "n003"),
        "sovctl-spare-main",
        10,
        True,
    )
    assert (main.allow_qos, main.deny_qos) == (None, {"debug", "preemptible"})
    assert (empty.nodes, empty.qos, empty.allow_qos, empty.priority_tier) == ((), "", {"high", "normal"}, 0)
    # What 22.05 prints for a list that was set and emptied again.
    assert (emptied.allow_qos, emptied.deny_qos) == (None, frozenset())


def test_qos_lines() -> None:
    text = "high|1000|00:00:00|low,preemptible|cluster|\nlow|0|1-01:01:01||requeue,within|cpu=9,node=4\n\nno\n"
    high, low = parse.parse_qos(text)
    assert (high.name, high.priority, high.preempts, high.node_limit) == ("high", 1000, {"low", "preemptible"}, None)
    assert (low.grace_s, low.preempt_mode, low.node_limit) == (90_061, "requeue,within", 4)


def test_what_the_root_account_may_use_is_not_what_its_users_may() -> None:
    assert parse.parse_open_qos("||high,normal\nroot||secret\n|main|other\nnonsense\n") == {"high", "normal"}


def test_pool_jobs_and_lines_that_are_none() -> None:
    text = (
        "7|RUNNING|1000|n[001-002]|main|normal|None|ada\n8|PENDING|0||main,preemptible|low|Resources|root\nx|y\n"
        "9|RUNNING|no|n001|main|q|None|eve\n"
    )
    seven, eight = parse.parse_pool_jobs(text)
    assert (seven.nodes, seven.partitions, seven.qos, seven.holds_nodes) == (
        ("n001", "n002"),
        ("main",),
        "normal",
        True,
    )
    assert (eight.nodes, eight.partitions, eight.holds_nodes) == ((), ("main", "preemptible"), False)
    assert (eight.reason, eight.user, seven.user) == ("Resources", "root", "ada")


def test_preempted_jobs_are_those_with_a_time() -> None:
    text = "        12                 N/A\n     120_4          1795972426\n\n  one two three\n"
    assert parse.parse_preempted(text) == ["120_4"]


# Accounting


def accounted(*values: str, mark: str = "|") -> str:
    return mark.join(values)


FIRST = ("12", "lab", "alice", "1000", "NODE_FAIL", "1795385600", "1795385601", "1795385602", "1795389000")
TRES = "billing=16,cpu=16,gres/gpu=16,node=2"


def test_an_execution_of_a_job() -> None:
    line = accounted(*FIRST, TRES, "n[001-002]", "/home/alice", "train|me", mark="~x~")
    (job,) = parse.parse_accounting(line + "\n", "~x~")
    assert (job.job_id, job.cluster, job.user, job.uid, job.state) == ("12", "lab", "alice", 1000, "NODE_FAIL")
    assert (job.submitted, job.eligible, job.started, job.ended) == (1795385600, 1795385601, 1795385602, 1795389000)
    assert (job.nodes, job.gpus, job.name, job.work_dir) == (("n001", "n002"), 16, "train|me", "/home/alice")


def test_what_has_not_happened_is_not_known() -> None:
    values = ("12", "lab", "alice", "1000", "CANCELLED by 0", "1795385600", "Unknown", "Unknown", "Unknown")
    (job,) = parse.parse_accounting(accounted(*values, "", "None assigned", "/", "t"), "|")
    assert (job.state, job.eligible, job.started, job.ended, job.nodes, job.gpus) == (
        "CANCELLED",
        None,
        None,
        None,
        (),
        0,
    )


def test_nobody_forges_a_record_by_the_name_of_his_job() -> None:
    forged = "t\n" + accounted(*("13", *FIRST[1:]), TRES, "n009", "/root", "x")
    text = accounted(*FIRST, TRES, "n001", "/home/alice", forged, mark="~x~")
    (job,) = parse.parse_accounting(text, "~x~")
    assert (job.job_id, job.name, job.work_dir) == ("12", "t", "/home/alice")


def test_a_newer_sacct_names_the_failed_node() -> None:
    columns = (*parse.ACCOUNT_COLUMNS[:-2], "FailedNode", *parse.ACCOUNT_COLUMNS[-2:])
    (job,) = parse.parse_accounting(accounted(*FIRST, TRES, "n[001-002]", "n002", "/w", "t"), "|", columns)
    assert (job.failed_node, job.name, job.work_dir) == ("n002", "t", "/w")


def test_names_of_steps() -> None:
    listed = "7.0 python -m a b\n7.1 sovctl-look\n7.batch batch\n7.extern extern\n7.2\n"
    assert parse.parse_step_names(listed) == {"7.0": "python -m a b", "7.1": "sovctl-look", "7.2": ""}


def test_when_steps_began() -> None:
    listed = "7.0 1796013505\n7.batch 1796013500\n7.1 N/A\n7.2\n"
    assert parse.parse_step_starts(listed) == {"7.0": 1796013505.0, "7.1": 0.0, "7.2": 0.0}


@pytest.mark.parametrize(
    "typo", ["n[1-99999999]", "rack[1-999]n[1-999]", "a1,n[0-9999999999999999999]", "n[1-9999999999/2]"]
)
def test_a_list_of_more_names_than_any_cluster_has_is_taken_for_a_name(typo: str) -> None:
    """The library would make a hundred million of them, for minutes and gigabytes."""
    assert parse.expand(typo) == (typo,)


def test_many_short_lists_are_no_typo() -> None:
    parts = [f"r{rack}n[001-300]" for rack in range(100)]
    assert len(parse.expand(",".join(parts))) == 30_000


def test_reservations(recorded: Recorded) -> None:
    soon, now = parse.parse_reservations(recorded("show_reservation"))
    every = tuple(f"n{number:03d}" for number in range(1, 9))
    assert (soon.name, soon.nodes, soon.over_others) == ("maint", every, True)
    assert soon.ends_at == soon.begins_at + 3600
    assert (now.name, now.nodes, now.over_others) == ("a team Nodes=n001 EndTime=1", ("n001", "n003"), False)
    assert now.ends_at is not None and 7190 <= soon.begins_at - now.begins_at <= 7210


def test_no_reservations() -> None:
    assert parse.parse_reservations("No reservations in the system\n") == []
