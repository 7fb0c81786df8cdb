"""What the batch script tells its supervisor, what that understands, and who gets its signals."""

from __future__ import annotations

import shlex
import signal
from dataclasses import fields, replace
from pathlib import Path

from run_fakes import PLAN

from sovctl.cli.supervise import _parse, _progress
from sovctl.submit.nodes import NodePlan
from sovctl.submit.options import OwnOptions
from sovctl.submit.script import Launch, UserScript, batch_script

_WORDS = {"run_dir", "checkpoint_dir", "hang_timeout", "progress_regex", "checkpoint_format"}
_FIGURES = {"max_hardware_faults", "same_crash_limit"}
_SWITCHES = {"restart_stragglers", "fresh"}
_ELSEWHERE = {field.name for field in fields(OwnOptions)} - _WORDS - _FIGURES - _SWITCHES


def test_every_option_that_a_batch_script_can_hold_is_understood() -> None:
    own = OwnOptions(
        **dict.fromkeys(_WORDS, "x"),  # type: ignore[arg-type]
        **dict.fromkeys(_FIGURES, 1),  # type: ignore[arg-type]
        **dict.fromkeys(_SWITCHES, True),  # type: ignore[arg-type]
    )
    plan = NodePlan(size=4, spares=1, least=2, lowest=2)
    assert all(getattr(plan, field.name) for field in fields(plan))
    text = batch_script(
        UserScript("t.sh", b"#!/bin/sh\n"), own, Launch("/usr/bin/python3", "1", 7), (), plan, inside="{}"
    )
    line = next(line for line in text.decode().splitlines() if " sovctl supervise " in line)
    options, arguments = _parse(shlex.split(line.partition(" supervise ")[2].partition(' "$@"')[0]))
    assert arguments == []
    assert len(options) == 2 + len(_WORDS | _FIGURES | _SWITCHES) + 1 + len(fields(plan))


def test_what_stands_in_no_batch_script_of_its_own_is_known_here() -> None:
    """An option added to the class has to be put into one of the sets above."""
    assert {
        *("spare_nodes", "min_nodes", "preemptible", "dry_run", "help"),
        *("image", "isolate", "mount", "home", "clean_env", "writable", "env_name", "private_network"),
        *("slurm_client", "runtime", "inside"),
    } == _ELSEWHERE


def test_who_waits_for_the_supervisor_goes_on_passing_signals_after_it_was_killed(tmp_path: Path) -> None:
    """Else `scancel --batch --signal=USR1` would reach the script of a first supervisor only."""
    (tmp_path / "events.jsonl").write_text(
        '{"seq": 1, "at": 1.0, "kind": "checkpoint_saved", "attempt": 0, "step": 40}\n', "ascii"
    )
    watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    before = [signal.getsignal(signum) for signum in watched]
    assert _progress(replace(PLAN, run_dir=tmp_path)) == 40
    assert [signal.getsignal(signum) for signum in watched] == before
