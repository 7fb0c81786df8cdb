"""The first tier of checkpoints: a directory of one node, on a local disk or in memory.

`<directory>/<run>/<node>/step-<N>` holds what the ranks of that node need to go on as they are, in the layout and with
the mark of a checkpoint on shared storage (without checksums), as if the ranks of the node had been alone. It is worth
something as long as the node lives and every rank comes back to where it was; otherwise the shared tier counts.
"""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.checkpoint import commit
from sovctl.checkpoint.find import candidates, scan
from sovctl.checkpoint.mark import Mark
from sovctl.model.checkpoint import CheckpointState
from sovctl.train.staging import Staged
from sovctl.train.writer import FileFacts, RankWriter

if TYPE_CHECKING:
    from sovctl.train.layout import Share


class LocalTier:
    """What one rank does with the tier of its node."""

    def __init__(self, directory: Path, run: str, nodes: list[str], rank: int, *, keep: int) -> None:
        """`nodes`: the node of each rank. Raises OSError when the directory cannot be made or trusted."""
        self.nodes = nodes
        self.ranks = [other for other, node in enumerate(nodes) if node == nodes[rank]]
        self.is_leader = self.ranks[0] == rank
        self.path = directory / _plain(run) / _plain(nodes[rank])
        self._place = self.ranks.index(rank)
        self._keep = keep
        _make_private(self.path)

    def begin(self, step: int, attempt: int, *, replace: bool = False) -> None:
        """The node's first rank makes the directory to write into. `replace`: what is there of this step is of no use,
        and no room for two. Raises OSError."""
        if self.is_leader and replace:
            commit.discard(commit.final_path(self.path, step))
        if self.is_leader:
            commit.begin(self.path, step, attempt)

    def write(self, step: int, attempt: int, share: Share, staged: Staged) -> FileFacts:
        """Write this rank's part; returns its files. Raises OSError, and what torch raises instead of it."""
        writer = RankWriter(commit.temporary_path(self.path, step, attempt), self._place, checksums=False)
        results = writer.write(share.node, staged)
        writer.write_bytes(f"index-{self._place}.pickle", pickle.dumps(results))
        if self.is_leader:
            if share.metadata is None:
                raise RuntimeError("the first rank of a node got no metadata")
            writer.write_metadata(share.metadata, [results])
            writer.write_bytes("node.json", json.dumps({"ranks": self.ranks, "nodes": self.nodes}).encode())
        return writer.facts()

    def commit(self, mark: Mark) -> None:
        """The node's first rank renames it into its place and lets older ones go. Raises OSError."""
        if self.is_leader:
            commit.commit(commit.temporary_path(self.path, mark.step, mark.attempt), self.path, mark)
            commit.sweep(self.path, mark.attempt)
            commit.retire(self.path, mark.step, self._keep)

    def discard(self, step: int, attempt: int) -> None:
        """Drop what could not be written, so that the disk gets its space back. Never raises."""
        if self.is_leader:
            commit.discard(commit.temporary_path(self.path, step, attempt))

    def complete(self) -> dict[int, float]:
        """Step -> when it was saved, of what is complete on this node. The time tells two saves of a step apart."""
        return {one.step: one.saved_at for one in scan(self.path) if one.state is CheckpointState.COMPLETE}

    def metadata(self, path: Path, reader: Any) -> Any:
        """What torch needs to load from `path`: where everything lies that this node has."""
        metadata = reader.read_metadata()
        for name in sorted(path.glob("index-*.pickle")):
            results = pickle.loads(name.read_bytes())
            metadata.storage_data.update({result.index: result.storage_data for result in results})
        return metadata

    def clear(self) -> None:
        """The run is over: the memory or disk goes back. Never raises."""
        if not self.is_leader:
            return
        for _, path in candidates(self.path):
            commit.discard(path)
        for directory in (self.path, self.path.parent):
            try:
                directory.rmdir()
            except OSError:
                return


def _plain(name: str) -> str:
    """A name as one part of a path."""
    return name.replace("/", "_").replace("\0", "_").lstrip(".") or "run"


def _make_private(path: Path) -> None:
    """Make `<run>/<node>`, for nobody else. What is loaded from there is unpickled, and the directory above may be
    everybody's, such as /dev/shm: one that somebody else made, or can write to, is refused. Raises OSError."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    for directory in (path.parent, path):
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{directory} belongs to somebody else or can be written by others")
