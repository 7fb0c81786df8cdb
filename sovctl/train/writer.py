"""Writes one rank's files of a checkpoint: synced to the storage, with the checksum of each taken on the way."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.train.staging import Staged

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.checkpoint.planner import SavePlan

FileFacts = dict[str, tuple[int, str]]
"""File name -> (bytes, SHA-256 in hex or empty)."""

_NO_SPACE_BYTES = 16 << 20
_TORCH_WRITE_FAILURES = ("PytorchStreamWriter failed", "unexpected pos", "file write failed")


class RankWriter:
    """Writes into one directory, as one rank of it. Raises OSError, and what torch raises instead of it."""

    def __init__(self, directory: Path, rank: int, *, checksums: bool) -> None:
        """`rank` names the files."""
        from torch.distributed.checkpoint.filesystem import FileSystemWriter

        self._directory = directory
        self._rank = rank
        self._writer = FileSystemWriter(
            directory, single_file_per_rank=True, sync_files=True, thread_count=1, per_thread_copy_ahead=0
        )
        self._system = _hashing_file_system(checksums)
        self._writer.fs = self._system

    def write(self, plan: SavePlan, staged: Staged) -> list[Any]:
        """Write this rank's file; returns torch's record of what lies where in it."""
        from torch.distributed.checkpoint.planner import SavePlan

        named = self._writer.prepare_global_plan([SavePlan([])] * self._rank + [plan])[self._rank]
        results: list[Any] = self._writer.write_data(named, staged).wait()  # type: ignore[arg-type]
        return results

    def write_metadata(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """Write `.metadata`, which says where everything lies. `metadata` itself stays as it is."""
        self._writer.finish(replace(metadata), results)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one more file."""
        with self._system.create_stream(self._directory / name, "wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())

    def facts(self) -> FileFacts:
        """What was written, by the names the files have now: this rank's own view is right where others' caches lag."""
        return {
            name: (size, digest) for name, (size, digest) in self._system.facts.items() if not name.endswith(".tmp")
        }


def storage_words(error: BaseException, directory: Path) -> str:
    """What went wrong, in one clause: the storage's own words where it is the storage's fault."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _TORCH_WRITE_FAILURES):
        # torch's zip writer swallows the system's error and complains about a short file instead
        full = _free_bytes(directory) < _NO_SPACE_BYTES
        return os.strerror(errno.ENOSPC) if full else "a file could not be written in full (a quota or a limit?)"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no words'}"


def problem_of(action: Callable[[], object], directory: Path) -> str:
    """Do it; returns why it could not be done. Nothing but the end of the process gets through."""
    try:
        action()
    except Exception as error:
        return storage_words(error, directory)
    return ""


def _free_bytes(directory: Path) -> int:
    for place in (directory, *directory.parents):
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        return found.f_bavail * found.f_frsize
    return 0


class _HashingStream(io.RawIOBase):
    """Passes on what is written, in order, and takes its checksum."""

    def __init__(self, raw: Any, digest: Any) -> None:
        self._raw, self._digest, self.written = raw, digest, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written: int = self._raw.write(data)
        if self._digest is not None:
            self._digest.update(data)
        self.written += written
        return written

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        if not self._raw.closed:
            self._raw.flush()

    def fileno(self) -> int:
        self._raw.flush()
        number: int = self._raw.fileno()
        return number

    def close(self) -> None:
        self._raw.close()
        super().close()


def _hashing_file_system(checksums: bool) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystem

    class HashingFileSystem(FileSystem):
        """Remembers size and checksum of each file it wrote, and follows a rename."""

        def __init__(self) -> None:
            self.facts: FileFacts = {}

        @contextmanager
        def create_stream(self, path: Any, mode: str) -> Generator[Any, None, None]:
            if mode != "wb":
                with super().create_stream(path, mode) as plain:
                    yield plain
                return
            digest = hashlib.sha256() if checksums else None
            with open(path, mode) as raw:
                stream = _HashingStream(raw, digest)
                yield stream
                stream.flush()
            self.facts[Path(path).name] = (stream.written, digest.hexdigest() if digest else "")

        def rename(self, path: Any, new_path: Any) -> None:
            super().rename(path, new_path)
            if Path(path).name in self.facts:
                self.facts[Path(new_path).name] = self.facts.pop(Path(path).name)

    return HashingFileSystem()
