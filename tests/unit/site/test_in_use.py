"""What Slurm still uses of an install, by name, by link, by a script of the site, and Lua."""

from __future__ import annotations

import pytest

from sovctl.model.site import HookProgram
from sovctl.site.catalogue import Places
from sovctl.site.in_use import How, can_matter, hook_values, links, named, uses, what_to_type

OURS = "/usr/local/libexec/sovctl/prolog"
LINK = "/etc/slurm/prolog.d/10-sovctl-prolog"
FILES = {OURS: OURS, "/etc/default/sovctl": "/etc/default/sovctl"}
READS = "#!/bin/sh\n. /etc/default/sovctl\n"


@pytest.mark.parametrize(
    ("program", "how"),
    [
        (HookProgram(OURS, OURS), How.SETTING),
        (HookProgram("/etc/slurm/prolog.sh", OURS), How.SETTING),
        (HookProgram(OURS, OURS, by_pattern=True), How.SETTING),
        (HookProgram(LINK, OURS, by_pattern=True, text=READS), How.LINK),
        (HookProgram("/etc/slurm/tp", "/etc/slurm/tp", text=READS), None),
        (HookProgram("/etc/slurm/tp", "/etc/slurm/tp", text=f"#!/bin/sh\nexec {OURS}\n"), How.SCRIPT),
        (HookProgram("/etc/slurm/tp", "/etc/slurm/tp", text=f"#!/bin/sh\n  # not {OURS}\ntrue\n"), None),
        (HookProgram(f"{OURS}2", f"{OURS}2"), None),
        (HookProgram("/etc/slurm/prolog.d/50-site", "/site", by_pattern=True), None),
    ],
)
def test_each_way_is_seen(program: HookProgram, how: How | None) -> None:
    found = uses({"Prolog": [program]}, FILES, {})
    assert [(use.how, use.ours, use.by) for use in found] == ([(how, OURS, program.path)] if how else [])


def test_a_prefix_that_is_a_link_itself_is_followed() -> None:
    ours = {"/opt/sovctl/libexec/sovctl/prolog": "/shared/sovctl-1/libexec/sovctl/prolog"}
    found = uses({"Prolog": [HookProgram(LINK, "/shared/sovctl-1/libexec/sovctl/prolog", by_pattern=True)]}, ours, {})
    assert links(found) == (LINK,)


def test_what_is_looked_at() -> None:
    settings = {"Prolog": "/a, /b/*", "Epilog": "(null)", "HealthCheckProgram": "/c"}
    places = Places("/usr", "/etc/slurm/", "", "")
    assert hook_values(settings) == {
        "Prolog": ("/a", "/b/*"),
        "Epilog": (),
        "TaskProlog": (),
        "HealthCheckProgram": ("/c",),
    }
    proposed = hook_values(settings, places)
    assert (proposed["Prolog"], proposed["Epilog"]) == (
        ("/a", "/b/*", "/etc/slurm/prolog.d/*"),
        ("/etc/slurm/epilog.d/*",),
    )


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({"JobSubmitPlugins": "all_partitions,lua", "SLURM_CONF": "/etc/slurm/slurm.conf"}, True),
        ({"JobSubmitPlugins": "lua"}, True),
        ({"JobSubmitPlugins": "require_timelimit,job_submit/lua"}, True),
        ({"JobSubmitPlugins": "lua", "SLURM_CONF": "/opt/slurm/etc/slurm.conf"}, False),
        ({"JobSubmitPlugins": "(null)"}, False),
    ],
)
def test_a_lua_script_that_slurm_loads_is_in_use(settings: dict[str, str], used: bool) -> None:
    ours = ("/etc/slurm/job_submit.lua", "/etc/slurm/sovctl_policy.lua", OURS)
    found = uses({}, {path: path for path in ours}, settings)
    assert {use.ours for use in found} == (set(ours[:2]) if used else set())


def test_a_plugin_may_be_written_with_its_kind() -> None:
    found = uses({}, {"/etc/slurm/cli_filter.lua": ""}, {"CliFilterPlugins": "cli_filter/lua"})
    assert [use.setting for use in found] == ["CliFilterPlugins"]
    assert uses({}, {"/etc/slurm/cli_filter.lua": ""}, {"CliFilterPlugins": "cli_filter/syslog"}) == ()


def test_what_is_said_and_what_to_type() -> None:
    programs = {
        "Prolog": [HookProgram(LINK, OURS, by_pattern=True), HookProgram("/d/a b", OURS, by_pattern=True)],
        "TaskProlog": [HookProgram("/etc/slurm/tp", "/etc/slurm/tp", text=f"#!/bin/sh\n{OURS}\n")],
        "HealthCheckProgram": [HookProgram(OURS, OURS)],
    }
    found = uses(programs, FILES, {})
    assert named(found) == f"Prolog ({LINK}), Prolog (/d/a b), TaskProlog (/etc/slurm/tp), HealthCheckProgram ({OURS})"
    assert what_to_type(found) == (
        f"Type on this machine: `rm {LINK}; rm '/d/a b'`. Have /etc/slurm/tp not run it any more. "
        "Take HealthCheckProgram out of slurm.conf everywhere, and type `scontrol reconfigure`. Then try again."
    )


def test_only_what_slurm_starts_can_matter() -> None:
    assert can_matter(OURS) and can_matter("/etc/slurm/cli_filter.lua")
    assert not can_matter("/etc/sovctl/sovctl.toml") and not can_matter("/etc/systemd/system/sovctl-watch.service")
