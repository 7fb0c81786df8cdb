"""What the site found on nodes that runs suspected: one small file a job below the cluster journal, root's own."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sovctl.adapters.node.verdict_file import NodeFileUnusable, read_trusted, replace_json
from sovctl.model.site_answer import SCHEMA, SiteAnswer, answers_from_record

DIRECTORY = "suspects"


class SiteAnswerFiles:
    """`SiteAnswers` below the cluster journal."""

    def __init__(self, root: Path) -> None:
        self._directory = root / DIRECTORY

    def save(self, job_id: str, answers: Sequence[SiteAnswer]) -> None:
        if not _usable(job_id):
            raise NodeFileUnusable(self._directory, f"{job_id!r} is no job id")
        record = {"schema": SCHEMA, "job_id": job_id, "nodes": [item.record for item in answers]}
        replace_json(self._directory / f"{job_id}.json", record)

    def load(self, job_id: str) -> tuple[SiteAnswer, ...]:
        return answers_from_record(read_trusted(self._directory / f"{job_id}.json")) if _usable(job_id) else ()

    def prune(self, older_than: float) -> int:
        removed = 0
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.stat(follow_symlinks=False).st_mtime < older_than:
                        Path(entry.path).unlink(missing_ok=True)
                        removed += 1
        except OSError:
            return removed
        return removed


def _usable(job_id: str) -> bool:
    return re.fullmatch(r"[0-9]{1,20}", job_id) is not None
