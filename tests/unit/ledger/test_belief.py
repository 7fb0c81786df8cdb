"""What a user's record says is believed as far as Slurm's accounting bears it out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sovctl.ledger.belief import MOST_INCIDENTS, borne_out, doubt
from sovctl.ledger.incident import Incident, Outcome, RunAccount, Source, Span
from sovctl.ledger.stamps import Stamp
from sovctl.model.accounted import AccountedJob
from sovctl.model.blame import Culprit

B = 1_000_000
NOW = B + 50_000.0
JOBS = (
    AccountedJob("7", "lab", "alice", 1000, "REQUEUED", B, B, B + 10, B + 9000, ("n1", "n2"), 16, "", "t", "/w"),
    AccountedJob("7", "lab", "alice", 1000, "RUNNING", B + 9000, B, B + 9010, None, ("n1", "n3"), 16, "", "t", "/w"),
)
ITEM = Incident(
    "lab-7-1", "7", "bob", 0, Culprit.HARDWARE, "XID79", "n2: it fell off", ("n2",), {Stamp.DETECTED: B + 8990.0},
    Outcome.RECOVERED, Source.RECORD, steps_lost=50, lost_s=60.0, gpus=16,
)  # fmt: skip
SPANS = (Span(B + 12.0, B + 8990.0, 2, 16, 8000.0), Span(B + 9012.0, NOW, 2, 16, 9000.0))
ACCOUNT = RunAccount("lab-7-1", "7", "bob", "train", Source.RECORD, SPANS, NOW, (ITEM,))


def test_a_record_that_fits() -> None:
    assert doubt(ACCOUNT, JOBS, B - 1.0, NOW) == ""
    # What was before the period is not in the accounting that was asked for.
    before = replace(ACCOUNT, spans=(Span(1.0, B - 5e5, 900, 9999, 0.0), *SPANS))
    assert doubt(before, JOBS, B - 1.0, NOW) == ""
    # Its job has just come.
    assert doubt(ACCOUNT, (), B - 1.0, NOW) == ""
    # A site that does not account for GPUs.
    assert doubt(ACCOUNT, [replace(job, gpus=0) for job in JOBS], B - 1.0, NOW) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"incidents": (ITEM,) * (MOST_INCIDENTS + 1)}, "2001 interruptions"),
        ({"incidents": (replace(ITEM, stamps={Stamp.DETECTED: B - 9e4}),)}, "not there"),
        ({"incidents": (replace(ITEM, steps_lost=2**62),)}, "more steps"),
        ({"incidents": (replace(ITEM, lost_s=1e9),)}, "more steps or seconds"),
        ({"spans": (replace(SPANS[0], gpus=1 << 20),)}, "1048576 GPUs, Slurm gave it 16"),
        ({"spans": (replace(SPANS[0], nodes=3),)}, "3 nodes, Slurm gave it 2"),
        ({"spans": (replace(SPANS[0], began_at=B - 9e4),)}, "not there"),
        ({"spans": (replace(SPANS[0], ended_at=NOW + 9e4),)}, "not there"),
        ({"spans": (*SPANS, SPANS[1])}, "same time"),
    ],
)
def test_a_record_that_slurm_contradicts(change: dict[str, object], words: str) -> None:
    assert words in doubt(replace(ACCOUNT, **change), JOBS, B - 1e5, NOW)  # type: ignore[arg-type]


def test_names_come_from_slurm_and_blamed_nodes_are_nodes_it_had() -> None:
    lying = replace(ITEM, nodes=("n2", "n999", "n3"), evidence="x" * 99_999)
    found = borne_out(replace(ACCOUNT, incidents=(lying,), run="\x1b", job_id="8"), JOBS, "lab-7-1")
    assert (found.run, found.user, found.job_id) == ("lab-7-1", "alice", "7")
    assert borne_out(replace(ACCOUNT, job_id="5_2"), JOBS, "lab-7-1").job_id == "5_2"
    (item,) = found.incidents
    assert (item.run, item.user, item.nodes, len(item.evidence)) == ("lab-7-1", "alice", ("n2", "n3"), 500)
    assert borne_out(ACCOUNT, (), "lab-7-1").incidents[0].nodes == ("n2",)
