"""Following output files through everything that happens to files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sovctl.adapters.run.run_output import OutputFiles, newest_change
from sovctl.ports.supervised import WrittenFile


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "slurm-1.out"
    path.write_text("step 1\nstep 2\n")
    return path


def test_only_what_is_new_counts(log: Path) -> None:
    output = OutputFiles()
    output.begin([str(log)])
    assert output.read([str(log)]) == ([], False)
    with open(log, "a") as file:
        file.write("step 3\nstep")
    assert output.read([str(log)]) == (["step 3"], True)
    with open(log, "a") as file:
        file.write(" 4\n")
    assert output.read([str(log)]) == (["step 4"], True)


def test_progress_bars_end_lines_with_carriage_returns(log: Path) -> None:
    output = OutputFiles()
    output.begin([str(log)])
    with open(log, "a") as file:
        file.write("\r  8%| 1/12\r 16%| 2/12\r")
    assert output.read([str(log)])[0] == ["  8%| 1/12", " 16%| 2/12"]


@pytest.mark.parametrize(("appended", "old"), [(True, []), (False, ["step 1", "step 2"])])
def test_a_file_that_steps_write_to_is_followed_from_where_this_attempt_began(
    log: Path, appended: bool, old: list[str]
) -> None:
    output = OutputFiles()
    output.begin([])
    output.follow(WrittenFile(str(log), appended))
    with open(log, "a") as file:
        file.write("step 3\n")
    assert output.read([]) == ([*old, "step 3"], True)
    with open(log, "a") as file:
        file.write("step 4\n")
    output.begin([])
    assert output.read([]) == ([], False), "of the attempt before"


def test_a_file_that_was_cut_or_replaced_is_read_from_its_start(log: Path) -> None:
    output = OutputFiles()
    output.begin([str(log)])
    log.write_text("step 9\n")
    assert output.read([str(log)])[0] == ["step 9"]
    fresh = log.with_name("fresh")
    fresh.write_text("step 10, after a rotation of the log\n")
    fresh.replace(log)
    assert output.read([str(log)])[0] == ["step 10, after a rotation of the log"]


def test_a_file_that_comes_later_is_new_as_a_whole(tmp_path: Path) -> None:
    output, path = OutputFiles(), tmp_path / "late.out"
    output.begin([str(path)])
    assert output.read([str(path)]) == ([], False)
    path.write_text("step 1\n")
    assert output.read([str(path)])[0] == ["step 1"]


def test_a_flood_costs_a_bounded_read(log: Path) -> None:
    output = OutputFiles()
    output.begin([str(log)])
    with open(log, "a") as file:
        file.write("x" * 2_000_000 + "\nstep 3\n")
    lines, grew = output.read([str(log)])
    assert grew
    assert lines[-1] == "step 3"
    assert sum(map(len, lines)) <= 256 * 1024


def test_one_file_a_task_is_followed_as_many(tmp_path: Path) -> None:
    output, name = OutputFiles(), str(tmp_path / "rank-%t.out")
    (tmp_path / "rank-0.out").write_text("old\n")
    output.begin([name])
    for task in range(3):
        with open(tmp_path / f"rank-{task}.out", "a") as file:
            file.write(f"step {task}\n")
    (tmp_path / "other.out").write_text("step 99\n")
    assert sorted(output.read([name])[0]) == ["step 0", "step 1", "step 2"]


def test_a_pipe_or_a_directory_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    output = OutputFiles()
    output.begin([str(tmp_path / "pipe"), str(tmp_path)])
    assert output.read([str(tmp_path / "pipe"), str(tmp_path), "/nonexistent/a", "\0"]) == ([], False)


def test_one_file_under_two_names_is_read_once(log: Path) -> None:
    link = log.with_name("link")
    link.hardlink_to(log)
    output = OutputFiles()
    output.begin([str(log), str(link)])
    with open(log, "a") as file:
        file.write("step 3\n")
    assert output.read([str(log), str(link)])[0] == ["step 3"]


def test_bytes_that_are_no_text_are_replaced(log: Path) -> None:
    output = OutputFiles()
    output.begin([str(log)])
    with open(log, "ab") as file:
        file.write(b"\xff\xfe step 3\n")
    assert output.read([str(log)])[0][0].endswith("step 3")


def test_a_checkpoint_that_grows_is_a_change(tmp_path: Path) -> None:
    assert newest_change(tmp_path / "none") == 0.0
    (tmp_path / ".tmp-step-20").mkdir()
    before = newest_change(tmp_path)
    shard = tmp_path / ".tmp-step-20" / "rank0.pt"
    shard.write_bytes(b"1")
    os.utime(shard, (before + 5, before + 5))
    assert newest_change(tmp_path) == pytest.approx(before + 5)
