"""File access that a storage which stopped answering cannot take the supervisor with.

Whoever touches a hanging file system waits in the kernel and cannot even be killed. So one thread touches it, and the
supervisor waits for that thread only so long: reads then answer as if nothing were new, and what is to be written is
written, in order, once the storage is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from sovctl.errors import RunDirUnusable, StorageSilent
from sovctl.model.progress import Progress
from sovctl.ports.common import Journal
from sovctl.ports.supervised import AttemptFiles, OutputTail, RunFiles, RunOutput, WrittenFile

_T = TypeVar("_T")
_TURN_S = 1.0
PATIENCE_S = 5.0
"""How long one access may take: a busy file server answers within a second or two."""


class _Task(Generic[_T]):
    """One access."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._done = threading.Event()
        self._outcome: tuple[_T] | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._outcome = (self._work(),)
        except BaseException as error:
            self._error = error
        self._done.set()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def result(self) -> _T:
        if self._error is not None:
            raise self._error
        assert self._outcome is not None
        return self._outcome[0]


class Patience:
    """One thread that touches the storage."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._tasks: SimpleQueue[_Task[Any]] = SimpleQueue()
        self._late: _Task[Any] | None = None
        self._since = 0.0
        self._thread: threading.Thread | None = None

    def ask(
        self,
        work: Callable[[], _T],
        *,
        later: bool = False,
        patience_s: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> _T:
        """What `work` returns. Raises StorageSilent when that takes too long, and at once while an earlier access has
        not come back; `later`: it is still done then. `meanwhile`: done once a second; what it raises ends the wait."""
        if self._late is not None and self._late.done:
            self._late = None
        if self._late is not None and not later:
            raise StorageSilent(time.monotonic() - self._since)
        task = _Task(work)
        began = time.monotonic()
        self._begin(task)
        if self._late is not None:
            raise StorageSilent(began - self._since)
        try:
            done = _wait(task, began + (self._patience_s if patience_s is None else patience_s), meanwhile)
        except BaseException:
            self._late, self._since = task, began
            raise
        if not done:
            self._late, self._since = task, began
            raise StorageSilent(time.monotonic() - began)
        return task.result()

    def _begin(self, task: _Task[Any]) -> None:
        if self._thread is None:
            # A thread that hangs in the kernel must not keep the process.
            self._thread = threading.Thread(target=self._work, name="storage", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def _work(self) -> None:
        while True:
            self._tasks.get().run()


def _wait(task: _Task[Any], deadline: float, meanwhile: Callable[[], None] | None) -> bool:
    """Whether it was done by then."""
    while meanwhile is not None and time.monotonic() + _TURN_S < deadline:
        if task.wait(_TURN_S):
            return True
        meanwhile()
    return task.wait(max(0.0, deadline - time.monotonic()))


class PatientJournal:
    """ports.Journal; a record that is late is written later, and StorageSilent says so."""

    def __init__(self, journal: Journal, patience: Patience) -> None:
        self._journal = journal
        self._patience = patience

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._patience.ask(lambda: self._journal.append(kind, **fields), later=True)

    def events(self) -> list[dict[str, Any]]:
        return self._patience.ask(self._journal.events)


class PatientRunFiles:
    """ports.RunFiles and ports.AttemptFiles."""

    def __init__(self, files: RunFiles, kept: AttemptFiles, patience: Patience, where: str) -> None:
        self._files = files
        self._kept = kept
        self._patience = patience
        self._where = where

    def prepare(self, record: Mapping[str, Any]) -> None:
        self._needed(lambda: self._files.prepare(record))

    def record(self) -> dict[str, Any]:
        return self._or(dict[str, Any](), self._files.record)

    def start_attempt(self, attempt: int, name: str, script: bytes) -> str:
        return self._needed(lambda: self._files.start_attempt(attempt, name, script))

    def guard_requeue(self, attempt: int) -> str:
        return self._or("", lambda: self._files.guard_requeue(attempt))

    def put_before(self, attempt: int, name: str, text: str) -> str:
        return self._needed(lambda: self._files.put_before(attempt, name, text))

    def requeue_asked(self, attempt: int) -> str:
        return self._or("", lambda: self._files.requeue_asked(attempt))

    def ask_stop(self, attempt: int, why: str) -> None:
        try:
            self._patience.ask(lambda: self._files.ask_stop(attempt, why), later=True)
        except StorageSilent:
            return

    def progress(self, rank: int) -> Progress | None:
        return self._or(None, lambda: self._files.progress(rank))

    def all_progress(self) -> tuple[Progress, ...]:
        return self._or((), self._files.all_progress)

    def keep(self, attempt: int, name: str, data: bytes) -> str:
        try:
            return self._patience.ask(lambda: self._kept.keep(attempt, name, data), later=True)
        except StorageSilent as error:
            return error.message

    def changed(self, directory: str) -> float:
        return self._or(0.0, lambda: self._kept.changed(directory))

    def _or(self, otherwise: _T, work: Callable[[], _T]) -> _T:
        try:
            return self._patience.ask(work)
        except (StorageSilent, OSError):
            return otherwise

    def _needed(self, work: Callable[[], _T]) -> _T:
        try:
            return self._patience.ask(work, patience_s=12 * PATIENCE_S)
        except StorageSilent as error:
            raise RunDirUnusable(self._where, error.message) from error


class PatientOutput:
    """ports.OutputTail and the size of the job's output."""

    def __init__(self, output: OutputTail, patience: Patience) -> None:
        self._output = output
        self._patience = patience

    def begin(self) -> None:
        self._or(None, self._output.begin)

    def follow(self, file: WrittenFile) -> None:
        self._or(None, lambda: self._output.follow(file))

    def read(self, path: str) -> str:
        return self._or("", lambda: self._output.read(path))

    def size(self, path: str) -> int | None:
        return self._or(None, lambda: self._output.size(path))

    def _or(self, otherwise: _T, work: Callable[[], _T]) -> _T:
        try:
            return self._patience.ask(work)
        except (StorageSilent, OSError):
            return otherwise


class PatientRunOutput:
    """ports.RunOutput."""

    def __init__(self, output: RunOutput, patience: Patience) -> None:
        self._output = output
        self._patience = patience

    def begin(self, paths: Sequence[str]) -> None:
        try:
            self._patience.ask(lambda: self._output.begin(paths))
        except StorageSilent:
            return

    def follow(self, file: WrittenFile) -> None:
        with suppress(StorageSilent):
            self._patience.ask(lambda: self._output.follow(file))

    def read(self, paths: Sequence[str]) -> tuple[list[str], bool]:
        try:
            return self._patience.ask(lambda: self._output.read(paths))
        except StorageSilent:
            return [], False
