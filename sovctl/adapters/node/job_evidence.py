"""The evidence of nodes about jobs: one small file a node and job below the cluster journal, for everybody to read."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

from sovctl.adapters.node.verdict_file import NodeFileUnusable, replace_json
from sovctl.model.job_evidence import (
    DIRECTORY,
    LARGEST,
    JobEvidence,
    evidence_from_record,
    evidence_path,
    evidence_record,
)

_MOST_NODES = 65536


class JobEvidenceFiles:
    """`EvidenceFiles` below a directory."""

    def __init__(self, root: Path) -> None:
        """`root`: of the cluster journal, or the node's state_dir."""
        self._root = root

    def save(self, evidence: JobEvidence) -> None:
        try:
            path = self._root / evidence_path(evidence.job_id, evidence.node)
        except ValueError as error:
            raise NodeFileUnusable(self._root / DIRECTORY, str(error)) from error
        replace_json(path, evidence_record(evidence))

    def load(self, job_id: str) -> tuple[JobEvidence, ...]:
        """What root left about this job, by node name; what somebody else put there is passed over."""
        try:
            directory = self._root / Path(evidence_path(job_id, "any")).parent
            names = sorted(name for name in os.listdir(directory) if name.endswith(".json"))[:_MOST_NODES]
        except (OSError, ValueError):
            return ()
        found = (_load(directory / name) for name in names)
        return tuple(item for item in found if item is not None and item.job_id == job_id)

    def prune(self, older_than: float) -> int:
        removed = 0
        try:
            with os.scandir(self._root / DIRECTORY) as entries:
                for entry in entries:
                    # The directory's time is that of the newest file put there by rename.
                    if entry.is_dir(follow_symlinks=False) and entry.stat().st_mtime < older_than:
                        shutil.rmtree(entry.path, ignore_errors=True)
                        removed += 1
        except OSError:
            return removed
        return removed


def _load(path: Path) -> JobEvidence | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
                return None
            data = file.read(LARGEST + 1)
        return evidence_from_record(json.loads(data)) if len(data) <= LARGEST else None
    except (OSError, ValueError, RecursionError):  # OSError: replaced on a file server since it was opened
        return None
