"""OCI bundles of runs, for Slurm's own containers: the image unpacked once on the shared file system."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.node_roots import NodeRoots
from sovctl.adapters.run_files import write_atomically
from sovctl.errors import SovctlError


class OciBundles:
    """Implements `ports.Bundles`."""

    def __init__(self, roots: NodeRoots, say: Callable[[str], None]) -> None:
        """`roots`: on a file system that every node sees."""
        self._roots = roots
        self._say = say
        self._locks: list[int] = []

    def is_directory(self, path: str) -> bool:
        """Whether it is one, and this user may look."""
        with suppress(OSError):
            return Path(path).is_dir()
        return False

    def make(self, run_dir: str, image: str, config: Mapping[str, Any]) -> str:
        """`<run_dir>/bundle`; the image in it stays unpacked for as long as this process lives."""
        root = image
        if not self.is_directory(image):
            root, lock = self._roots.unpacked(image, 0, self._say)
            self._locks.append(lock)
        bundle = Path(run_dir, "bundle")
        try:
            bundle.mkdir(parents=True, exist_ok=True)
            link = bundle / "rootfs"
            link.unlink(missing_ok=True)
            link.symlink_to(root)
            write_atomically(bundle / "config.json", json.dumps(config, indent=1).encode())
        except OSError as error:
            raise SovctlError(f"cannot make {bundle}: {error.strerror}", hint="Is its disk full?") from error
        return str(bundle)
