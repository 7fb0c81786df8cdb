"""What a Slurm can do, by its version and settings."""

from __future__ import annotations

import pytest

from sovctl.submit.slurm_features import release, slurm_features, supported


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("22.05.8", (22, 5)),
        ("slurm-wlm 26.05.3\n", (26, 5)),
        ("25.11.0-0rc1", (25, 11)),
        ("", None),
        ("unknown", None),
    ],
)
def test_the_release_in_a_version(version: str, found: tuple[int, int] | None) -> None:
    assert release(version) == found


def test_what_is_older_than_22_05_is_not_supported() -> None:
    assert supported("22.05.8") and supported("26.05.3")
    assert not supported("21.08.8") and not supported("")


def there(**settings: str) -> set[str]:
    return {feature.name for feature in slurm_features(settings) if feature.there}


def enabling(**settings: str) -> list[str]:
    return [feature.enable for feature in slurm_features(settings) if feature.enable and not feature.there]


def test_the_oldest_can_nothing_of_it_but_changes_of_shrunk_jobs_with_accounting() -> None:
    assert there(SLURM_VERSION="22.05.8") == set()
    assert enabling(SLURM_VERSION="22.05.8") == ["AccountingStorageType=accounting_storage/slurmdbd"]
    accounting = {"AccountingStorageType": "accounting_storage/slurmdbd"}
    assert there(SLURM_VERSION="22.05.8", **accounting) == {"a job that lost a node can be changed further"}


def test_the_newest_can_all_of_it_once_it_is_switched_on() -> None:
    base = {"a job that lost a node can be changed further", "no requeue can be ordered to the end"}
    assert there(SLURM_VERSION="26.05.3", MaxBatchRequeue="5") == base
    assert len(enabling(SLURM_VERSION="26.05.3")) == 3
    on = {
        "SlurmctldParameters": "enable_expedited_requeue",
        "SchedulerParameters": "bf_interval=5,requeue_delay=5",
        "MaxBatchRequeue": "1000",
    }
    assert len(there(SLURM_VERSION="26.05.3", **on)) == 5
    assert enabling(SLURM_VERSION="26.05.3", **on) == []


@pytest.mark.parametrize("settings", [{}, {"SLURM_VERSION": "garbage"}, {"SLURM_VERSION": "24.11.5"}])
def test_every_feature_says_what_happens_without_it(settings: dict[str, str]) -> None:
    assert all(feature.otherwise and feature.since for feature in slurm_features(settings))
