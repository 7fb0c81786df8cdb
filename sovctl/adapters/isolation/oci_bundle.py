"""OCI bundles of runs, for Slurm's own containers: the image unpacked once on the shared file system.

Slurm 22.05 takes `rootfs` beside `config.json` and nothing else (container.c), and runc refuses a link there, so each
run has a directory of its own whose files are hard links to the unpacked image.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.isolation.node_roots import NodeRoots
from sovctl.adapters.run.run_files import write_atomically
from sovctl.adapters.slurm.plugstack import beside_slurm_conf
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

    def is_file(self, path: Path) -> bool:
        """Whether there is one."""
        with suppress(OSError):
            return path.is_file()
        return False

    def make(self, run_dir: str, image: str, config: Mapping[str, Any]) -> str:
        """`<run_dir>/bundle`; the image in it stays unpacked for as long as this process lives."""
        places = beside_slurm_conf("oci.conf")
        if not any(self.is_file(place) for place in places):
            raise SovctlError(
                f"there is no {places[0]}: Slurm would run the steps outside of the image without a word",
                hint="The administrator configures containers in oci.conf. Or use --runtime bubblewrap.",
            )
        root = image
        if not self.is_directory(image):
            root, locks = self._roots.unpacked(image, 0, self._say)
            self._locks.extend(locks)
        bundle = Path(run_dir, "bundle")
        try:
            bundle.mkdir(parents=True, exist_ok=True)
            if Path(root) != bundle / "rootfs" and not (bundle / "rootfs").is_dir():
                _copy_of_names(Path(root), bundle / "rootfs")
            write_atomically(bundle / "config.json", json.dumps(config, indent=1).encode())
        except OSError as error:
            raise SovctlError(
                f"cannot make {bundle}: {error.strerror}", hint=f"Is its disk full? df -h {run_dir}"
            ) from error
        return str(bundle)


def _copy_of_names(source: Path, target: Path) -> None:
    """Every directory anew, every file as a hard link. Raises OSError, also over the border of a file system."""
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        shutil.copytree(source, staging, symlinks=True, copy_function=_link)
        staging.rename(target)
    except shutil.Error as error:
        raise OSError(0, f"{len(error.args[0])} files could not be linked: {error.args[0][0][2]}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)
