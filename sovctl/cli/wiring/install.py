"""`sovctl site`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.cli.wiring.slurm_access import ASK_S, slurm
from sovctl.config import Config
from sovctl.errors import SovctlError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sovctl.operations.site import SitePorts
    from sovctl.site.catalogue import Places


def site(root: Path) -> SitePorts:
    """What `sovctl site` touches; below another root than / no Slurm is asked."""
    import inspect

    from sovctl import config
    from sovctl.adapters.site.site_files import SiteFiles
    from sovctl.operations.site import SitePorts
    from sovctl.site.settings_file import settings_file

    staged = root.resolve() != Path("/")

    def settings() -> Mapping[str, str]:
        if staged:
            raise SovctlError(f"{root} is a staging directory", hint="See them with: sovctl site lines")
        return slurm(ASK_S).settings()

    return SitePorts(SiteFiles(root), settings, lambda: settings_file(Config(), inspect.getsource(config)), staged)


def site_places(prefix: str, conf_dir: str) -> Places:
    """Where things go on this machine."""
    from sovctl.adapters.node.machine_view import own_program
    from sovctl.site.catalogue import Places

    if not prefix.startswith("/"):
        raise UsageError(
            f"--prefix must be a full path, not {prefix!r}",
            hint="Write it as in: sovctl site lines --prefix /usr/local",
        )
    found = conf_dir or str(Path(os.environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf").parent)
    return Places(prefix, found, own_program(), sys.executable)
