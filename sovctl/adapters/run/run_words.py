"""The last events of users' runs, read by a child that has taken on the rights of each run's owner.

So a link or a directory of a user's making leads root nowhere the user could not go, and storage that hangs holds up a
child and not the watch. Only the newest 64 KiB are read, of a regular file that belongs to the owner, and only when
they changed.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sovctl.adapters.forked import Nursery
from sovctl.model.watched_run import WatchedRun

LARGEST = 64 * 1024
_DEADLINE_S = 2.0
_PENALTY_S = 300.0
"""A record that could not be read in time is left alone for so long."""
_KINDS = frozenset({"attempt_ended", "detected", "restarted", "straggler"})
_FIELDS = ("seq", "at", "kind", "culprit", "blamed", "suspects", "nodes", "node", "evidence", "lingering")
_MOST_EVENTS = 50
_LONGEST_EVIDENCE = 500
_Version = tuple[int, int, int]


class RunRecordWords:
    """ports.RunWords."""

    def __init__(self) -> None:
        self._nursery = Nursery()
        self._seen: dict[str, _Version] = {}
        self._left_alone: dict[str, float] = {}

    def read(self, runs: Sequence[WatchedRun]) -> Mapping[str, list[dict[str, Any]]]:
        now = time.monotonic()
        self._left_alone = {job_id: until for job_id, until in self._left_alone.items() if until > now}
        self._seen = {run.job_id: self._seen[run.job_id] for run in runs if run.job_id in self._seen}
        wanted = [run for run in runs if run.job_id not in self._left_alone]
        if not wanted:
            return {}
        child = self._nursery.start(lambda: _read_all(wanted, self._seen), _DEADLINE_S)
        try:
            ended = child.receive(_DEADLINE_S)
            messages = child.messages()
        finally:
            self._nursery.end(child)
        if not ended and messages:
            # The last one it began with is the one that hangs.
            self._left_alone[str(messages[-1].get("begin", ""))] = now + _PENALTY_S
        found: dict[str, list[dict[str, Any]]] = {}
        for message in messages:
            if "events" in message:
                job_id = message["job"]
                self._seen[job_id] = tuple(message["version"])
                found[job_id] = message["events"]
        return found


def _read_all(runs: Sequence[WatchedRun], seen: Mapping[str, _Version]) -> Iterator[dict[str, Any]]:
    """In the child: one message before each file and one after it, where it changed."""
    for run in runs:
        yield {"begin": run.job_id}
        try:
            answer = _read_as_owner(run, seen.get(run.job_id))
        except Exception:
            # Whatever one user's file does to the reader, the others are read.
            continue
        if answer is not None:
            yield {"job": run.job_id, "version": answer[0], "events": answer[1]}


def _read_as_owner(run: WatchedRun, seen: _Version | None) -> tuple[_Version, list[dict[str, Any]]] | None:
    path = Path(run.run_dir) / "events.jsonl"
    if os.getuid() != 0:
        return _read(path, run.uid, seen)
    become(run.uid, run.gid, [run.gid])
    try:
        return _read(path, run.uid, seen)
    except PermissionError:
        # A project's directory, open to one of the owner's other groups; who they are may take a name service to tell.
        os.seteuid(0)
        become(run.uid, run.gid, os.getgrouplist(pwd.getpwuid(run.uid).pw_name, run.gid))
        return _read(path, run.uid, seen)


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Take on a user's rights, in a child of root's."""
    os.seteuid(0)
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)


def _read(path: Path, uid: int, seen: _Version | None) -> tuple[_Version, list[dict[str, Any]]] | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != uid:
            return None
        version = (status.st_ino, status.st_size, status.st_mtime_ns)
        if version == seen:
            return None
        data = os.pread(descriptor, LARGEST, max(0, status.st_size - LARGEST))
    finally:
        os.close(descriptor)
    events = [event for line in data.split(b"\n") if (event := _event(line)) is not None]
    return version, events[-_MOST_EVENTS:]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str) or event["kind"] not in _KINDS:
        return None
    kept = {key: event[key] for key in _FIELDS if key in event}
    if isinstance(kept.get("evidence"), str):
        kept["evidence"] = kept["evidence"][:_LONGEST_EVIDENCE]
    return kept
