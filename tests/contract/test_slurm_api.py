"""pyslurm's process goes wrong in every way there is; the commands do the work, and nobody waits for long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm.api import SlurmApi

Made = Callable[[str], SlurmApi]
NODE = "NodeName=n007 State=IDLE Port=7007 Partitions=main"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Made]:
    """A SlurmApi whose process runs these lines of Python in place of pyslurm's worker, and a scontrol of one node."""
    made: list[SlurmApi] = []
    conf = tmp_path / "slurm.conf"
    conf.touch()
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho '{NODE}'\n", "utf-8")
    scontrol.chmod(0o755)

    def make(lines: str) -> SlurmApi:
        body = tmp_path / "worker.py"
        body.write_text(
            "import json, os, sys, time\nask = os.fdopen(int(sys.argv[4]))\nanswer = os.fdopen(int(sys.argv[5]), 'w')\n"
            "def say(told): print(json.dumps(told), file=answer, flush=True)\n" + lines,
            "utf-8",
        )
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{body}" "$@"\n', "utf-8")
        python.chmod(0o755)
        runner = CommandRunner({"SLURM_CONF": str(conf)})
        made.append(SlurmApi(runner, bin_dir=str(tmp_path), timeout_s=1.0, python=str(python)))
        return made[-1]

    yield make
    for slurm in made:
        slurm.close()


def told_by_command(slurm: SlurmApi) -> bool:
    began = time.monotonic()
    found = [node.name for node in slurm.nodes()]
    return found == ["n007"] and time.monotonic() - began < 5.0


FITS = "ask.readline(); say({'value': {'pyslurm': '25.11.2', 'slurmctld': '25.11.7'}})\n"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("sys.exit(1)", id="ends at once, as libslurm does without a slurm.conf"),
        pytest.param("time.sleep(600)", id="says nothing"),
        pytest.param("ask.readline(); answer.write('{\"val')\nanswer.flush()", id="ends in the middle of a word"),
        pytest.param("ask.readline(); say([])", id="says something else"),
        pytest.param("ask.readline(); say({'refused': 'Unable to contact slurm controller'})", id="no controller"),
        pytest.param(FITS + "ask.readline()", id="ends when asked"),
        pytest.param(FITS + "ask.readline(); time.sleep(600)", id="falls silent when asked"),
    ],
)
def test_the_command_stands_in(api: Made, lines: str) -> None:
    slurm = api(lines)
    assert told_by_command(slurm)
    assert not slurm.unusable or "pyslurm" not in slurm.unusable
    assert told_by_command(slurm), "and again"


def test_a_pyslurm_of_another_release_is_not_asked_again(api: Made) -> None:
    slurm = api("ask.readline(); say({'value': {'pyslurm': '25.11.2', 'slurmctld': '26.05.3'}})\n")
    assert told_by_command(slurm)
    assert slurm.unusable == "pyslurm 25.11.2 does not fit Slurm 26.05.3"
    assert slurm.answered == 1
    assert told_by_command(slurm)
    assert slurm.answered == 1


def test_a_pyslurm_that_cannot_be_imported_says_why(api: Made) -> None:
    slurm = api("say({'unusable': 'pyslurm cannot be imported: libslurm.so.44: cannot open shared object file'})\n")
    assert told_by_command(slurm)
    assert "libslurm.so.44" in slurm.unusable


def test_without_a_slurm_conf_no_process_is_started(api: Made, tmp_path: Path) -> None:
    slurm = api(f"open({str(tmp_path / 'started')!r}, 'w')\n")
    (tmp_path / "slurm.conf").unlink()
    assert "pyslurm" not in slurm.unusable
    assert not (tmp_path / "started").exists()


def test_its_answers_are_nodes_and_jobs_as_the_commands_tell_them(api: Made) -> None:
    node = {
        "name": "n001",
        "state": "IDLE+DRAIN",
        "reason": "sovctl:1 XID79",
        "reason_by": "root",
        "reason_at": 1795397000,
        "address": "127.0.0.1",
        "port": 20001,
        "gres": "gpu:8",
        "partitions": ["main"],
        "boot_time": None,
        "weight": 1,
    }
    base = {"uid": 7, "nodes": "", "batch_host": "", "excluded": "", "reason": "None", "waiting": "", "task": None}
    jobs = [
        base | {"id": 4, "array": None, "state": "RUNNING", "nodes": "n[001-002]", "batch_host": "n001"},
        base | {"id": 5, "array": 5, "waiting": "1-2,7", "state": "PENDING"},
        base | {"id": 6, "array": 5, "task": 0, "state": "COMPLETING", "nodes": "n003"},
        base | {"id": 9, "array": None, "state": "COMPLETED", "nodes": "n001"},
    ]
    slurm = api(
        FITS + f"nodes, jobs = {[node]!r}, {jobs!r}\n"
        "for line in ask:\n    say({'value': nodes if json.loads(line)['verb'] == 'nodes' else jobs})\n"
    )
    (told,) = slurm.nodes()
    assert (told.name, told.state.draining, told.reason, told.port) == ("n001", True, "sovctl:1 XID79", 20001)
    assert [job.job_id for job in slurm.jobs()] == ["4", "5_1", "5_2", "5_7", "5_0"]
    assert [job.job_id for job in slurm.jobs_on(["n001"])] == ["4"]
    assert slurm.jobs_on(["n002"])[0].nodes == ("n001", "n002")
