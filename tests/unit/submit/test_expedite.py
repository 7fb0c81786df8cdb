from __future__ import annotations

import pytest

from sovctl.submit.expedite import enabled, new_enough

ASKED = "enable_configless,enable_expedited_requeue"


@pytest.mark.parametrize(
    ("version", "parameters", "may"),
    [
        ("26.05.5", ASKED, True),
        ("25.11.0", "enable_expedited_requeue", True),
        ("25.11.0", "(null)", False),
        ("25.11.0", "enable_configless", False),
        # An older controller passes over a parameter it does not know, and refuses the job.
        ("25.05.4", ASKED, False),
        ("22.05.8", ASKED, False),
        ("", ASKED, False),
    ],
)
def test_the_controller_has_to_know_it_and_the_site_to_allow_it(version: str, parameters: str, may: bool) -> None:
    assert enabled({"SLURM_VERSION": version, "SlurmctldParameters": parameters}) is may


def test_a_site_that_says_nothing() -> None:
    assert enabled({}) is False


@pytest.mark.parametrize(
    ("said", "new"),
    [
        ("slurm-wlm 26.05.5\n", True),
        ("slurm 25.11.0-0rc1\n", True),
        ("slurm 25.05.9\n", False),
        ("slurm-wlm 22.05.8\n", False),
        ("", False),
    ],
)
def test_an_older_sbatch_takes_no_value(said: str, new: bool) -> None:
    assert new_enough(said) is new
