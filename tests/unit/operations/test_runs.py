"""Finding a run by what a person has at hand, and acting on it only when it is surely the one meant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sovctl.errors import (
    CommandFailed,
    JobNotFound,
    RefusedError,
    RunGone,
    RunNotFound,
    SlurmUnreachable,
    SovctlError,
    TryLaterError,
    UsageError,
)
from sovctl.model.job import JobView
from sovctl.model.node import NodeState, NodeView
from sovctl.model.progress import Phase, Progress
from sovctl.model.submitted import SubmittedRun
from sovctl.operations import runs
from sovctl.operations.runs import KnownRun, RunPorts
from sovctl.recovery.explain import Words

NOW = 1795385600.0
CWD = "/w"
ROOT = "/w/.sovctl/runs"


class Memory:
    """ports.MadeOfFiles of files that are dicts of FakeSite."""

    def __init__(self, site: FakeSite) -> None:
        self.site = site
        self.made: dict[str, tuple[str, Any]] = {}
        self.saved: dict[str, tuple[str, Any]] = {}

    def recall(self, path: str) -> Any:
        mark, made = self.made.get(path, ("", None))
        return made if mark == self._mark(path) else None

    def keep(self, path: str, made: Any) -> None:
        self.made[path] = (self._mark(path), json.loads(json.dumps(made)))

    def save(self) -> None:
        self.saved = dict(self.made)

    def _mark(self, path: str) -> str:
        run_dir, _, name = path.rpartition("/")
        return repr(self.site.dirs[run_dir][name == "events.jsonl"])


class FakeSite:
    """Every port of `sovctl run` in one; run directories are a dict of (record, events)."""

    def __init__(self) -> None:
        self.dirs: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        self.entries: list[SubmittedRun] = []
        self.files: dict[tuple[str, int, str], Any] = {}
        self.ranks: list[Progress] = []
        self.views: dict[str, JobView] = {}
        self.down = False
        self.did: list[tuple[Any, ...]] = []
        self.machines: tuple[NodeView, ...] = ()
        self.waited = 0.0
        self.after: list[JobView] = []
        """What the job becomes, one wait after the other."""

        self.read: list[str] = []
        """Directories whose records were read."""

    def ports(self, memory: Memory | None = None) -> RunPorts:
        return RunPorts(self, self, self, self, self, self, memory)  # type: ignore[arg-type]

    def run(self, job_id: str, submitted: int = 100, *, root: str = ROOT, raw: str = "", **record: Any) -> str:
        run_id = f"lab-{raw or job_id}-{submitted}"
        known = {"run_id": run_id, "job_id": job_id, "submitted": submitted, "name": "t.sh", "checkpoint_dir": "/ck"}
        self.dirs[f"{root}/{run_id}"] = ({**known, **record}, [])
        return f"{root}/{run_id}"

    def event(self, run_dir: str, kind: str, **fields: Any) -> None:
        events = self.dirs[run_dir][1]
        events.append({"seq": len(events) + 1, "at": NOW, "kind": kind, **fields})

    def job(self, job_id: str, state: str = "", **fields: Any) -> JobView:
        """With a state: put it into Slurm; without: the question of ports.JobControl."""
        if not state:
            self._answer()
            if job_id not in self.views:
                raise JobNotFound(job_id)
            return self.views[job_id]
        extra = {"SubmitTime": str(fields.pop("submitted", 100))}
        self.views[job_id] = JobView(job_id, "t", "u", 1, state, extra=extra, **{"priority": 1, **fields})
        return self.views[job_id]

    def entry(self, job_id: str, submitted: int = 100, cluster: str = "", root: str = ROOT) -> None:
        self.entries.append(SubmittedRun(job_id, cluster, submitted, root, CWD, "t.sh"))

    # RunIndex, RunRecords

    def list(self) -> tuple[SubmittedRun, ...]:
        return tuple(self.entries)

    def below(self, run_root: str) -> tuple[str, ...]:
        return tuple(path for path in self.dirs if path.rpartition("/")[0] == run_root)

    def record(self, run_dir: str) -> dict[str, Any]:
        return self.dirs.get(run_dir, ({}, []))[0]

    def events(self, run_dir: str, newest_only: str = "") -> Sequence[dict[str, Any]]:
        self.read.append(run_dir)
        every = self.dirs.get(run_dir, ({}, []))[1]
        newest = next((event for event in reversed(every) if event["kind"] == newest_only), None)
        return [event for event in every if event["kind"] != newest_only or event is newest]

    def progress(self, run_dir: str) -> Sequence[Progress]:
        return self.ranks

    def kept(self, run_dir: str, attempt: int, name: str) -> Any:
        return self.files.get((run_dir, attempt, name))

    # JobControl, JobQueue, Clock

    def own_jobs(self) -> tuple[JobView, ...]:
        """As squeue tells it: no priority, no restarts, nothing extra."""
        self._answer()
        return tuple(replace(view, priority=0, restarts=0, extra={}) for view in self.views.values())

    def release(self, job_id: str) -> None:
        self._answer()
        self.did.append(("release", job_id))

    def cancel(self, job_id: str) -> None:
        self._answer()
        self.did.append(("cancel", job_id))

    def update_pending(self, job_id: str, *, exclude: object, begin: int | None) -> None:
        self.did.append(("update", job_id, exclude, begin))

    def now(self) -> float:
        return NOW + self.waited

    def sleep(self, seconds: float) -> None:
        self.waited += seconds
        if self.after:
            self.views["7"] = self.after.pop(0)

    # ClusterView

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        self._answer()
        return self.machines

    def _answer(self) -> None:
        if self.down:
            raise SlurmUnreachable()


@pytest.fixture
def site() -> FakeSite:
    return FakeSite()


def find(site: FakeSite, name: str) -> KnownRun:
    return runs.find_run(name, site.ports(), CWD)


@pytest.mark.parametrize("name", ["7", "lab-7-100", f"{ROOT}/lab-7-100", ".sovctl/runs/lab-7-100"])
def test_by_whatever_name(site: FakeSite, name: str) -> None:
    site.run("7")
    site.run("8")
    found = find(site, name)
    assert (found.run_id, found.job_id, found.run_dir) == ("lab-7-100", "7", f"{ROOT}/lab-7-100")


def test_a_run_elsewhere_is_known_from_the_index(site: FakeSite) -> None:
    site.run("7", root="/far/runs")
    with pytest.raises(RunNotFound, match="no record of a run 7"):
        find(site, "7")
    site.entry("7", root="/far/runs")
    assert find(site, "7").run_dir == "/far/runs/lab-7-100"
    assert find(site, "lab-7-100").run_dir == "/far/runs/lab-7-100"


def test_job_ids_come_back(site: FakeSite) -> None:
    site.run("7", 100)
    site.run("7", 300)
    site.entry("7", 200)
    assert find(site, "7").submitted == 300
    site.entry("7", 400)
    found = find(site, "7")
    assert (found.submitted, found.run_dir, found.name) == (400, "", "t.sh")


def test_a_directory_whose_record_is_broken(site: FakeSite) -> None:
    path = site.run("7")
    site.event(path, "attempt_started", attempt=0)
    site.dirs[path] = ({}, site.dirs[path][1])
    found = find(site, path)
    assert (found.job_id, found.submitted, len(found.events)) == ("7", 100, 1)


def test_tasks_of_an_array(site: FakeSite) -> None:
    site.run("120_1", raw="121")
    site.run("120_2", raw="122")
    assert find(site, "120_2").run_id == "lab-122-100"
    with pytest.raises(UsageError, match="120 is an array, of which 2 tasks have started") as caught:
        find(site, "120")
    assert "120_1, 120_2" in caught.value.hint
    assert "scancel 120" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        runs.find_run("120", site.ports(), CWD, "sovctl run stop")
    assert "such as: sovctl run stop 120_1;" in caught.value.hint


def test_the_first_task_of_an_array_is_not_the_array(site: FakeSite) -> None:
    site.entry("120")
    assert find(site, "120").job_id == "120"  # nothing of it has started: the one job that there is
    site.run("120_1", raw="121")
    with pytest.raises(UsageError, match="120 is an array, of which 1 task has started"):
        find(site, "120")
    for task in range(2, 30):
        site.run(f"120_{task}", raw=f"12{task}")
    with pytest.raises(UsageError) as caught:
        find(site, "120")
    assert "120_1, 120_2, 120_3, 120_4, ..., 120_29" in caught.value.hint


@pytest.mark.parametrize("started", [True, False])
def test_a_task_that_has_not_started_is_told_from_one_nobody_knows(site: FakeSite, started: bool) -> None:
    site.entry("120")
    if started:
        site.run("120_1", raw="121")
    with pytest.raises(SovctlError, match="task 120_7 is not there, or has not started") as caught:
        find(site, "120_7")
    assert "scancel 120_7" in caught.value.hint
    site.entry("130", cluster="far")
    with pytest.raises(SovctlError) as caught:
        find(site, "130_7")
    assert "scancel -M far 130_7" in caught.value.hint
    site.run("8")
    for name in ("8_1", "9_1"):
        with pytest.raises(RunNotFound):
            find(site, name)


@pytest.mark.parametrize("name", ["9", "lab-9-9", "/nowhere", "nonsense", "", "../..", "\0/x"])
def test_no_such_run(site: FakeSite, name: str) -> None:
    site.run("7")
    with pytest.raises(RunNotFound):
        find(site, name)


# How it stands


def _started(site: FakeSite, job_id: str = "7", submitted: int = 100, restarts: int = 0) -> str:
    path = site.run(job_id, submitted)
    site.event(path, "attempt_started", attempt=0, restarts=restarts, nodes=["n001"])
    return path


def words(site: FakeSite, name: str = "7") -> str:
    """The state as `show` has it; `ls` must not differ."""
    shown = runs.state_of(find(site, name), site.ports())
    listed = {item.run.job_id: item.state for item in runs.list_runs(site.ports(), CWD)}
    assert listed[name].word == shown.word
    return shown.word


def test_record_and_slurm_together(site: FakeSite) -> None:
    path = _started(site)
    assert words(site) == "gone"
    site.job("7", "RUNNING")
    assert words(site) == "running"
    site.job("7", "COMPLETED")
    assert words(site) == "finished"
    site.event(path, "attempt_ended", attempt=0, culprit="hardware", action="requeue")
    site.job("7", "PENDING", restarts=1, reason="Resources")
    assert words(site) == "restarting"
    site.event(path, "held", attempt=0)
    site.job("7", "PENDING", restarts=1, reason="job_requeued_in_held_state", priority=0)
    assert words(site) == "held"
    site.event(path, "run_ended", outcome="cancelled")
    site.views.clear()
    assert words(site) == "cancelled"


def test_waiting_for_the_first_time(site: FakeSite) -> None:
    site.entry("7")
    site.job("7", "PENDING", reason="Resources")
    assert words(site) == "waiting"
    site.job("7", "PENDING", reason="JobHeldUser", priority=0)
    assert words(site) == "held"
    site.job("7", "CANCELLED")
    assert words(site) == "cancelled"


def test_without_slurm_the_record_speaks(site: FakeSite) -> None:
    _started(site)
    site.down = True
    assert words(site) == "running"
    state = runs.state_of(find(site, "7"), site.ports())
    assert state.problem == "slurmctld does not answer"


def test_a_run_on_another_cluster_is_not_mixed_up(site: FakeSite) -> None:
    site.entry("7", cluster="far")
    site.job("7", "RUNNING")
    state = runs.state_of(find(site, "7"), site.ports())
    assert (state.word, state.problem) == ("waiting", "its job is on the cluster far")
    for act in (runs.stop_run, runs.resume_run):
        with pytest.raises(RefusedError, match="on the cluster far"):
            act(find(site, "7"), site.ports())
    assert site.did == []


def test_ls_knows_the_run_of_an_array_of_which_no_task_has_started(site: FakeSite) -> None:
    site.run("7")
    site.job("7_1", "PENDING", reason="Resources")
    site.job("7_2", "PENDING", reason="Resources")
    assert [item.state.word for item in runs.list_runs(site.ports(), CWD)] == ["waiting"]
    site.views["7_1"] = replace(site.views["7_1"], state="RUNNING", reason="")
    assert [item.state.word for item in runs.list_runs(site.ports(), CWD)] == ["waiting"]


def test_ls_shows_how_far_a_run_is_while_it_runs(site: FakeSite) -> None:
    path = _started(site)
    site.job("7", "RUNNING")
    site.event(path, "first_step", attempt=0, step=1)
    site.files[(path, 0, "seen.json")] = {"step": 75, "at": NOW}
    assert [item.digest.step for item in runs.list_runs(site.ports(), CWD)] == [75]
    site.files[(path, 0, "seen.json")] = {"step": "far"}
    assert [item.digest.step for item in runs.list_runs(site.ports(), CWD)] == [1]


def test_ls_gives_a_job_to_the_newest_run_of_its_id(site: FakeSite) -> None:
    _started(site, submitted=100)
    _started(site, submitted=900)
    site.job("7", "RUNNING", submitted=900)
    assert [item.state.word for item in runs.list_runs(site.ports(), CWD)] == ["running", "gone"]


def test_old_runs_that_are_over_are_left_out(site: FakeSite) -> None:
    for number in range(1, 30):
        path = _started(site, str(number), number)
        if number != 2:
            site.event(path, "run_ended", outcome="finished")
    site.job("2", "RUNNING", submitted=2)
    recent, older = runs.recent_runs(site.ports(), CWD)
    shown = [item.run.job_id for item in recent]
    everything = runs.list_runs(site.ports(), CWD)
    assert older == len(everything) - len(recent)
    # The short way, which reads few records, and the long way agree.
    assert recent == tuple(item for at, item in enumerate(everything) if at < 20 or not item.state.over)
    assert shown == [*(str(number) for number in range(29, 9, -1)), "2"]


def test_a_list_by_what_was_kept_is_the_list_by_the_records(site: FakeSite) -> None:
    """Whatever happened to the runs in between."""
    site.entry("1", cluster="far")
    paths = [_started(site, str(number), number) for number in range(1, 6)]
    site.event(paths[2], "run_ended", outcome="finished")
    site.event(paths[3], "checkpoint_saved", attempt=0, step=40)
    site.job("5", "RUNNING", submitted=5)
    memory = Memory(site)

    def agree() -> list[str]:
        kept = runs.list_runs(site.ports(memory), CWD)
        assert kept == runs.list_runs(site.ports(), CWD)
        assert runs.recent_runs(site.ports(memory), CWD, 2) == runs.recent_runs(site.ports(), CWD, 2)
        site.read.clear()
        runs.list_runs(site.ports(memory), CWD)
        return [path for path in paths if path in site.read]

    # Somebody may be writing the record of a run whose job Slurm knows, or of one on another cluster.
    always = [paths[4]]
    assert agree() == always
    assert memory.saved.keys() == memory.made.keys()
    site.event(paths[3], "attempt_ended", attempt=0, step=41, culprit="user", action="requeue")
    site.event(paths[0], "run_ended", outcome="cancelled")
    assert agree() == always
    site.job("5", "COMPLETED", submitted=5)
    assert agree() == always
    site.views.clear()
    assert agree() == []
    site.down = True
    assert agree() == paths
    site.down = False
    memory.made = {path: (mark, ["nonsense"]) for path, (mark, _) in memory.made.items()}
    assert agree() == []


def test_progress_of_an_earlier_attempt_does_not_count(site: FakeSite) -> None:
    _started(site)
    site.ranks = [Progress(rank, "n001", 1, attempt, Phase.RUNNING, 0.0) for rank, attempt in ((0, 0), (1, 1))]
    assert [item.rank for item in runs.progress_of(find(site, "7"), site.ports())] == [0]


def test_an_attempt_that_never_ended_cannot_be_explained(site: FakeSite) -> None:
    _started(site)
    with pytest.raises(UsageError, match="the end of an attempt 0 is not recorded"):
        runs.explain_run(find(site, "7"), Words(), 0)


# Acting


def test_stop(site: FakeSite) -> None:
    _started(site)
    site.job("7", "RUNNING")
    assert runs.stop_run(find(site, "7"), site.ports(), dry_run=True).commands == (("scancel", "7"),)
    assert site.did == []
    assert runs.stop_run(find(site, "7"), site.ports()).commands == (("scancel", "7"),)
    assert site.did == [("cancel", "7")]


@pytest.mark.parametrize("state", ["", "CANCELLED"])
def test_stop_of_a_run_that_is_over(site: FakeSite, state: str) -> None:
    _started(site)
    if state:
        site.job("7", state)
    act = runs.stop_run(find(site, "7"), site.ports())
    assert (act.commands, site.did) == ((), [])
    assert "over already" in act.said


def test_a_later_job_with_the_same_id_is_left_alone(site: FakeSite) -> None:
    _started(site)
    site.job("7", "RUNNING", submitted=500_000)
    assert runs.state_of(find(site, "7"), site.ports()).word == "gone"
    assert runs.stop_run(find(site, "7"), site.ports()).commands == ()
    site.job("7", "PENDING", submitted=500_000, priority=0)
    with pytest.raises(RunGone):
        runs.resume_run(find(site, "7"), site.ports())
    assert site.did == []


def test_resume_of_a_held_run(site: FakeSite) -> None:
    _started(site)
    site.job("7", "PENDING", priority=0, restarts=1)
    assert runs.resume_run(find(site, "7"), site.ports()).commands == (("scontrol", "release", "7"),)
    assert site.did == [("release", "7")]


def test_resume_does_not_wait_for_the_rest_of_slurms_delay(site: FakeSite) -> None:
    _started(site)
    site.job("7", "PENDING", priority=0, restarts=1, eligible_at=int(NOW) + 100)
    commands = (("scontrol", "release", "7"), ("scontrol", "update", "JobId=7", f"StartTime=uts{int(NOW) + 2}"))
    assert runs.resume_run(find(site, "7"), site.ports(), dry_run=True).commands == commands
    assert site.did == []
    assert runs.resume_run(find(site, "7"), site.ports()).commands == commands
    assert site.did == [("release", "7"), ("update", "7", None, int(NOW) + 2)]


def _held_run(site: FakeSite) -> str:
    path = _started(site)
    site.event(path, "attempt_ended", attempt=0, culprit="hardware", blamed=["n2"], evidence="XID79", action="hold")
    site.event(path, "held", attempt=0, why="50 hardware faults")
    site.machines = tuple(NodeView(f"n{number}", NodeState("IDLE")) for number in range(1, 5))
    return path


HELD = JobView("7", "t", "u", 1, "PENDING", priority=0, restarts=1, excluded=("n2",), extra={"NumNodes": "2"})


@pytest.mark.parametrize(
    "leaving",
    [
        JobView("7", "t", "u", 1, "COMPLETING", priority=0, restarts=1, extra={"SubmitTime": "100"}),
        JobView("7", "t", "u", 1, "PENDING", frozenset({"COMPLETING"}), restarts=1, priority=1),
        JobView("7", "t", "u", 1, "RUNNING", priority=1, extra={"SubmitTime": "100"}),
    ],
)
def test_resume_of_a_run_that_is_about_to_be_held_waits_for_that(site: FakeSite, leaving: JobView) -> None:
    _held_run(site)
    site.views["7"] = leaving
    site.after = [leaving, HELD]
    said: list[str] = []
    act = runs.resume_run(find(site, "7"), site.ports(), say=said.append)
    assert site.did == [("release", "7")]
    assert "is released" in act.said
    assert said == ["job 7 is to be held and still leaves its nodes: waiting for that"]
    assert site.waited == 1.0


def test_resume_does_not_wait_for_ever(site: FakeSite) -> None:
    _held_run(site)
    site.job("7", "COMPLETING", priority=0, restarts=1)
    with pytest.raises(TryLaterError, match="still leaves its nodes after 120 s") as caught:
        runs.resume_run(find(site, "7"), site.ports())
    assert "sovctl run resume 7" in caught.value.hint
    assert site.did == []


def test_a_dry_run_of_resume_waits_for_nothing(site: FakeSite) -> None:
    _held_run(site)
    site.job("7", "COMPLETING", priority=0, restarts=1, excluded=("n2",))
    assert runs.resume_run(find(site, "7"), site.ports(), dry_run=True).commands == (("scontrol", "release", "7"),)
    assert (site.did, site.waited) == ([], 0.0)


def test_resume_of_a_run_that_was_held_and_runs_again(site: FakeSite) -> None:
    _held_run(site)
    site.job("7", "RUNNING", restarts=1)
    assert runs.resume_run(find(site, "7"), site.ports()).commands == ()
    assert (site.did, site.waited) == ([], 0.0)


def test_resume_renews_the_exclusions_of_a_run_that_was_held_for_days(site: FakeSite) -> None:
    path = _held_run(site)
    site.views["7"] = replace(HELD, excluded=("n1", "n2"))
    assert runs.resume_run(find(site, "7"), site.ports()).commands == (("scontrol", "release", "7"),)
    site.did.clear()
    site.waited = 8 * 24 * 3600.0
    commands = (("scontrol", "update", "JobId=7", "ExcNodeList=n1"), ("scontrol", "release", "7"))
    assert runs.resume_run(find(site, "7"), site.ports(), dry_run=True).commands == commands
    assert site.did == []
    runs.resume_run(find(site, "7"), site.ports())
    assert site.did == [("update", "7", ["n1"], None), ("release", "7")], "n1 is the user's own exclusion"

    site.waited = 0.0
    site.did.clear()
    site.event(path, "out_of_service", nodes=["n2"])
    runs.resume_run(find(site, "7"), site.ports())
    assert site.did == [("update", "7", ["n1"], None), ("release", "7")], "n2 was given back after a repair"


def test_a_node_that_had_to_be_allowed_again_is_none_the_run_keeps_away_from(site: FakeSite) -> None:
    path = _started(site)
    for node in ("n1", "n2"):
        site.event(path, "attempt_ended", attempt=0, culprit="hardware", blamed=[node], action="restart")
    site.event(path, "requeued", attempt=0, exclude=["n2"], given_up=["n1"])
    site.job("7", "RUNNING", restarts=1)

    def kept() -> list[str]:
        run = find(site, "7")
        return [item.node for item in runs.exclusions_of(run, runs.state_of(run, site.ports()), site.ports())]

    assert kept() == ["n2"]
    again = {"attempt": 1, "culprit": "hardware", "blamed": ["n1"], "action": "restart"}
    site.dirs[path][1].append({"seq": 9, "at": NOW + 1, "kind": "attempt_ended", **again})
    site.waited = 2.0
    assert kept() == ["n2", "n1"]


def test_resume_of_a_job_that_does_not_say_what_it_asks_for_leaves_its_exclusions(site: FakeSite) -> None:
    _held_run(site)
    site.views["7"] = replace(HELD, extra={"JobId": "7"})
    runs.resume_run(find(site, "7"), site.ports())
    assert site.did == [("release", "7")]


def test_resume_lets_a_run_have_the_node_it_cannot_do_without(site: FakeSite) -> None:
    _held_run(site)
    site.views["7"] = replace(HELD, extra={"NumNodes": "4"})
    runs.resume_run(find(site, "7"), site.ports())
    assert site.did == [("update", "7", [], None), ("release", "7")]


def test_a_job_whose_exclusions_slurm_does_not_take_is_released_all_the_same(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CommandFailed(["scontrol", "update"], 1, "Invalid node name specified")

    _held_run(site)
    site.views["7"] = replace(HELD, extra={"NumNodes": "4"})
    monkeypatch.setattr(site, "update_pending", refuse)
    said: list[str] = []
    runs.resume_run(find(site, "7"), site.ports(), say=said.append)
    assert site.did == [("release", "7")]
    assert said[0].startswith("the exclusions of job 7 stay as they were: ")


def test_resume_of_a_run_that_is_not_held(site: FakeSite) -> None:
    _started(site)
    site.job("7", "RUNNING")
    assert runs.resume_run(find(site, "7"), site.ports()).commands == ()
    assert site.did == []


@pytest.mark.parametrize(("state", "how"), [("", "Slurm no longer knows it"), ("CANCELLED", "it is CANCELLED")])
def test_resume_of_a_job_that_is_gone_says_how_to_go_on(site: FakeSite, state: str, how: str) -> None:
    _started(site)
    if state:
        site.job("7", state)
    with pytest.raises(RunGone, match=how) as caught:
        runs.resume_run(find(site, "7"), site.ports())
    assert "sovctl submit --checkpoint-dir=/ck SCRIPT" in caught.value.hint


def test_acting_needs_slurm(site: FakeSite) -> None:
    _started(site)
    site.down = True
    for act in (runs.stop_run, runs.resume_run):
        with pytest.raises(SlurmUnreachable):
            act(find(site, "7"), site.ports())
