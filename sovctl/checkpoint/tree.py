"""One checkpoint on disk as a flat list of files, looked at without following a single link.

Whoever looks may be root and whoever wrote it any user: every open is relative to the directory above it with
O_NOFOLLOW, depth and number of files are bounded, and reads are as long as the caller says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sovctl.checkpoint.passing import is_passing

MOST_FILES = 500_000
DEEPEST = 8
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(NamedTuple):
    """A regular file."""

    size: int
    """Bytes."""
    modified_ns: int
    """By the clock of the file system (on some, of the node that wrote it)."""


class TreeTooLarge(ValueError):
    """More files, or deeper, than any checkpoint has; the text is a clause."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of one checkpoint. Names are relative to `base`, with `/` between."""

    base: Path
    files: dict[str, Entry]
    odd: dict[str, str] = field(default_factory=dict)
    """Name -> what it is, of everything that is neither a regular file nor a directory."""
    touched_ns: int = 0
    """Newest change of a file or a directory."""
    base_may_be_link: bool = False
    """Whether `base` is the directory of checkpoints rather than one of them."""

    def read(self, name: str, limit: int, offset: int = 0) -> bytes:
        """At most `limit` bytes from `offset`; a negative offset counts from the end. Raises OSError."""
        with self.open(name) as file_fd:
            at = offset if offset >= 0 else max(os.fstat(file_fd).st_size + offset, 0)
            return os.pread(file_fd, limit, at)

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """A descriptor of one regular file, no link followed on the way. Raises OSError."""
        *parents, leaf = name.split("/")
        above = open_directory(self.base, may_be_link=self.base_may_be_link)
        try:
            for part in parents:
                below = os.open(part, _DIRECTORY, dir_fd=above)
                os.close(above)
                above = below
            file_fd = os.open(leaf, _FILE, dir_fd=above)
        finally:
            os.close(above)
        try:
            if not stat.S_ISREG(os.fstat(file_fd).st_mode):
                raise OSError(f"{name} is not a regular file")
            yield file_fd
        finally:
            os.close(file_fd)


def open_directory(path: Path, *, may_be_link: bool = False) -> int:
    """A descriptor of it. The directory of checkpoints may be a link, such as `checkpoints -> /scratch/me`: its user
    named it. What lies in it may not. Raises OSError."""
    return os.open(path, _DIRECTORY & ~os.O_NOFOLLOW if may_be_link else _DIRECTORY)


def read_tree(directory: Path) -> Tree:
    """Everything below a checkpoint directory. Raises OSError, TreeTooLarge."""
    directory_fd = open_directory(directory)
    tree = _Growing()
    _walk(directory_fd, "", 0, tree)
    return Tree(directory, tree.files, tree.odd, tree.touched_ns)


def top_names(directory: Path) -> frozenset[str]:
    """The names right inside a directory, a link not followed; empty of what is none or may not be read.

    Raises OSError when the storage fails.
    """
    try:
        directory_fd = open_directory(directory)
    except OSError as error:
        if is_passing(error):
            raise
        return frozenset()
    try:
        return frozenset(os.listdir(directory_fd))
    finally:
        os.close(directory_fd)


def file_tree(base: Path, names: list[str]) -> Tree:
    """The same of single files in, or in directories below, the directory of checkpoints; what is not there is left
    out. Raises OSError, TreeTooLarge."""
    tree = _Growing()
    for name in names:
        path = base / name
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue
        tree.take(name, found)
    return Tree(base, tree.files, tree.odd, tree.touched_ns, base_may_be_link=True)


class _Growing:
    def __init__(self) -> None:
        self.files: dict[str, Entry] = {}
        self.odd: dict[str, str] = {}
        self.touched_ns = 0

    def take(self, name: str, found: os.stat_result) -> None:
        if stat.S_ISREG(found.st_mode):
            self.files[name] = Entry(found.st_size, found.st_mtime_ns)
            self.touched_ns = max(self.touched_ns, found.st_mtime_ns)
        else:
            self.odd[name] = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "neither a file nor a directory"
        if len(self.files) + len(self.odd) > MOST_FILES:
            raise TreeTooLarge(f"it has more than {MOST_FILES} files")


def _walk(directory_fd: int, prefix: str, depth: int, tree: _Growing) -> None:
    """Takes over the descriptor."""
    try:
        tree.touched_ns = max(tree.touched_ns, os.fstat(directory_fd).st_mtime_ns)
        with os.scandir(directory_fd) as entries:
            for entry in entries:
                name = prefix + entry.name
                if not entry.is_dir(follow_symlinks=False):
                    tree.take(name, entry.stat(follow_symlinks=False))
                elif depth == DEEPEST:
                    raise TreeTooLarge(f"its directories are more than {DEEPEST} deep")
                else:
                    _walk(os.open(entry.name, _DIRECTORY, dir_fd=directory_fd), f"{name}/", depth + 1, tree)
    finally:
        os.close(directory_fd)
