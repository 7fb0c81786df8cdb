"""What the files of an install say about links, patterns and scripts, also below a staging root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sovctl.adapters.site.site_files import SiteFiles
from sovctl.model.site import HookProgram

OURS = "/usr/local/libexec/sovctl/prolog"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A prolog.d with a script, a link to ours by a chain, one that leads nowhere and one in a circle."""
    hooks = tmp_path / "etc/slurm/prolog.d"
    hooks.mkdir(parents=True)
    (hooks / "50-site").write_text("#!/bin/sh\ntrue\n", "ascii")
    (hooks / "10-sovctl-prolog").symlink_to("../hook")
    (tmp_path / "etc/slurm/hook").symlink_to("/opt/sovctl/prolog")
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/sovctl").symlink_to("/usr/local/libexec/sovctl")
    (hooks / "60-gone").symlink_to("/nowhere/../nothing")
    (hooks / "70-circle").symlink_to("70-circle")
    return tmp_path


def test_a_pattern_names_what_slurmd_would_run(root: Path) -> None:
    found = SiteFiles(root).programs(["/etc/slurm/prolog.d/*", OURS])
    assert found == (
        HookProgram("/etc/slurm/prolog.d/10-sovctl-prolog", OURS, by_pattern=True),
        HookProgram("/etc/slurm/prolog.d/50-site", "/etc/slurm/prolog.d/50-site", True, "#!/bin/sh\ntrue\n"),
        HookProgram("/etc/slurm/prolog.d/60-gone", "/nothing", by_pattern=True),
        HookProgram("/etc/slurm/prolog.d/70-circle", "/etc/slurm/prolog.d/70-circle", by_pattern=True),
        HookProgram(OURS, OURS),
    )


def test_links_are_followed_as_the_kernel_does_it(root: Path) -> None:
    """Where the root is `/`, so that both can be compared."""
    here = root.resolve()
    (here / "direct").symlink_to(here / "opt")
    for name in ("direct/x", "etc/slurm/prolog.d/50-site", "etc/../opt", "etc/slurm/hook/../y"):
        path = f"{here}/{name}"
        assert SiteFiles().resolved([path]) == {path: os.path.realpath(path)}


def test_what_is_no_script_has_no_text(root: Path) -> None:
    hooks = root / "etc/slurm/prolog.d"
    (hooks / "50-site").write_bytes(b"\x7fELF")
    os.mkfifo(hooks / "80-pipe")
    assert [program.text for program in SiteFiles(root).programs(["/etc/slurm/prolog.d/[58]0*"])] == ["", ""]
