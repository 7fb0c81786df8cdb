"""What was seen on a node, and what it means. No mocks: snapshots are values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_builders import gpu, snapshot, sxid, xid

from sovctl.health.judge import judge, still_holds
from sovctl.health.xid import CATALOGUE, XidClass, meaning_of
from sovctl.model.gpu import XidEvent
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Repair, Severity, VerdictState

HEALTHY, DEGRADED, FAILED, UNKNOWN = VerdictState
RESET_ASKED = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
REBOOT_ASKED = "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
NONE_ASKED = "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"


def gpus_with(**changes: Any) -> NodeSnapshot:
    return snapshot(gpus=(*(gpu(index) for index in range(7)), gpu(7, **changes)))


CASES = [
    ("nothing wrong", snapshot(), HEALTHY, Repair.NONE, ""),
    ("a GPU is missing", snapshot(gpus=tuple(gpu(i) for i in range(7))), FAILED, Repair.REBOOT, "GPU_COUNT"),
    ("no GPU at all", snapshot(gpus=()), FAILED, Repair.REBOOT, "GPU_COUNT"),
    ("more than expected", snapshot(expected_gpus=4), DEGRADED, Repair.NONE, "GPU_COUNT"),
    ("nothing is expected", snapshot(gpus=(), expected_gpus=None), HEALTHY, Repair.NONE, ""),
    ("NVML is lost on one", gpus_with(lost=True, error="GPU is lost"), FAILED, Repair.REBOOT, "GPU_LOST"),
    ("NVML hangs on one", gpus_with(error="gave no answer"), DEGRADED, Repair.NONE, "GPU_UNREADABLE"),
    ("uncorrected ECC", gpus_with(ecc_volatile_uncorrected=2), FAILED, Repair.RESET_GPU, "ECC_UNCORRECTED"),
    ("old uncorrected ECC", gpus_with(ecc_aggregate_uncorrected=9), HEALTHY, Repair.NONE, ""),
    ("remap failed", gpus_with(remap_failed=True), FAILED, Repair.RMA, "REMAP_FAILED"),
    ("remap pending", gpus_with(remap_pending=True), DEGRADED, Repair.RESET_GPU, "REMAP_PENDING"),
    ("NVML asks for a reset", gpus_with(recovery_action=1), FAILED, Repair.RESET_GPU, "GPU_RECOVERY"),
    ("NVML asks for news", gpus_with(recovery_action=99), DEGRADED, Repair.NONE, "GPU_RECOVERY"),
    ("off the bus", snapshot(xid(79)), FAILED, Repair.REBOOT, "XID79"),
    ("remap failed, by XID", snapshot(xid(64)), FAILED, Repair.RMA, "XID64"),
    ("contained memory error", snapshot(xid(94)), DEGRADED, Repair.RESTART_APP, "XID94"),
    ("uncontained memory error", snapshot(xid(95)), FAILED, Repair.RESET_GPU, "XID95"),
    ("the program's fault", snapshot(xid(31), xid(13, sequence=2), xid(43, sequence=3)), HEALTHY, Repair.NONE, ""),
    ("cleanup alone", snapshot(*(xid(45, sequence=n) for n in range(50))), HEALTHY, Repair.NONE, ""),
    ("cleanup after 79", snapshot(xid(45), xid(79, sequence=2), xid(45, sequence=3)), FAILED, Repair.REBOOT, "XID79"),
    ("test messages", snapshot(xid(106), xid(107, sequence=2)), HEALTHY, Repair.NONE, ""),
    ("a code nobody knows", snapshot(xid(4711)), DEGRADED, Repair.NONE, "XID4711"),
    ("94 and 95 after 48", snapshot(xid(48), xid(95, sequence=2)), FAILED, Repair.RESET_GPU, "XID48"),
    ("154 alone", snapshot(xid(154, detail=RESET_ASKED)), FAILED, Repair.RESET_GPU, "XID154"),
    (
        "154 decides the repair",
        snapshot(xid(48), xid(154, sequence=2, detail=REBOOT_ASKED)),
        FAILED,
        Repair.REBOOT,
        "XID48",
    ),
    (
        "154 withdraws a reset",
        snapshot(xid(119), xid(154, sequence=2, detail=NONE_ASKED)),
        DEGRADED,
        Repair.RESET_GPU,
        "XID119",
    ),
    (
        "154 does not bring 79 back",
        snapshot(xid(79), xid(154, sequence=2, detail=NONE_ASKED)),
        FAILED,
        Repair.REBOOT,
        "XID79",
    ),
    ("154 without words", snapshot(xid(154, detail="?")), DEGRADED, Repair.NONE, "XID154"),
    (
        "154 of another GPU",
        snapshot(xid(48), xid(154, index=1, sequence=2, detail=NONE_ASKED)),
        FAILED,
        Repair.RESET_GPU,
        "XID48",
    ),
    (
        "NVLink5 fatal",
        snapshot(xid(149, detail="NETIR_LINK_EVT Fatal XC0 i0 Link 09")),
        FAILED,
        Repair.RESET_GPU,
        "XID149",
    ),
    ("NVLink5 non-fatal", snapshot(xid(145, detail="RLW_REMAP Nonfatal XC0 i0 Link 08")), HEALTHY, Repair.NONE, ""),
    ("switch fatal", snapshot(sxid("Fatal, Link 24"), sxid("Data {0x1}", 2)), FAILED, Repair.REBOOT, "SXID24007"),
    ("switch non-fatal", snapshot(sxid("Non-fatal, Link 24")), HEALTHY, Repair.NONE, ""),
    ("blind", snapshot(gpus=(), blind=("nvml: absent",)), UNKNOWN, Repair.NONE, ""),
    ("blind and failed", snapshot(xid(79), gpus=(), blind=("nvml: absent",)), FAILED, Repair.REBOOT, "XID79"),
    ("blind and app", snapshot(xid(31), blind=("kernel-log: no",)), UNKNOWN, Repair.NONE, ""),
]


@pytest.mark.parametrize(("seen", "state", "repair", "code"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_verdict(seen: NodeSnapshot, state: VerdictState, repair: Repair, code: str) -> None:
    verdict = judge(seen)
    assert (verdict.state, verdict.repair) == (state, repair)
    assert (verdict.worst.code if verdict.worst else "") == code


def test_the_evidence_names_the_gpu_and_quotes_the_kernel() -> None:
    finding = judge(snapshot(xid(79, index=5, sequence=42, detail="GPU has fallen\x1b[31m off the bus."))).worst
    assert finding is not None
    assert (finding.gpu_uuid, finding.gpu_index) == ("GPU-5", 5)
    assert finding.evidence.startswith("GPU 5 at 0000:64:00: GPU has fallen off the bus")
    assert "kernel record 42" in finding.evidence
    assert finding.evidence.isprintable()


def test_a_gpu_that_is_gone_is_named_by_its_address() -> None:
    finding = judge(snapshot(xid(79, index=5), gpus=tuple(gpu(i) for i in range(5)))).worst
    assert finding is not None and finding.gpu_uuid == "" and "0000:64:00" in finding.evidence


def test_a_thousand_repeats_are_one_finding() -> None:
    verdict = judge(snapshot(*(xid(119, sequence=n) for n in range(1000))))
    assert len(verdict.findings) == 1
    assert "1000 times" in verdict.findings[0].evidence


def test_what_the_kernel_said_once_holds_for_this_boot_only() -> None:
    earlier = judge(snapshot(xid(48, index=2), xid(45, index=2, sequence=2), gpus=(gpu(),)))
    held = still_holds(earlier, "boot-1")
    assert [finding.code for finding in held] == ["XID48"]
    assert judge(snapshot(), held).state is FAILED
    assert still_holds(earlier, "boot-2") == ()
    assert still_holds(judge(snapshot()), "boot-1") == ()
    assert still_holds(None, "boot-1") == ()
    again = judge(snapshot(xid(48, index=2, sequence=9)), held)
    assert [finding.code for finding in again.findings if finding.severity is Severity.FAIL].count("XID48") <= 2


def test_every_row_of_the_catalogue_is_whole() -> None:
    for code, row in CATALOGUE.items():
        assert row.code == code and row.meaning and row.source
        assert (row.severity is Severity.FAIL) == (row.kind in (XidClass.RESET, XidClass.DRAIN))
    assert {13, 31, 45, 48, 63, 64, 74, 79, 94, 95, 119, 120, 143, 149, 154} <= CATALOGUE.keys()
    assert meaning_of(9999).kind is XidClass.WARN


_HARMLESS = sorted(
    code
    for code, row in CATALOGUE.items()
    if row.kind in (XidClass.APP, XidClass.IGNORE, XidClass.SYMPATHETIC, XidClass.SOFT, XidClass.WARN)
)
_words = st.text(max_size=60)


@st.composite
def _events(draw: st.DrawFn, codes: st.SearchStrategy[int]) -> XidEvent:
    return XidEvent(
        draw(codes),
        draw(st.sampled_from(["0000:0f:00", "0000:20:00", "", "?"])),
        draw(st.integers(0, 99)),
        0.0,
        draw(_words),
    )


@given(st.lists(_events(st.sampled_from(_HARMLESS) | st.integers(5000, 999999)), max_size=20))
def test_programs_and_unknown_codes_never_fail_a_node(events: list[XidEvent]) -> None:
    assert judge(snapshot(*events)).state in (HEALTHY, DEGRADED)


@given(st.lists(_events(st.integers(0, 200)), max_size=20), st.integers(0, 8), st.booleans())
def test_any_burst_is_judged_and_order_of_arrival_does_not_matter(
    events: list[XidEvent], gpus: int, blind: bool
) -> None:
    seen = snapshot(*events, gpus=tuple(gpu(i) for i in range(gpus)), blind=("nvml: x",) if blind else ())
    verdict = judge(seen)
    if verdict.state is FAILED:
        assert verdict.worst is not None and verdict.worst.severity is Severity.FAIL
        assert verdict.repair is not Repair.NONE or verdict.worst.code.startswith(("XID", "SXID"))
    if blind:
        assert verdict.state in (UNKNOWN, FAILED)
