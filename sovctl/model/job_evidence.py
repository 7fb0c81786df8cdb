"""What a node saw while one job ran there: `<journal_dir>/jobs/<job id>/<node>.json`, the JSON object
`sovctl.job-evidence/1`.

Written by root in the epilog, mode 0644, so that the supervisor of a run (its user's process, on another node) can
blame by it. Only written when there is something to say; a requeued job keeps its id, so the newest window stands, and
a reader compares `started_at` and `ended_at` with its attempt.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from sovctl.model.burn_in import BurnInResult, result_from_record, result_record
from sovctl.model.verdict import Finding, Repair, Severity, VerdictState
from sovctl.model.verdict_json import finding_from_record, finding_record

SCHEMA = "sovctl.job-evidence/1"
DIRECTORY = "jobs"
"""Below the cluster journal; without one, below the node's state_dir."""
LARGEST = 64 * 1024
"""Bytes; a larger file is none of ours."""
MOST = 50
"""XIDs, strays and ECC rows that are kept each; the first ones, because the cause comes first."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")
_JOB_ID = re.compile(r"[0-9]{1,20}\Z")


@dataclass(frozen=True, slots=True)
class JobXid:
    """One fault line of the driver within the window of the job."""

    code: int
    at: float
    """Seconds since the epoch."""
    pci: str = ""
    """As the driver prints it, e.g. `0000:0f:00`."""
    gpu_uuid: str = ""
    """Empty when NVML shows no GPU at that address (any more)."""
    switch: bool = False
    """True for an SXid (NVSwitch)."""
    kind: str = ""
    """Its class, as `sovctl health explain` names it: app, soft, reset, drain, ..."""


@dataclass(frozen=True, slots=True)
class Stray:
    """A process that holds a GPU after the job ended."""

    pid: int
    gpu_uuid: str = ""


@dataclass(frozen=True, slots=True)
class EccDelta:
    """Memory errors of one GPU that were counted while the job ran."""

    gpu_uuid: str
    corrected: int = 0
    uncorrected: int = 0


@dataclass(frozen=True, slots=True)
class JobEvidence:
    """Everything one node has to say about one execution of one job."""

    node: str
    job_id: str
    boot_id: str
    started_at: float | None
    """When the prolog of this execution ended, seconds since the epoch; None: it left no mark on this boot."""
    ended_at: float
    """When the epilog looked."""
    state: VerdictState
    repair: Repair = Repair.NONE
    xids: tuple[JobXid, ...] = ()
    strays: tuple[Stray, ...] = ()
    ecc: tuple[EccDelta, ...] = ()
    """Only GPUs whose counters rose."""
    burn_in: BurnInResult | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def node_at_fault(self) -> bool:
        """Some finding fails the node: the job is not to be brought back here."""
        return self.state is VerdictState.FAILED or any(item.severity is Severity.FAIL for item in self.findings)

    @property
    def says_something(self) -> bool:
        """Whether it is worth a file."""
        return bool(self.xids or self.strays or self.ecc or self.burn_in or self.findings)


def fault_words(evidence: JobEvidence) -> str:
    """What fails the node, in a few words; its epilog is named as the source."""
    worst = next((item for item in evidence.findings if item.severity is Severity.FAIL), None)
    return f"{worst.code} {worst.evidence} (its epilog)" if worst else f"its epilog judged it {evidence.state}"


def evidence_path(job_id: str, node: str) -> str:
    """Relative to the directory of the cluster journal. Raises ValueError for a name that is no file name."""
    if not _JOB_ID.match(job_id) or not _NAME.match(node):
        raise ValueError(f"no evidence can be kept of job {job_id!r} on node {node!r}")
    return f"{DIRECTORY}/{job_id}/{node}.json"


def evidence_record(evidence: JobEvidence) -> dict[str, Any]:
    """As JSON; times are seconds since the epoch."""
    return {
        "schema": SCHEMA,
        "node": evidence.node,
        "job_id": evidence.job_id,
        "boot_id": evidence.boot_id,
        "started_at": evidence.started_at,
        "ended_at": evidence.ended_at,
        "state": str(evidence.state),
        "repair": str(evidence.repair),
        "xids": [_xid_record(xid) for xid in evidence.xids[:MOST]],
        "strays": [{"pid": stray.pid, "gpu_uuid": stray.gpu_uuid} for stray in evidence.strays[:MOST]],
        "ecc": [
            {"gpu_uuid": row.gpu_uuid, "corrected": row.corrected, "uncorrected": row.uncorrected}
            for row in evidence.ecc[:MOST]
        ],
        "burn_in": result_record(evidence.burn_in) if evidence.burn_in else None,
        "findings": [finding_record(finding) for finding in evidence.findings[:MOST]],
    }


def evidence_from_record(record: Any) -> JobEvidence | None:
    """The evidence, or None for anything that is not exactly that."""
    try:
        if record["schema"] != SCHEMA:
            return None
        started_at = record["started_at"]
        return JobEvidence(
            node=_text(record["node"]),
            job_id=_text(record["job_id"]),
            boot_id=_text(record["boot_id"]),
            started_at=None if started_at is None else _time(started_at),
            ended_at=_time(record["ended_at"]),
            state=VerdictState(record["state"]),
            repair=Repair(record["repair"]),
            xids=tuple(_xid(item) for item in record["xids"][:MOST]),
            strays=tuple(Stray(_whole(item["pid"]), _text(item["gpu_uuid"])) for item in record["strays"][:MOST]),
            ecc=tuple(
                EccDelta(_text(item["gpu_uuid"]), _whole(item["corrected"]), _whole(item["uncorrected"]))
                for item in record["ecc"][:MOST]
            ),
            burn_in=None if record["burn_in"] is None else result_from_record(record["burn_in"]),
            findings=tuple(finding_from_record(item) for item in record["findings"][:MOST]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _xid_record(xid: JobXid) -> dict[str, Any]:
    return {
        "code": xid.code,
        "at": xid.at,
        "pci": xid.pci,
        "gpu_uuid": xid.gpu_uuid,
        "switch": xid.switch,
        "kind": xid.kind,
    }


def _xid(item: Any) -> JobXid:
    return JobXid(
        _whole(item["code"]),
        _time(item["at"]),
        _text(item["pci"]),
        _text(item["gpu_uuid"]),
        item["switch"] is True,
        _text(item["kind"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _time(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError("not a time")
    return float(value)
