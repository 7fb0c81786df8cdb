"""What the watch reads and keeps on file systems that others write to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.node.alive import AliveFile, AliveMarks
from sovctl.adapters.run.run_words import LARGEST, RunRecordWords
from sovctl.adapters.site.bmc import PowerCommand
from sovctl.adapters.site.site_answers import SiteAnswerFiles
from sovctl.adapters.site.watch_memory import WatchMemoryFile
from sovctl.adapters.slurm.state_save import StateSave
from sovctl.errors import ConfigError, SlurmUnreachable, SovctlError
from sovctl.model.node import NodeState, NodeView
from sovctl.model.site_answer import SiteAnswer, SiteWord
from sovctl.model.watched_run import WatchedRun

# Marks


class Marks:
    def __init__(self, directory: Path, at_once: int = 1000) -> None:
        self.directory = directory
        self.time = 100.0
        self.marks = AliveMarks(directory, at_once, lambda: self.time)

    def mark(self, node: str, boot: str = "boot") -> None:
        AliveFile(self.directory, node).refresh(boot, 5.0)

    def look(self, *nodes: str) -> dict[str, float]:
        self.time += 1.0
        return dict(self.marks.look(nodes))


def test_a_mark_lives_while_it_changes_whatever_the_clock_of_its_node_says(tmp_path: Path) -> None:
    site = Marks(tmp_path)
    site.mark("n1")
    site.mark("n2")
    assert site.look("n1", "n2", "n3") == {"n1": 0.0, "n2": 0.0}
    site.mark("n1")
    assert site.look("n1", "n2") == {"n1": 0.0, "n2": 1.0}
    assert site.look("n1", "n2") == {"n1": 1.0, "n2": 2.0}
    assert site.marks.boot_id("n1") == "boot"
    (tmp_path / "n2.json").unlink()
    assert site.look("n1", "n2") == {"n1": 2.0}
    for text in ('{"node": "n2", "boot_id": "x"}', "torn", "[]"):
        (tmp_path / "n1.json").write_text(text)
        assert site.marks.boot_id("n1") == ""


def test_a_mark_of_a_watcher_that_was_removed_is_nobodys_silence(tmp_path: Path) -> None:
    site = Marks(tmp_path)
    site.mark("n1")
    os.utime(tmp_path / "n1.json", (1.0, 1.0))
    assert site.look("n1") == {}


def test_storage_that_does_not_answer_is_no_silence_of_the_node(tmp_path: Path) -> None:
    site = Marks(tmp_path / "marks")
    site.mark("n1")
    site.look("n1")
    (tmp_path / "marks").rename(tmp_path / "away")
    (tmp_path / "marks").write_text("a file: opening below it fails with ENOTDIR")
    for _ in range(20):
        assert site.look("n1") == {"n1": 0.0}


def test_many_marks_are_looked_at_in_turn(tmp_path: Path) -> None:
    site = Marks(tmp_path, at_once=2)
    names = [f"n{number}" for number in range(5)]
    for name in names:
        site.mark(name)
    for _ in range(3):
        found = site.look(*names)
    assert set(found) == set(names)
    assert max(found.values()) <= 3.0


# What runs say


def write(run_dir: Path, text: str) -> WatchedRun:
    run_dir.mkdir(exist_ok=True)
    (run_dir / "events.jsonl").write_text(text)
    return WatchedRun(run_dir.name, "1", os.geteuid(), os.getegid(), str(run_dir))


EVENT = '{"seq":1,"at":5,"kind":"attempt_ended","culprit":"hardware","blamed":["n1"],"evidence":"x","other":"secret"}\n'


def test_words_are_read_once_until_they_change(tmp_path: Path) -> None:
    run = write(tmp_path / "7", EVENT)
    words = RunRecordWords()
    (event,) = words.read([run])["7"]
    assert event["blamed"] == ["n1"]
    assert "other" not in event
    assert words.read([run]) == {}
    write(tmp_path / "7", EVENT * 2)
    assert len(words.read([run])["7"]) == 2


def test_what_a_restarted_run_left_behind_is_among_its_words(tmp_path: Path) -> None:
    run = write(tmp_path / "7", '{"seq":2,"at":5,"kind":"restarted","how":"spare","lingering":["7.0"]}\n')
    (event,) = RunRecordWords().read([run])["7"]
    assert event == {"seq": 2, "at": 5, "kind": "restarted", "lingering": ["7.0"]}


def _symlink(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def _fifo(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path, _secret: Path) -> None:
    path.mkdir()


def _huge(path: Path, _secret: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(200 * 1024 * 1024 * 1024)


def _one_long_line(path: Path, _secret: Path) -> None:
    path.write_text('{"kind":"attempt_ended","seq":' + "9" * LARGEST + "}\n")


def _deep(path: Path, _secret: Path) -> None:
    path.write_text("[" * 50_000 + "\n")


def _binary(path: Path, _secret: Path) -> None:
    path.write_bytes(os.urandom(100_000))


def _wrong_types(path: Path, _secret: Path) -> None:
    path.write_text('null\n7\n"x"\n[]\n{"kind":[]}\n{"kind":{"a":1}}\n{"kind":"straggler","node":{"a":[1]}}\n')


@pytest.mark.parametrize("make", [_symlink, _fifo, _directory, _huge, _one_long_line, _deep, _binary, _wrong_types])
def test_a_hostile_record_neither_harms_nor_holds_up(make: Callable[[Path, Path], None], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(EVENT)
    hostile = WatchedRun("6", "6", os.geteuid(), os.getegid(), str(tmp_path / "6"))
    (tmp_path / "6").mkdir()
    make(tmp_path / "6" / "events.jsonl", secret)
    honest = write(tmp_path / "7", EVENT)
    began = time.monotonic()
    found = RunRecordWords().read([hostile, honest])
    assert time.monotonic() - began < 2.0
    assert len(found["7"]) == 1
    assert all(event.get("kind") == "straggler" for event in found.get("6", []))


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody else")
def test_root_reads_with_the_rights_of_the_runs_owner(tmp_path: Path) -> None:
    """A run directory that leads, by links of the user's making, to files only root can read."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "events.jsonl").write_text(EVENT)
    (tmp_path / "7").symlink_to(private)
    other = write(tmp_path / "8", EVENT)
    own = write(tmp_path / "9", EVENT)
    os.chown(tmp_path / "9" / "events.jsonl", 65534, 65534)
    runs = [
        WatchedRun("7", "7", 65534, 65534, str(tmp_path / "7")),
        WatchedRun("8", "8", 65534, 65534, other.run_dir),  # somebody else's file, though readable
        WatchedRun("9", "9", 65534, 65534, own.run_dir),
    ]
    assert set(RunRecordWords().read(runs)) == {"9"}


