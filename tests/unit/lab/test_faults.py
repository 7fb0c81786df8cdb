"""Names of faults: what is near one, and where all of them are listed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from sovctl.cli.lab import app
from sovctl.errors import UsageError
from sovctl.lab import faults


@dataclass(frozen=True)
class OneNode:
    """As much of a lab as is looked at before anything is done."""

    nodes: tuple[str, ...] = ("n001",)
    gpus: int = 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("xid79", "did you mean xid:79?"),
        ("XID-79", "did you mean xid:79?"),
        ("node-ded", "did you mean node-dead?"),
        ("mount-readonly", "did you mean mount-read-only?"),
        ("zzz", "known: xid:CODE, ecc-uncorrectable, "),
    ],
)
def test_the_fault_that_was_probably_meant(typed: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        faults.inject(OneNode(), typed, "n001")  # type: ignore[arg-type]
    assert caught.value.message.startswith(f"there is no fault {typed!r}; {said}")


def test_the_help_lists_every_fault() -> None:
    said = " ".join(CliRunner().invoke(app, ["inject", "--help"]).stdout.split())
    for name, words in faults.FAULTS.items():
        assert f" {name} {words}" in said
