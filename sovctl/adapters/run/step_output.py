"""Where the sruns of a script write: a script may send their words elsewhere than its own go (`srun ... &> train.log`).

Read from /proc alone: the files themselves may lie on storage that hangs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sovctl.ports.supervised import WrittenFile

_MOST_PROCESSES = 256
_MOST_DESCRIPTORS = 64
_MOST_FILES = 8
_NOWHERE = ("/dev/", "/proc/", "/sys/", "/memfd:")


def written_by_sruns(pid: int, proc: Path = Path("/proc")) -> tuple[WrittenFile, ...]:
    """Files to which the sruns below this process write now, also by `srun --output`; a few at most."""
    found: dict[str, WrittenFile] = {}
    for process in _below(pid, proc):
        if _text(proc / f"{process}/comm").strip() == "srun":
            for file in _files(process, proc):
                found.setdefault(file.path, file)
    return tuple(found.values())[:_MOST_FILES]


def _below(pid: int, proc: Path) -> Iterator[int]:
    waiting, seen = [pid], 0
    while waiting and seen < _MOST_PROCESSES:
        process, seen = waiting.pop(0), seen + 1
        yield process
        with suppress(OSError):
            for thread in os.listdir(proc / f"{process}/task"):
                waiting += [int(word) for word in _text(proc / f"{process}/task/{thread}/children").split()]


def _files(pid: int, proc: Path) -> Iterator[WrittenFile]:
    with suppress(OSError):
        for name in sorted(os.listdir(proc / f"{pid}/fd"), key=int)[:_MOST_DESCRIPTORS]:
            with suppress(OSError):
                path = os.readlink(proc / f"{pid}/fd/{name}")
                flags = _flags(_text(proc / f"{pid}/fdinfo/{name}"))
                ours = path.startswith("/") and not path.startswith(_NOWHERE) and not path.endswith(" (deleted)")
                if ours and flags & os.O_ACCMODE != os.O_RDONLY:
                    yield WrittenFile(path, bool(flags & os.O_APPEND))


def _flags(text: str) -> int:
    word = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("flags:")), "")
    try:
        return int(word, 8)
    except ValueError:
        return 0


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8", "replace")
    except OSError:
        return ""
