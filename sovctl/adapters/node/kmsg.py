"""The kernel log: /dev/kmsg, or a regular file in the same format.

A record is `<priority>,<sequence>,<microseconds>,<flags>;<text>`, followed by ` KEY=value` lines of its own; bytes that
are not printable ASCII arrive as `\\xNN`. Only records of the kernel itself count (facility 0): programs may write
here too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import select
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sovctl.errors import SovctlError
from sovctl.model.gpu import KernelLogRead, XidEvent
from sovctl.model.kernel_line import HINT, KernelNotice, parse_kernel_notice
from sovctl.model.xid_line import parse_kernel_message

_RECORD_SIZE = 16 * 1024
"""Bytes; the kernel refuses a smaller read than the record (EINVAL), and no record is larger than 8 KiB."""
_LARGEST_READ = 16 * 1024 * 1024
"""Bytes of one read; the kernel's ring is 1 MiB at most sites."""
_MOST_EVENTS = 4096
"""A GPU in trouble can repeat one XID by the thousand; the newest are kept."""
_STAT_INTERVAL_S = 0.1
_HEADER = re.compile(rb"(\d{1,6}),(\d{1,19}),(\d{1,19}),[^;]{0,64};(.{0,4096})", re.DOTALL)
_ESCAPED = rb"\\x([0-9a-f]{2})"
_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


class KernelLogUnreadable(SovctlError):
    """Without the kernel log an XID cannot be seen; the node is then blind, not healthy."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(
            f"cannot read the kernel log {path}: {cause}",
            hint="Run as root, or set node.kernel_log; kernel.dmesg_restrict=1 hides it from ordinary users.",
        )


class KernelLogFile:
    """`KernelLog` on /dev/kmsg or a regular file. Keeps the file open between reads, for the watcher."""

    def __init__(self, path: Path, boot_id_file: Path, wake: int = -1) -> None:
        """`wake`: a descriptor that ends `wait` early when it becomes readable (a signal arrived)."""
        self._path = path
        self._wake = wake
        self._boot_id_file = boot_id_file
        self._descriptor = -1
        self._read_up_to = 0
        self._seen: tuple[int, ...] = ()
        self._watch = -1

    def boot_id(self) -> str:
        try:
            return self._boot_id_file.read_text("ascii", "replace")[:64].strip()
        except OSError as error:
            raise SovctlError(
                f"cannot read the boot id {self._boot_id_file}: {error.strerror}",
                hint="Set node.boot_id_file; see: sovctl config show node.boot_id_file",
            ) from error

    def read(self, since_sequence: int) -> KernelLogRead:
        try:
            device = stat.S_ISCHR(self._path.stat().st_mode)
            records = self._device_records(since_sequence) if device else self._file_records()
            return self._collect(records, since_sequence)
        except OSError as error:
            self.close()
            raise KernelLogUnreadable(self._path, error.strerror or str(error)) from error

    def wait(self, timeout_s: float) -> bool:
        """Sleeps in the kernel: poll() on the device, inotify on a file, and stat() where inotify is not to be had."""
        try:
            if self._descriptor >= 0 and stat.S_ISCHR(os.fstat(self._descriptor).st_mode):
                return _readable(self._descriptor, self._wake, timeout_s) == self._descriptor
            return self._wait_for_file(timeout_s)
        except OSError as error:
            raise KernelLogUnreadable(self._path, error.strerror or str(error)) from error

    def close(self) -> None:
        for descriptor in (self._descriptor, self._watch):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._watch = -1

    def _collect(self, records: Iterable[bytes], since: int) -> KernelLogRead:
        events: list[XidEvent] = []
        notices: list[KernelNotice] = []
        next_sequence = since
        for record in records:
            if since and _is_older(record, since):
                continue
            header = _split(record)
            if header is None:
                continue
            facility, sequence, since_boot_s, text = header
            if sequence < since:
                continue
            next_sequence = max(next_sequence, sequence + 1)
            if facility == 0 and (b"NVRM" in text or b"SXid" in text):
                event = parse_kernel_message(_decode(text), sequence=sequence, since_boot_s=since_boot_s)
                if event is not None:
                    events.append(event)
            elif facility == 0 and HINT.search(text):
                notice = parse_kernel_notice(_decode(text), sequence=sequence, since_boot_s=since_boot_s)
                if notice is not None:
                    notices.append(notice)
        self._read_up_to = next_sequence
        return KernelLogRead(tuple(events[-_MOST_EVENTS:]), next_sequence, tuple(notices[-_MOST_EVENTS:]))

    def _device_records(self, since: int) -> Iterator[bytes]:
        if self._descriptor < 0 or since < self._read_up_to:
            # A fresh open starts at the oldest record the kernel still has.
            self.close()
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        left = _LARGEST_READ
        while left > 0:
            try:
                record = os.read(self._descriptor, _RECORD_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:
                    # The ring overran us: the next read continues at the oldest record left.
                    continue
                raise
            if not record:
                return
            left -= len(record)
            yield record

    def _file_records(self) -> Iterator[bytes]:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            self._seen = _signature(status)
            start = max(0, status.st_size - _LARGEST_READ)
            stream.seek(start)
            lines = stream.read(_LARGEST_READ).split(b"\n")
        # A line without its end is still being written, one cut at the start cannot be told from another.
        yield from lines[1 if start else 0 : -1]

    def _wait_for_file(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        if self._watch < 0:
            self._watch = _inotify(self._path.parent)
        while not self._changed():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            ready = _readable(self._watch, self._wake, left if self._watch >= 0 else min(left, _STAT_INTERVAL_S))
            if ready >= 0 and ready == self._watch:
                os.read(self._watch, 64 * 1024)
            elif ready >= 0:
                return False
        return True

    def _changed(self) -> bool:
        try:
            return _signature(self._path.stat()) != self._seen
        except FileNotFoundError:
            return False


def _split(record: bytes) -> tuple[int, int, float, bytes] | None:
    """(facility, sequence, seconds since boot, text), or None for a torn record and for ` KEY=value` lines."""
    match = _HEADER.match(record)
    if match is None:
        return None
    priority, sequence, microseconds, text = match.groups()
    return int(priority) >> 3, int(sequence), int(microseconds) / 1e6, text.partition(b"\n")[0]


def _is_older(record: bytes, since: int) -> bool:
    """Whether it was read before; told without taking it apart, because each prolog reads the whole ring."""
    sequence = record[:28].split(b",", 2)[1:2]
    return bool(sequence) and sequence[0].isdigit() and int(sequence[0]) < since


def _decode(text: bytes) -> str:
    return re.sub(_ESCAPED, lambda match: bytes([int(match[1], 16)]), text).decode("utf-8", "replace")


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _readable(descriptor: int, wake: int, timeout_s: float) -> int:
    """The one of the two that has something to read, -1 when neither has in time. Negative ones are not asked."""
    poller = select.poll()
    for asked in (descriptor, wake):
        if asked >= 0:
            poller.register(asked, select.POLLIN)
    ready = [found for found, _ in poller.poll(max(0, int(timeout_s * 1000) + 1))]
    return descriptor if descriptor in ready else (ready[0] if ready else -1)


def _inotify(directory: Path) -> int:
    """A descriptor that is readable when a file in the directory changes; -1 where the kernel gives none.

    The directory and not the file: the lab and log rotation replace the file.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.inotify_init1(_IN_NONBLOCK_CLOEXEC))
    if descriptor < 0:
        return -1
    mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
    if libc.inotify_add_watch(descriptor, os.fsencode(directory), mask) < 0:
        os.close(descriptor)
        return -1
    return descriptor
