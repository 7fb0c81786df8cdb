"""Reads everything of the host but the GPUs: all sources one after the other in one child, each mount in its own.

A source that blocks costs its own deadline and no more: the child that hangs in it is left behind, and another goes on
with the next source. So a healthy node pays for one fork, and a stuck file server keeps nobody from seeing the rest.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from sovctl.adapters.forked import Forked, Nursery
from sovctl.adapters.node import clock_state, procfs, remains, sysfs
from sovctl.model.host import (
    ClockSample,
    ContainerSample,
    EdacSample,
    EthernetSample,
    FirmwareSample,
    HostFacts,
    MountAnswer,
    MountSample,
    NfsSample,
    Outcome,
    PortSample,
    ProcessSample,
    RamSample,
    RasSample,
    ServiceSample,
    SharedFile,
    SourceReading,
)

_MOST_MOUNTS = 32
_WRITE_DIR = ".sovctl-probe"
"""Where a mount has this directory, and it is ours, one small file is written and synced there at each look."""

Read = Callable[[str], tuple[Any, ...]]
_SOURCES: dict[str, tuple[str, Read, Callable[..., Any]]] = {
    "infiniband": ("ports", sysfs.infiniband, PortSample),
    "ethernet": ("ethernets", sysfs.ethernet, EthernetSample),
    "edac": ("edac", sysfs.edac, EdacSample),
    "mounts": ("mounts", procfs.mounts, MountSample),
    "nfs": ("nfs", procfs.nfs, NfsSample),
    "ram": ("ram", procfs.ram, RamSample),
    "services": ("services", procfs.services, ServiceSample),
    "clock": ("clock", clock_state.clock, ClockSample),
    "processes": ("processes", procfs.processes, ProcessSample),
    "shared": ("shared", procfs.shared_files, SharedFile),
    "containers": ("containers", remains.containers, ContainerSample),
    "firmware": ("firmware", remains.firmware, FirmwareSample),
    "ras": ("ras", remains.ras, RasSample),
}
"""By name: the field of HostFacts, how it is read, what one sample is."""


class HostFiles:
    """`HostProbe` on /sys and /proc below `root`."""

    def __init__(self, root: str = "/", timeout_s: float = 2.0, extra: Mapping[str, Read] | None = None) -> None:
        """`timeout_s`: of each source. `extra`: sources read instead of those of the same name."""
        self._root = root.rstrip("/")
        self._timeout_s = timeout_s
        self._reads = {name: read for name, (_, read, _) in _SOURCES.items()} | dict(extra or {})
        self._nursery = Nursery()
        self._lanes: list[_Lane] = []
        self._with_answers = False

    def read(self, sources: frozenset[str]) -> HostFacts:
        """Ask all of `sources` and wait for them; what fails or hangs is told in `readings`."""
        self.begin(sources)
        facts = None
        while facts is None:
            facts = self.collect(self._timeout_s)
        return facts

    def begin(self, sources: frozenset[str]) -> None:
        """Start asking; what an earlier start has not told yet is dropped."""
        for lane in self._lanes:
            if lane.child is not None:
                self._nursery.end(lane.child)
        paths = self._mount_paths() if "answers" in sources else []
        lanes = [_Lane([name for name in _SOURCES if name in sources], self._ask_sources)]
        lanes += [_Lane([f"mount:{path}"], self._ask_mount) for path in paths]
        self._lanes = [lane for lane in lanes if lane.todo]
        self._with_answers = "answers" in sources
        for lane in self._lanes:
            self._start(lane)

    def collect(self, wait_s: float) -> HostFacts | None:
        """What `begin` asked for; None while it goes on after `wait_s` seconds."""
        until = time.monotonic() + wait_s
        while running := [lane for lane in self._lanes if lane.child is not None]:
            self._wait(running, until)
            if time.monotonic() >= until and any(lane.child is not None for lane in running):
                return None
        facts = _facts([message for lane in self._lanes for message in lane.messages])
        return _with_answers(facts) if self._with_answers else facts

    def _mount_paths(self) -> list[str]:
        """mountinfo itself never blocks: the kernel tells it from memory."""
        with suppress(OSError, ValueError):
            return [mount.path for mount in procfs.mounts(self._root)][:_MOST_MOUNTS]
        return []

    def _start(self, lane: _Lane) -> None:
        lane.child = self._nursery.start(lambda: lane.ask(lane.todo), self._timeout_s)
        lane.started = time.monotonic()

    def _wait(self, lanes: list[_Lane], longest: float) -> None:
        poller = select.poll()
        by_pipe = {}
        for lane in lanes:
            assert lane.child is not None
            by_pipe[lane.child.pipe] = lane
            poller.register(lane.child.pipe, select.POLLIN | select.POLLHUP)
        until = min(longest, *(lane.child.deadline for lane in lanes if lane.child))
        for pipe, _ in poller.poll(max(0, int((until - time.monotonic()) * 1000) + 1)):
            self._receive(by_pipe[pipe])
        for lane in lanes:
            if lane.child is not None and lane.child.overdue:
                self._give_up(lane)

    def _receive(self, lane: _Lane) -> None:
        child = lane.child
        assert child is not None
        before = len(child.messages())
        child.take()
        if len(child.messages()) > before:
            # The deadline is each source's own.
            child.deadline = time.monotonic() + self._timeout_s
        if child.ended:
            self._settle(lane, child)
            if lane.todo:
                name = lane.todo.pop(0)
                lane.messages.append({"source": name, "error": "the reader died"})
                if lane.todo:
                    self._start(lane)

    def _give_up(self, lane: _Lane) -> None:
        """The source at work hangs: name it, leave the child behind, go on with the next."""
        child = lane.child
        assert child is not None
        self._settle(lane, child)
        if lane.todo:
            lane.messages.append({"source": lane.todo.pop(0), "hung": True, "ms": self._timeout_s * 1000})
        if lane.todo:
            self._start(lane)

    def _settle(self, lane: _Lane, child: Forked) -> None:
        lane.child = None
        self._nursery.end(child)
        told = [message for message in child.messages() if "source" in message]
        lane.messages += told
        done = {message["source"] for message in told}
        lane.todo = [name for name in lane.todo if name not in done]

    def _ask_sources(self, names: list[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            began = time.perf_counter()
            message: dict[str, Any] = {"source": name}
            try:
                message["samples"] = [asdict(sample) for sample in self._reads[name](self._root)]
            except Exception as error:
                message["error"] = f"{type(error).__name__}: {error}"
            yield message | {"ms": (time.perf_counter() - began) * 1000}

    def _ask_mount(self, names: list[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            path = name.removeprefix("mount:")
            began = time.perf_counter()
            answer: dict[str, Any] = {"path": path}
            try:
                answer |= _fullness(self._root + path)
                _write_probe(self._root + path)
            except OSError as error:
                answer["error"] = error.strerror or str(error)
            elapsed_ms = (time.perf_counter() - began) * 1000
            yield {"source": name, "samples": [answer | {"answer_ms": elapsed_ms}], "ms": elapsed_ms}


class _Lane:
    """Sources that are read one after the other."""

    def __init__(self, todo: list[str], ask: Callable[[list[str]], Iterator[dict[str, Any]]]) -> None:
        self.todo = todo
        self.ask = ask
        self.child: Forked | None = None
        self.started = 0.0
        self.messages: list[dict[str, Any]] = []


def _facts(messages: list[dict[str, Any]]) -> HostFacts:
    fields: dict[str, Any] = {}
    answers: list[MountAnswer] = []
    readings = []
    for message in messages:
        name, samples = message["source"], message.get("samples")
        readings.append(_reading(message))
        if samples is None:
            continue
        if name.startswith("mount:"):
            answers += [MountAnswer(**sample) for sample in samples]
        else:
            field, _, kind = _SOURCES[name]
            fields[field] = tuple(kind(**sample) for sample in samples)
    return HostFacts(**fields, answers=tuple(answers) if answers else None, readings=tuple(readings))


def _reading(message: dict[str, Any]) -> SourceReading:
    cost_ms = float(message.get("ms", 0.0))
    if message.get("hung"):
        return SourceReading(message["source"], Outcome.HUNG, cost_ms)
    if "error" in message:
        return SourceReading(message["source"], Outcome.FAILED, cost_ms, str(message["error"])[:200])
    return SourceReading(message["source"], Outcome.SEEN if message["samples"] else Outcome.ABSENT, cost_ms)


def _with_answers(facts: HostFacts) -> HostFacts:
    """All mounts together count as one source; the stuck ones stay named by their own readings."""
    costs = [reading.cost_ms for reading in facts.readings if reading.source.startswith("mount:")]
    outcome = Outcome.SEEN if costs else Outcome.ABSENT
    whole = SourceReading("answers", outcome, max(costs, default=0.0))
    kept = {name: getattr(facts, name) for name in HostFacts.__dataclass_fields__}
    return HostFacts(**{**kept, "answers": facts.answers or (), "readings": (*facts.readings, whole)})


def _fullness(path: str) -> dict[str, float]:
    """As df counts: what root alone may use is not free."""
    space = os.statvfs(path)
    result = {}
    used, free = space.f_blocks - space.f_bfree, space.f_bavail
    if used + free > 0:
        result["used_percent"] = 100.0 * used / (used + free)
    if space.f_files > 0:
        result["inodes_used_percent"] = 100.0 * (space.f_files - space.f_ffree) / space.f_files
    return result


def _write_probe(path: str) -> None:
    """Only where a site has made the directory for it; whoever else owns it could lead us elsewhere."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        directory = os.open(f"{path}/{_WRITE_DIR}", flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise
    try:
        if os.fstat(directory).st_uid != os.geteuid():
            return
        name = f"{os.uname().nodename}.{os.getpid()}"
        written = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
        try:
            os.write(written, b"sovctl\n")
            os.fsync(written)
        finally:
            os.close(written)
            os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
