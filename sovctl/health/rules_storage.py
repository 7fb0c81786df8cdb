"""Mounted file systems: one function a rule, a snapshot in, findings out."""

from __future__ import annotations

from sovctl.health.memory import HOUR_S, held_s, rose
from sovctl.model.host import Outcome
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Finding, Repair, Severity

MISSING_FOR_S = 45.0
"""Two looks: remounting, or an automounter at work, is over by then."""
SLOW_MS = 1000.0
"""A statfs that takes a second; a loaded NFS server answers in some tens of milliseconds."""
FULL_PERCENT = 95.0
"""imbue and GCM warn at 80 to 95 %; only the last makes jobs fail."""
BACKLOG = 8.0
"""Requests that wait in the RPC queue, on average over an hour; the limit at which 63 nodes wrote a checkpoint."""


def mount_missing(snapshot: NodeSnapshot) -> list[Finding]:
    """A mount point that a healthy node has."""
    expected = snapshot.inventory.mounts if snapshot.inventory else {}
    findings = []
    for path in expected:
        held = held_s(snapshot, f"mount/{path}")
        if snapshot.host.mounts is not None and held is not None:
            severity = Severity.FAIL if held >= MISSING_FOR_S else Severity.WARN
            findings.append(
                Finding("MOUNT_MISSING", severity, f"{path} is not mounted for {held:.0f} s", repair=Repair.REBOOT)
            )
    return findings


def mount_read_only(snapshot: NodeSnapshot) -> list[Finding]:
    """Mounted to be written, and read-only now: the kernel does that after an error of the disk."""
    expected = snapshot.inventory.mounts if snapshot.inventory else {}
    findings = []
    for path in expected:
        held = held_s(snapshot, f"readonly/{path}")
        if snapshot.host.mounts is not None and held is not None:
            severity = Severity.FAIL if held >= MISSING_FOR_S else Severity.WARN
            words = f"{path} has become read-only, seen for {held:.0f} s"
            findings.append(Finding("MOUNT_READ_ONLY", severity, words, repair=Repair.REBOOT))
    return findings


def mount_answer(snapshot: NodeSnapshot) -> list[Finding]:
    """A mount that answers with an error, slowly, or not at all. Storage is shared: the node is rarely to blame."""
    findings = []
    for answer in snapshot.host.answers or ():
        if answer.error:
            words = f"{answer.path}: {answer.error}"
            findings.append(Finding("MOUNT_ERROR", Severity.FAIL, words, repair=Repair.REBOOT))
        elif answer.answer_ms is not None and answer.answer_ms >= SLOW_MS:
            words = f"{answer.path} took {answer.answer_ms:.0f} ms to answer (limit {SLOW_MS:.0f} ms)"
            findings.append(Finding("MOUNT_SLOW", Severity.WARN, words))
    for reading in snapshot.host.readings:
        if reading.source.startswith("mount:") and reading.outcome is Outcome.HUNG:
            words = f"{reading.source.removeprefix('mount:')} gave no answer within {reading.cost_ms / 1000:.1f} s"
            findings.append(Finding("MOUNT_STUCK", Severity.FAIL, words, repair=Repair.REBOOT))
    return findings


def nfs_backlog(snapshot: NodeSnapshot) -> list[Finding]:
    """Requests queue up in the client because the server or the number of connections is the limit."""
    findings = []
    for mount in snapshot.host.nfs or ():
        sends = rose(snapshot, f"nfs/{mount.path}/sends", HOUR_S)
        waiting = rose(snapshot, f"nfs/{mount.path}/backlog", HOUR_S)
        if sends > 0 and waiting / sends >= BACKLOG:
            words = f"{mount.path}: {waiting / sends:.1f} RPC requests wait on average (limit {BACKLOG:g})"
            findings.append(Finding("NFS_BACKLOG", Severity.WARN, words))
    return findings


def space(snapshot: NodeSnapshot) -> list[Finding]:
    """Full disks make jobs fail in ways that look like everything else."""
    findings = []
    for answer in snapshot.host.answers or ():
        for code, what, percent in (
            ("DISK_FULL", "full", answer.used_percent),
            ("INODES_FULL", "out of inodes", answer.inodes_used_percent),
        ):
            if percent is not None and percent >= FULL_PERCENT:
                findings.append(Finding(code, Severity.WARN, f"{answer.path} is {percent:.0f} % {what}"))
    return findings
