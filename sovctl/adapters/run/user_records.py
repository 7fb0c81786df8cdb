"""Records of other users' runs, for root's report: read by a child that has taken on the rights of their owner.

A link or a directory of a user's making leads the child nowhere the user could not go; only regular files of that user
count; storage that hangs holds up the child, which is left behind. Each user has a share of his own: whoever fills it
with nonsense loses his own older runs and nobody else's.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import stat
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sovctl.adapters.forked import Forked, Messages, Nursery
from sovctl.adapters.journal import newest_part, whole_records
from sovctl.adapters.run.run_files import RunDirectory
from sovctl.adapters.run.run_records import looks_like_run
from sovctl.adapters.run.run_words import become
from sovctl.model.user_run import UserRun

_ALL_USERS_S = 3600.0
_PIPE_BYTES = 1 << 20
_NOBODY = 65534
_MOST_ENTRIES = 100_000
"""Looked at in one directory."""
_HEAD = ("run_id", "cluster", "job_id", "user", "name")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Share:
    """What is read of one user at most, and how long his storage is waited for."""

    runs: int = 10_000
    record_bytes: int = 16 << 20
    """Of one run's events; of more the newest part."""
    all_bytes: int = 128 << 20
    silent_s: float = 10.0
    waited_s: float = 60.0
    """In all."""


class UserRecordFiles:
    """Implements ports.UserRecords."""

    def __init__(self, share: Share | None = None) -> None:
        self._share = share or Share()
        self._nursery = Nursery()

    def read(self, places: Mapping[int, Sequence[str]], note: Callable[[str], None]) -> Iterator[UserRun]:
        """The runs right below these directories by uid, of each user the newest first. `note` hears in words what was
        left out."""
        users = list(places)
        while users:
            child = self._nursery.start(partial(_read_all, users, places, self._share), _ALL_USERS_S)
            try:
                stuck = yield from self._follow(child, note)
            finally:
                self._nursery.end(child)
            if stuck is None:
                return
            note(f"records of {_name(stuck)} were left out: their storage gives no answer")
            users = users[users.index(stuck) + 1 :]

    def _follow(self, child: Forked, note: Callable[[str], None]) -> Generator[UserRun, None, int | None]:
        """Ends with the user whose storage hangs; None: all were read."""
        with suppress(OSError):
            fcntl.fcntl(child.pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        uid, waited_s = None, 0.0
        while True:
            began = time.monotonic()
            told = _message(child, min(self._share.silent_s, self._share.waited_s - waited_s))
            waited_s += time.monotonic() - began
            if told is None:
                if uid is None:
                    note("records of users were left out: their reader ended before it began")
                return uid
            message, events = told
            if "begin" in message:
                uid, waited_s = int(message["begin"]), 0.0
            elif "end" in message:
                return None
            elif "left" in message:
                note(f"{message['left']} runs of {_name(uid)} were left out: more than is read of one user")
            elif uid is not None:
                yield UserRun(uid, message["run_dir"], message["record"], tuple(whole_records(events)))


def _message(child: Forked, wait_s: float) -> tuple[dict[str, Any], bytes] | None:
    """The next one, and the text of a journal that goes with it; None: it did not come, or the child is gone."""
    while b"\n" not in child.data:
        if not _more(child, wait_s):
            return None
    line, _, rest = child.data.partition(b"\n")
    message: dict[str, Any] = json.loads(line)
    left = int(message.get("bytes", 0)) - len(rest)
    pieces = [rest]
    while left > 0:
        child.data = b""
        if not _more(child, wait_s):
            return None
        pieces.append(child.data)
        left -= len(child.data)
    text = b"".join(pieces)
    child.data = text[len(text) + left :] if left < 0 else b""
    return message, text[: len(text) + left] if left < 0 else text


def _more(child: Forked, wait_s: float) -> bool:
    return not child.ended and child.receive_some(wait_s) and not child.ended


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid if uid is not None else _NOBODY).pw_name
    except KeyError:
        return f"uid {uid}"


# In the child


def _read_all(users: Sequence[int], places: Mapping[int, Sequence[str]], share: Share) -> Messages:
    for uid in users:
        yield {"begin": uid}
        # Whatever one user's files do to the reader, the others are read.
        with suppress(Exception):
            yield from _read_user(uid, places[uid], share)
    yield {"end": True}


def _read_user(uid: int, roots: Sequence[str], share: Share) -> Messages:
    if os.getuid() == 0:
        _take_on(uid)
    # By inode: two names may lead to one directory.
    seen = {mark: item for root in roots for mark, item in _runs(root, uid)}
    found = sorted(seen.values(), reverse=True)
    left = max(0, len(found) - share.runs)
    room = share.all_bytes
    for _, size, run_dir in found[: share.runs]:
        if room <= 0:
            left += 1
            continue
        room -= min(size, share.record_bytes)
        with suppress(OSError, ValueError):
            text = newest_part(Path(run_dir, "events.jsonl"), share.record_bytes, uid)
            yield {"run_dir": run_dir, "record": _head(run_dir), "bytes": len(text)}
            yield text
    if left:
        yield {"left": left}


def _take_on(uid: int) -> None:
    """With his groups: a project's directory may be open to one of them only."""
    try:
        user = pwd.getpwuid(uid)
        gid, groups = user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid)
    except KeyError:
        gid, groups = _NOBODY, [_NOBODY]
    become(uid, gid, groups)


def _runs(root: str, uid: int) -> Iterator[tuple[tuple[int, int], tuple[float, int, str]]]:
    """By device and inode: when each was last written to, its size, and where it is; only runs whose events are that
    user's own."""
    with suppress(OSError, ValueError), os.scandir(root) as entries:
        for entry in islice(entries, _MOST_ENTRIES):
            if not looks_like_run(entry):
                continue
            with suppress(OSError):
                seen = os.lstat(Path(entry.path, "events.jsonl"))
                if stat.S_ISREG(seen.st_mode) and seen.st_uid == uid:
                    yield (seen.st_dev, seen.st_ino), (seen.st_mtime, seen.st_size, entry.path)


def _head(run_dir: str) -> dict[str, str]:
    record = RunDirectory(Path(run_dir)).record()
    return {key: value[:_LONGEST] for key in _HEAD if isinstance(value := record.get(key), str)}