# The site's answers, the memory


def test_answers_come_back_as_they_were_and_only_the_sites_own(tmp_path: Path) -> None:
    files = SiteAnswerFiles(tmp_path)
    answers = (SiteAnswer("n1", SiteWord.FAILED, 5.0, 9, "XID79", True), SiteAnswer("n2", SiteWord.CLEARED, 5.0, 9))
    files.save("7", answers)
    assert files.load("7") == answers
    assert (tmp_path / "suspects" / "7.json").stat().st_mode & 0o777 == 0o644
    for odd in ("../7", "", "8", "7/../7"):
        assert files.load(odd) == ()
    with pytest.raises(SovctlError):
        files.save("../7", answers)
    (tmp_path / "suspects" / "8.json").symlink_to(tmp_path / "suspects" / "7.json")
    assert files.load("8") == ()
    (tmp_path / "suspects" / "9.json").write_text('{"schema":"sovctl.suspects/1","nodes":[1,{"node":"n1"},null]}')
    assert files.load("9") == ()
    assert files.prune(time.time() + 10) == 3


def test_the_memory_is_read_back_and_a_strange_one_is_none(tmp_path: Path) -> None:
    memory = WatchMemoryFile(tmp_path / "watch.json")
    assert memory.load() is None
    memory.save({"a": 1})
    assert memory.load() == {"a": 1}
    (tmp_path / "watch.json").write_text("{")
    assert memory.load() is None
    (tmp_path / "watch.json").unlink()
    os.mkfifo(tmp_path / "watch.json")
    assert memory.load() is None


# Slurm's saved state


def test_the_mark_of_change_follows_what_slurmctld_saves(tmp_path: Path) -> None:
    asked: list[int] = []
    state = StateSave(lambda: (asked.append(1), {"StateSaveLocation": str(tmp_path)})[1])
    assert state.mark() is None
    (tmp_path / "job_state").write_text("a")
    first = state.mark()
    assert first is not None
    assert state.mark() == first
    os.utime(tmp_path / "job_state", (1, 1))
    assert state.mark() != first
    assert len(asked) == 1


def test_without_an_answer_nothing_is_known(tmp_path: Path) -> None:
    def away() -> dict[str, str]:
        raise SlurmUnreachable

    assert StateSave(away).mark() is None
    assert StateSave(lambda: {"StateSaveLocation": "(null)"}).mark() is None


# The BMC's command


@pytest.mark.parametrize(
    ("template", "off"),
    [
        ("echo Chassis Power is off # {node}", True),
        ("echo {address} is Off", True),
        ("echo {node} is on", False),
        ("echo {node} offline", False),
        ("sh -c 'echo off; exit 1' {node}", False),
        ("sleep 30 {node}", False),
        ("/no/such/program {node} off", False),
    ],
)
def test_power_is_off_only_when_the_command_says_so(template: str, off: bool) -> None:
    node = NodeView("n1", NodeState("IDLE"), address="10.0.0.1; echo off")
    power = PowerCommand(CommandRunner(), template, 0.5)
    assert power.off([node]) == ({"n1"} if off else set())


@pytest.mark.parametrize("template", ["ipmitool 'x", "ipmitool chassis power status"])
def test_a_template_that_names_no_node_is_refused(template: str) -> None:
    with pytest.raises(ConfigError):
        PowerCommand(CommandRunner(), template, 1.0)


def test_without_a_command_nobody_is_asked() -> None:
    assert PowerCommand(CommandRunner(), "", 1.0).off([NodeView("n1", NodeState("IDLE"))]) == frozenset()


def test_json_of_the_answer_is_what_the_documentation_says(tmp_path: Path) -> None:
    SiteAnswerFiles(tmp_path).save("7", (SiteAnswer("n1", SiteWord.UNKNOWN, 5.0, 9, "x"),))
    record = json.loads((tmp_path / "suspects" / "7.json").read_text())
    assert record["nodes"][0].keys() == {"node", "state", "checked_at", "seq", "words", "drained"}


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody else")
def test_a_project_directory_of_another_group_of_the_owner_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    project = tmp_path / "project"
    project.mkdir()
    run = write(project / "7", EVENT)
    os.chown(project / "7" / "events.jsonl", 65534, 65534)
    os.chown(project, 0, 4321)
    project.chmod(0o750)
    run = WatchedRun("7", "7", 65534, 65534, run.run_dir)
    assert RunRecordWords().read([run]) == {}
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, 4321])
    assert set(RunRecordWords().read([run])) == {"7"}
