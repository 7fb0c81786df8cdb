"""The evidence of nodes about jobs: one small file a node and job below the cluster journal, for everybody to read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sovctl.adapters.verdict_file import NodeFileUnusable, replace_json
from sovctl.model.job_evidence import DIRECTORY, JobEvidence, evidence_path, evidence_record


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
