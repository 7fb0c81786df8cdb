"""The directory of a run, on a real file system."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from sovctl.adapters.run.patient import Patience, PatientRunFiles
from sovctl.adapters.run.run_files import FileTail, RunDirectory, read_bounded, write_atomically
from sovctl.errors import RunDirUnusable
from sovctl.model.progress import Phase, Progress
from sovctl.ports.supervised import WrittenFile

RECORD = {"schema": "sovctl.run/1", "run_id": "lab-7-1", "name": "späte.sh"}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "runs" / "lab-7-1")
    directory.prepare(RECORD)
    return directory


def word(rank: int, attempt: int = 0) -> Progress:
    return Progress(rank, f"n{rank:03d}", 100 + rank, attempt, Phase.RUNNING, 1000.0, step=5)


def test_the_record_is_written_once_and_never_changed(run: RunDirectory) -> None:
    run.prepare({**RECORD, "run_id": "other"})
    assert run.record() == RECORD


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": ' * 9000, b"x" * 300_000])
def test_a_spoilt_record_is_none(run: RunDirectory, content: bytes) -> None:
    (run.root / "run.json").write_bytes(content)
    assert run.record() == {}


def test_a_record_that_is_a_link_or_a_pipe_is_none(run: RunDirectory, tmp_path: Path) -> None:
    path = run.root / "run.json"
    elsewhere = tmp_path / "secret"
    elsewhere.write_text(json.dumps({"a": 1}))
    path.unlink()
    path.symlink_to(elsewhere)
    assert run.record() == {}
    path.unlink()
    os.mkfifo(path)
    assert run.record() == {}


def test_an_unusable_directory_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirUnusable, match=r"cannot write the run directory .*Not a directory") as caught:
        RunDirectory(tmp_path / "file" / "x").prepare(RECORD)
    assert caught.value.hint
    with pytest.raises(RunDirUnusable):
        RunDirectory(tmp_path / "file" / "x").start_attempt(0, "a", b"")


@pytest.mark.parametrize("name", ["train.sh", "mit blank.sh", "späte.sh", "-x", "../../evil", "/etc/passwd", ""])
def test_the_script_lies_in_its_attempt_and_nowhere_else(run: RunDirectory, name: str) -> None:
    path = Path(run.start_attempt(3, name, b"#!/bin/sh\nexit 7\n"))
    assert path.parent == run.root / "attempts" / "3"
    assert path.read_bytes() == b"#!/bin/sh\nexit 7\n"
    assert path.stat().st_mode & stat.S_IXUSR
    assert [item.name for item in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_a_second_start_of_an_attempt_replaces_the_script(run: RunDirectory) -> None:
    run.start_attempt(0, "a", b"old")
    assert Path(run.start_attempt(0, "a", b"new")).read_bytes() == b"new"


def test_a_stop_request_lies_where_the_ranks_look(run: RunDirectory) -> None:
    run.start_attempt(2, "a", b"")
    run.ask_stop(2, "time limit")
    assert (run.root / "attempts" / "2" / "stop").read_text() == "time limit\n"


def test_a_stop_request_that_cannot_be_written_stops_nobody(run: RunDirectory) -> None:
    run.ask_stop(99, "preemption")
    assert not (run.root / "attempts" / "99").exists()


def test_progress_of_the_ranks_in_order(run: RunDirectory) -> None:
    for rank in (10, 2, 0):
        (run.root / "progress" / str(rank)).write_bytes(word(rank).to_json())
    (run.root / "progress" / "1").write_bytes(b"half a li")
    (run.root / "progress" / "notes.txt").write_text("x")
    (run.root / "progress" / "3").mkdir()
    assert [item.rank for item in run.all_progress()] == [0, 2, 10]
    assert run.progress(2) == word(2)
    assert run.progress(1) is None
    assert run.progress(77) is None


def test_no_progress_directory_is_no_progress(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path / "none").all_progress() == ()


# The end of the output


def test_only_the_end_is_read_and_bad_bytes_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"x" * 1000 + b"\xffend")
    assert FileTail(4).read(str(path)) == "\ufffdend"
    assert len(FileTail().read(str(path))) == 1004
    assert FileTail().size(str(path)) == 1004


def test_what_is_no_file_reads_as_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/zero"), "a\0b"):
        assert FileTail().read(str(path)) == ""
    assert FileTail().size(str(tmp_path / "none")) is None
    assert FileTail().size("a\0b") is None


def test_the_output_of_an_earlier_attempt_is_no_word_of_this_one(tmp_path: Path) -> None:
    path = tmp_path / "slurm-1.out"
    path.write_text("RuntimeError: of attempt 0\n")
    with open(path, "a") as output:
        tail = FileTail(own=(output.fileno(),))
        assert tail.read(str(path)) == "RuntimeError: of attempt 0\n"
        tail.begin()
        assert tail.read(str(path)) == ""
        output.write("Segmentation fault\n")
        output.flush()
        assert tail.read(str(path)) == "Segmentation fault\n"
    path.write_text("short\n")
    assert tail.read(str(path)) == "short\n"


# Small files


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    assert read_bounded(path, 4) is None
    assert read_bounded(tmp_path, 4) is None


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "dir"
    (target / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomically(target, b"new")
    assert (target / "in the way").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["dir"]


def test_a_replaced_file_is_whole_and_has_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")
    write_atomically(path, b"new", mode=0o755)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("argv", "heard"),
    [
        (["requeue", "7"], "requeue"),
        (["requeuehold", "7"], "requeuehold"),
        (["-Q", "requeue", "incomplete", "7"], "requeue"),
        (["requeue", "70"], ""),
        (["show", "job", "7"], ""),
        (["hold", "7"], ""),
    ],
)
def test_only_the_requeue_of_its_own_job_is_kept_from_slurm(
    run: RunDirectory, tmp_path: Path, argv: list[str], heard: str
) -> None:
    run.start_attempt(0, "a", b"")
    guard = run.guard_requeue(0)
    real = tmp_path / "slurm"
    real.mkdir()
    (real / "scontrol").write_text('#!/bin/sh\necho slurm "$@"\n')
    (real / "scontrol").chmod(0o755)
    env = {"PATH": f"{guard}:{real}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["scontrol", *argv], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == ("" if heard else f"slurm {' '.join(argv)}\n")
    assert run.requeue_asked(0) == heard


def test_a_mark_without_a_word_is_a_requeue(run: RunDirectory) -> None:
    run.start_attempt(0, "a", b"")
    assert run.requeue_asked(0) == ""
    (run.root / "attempts" / "0" / "requeue").write_bytes(b"")
    assert run.requeue_asked(0) == "requeue"


def test_a_log_of_the_steps_tells_only_of_its_attempt(tmp_path: Path) -> None:
    kept, fresh = tmp_path / "kept", tmp_path / "fresh"
    kept.write_text("old crash\n")
    fresh.write_text("import error\n")
    tail = FileTail(own=())
    tail.begin()
    tail.follow(WrittenFile(str(kept), appended=True))
    tail.follow(WrittenFile(str(fresh), appended=False))
    with kept.open("a") as file:
        file.write("new crash\n")
    assert [tail.read(str(path)) for path in (kept, fresh)] == ["new crash\n", "import error\n"]
    tail.begin()
    assert [tail.read(str(path)) for path in (kept, fresh)] == ["", ""]
    fresh.write_text("import error, and more than before\n")
    tail.follow(WrittenFile(str(fresh), appended=False))
    assert tail.read(str(fresh)) == "import error, and more than before\n"


def test_a_file_that_was_replaced_since_it_was_opened_is_no_news(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.root / "progress" / "0").write_bytes(b"{}")
    files, real = PatientRunFiles(run, run, Patience(), str(run.root)), os.read

    def stale(descriptor: int, most: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("progress/0"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(descriptor, most)

    monkeypatch.setattr(os, "read", stale)
    assert files.progress(0) is None


def test_a_file_whose_read_fails_is_none() -> None:
    assert read_bounded("/proc/self/mem", 100) is None  # a regular file; EIO
    assert FileTail().read("/proc/self/mem") == ""


@pytest.mark.parametrize("run_dir", ["runs", "sub/../runs", "link"])
def test_scontrol_of_a_script_reaches_slurms_by_whatever_name_of_the_run_directory(
    tmp_path: Path, run_dir: str
) -> None:
    for name in ("sub", "slurm", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("runs")
    real = tmp_path / "slurm" / "scontrol"
    real.write_text("#!/bin/sh\necho REAL $*\n")
    real.chmod(0o755)
    directory = RunDirectory((tmp_path / run_dir / "lab-1").absolute())
    directory.prepare(RECORD)
    path = f"{directory.guard_requeue(0)}:{tmp_path}/slurm:/usr/bin:/bin"
    env = {"PATH": path, "SLURM_JOB_ID": "1"}
    done = subprocess.run(
        ["sh", "-c", "scontrol show hostnames n1"], env=env, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "REAL show hostnames n1\n"
