"""An install replaces what it wrote and nothing else; an uninstall leaves nothing of its own."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl import config
from sovctl.adapters.slurm.parse import parse_config
from sovctl.config import Config, load_config
from sovctl.site.catalogue import Places, Role, Wanted, pieces_for, wanted
from sovctl.site.conf_lines import conf_lines
from sovctl.site.plan import Deed, Record, plan_install, plan_uninstall, records_after, records_before
from sovctl.site.settings_file import settings_file

PLACES = Places("/usr/local", "/etc/slurm", "/opt/bin/sovctl", "/opt/bin/python3")
NODE = frozenset({Role.NODE})
RECORDED = {
    path.parent.name: parse_config(path.read_text("utf-8"))
    for path in sorted((Path(__file__).parents[2] / "data/slurm").glob("*/show_config.txt"))
}
"""Release -> the settings that its scontrol prints."""
ALL = frozenset(Role)


def one(data: str = "new", *, is_config: bool = False) -> tuple[Wanted, str]:
    return Wanted("/f", data.encode(), 0o644, is_config), data


@pytest.mark.parametrize(
    ("there", "recorded", "is_config", "deed", "writes"),
    [
        (None, None, False, Deed.CREATE, "/f"),
        ("new", None, False, Deed.UNCHANGED, ""),
        ("new", ("new",), False, Deed.UNCHANGED, ""),
        ("old", ("old",), False, Deed.UPDATE, "/f"),
        ("old", ("new", "old"), False, Deed.UPDATE, "/f"),  # an install that was cut off
        ("mine", ("old",), False, Deed.KEEP, "/f.new"),
        ("mine", ("new",), False, Deed.KEEP, ""),
        ("mine", None, False, Deed.KEEP, "/f.new"),
        ("", ("old",), False, Deed.KEEP, "/f.new"),  # a link or a directory
        (None, ("old",), True, Deed.GONE, ""),
        (None, ("old",), False, Deed.CREATE, "/f"),
    ],
)
def test_a_file(there: str | None, recorded: tuple[str, ...] | None, is_config: bool, deed: Deed, writes: str) -> None:
    records = {"/f": Record(recorded, 0o644)} if recorded else {}
    (step,) = plan_install([one(is_config=is_config)], {"/f": there}, records)
    assert (step.deed, step.writes) == (deed, writes)


def test_a_file_that_is_not_wanted_any_more_goes_unless_it_was_changed() -> None:
    records = {"/old": Record(("a",), 0o644), "/mine": Record(("a",), 0o644)}
    steps = plan_install([], {"/old": "a", "/mine": "b"}, records)
    assert [(step.path, step.deed) for step in steps] == [("/old", Deed.REMOVE), ("/mine", Deed.KEEP)]


def test_a_file_that_was_there_first_is_not_ours_though_it_is_the_same() -> None:
    """A conffile of the Debian package: an uninstall would take it away, and dpkg does not bring it back."""
    (step,) = plan_install([one()], {"/f": "new"}, {})
    assert (step.deed, step.why) == (Deed.UNCHANGED, "not written by sovctl")
    assert records_before([step], {}) == {}
    ours = {"/f": Record(("new",), 0o644)}
    (step,) = plan_install([one()], {"/f": "new"}, ours)
    assert (step.deed, step.why, records_before([step], ours)) == (Deed.UNCHANGED, "", ours)


digests = st.sampled_from(["a", "b", "c"])


@given(
    start=st.dictionaries(st.sampled_from(["/1", "/2", "/3"]), digests),
    rounds=st.lists(
        st.tuples(st.dictionaries(st.sampled_from(["/1", "/2", "/3"]), digests), st.booleans()), max_size=4
    ),
    cut=st.integers(0, 5),
)
def test_whatever_is_installed_and_cut_off_nothing_of_others_is_lost(
    start: dict[str, str], rounds: list[tuple[dict[str, str], bool]], cut: int
) -> None:
    """The files that were there first are there last, byte for byte; an uninstall leaves exactly them and no other."""
    disk: dict[str, str | None] = dict(start)
    records: dict[str, Record] = {}
    for files, crash in rounds:
        listed = [(Wanted(path, data.encode(), 0o644, False), data) for path, data in files.items()]
        paths = {*files, *records}
        steps = plan_install(listed, {path: disk.get(path) for path in paths}, records)
        records = records_before(steps, records)
        for step in steps[: cut if crash else None]:
            if step.writes:
                disk[step.writes] = step.digest
            elif step.deed is Deed.REMOVE:
                disk.pop(step.path, None)
        if not crash:
            records = records_after(steps, records)
        assert {path: disk.get(path) for path in start} == start
    for step in plan_uninstall(records, disk):
        if step.deed is Deed.REMOVE:
            disk.pop(step.path, None)
    assert disk == start


@given(st.dictionaries(st.sampled_from(["/1", "/2"]), digests))
def test_twice_is_once(files: dict[str, str]) -> None:
    listed = [(Wanted(path, data.encode(), 0o644, False), data) for path, data in files.items()]
    first = plan_install(listed, {}, {})
    records = records_after(first, records_before(first, {}))
    second = plan_install(listed, files, records)
    assert {step.deed for step in second} <= {Deed.UNCHANGED}


# What goes where


def test_each_role_has_its_files() -> None:
    def targets(*roles: Role, spank: bool = False) -> set[str]:
        return {Path(piece.target).name for piece in pieces_for(roles, spank=spank)}

    assert {"prolog", "epilog", "health_check", "sovctl-health-watch.service"} <= targets(Role.NODE)
    assert {"sovctl-watch.service", "sovctl-sweep.timer", "job_submit.lua"} <= targets(Role.CONTROLLER)
    assert targets(Role.LOGIN) == {"cli_filter.lua", "sovctl_policy.lua", "sovctl", "sovctl.toml"}
    assert {"sovctl_spank.so", "sovctl.conf"} <= targets(Role.NODE, spank=True)


def test_every_piece_is_there_and_no_mark_is_left_in_it() -> None:
    plugins = Path(__file__).parents[3] / "plugins"
    for piece in pieces_for(Role, spank=True):
        if piece.source in ("toml", "spank"):
            continue
        made = wanted(piece, (plugins / piece.source).read_bytes(), PLACES)
        assert b"@" not in made.data or piece.source.startswith("lua/"), piece.source
        assert made.path.startswith(("/usr/local/libexec/sovctl/", "/etc/")), made.path
        assert (made.mode == 0o755) == (made.data[:2] == b"#!")


# The lines of slurm.conf


def by_key(settings: dict[str, str]) -> dict[str, tuple[str, bool, tuple[str, ...]]]:
    found = conf_lines(PLACES, ALL, settings, spank=True)
    assert all(line.reason for line in found)
    return {line.line.partition("=")[0]: (line.line, line.there, line.commands) for line in found}


def test_a_plugin_written_with_its_kind_is_not_asked_for_again() -> None:
    settings = {"JobSubmitPlugins": "job_submit/lua", "CliFilterPlugins": "cli_filter/syslog,cli_filter/lua"}
    lines = by_key(settings)
    assert [lines[key][:2] for key in settings] == [(f"{key}={value}", True) for key, value in settings.items()]


def test_lines_for_an_empty_slurm_conf() -> None:
    lines = by_key({"Prolog": "(null)"})
    assert lines["Prolog"] == ("Prolog=/usr/local/libexec/sovctl/prolog", False, ())
    assert lines["SchedulerParameters"][0] == "SchedulerParameters=nohold_on_prolog_fail"
    assert "include /etc/slurm/plugstack.conf.d/*.conf" in lines
    assert "SlurmctldParameters" not in lines


def test_what_the_site_has_is_kept() -> None:
    lines = by_key(
        {
            "SLURM_VERSION": "25.11.1",
            "Prolog": "/etc/slurm/prolog.sh",
            "Epilog": "/etc/slurm/epilog.d/*",
            "SchedulerParameters": "bf_continue",
            "JobSubmitPlugins": "all_partitions",
            "HealthCheckProgram": "/usr/sbin/nhc",
            "TaskProlog": "/etc/slurm/tp",
        }
    )
    assert lines["Prolog"] == (
        "Prolog=/etc/slurm/prolog.d/*",
        False,
        (
            "mkdir -p /etc/slurm/prolog.d",
            "ln -s /etc/slurm/prolog.sh /etc/slurm/prolog.d/50-prolog.sh",
            "ln -sf /usr/local/libexec/sovctl/prolog /etc/slurm/prolog.d/10-sovctl-prolog",
        ),
    )
    assert lines["Epilog"][2] == ("ln -sf /usr/local/libexec/sovctl/epilog /etc/slurm/epilog.d/10-sovctl-epilog",)
    assert lines["SchedulerParameters"][0] == "SchedulerParameters=bf_continue,nohold_on_prolog_fail"
    assert lines["JobSubmitPlugins"][0] == "JobSubmitPlugins=all_partitions,lua"
    assert lines["HealthCheckProgram"][2] == ("echo SOVCTL_OTHER_HEALTH_CHECK=/usr/sbin/nhc >> /etc/default/sovctl",)
    assert lines["TaskProlog"][:2] == ("TaskProlog=/etc/slurm/tp", True)
    assert lines["SlurmctldParameters"][0] == "SlurmctldParameters=enable_expedited_requeue"


@pytest.mark.parametrize("before", [{}, *RECORDED.values()], ids=["nothing", *RECORDED])
def test_a_slurm_conf_that_follows_the_lines_has_them_all(before: dict[str, str]) -> None:
    asked = [line.line.partition("=") for line in conf_lines(PLACES, ALL, before, spank=False)]
    settings = {**before, **{key: value for key, _, value in asked}}
    again = conf_lines(PLACES, ALL, settings, spank=False)
    assert [line.line for line in again if not line.there] == []
    assert [line.line for line in again] == [f"{key}={value}" for key, _, value in asked]


@pytest.mark.parametrize("release", RECORDED)
def test_what_a_release_lacks_of_the_lines(release: str) -> None:
    """A cluster that has set nothing: only what this release has is asked for."""
    lines = by_key(RECORDED[release])
    newest = {"SlurmctldParameters", "HealthCheckTimeout"} & set(lines)
    assert newest == ({"SlurmctldParameters", "HealthCheckTimeout"} if release >= "25.11" else set())
    assert [key for key, (_, there, _) in lines.items() if there] == []
    assert {"Prolog", "Epilog", "HealthCheckProgram", "UnkillableStepTimeout", "JobSubmitPlugins"} <= set(lines)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({}, None),
        ({"HealthCheckTimeout": "60 sec", "HealthCheckInterval": "60 sec"}, ("HealthCheckTimeout=50", False)),
        ({"HealthCheckTimeout": "30 sec", "HealthCheckInterval": "60 sec"}, ("HealthCheckTimeout=30", True)),
    ],
)
def test_a_slurm_that_limits_its_health_check_is_told_how_long(
    told: dict[str, str], line: tuple[str, bool] | None
) -> None:
    found = [(item.line, item.there) for item in conf_lines(PLACES, ALL, told, spank=False)]
    assert [item for item in found if item[0].startswith("HealthCheckTimeout=")] == ([line] if line else [])


def test_a_link_that_is_there_is_not_asked_for_again_and_an_old_prefix_is_replaced() -> None:
    settings = {
        "Prolog": "/etc/slurm/prolog.d/*",
        "Epilog": "/opt/old/libexec/sovctl/epilog",
        "TaskProlog": "/opt/old/libexec/sovctl/task_prolog",
        "HealthCheckProgram": "/opt/old/libexec/sovctl/health_check",
    }
    program = "/usr/local/libexec/sovctl/prolog"
    linked = {
        line.line.partition("=")[0]: line for line in conf_lines(PLACES, ALL, settings, spank=True, linked=[program])
    }
    assert (linked["Prolog"].there, linked["Prolog"].commands) == (True, ())
    lines = by_key(settings)
    assert lines["Prolog"][2] == (f"ln -sf {program} /etc/slurm/prolog.d/10-sovctl-prolog",)
    for key, name in (("Epilog", "epilog"), ("TaskProlog", "task_prolog"), ("HealthCheckProgram", "health_check")):
        assert lines[key] == (f"{key}=/usr/local/libexec/sovctl/{name}", False, ())


@pytest.mark.parametrize(
    ("value", "link"),
    [
        ("/etc/slurm/prolog.d/*", "/etc/slurm/prolog.d/10-sovctl-prolog"),
        ("/etc/slurm/prolog.d/*.sh", "/etc/slurm/prolog.d/10-sovctl-prolog.sh"),
        ("/site/first, /etc/slurm/prolog.d/[0-9]*.sh", "/etc/slurm/prolog.d/10-sovctl-prolog.sh"),
        ("/etc/slurm/prolog.d/site*,/etc/slurm/more.d/*.sh", "/etc/slurm/more.d/10-sovctl-prolog.sh"),
        ("/etc/slurm/prolog.d/site*.sh", None),
        ("/etc/slurm/prolog.d/*.[ab]", None),
        ("/etc/slurm/prolog?", None),
        ("/etc/slurm/*-?", None),
        ("/etc/slurm/*/prolog", None),
        ("/etc/slurm/*/*", None),
    ],
)
def test_our_link_has_a_name_that_the_pattern_of_the_site_takes(value: str, link: str | None) -> None:
    program = "/usr/local/libexec/sovctl/prolog"
    settings = {"Prolog": value}
    (line,) = (one for one in conf_lines(PLACES, NODE, settings, spank=False) if one.line.startswith("Prolog="))
    assert (line.line, line.there) == (f"Prolog={value}", False)
    assert line.commands == ((f"ln -sf {program} {link}",) if link else ())
    assert (f"have a program there run {program}" in line.reason) == (link is None)
    if link:
        there = by_key({"Prolog": link})["Prolog"]
        assert there == (f"Prolog={link}", True, ())


# sovctl.toml


def test_a_new_settings_file_changes_one_thing_and_names_everything(tmp_path: Path) -> None:
    text = settings_file(Config(), Path(config.__file__).read_text("utf-8"))
    assert tomllib.loads(text)["health"] == {"act": False}
    path = tmp_path / "sovctl.toml"
    path.write_text(text, "utf-8")
    loaded = load_config({"SOVCTL_CONFIG": str(path)})
    assert loaded.health.act is False
    everything = "\n".join(line.lstrip("#") for line in text.splitlines() if not line.startswith("# "))
    path.write_text(everything.replace("act = false", "act = true"), "utf-8")
    assert load_config({"SOVCTL_CONFIG": str(path)}) == Config()
