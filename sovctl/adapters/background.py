"""Work that takes seconds, beside a loop that must not stand still."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from sovctl.errors import SovctlError

Answer = TypeVar("Answer")


class InThread(Generic[Answer]):
    """ports.Pending: one piece of work in a daemon thread, so that a hanging name lookup never keeps the process."""

    def __init__(self, work: Callable[[], Answer]) -> None:
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), name="beside", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Answer:
        """The answer, as soon as it is there. Raises SovctlError where the work did."""
        self._thread.join()
        if self._error is not None:
            if isinstance(self._error, SovctlError):
                raise self._error
            raise SovctlError(
                f"{type(self._error).__name__}: {self._error}",
                hint="This is a bug in sovctl; SOVCTL_DEBUG=1 shows where.",
            ) from self._error
        assert self._answer is not None
        return self._answer

    def _run(self, work: Callable[[], Answer]) -> None:
        try:
            self._answer = work()
        except BaseException as error:
            self._error = error
