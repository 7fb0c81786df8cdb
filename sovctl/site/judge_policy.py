"""Whether slurmctld and sbatch really run sovctl's Lua scripts, by what they said to a job only tested. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sovctl.model.site import MachineView
from sovctl.site.catalogue import PIECES
from sovctl.site.judge_machine import is_controller
from sovctl.site.judge_slurm import words
from sovctl.site.line import Line, failed, passed, skipped, warned

QUESTION = "sovctl:who-is-there"
"""The comment to which both scripts answer; plugins/lua/sovctl_policy.lua."""
TEST_JOB = ("--test-only", f"--comment={QUESTION}", "--output=/dev/null", "--wrap=true")
"""For sbatch. Nothing is submitted: slurmctld only says when such a job would start."""
_SCRIPTS = (("JobSubmitPlugins", "job_submit.lua", "slurmctld"), ("CliFilterPlugins", "cli_filter.lua", "sbatch"))
_MOST = 160
_MENDED = {
    "its policy file is broken": "Mend sovctl-policy.conf: slurmctld's log has why",
    "its policy file cannot be read": "Beside slurm.conf: chmod 644 sovctl-policy.conf",
}
"""What a script may say of its rules, and what helps."""


@dataclass(frozen=True, slots=True)
class TriedJob:
    """What came of the test job."""

    status: int
    said: str


def scripts_asked(settings: Mapping[str, str]) -> bool:
    """Whether slurm.conf names any of them, so that there is something to ask for."""
    return any("lua" in words(settings, setting) for setting, _, _ in _SCRIPTS)


def judge_policy(view: MachineView, settings: Mapping[str, str], job: TriedJob | None) -> list[Line]:
    """`job`: None where none could be tested."""
    return [
        _script(script, who, _absent_here(view, settings, script), job)
        for setting, script, who in _SCRIPTS
        if "lua" in words(settings, setting)
    ]


def _absent_here(view: MachineView, settings: Mapping[str, str], script: str) -> list[str]:
    """job_submit.lua stands on a controller, the other wherever jobs are typed."""
    if script == "job_submit.lua" and not is_controller(view.host, settings):
        return []
    return sorted({script, "sovctl_policy.lua"} - set(view.lua_files))


def _script(script: str, who: str, absent: list[str], job: TriedJob | None) -> Line:
    presence = rf"sovctl: {re.escape(script)} is here: (\d+ rules|{'|'.join(_MENDED)})"
    answer = re.search(presence, job.said if job else "")
    if answer is not None:
        if answer[1] in _MENDED:
            return warned(script, f"{who} runs it, but {answer[1]}", _MENDED[answer[1]])
        return passed(script, f"{who} runs it: {answer[1]} in force")
    (role,) = next(piece.roles for piece in PIECES if piece.source == f"lua/{script}")
    install = f"sovctl site install --role {role}"
    if absent:
        return failed(script, f"not beside slurm.conf: {', '.join(absent)}", install)
    by_hand = f"sbatch {' '.join(TEST_JOB)}"
    if job is None:
        return skipped(script, "whether it is run was not asked: no job could be tested", by_hand)
    if job.status != 0:
        said = " ".join(job.said.split())[-_MOST:]
        return skipped(script, f"whether it is run cannot be told: sbatch said: {said}", by_hand)
    where = "On the controller: " if who == "slurmctld" else ""
    return failed(script, f"{who} does not run sovctl's", f"{where}{install}; scontrol reconfigure")
