"""How long completed names are kept. With a real cluster: tests/contract/test_known_names.py."""

from __future__ import annotations

import time
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm.known_names import KnownNames


def test_no_answer_is_kept_for_seconds_only(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    environ = {"HOME": str(tmp_path), "PATH": f"{commands}:/usr/bin:/bin"}
    sinfo = commands / "sinfo"
    sinfo.write_text("#!/bin/sh\nexit 1\n")
    sinfo.chmod(0o755)

    def names(later_s: float) -> tuple[str, ...]:
        return KnownNames("partition", CommandRunner(environ), environ, now=lambda: time.time() + later_s).fitting("")

    assert names(0.0) == ()
    sinfo.write_text("#!/bin/sh\necho main\n")
    assert names(1.0) == ()
    assert names(30.0) == ("main",)
    sinfo.write_text("#!/bin/sh\necho other\n")
    assert names(30.0) == ("main",)
