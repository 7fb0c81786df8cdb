"""The line of the SPANK plugin, through the files that plugstack.conf includes."""

from __future__ import annotations

from pathlib import Path

from sovctl.adapters.slurm.plugstack import lines_with_included
from sovctl.isolation.plugin_line import kept_paths, plugin_path


def test_the_plugin_is_found_through_includes(tmp_path: Path) -> None:
    plugstack = tmp_path / "plugstack.conf"
    assert plugin_path(lines_with_included(plugstack)) == ""
    plugstack.write_text(
        "# optional /x/sovctl_spank.so\ninclude plugstack.conf.d/*.conf # all\ninclude plugstack.conf\n"
    )
    (tmp_path / "plugstack.conf.d").mkdir()
    (tmp_path / "plugstack.conf.d" / "b.conf").write_text(
        "optional /usr/libexec/sovctl/sovctl_spank.so keep=/x/%n # ours\n"
    )
    lines = lines_with_included(plugstack)
    assert plugin_path(lines) == "/usr/libexec/sovctl/sovctl_spank.so"
    assert kept_paths(lines, "n001") == ("/x/n001",)
