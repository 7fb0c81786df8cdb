"""What the view from inside a step proves."""

from __future__ import annotations

from typing import Any

import pytest

from sovctl.errors import SovctlError
from sovctl.isolation.proof import SCHEMA, judge

GOOD: dict[str, Any] = {
    "schema": SCHEMA,
    "decoy": ".decoy",
    "directories": {"/tmp": [], "/var/tmp": [], "/dev/shm": [], "home": []},
    "processes": [1, 2],
    "own_process": 2,
    "environment": ["HOME", "PATH", "SLURM_JOB_ID", "OF_IMAGE"],
    "own_environment": ["OF_IMAGE"],
    "devices": ["/dev/nvidia3"],
    "own_devices": ["/dev/nvidia3"],
    "capabilities": {"CapEff": "0000000000000000", "CapBnd": "0000000000000000"},
    "no_new_privs": "1",
    "descriptors": [0, 1, 2, 9],
    "own_descriptors": [9],
}


def _failed(**changed: object) -> dict[str, str]:
    return {check.name: check.seen for check in judge({**GOOD, **changed}) if not check.passed}


def test_a_step_that_sees_nothing_passes_every_check() -> None:
    checks = judge(GOOD)
    assert all(check.passed for check in checks)
    assert len(checks) == 10


@pytest.mark.parametrize(
    ("names", "passed", "seen"),
    [
        (["munge"], True, "kept by the site: munge"),
        (["munge", "slurm"], True, "kept by the site: munge, slurm"),
        (["mun"], False, "mun"),
        (["munge", "other"], False, "other"),
        (["munge", ".decoy"], False, "a file from outside is there"),
    ],
)
def test_what_the_site_keeps_in_sight_is_no_leak(names: list[str], passed: bool, seen: str) -> None:
    directories = {**GOOD["directories"], "/var/tmp": names}
    checks = judge({**GOOD, "directories": directories, "kept": ["/var/tmp/munge", "/var/tmp/slurm/run", "/opt/other"]})
    assert next((check.passed, check.seen) for check in checks if check.name == "/var/tmp") == (passed, seen)


def test_the_plugin_is_not_asked_for_an_empty_home() -> None:
    seen = {place: [] for place in ("/tmp", "/var/tmp", "/dev/shm")}
    checks = judge({**GOOD, "by_plugin": True, "directories": seen})
    assert (len(checks), all(check.passed for check in checks)) == (9, True)


@pytest.mark.parametrize(
    ("changed", "name", "seen"),
    [
        ({"directories": {**GOOD["directories"], "/tmp": [".decoy"]}}, "/tmp", "a file from outside is there"),
        ({"directories": {**GOOD["directories"], "/dev/shm": ["x"]}}, "/dev/shm", "x"),
        ({"directories": {**GOOD["directories"], "/var/tmp": None}}, "/var/tmp", "cannot be read"),
        ({"directories": {**GOOD["directories"], "home": [".ssh"]}}, "home", ".ssh"),
        ({"directories": {**GOOD["directories"], "home": None}}, "home", "cannot be read"),
        ({"processes": list(range(1, 12))}, "processes", "others: 3, 4, 5, 6, 7, 8 and 3 more"),
        ({"environment": ["DOCTOR_DECOY"]}, "environment", "DOCTOR_DECOY"),
        ({"environment": ["SLURM_JWT"]}, "environment", "SLURM_JWT"),
        ({"devices": ["/dev/nvidia0", "/dev/nvidia3"]}, "GPU devices", "not its own: /dev/nvidia0"),
        ({"capabilities": {"CapBnd": "000001ffffffffff"}}, "capabilities", "CapBnd 000001ffffffffff"),
        ({"capabilities": {}}, "capabilities", "none"),
        ({"no_new_privs": "0"}, "no_new_privs", "0"),
        ({"descriptors": [0, 1, 2, 7]}, "descriptors", "7"),
    ],
)
def test_each_leak_fails_its_check_and_no_other(changed: dict[str, object], name: str, seen: str) -> None:
    assert _failed(**changed) == {name: seen}


def test_the_site_may_let_variables_pass() -> None:
    assert all(check.passed for check in judge({**GOOD, "environment": ["MY_LR"]}, ["MY_*"]))


def test_what_is_no_measurement_is_said_to_be_none() -> None:
    with pytest.raises(SovctlError, match="cannot be read"):
        judge({"schema": "other"})
