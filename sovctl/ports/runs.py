"""The runs of a user: what is submitted, listed and read."""

from __future__ import annotations

from typing import Any, Protocol

from sovctl.model.progress import Progress
from sovctl.model.submitted import SubmittedRun


class SubmissionFiles(Protocol):
    """The files a submission reads and the directory it promises to the supervisor."""

    def read_script(self, name: str, work_dir: str) -> bytes:
        """The script that sbatch would find under this name. Raises ScriptUnreadable."""
        ...

    def read_stdin(self) -> bytes: ...
    def claim(self, run_root: str, work_dir: str) -> None:
        """Make the directory of runs and try to write in it. Raises RunDirUnusable."""
        ...


class RunRecords(Protocol):
    """Records of runs wherever they lie. They are files of some user: bounded reads, garbage left out, no errors."""

    def below(self, run_root: str) -> tuple[str, ...]:
        """Directories of runs right below a directory; none when it cannot be listed."""
        ...

    def owner(self, run_dir: str) -> int | None:
        """The uid of the run's events; None: there are none."""
        ...

    def record(self, run_dir: str) -> dict[str, Any]:
        """`run.json`; empty when it is not there or not readable as one."""
        ...

    def events(self, run_dir: str, newest_only: str = "") -> list[dict[str, Any]]:
        """`newest_only`: of this kind, and there may be thousands, the newest is enough."""
        ...

    def progress(self, run_dir: str) -> tuple[Progress, ...]: ...
    def kept(self, run_dir: str, attempt: int, name: str) -> Any:
        """The JSON in `attempts/<n>/<name>`; None when it is not there or no JSON."""
        ...


class MadeOfFiles(Protocol):
    """What a list made of files when it read them last, kept as long as each is the same. It may forget at any time."""

    def recall(self, path: str) -> Any:
        """What was made of this file as it is now; None: nothing."""
        ...

    def keep(self, path: str, made: Any) -> None:
        """Remember it, of the file as it was when it was recalled; JSON."""
        ...

    def save(self) -> None:
        """Put it down for the next time."""
        ...


class RunIndex(Protocol):
    """The user's own list of submitted runs, newest first."""

    def save(self, run: SubmittedRun) -> None:
        """Remember it. Raises OSError."""
        ...

    def load(self, job_id: str) -> tuple[SubmittedRun, ...]:
        """Every run with this job id: ids come back after a while, and clusters have their own."""
        ...

    def list(self) -> tuple[SubmittedRun, ...]:
        """All; entries that cannot be read are left out."""
        ...
