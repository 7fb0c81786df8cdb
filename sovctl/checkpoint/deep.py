"""Every byte of a checkpoint, read once: checksums of its files, and those that its archives carry themselves."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import PurePath

from sovctl.checkpoint.complete import sha256_of_open
from sovctl.checkpoint.tree import Tree

_ARCHIVES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl"})


def digests(tree: Tree) -> dict[str, str]:
    """SHA-256 of every file, in hex. Raises OSError."""
    found = {}
    for name in sorted(tree.files):
        with tree.open(name) as file_fd:
            found[name] = sha256_of_open(file_fd)
    return found


def archive_problem(tree: Tree) -> str:
    """The first file of torch.save with a piece that does not match its own CRC-32; empty when all do.

    Raises OSError.
    """
    for name in sorted(tree.files):
        if PurePath(name).suffix in _ARCHIVES and tree.read(name, 4) == b"PK\x03\x04":
            why = _zip_problem(tree, name)
            if why:
                return why
    return ""


def changed(digests_now: Mapping[str, str], recorded: Mapping[str, str]) -> str:
    """The first file whose content is not the recorded one; empty when all are."""
    wrong = sorted(name for name, digest in recorded.items() if digests_now.get(name) != digest)
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"{wrong[0]} does not match its checksum{more}" if wrong else ""


def _zip_problem(tree: Tree, name: str) -> str:
    with tree.open(name) as file_fd, open(file_fd, "rb", closefd=False) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                wrong = archive.testzip()
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            return f"{name} is damaged: it cannot be read to its end"
    return f"{name} is damaged: its piece {PurePath(wrong).name} does not match its own checksum" if wrong else ""
