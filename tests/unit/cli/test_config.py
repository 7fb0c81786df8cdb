"""Where a setting came from, who may set it, and how `sovctl config` says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sovctl import config as settings
from sovctl.cli import main
from sovctl.config import Origin, check_file, is_site_only, load_config, trace_config, unknown_variables
from sovctl.errors import ConfigError


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A site file and a person's file."""
    site, user = tmp_path / "site.toml", tmp_path / "home/.config/sovctl/sovctl.toml"
    user.parent.mkdir(parents=True)
    site.write_text('[health]\nact = false\n[run]\nsame_crash_limit = 4\n[probes]\nnvlink = "shadow"\n')
    user.write_text("[run]\nsame_crash_limit = 5\nunknown_limit = 7\n")
    return {"SOVCTL_CONFIG": str(site), "HOME": str(tmp_path / "home"), "SOVCTL_RUN_UNKNOWN_LIMIT": "9"}


def _of(env: dict[str, str]) -> dict[str, tuple[object, Origin, str]]:
    return {item.name: (item.value, item.origin, item.where) for item in trace_config(env).settings}


def test_each_value_names_its_origin(env: dict[str, str], tmp_path: Path) -> None:
    found = _of(env)
    user = tmp_path / "home/.config/sovctl/sovctl.toml"
    assert found["health.act"] == (False, Origin.SITE, f"{tmp_path}/site.toml:2")
    assert found["run.same_crash_limit"] == (5, Origin.USER, f"{user}:2")
    assert found["run.unknown_limit"] == (9, Origin.VARIABLE, "SOVCTL_RUN_UNKNOWN_LIMIT")
    assert found["run.hardware_limit"] == (50, Origin.DEFAULT, "")
    assert found["probes.nvlink"] == ("shadow", Origin.SITE, f"{tmp_path}/site.toml:6")


def test_the_traced_settings_are_those_that_count(env: dict[str, str]) -> None:
    traced, loaded = trace_config(env), load_config(env)
    assert traced.config == loaded
    for item in traced.settings:
        section, _, key = item.name.partition(".")
        if section != "probes":
            assert getattr(getattr(loaded, section), key) == item.value


SITE_ONLY = {"SOVCTL_HEALTH_ACT": "true", "SOVCTL_PROBES_NVLINK": "off", "SOVCTL_ISOLATION_ALLOW_IMAGES": "everywhere"}


def test_what_only_the_site_may_set(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_own", lambda path: False)  # the file belongs to root, we are somebody
    traced = trace_config({**env, **SITE_ONLY, "SOVCTL_RUN_POLL_S": "3"})
    assert traced.config.health.act is False
    assert traced.config.isolation.allow_images == ""
    assert [item.state.value for item in traced.config.probes.settings] == ["shadow"]
    assert traced.config.run.poll_s == 3.0
    assert {item.where for item in traced.ignored} == SITE_ONLY.keys()


def test_who_owns_the_sites_file_is_the_site(env: dict[str, str]) -> None:
    traced = trace_config({**env, **SITE_ONLY})
    assert traced.config.health.act is True
    assert traced.ignored == ()


def test_without_a_site_a_person_sets_everything(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_own", lambda path: False)
    monkeypatch.setattr(settings, "SITE_FILE", Path("/nonexistent"))
    alone = {name: value for name, value in env.items() if name != "SOVCTL_CONFIG"}
    assert load_config({**alone, "SOVCTL_HEALTH_ACT": "false"}).health.act is False


def test_what_is_the_sites() -> None:
    assert is_site_only("health.act")
    assert is_site_only("probes.nvlink")
    assert is_site_only("isolation.allow_mounts")
    assert not is_site_only("isolation.cache_dir")
    assert not is_site_only("run.poll_s")
    known = {name for name, _ in settings._plain(settings.Config())}
    assert {name for name in settings.SITE_ONLY if "." in name} <= known


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[run]\npol_s = 1\n", ":2: unknown key run.pol_s; did you mean poll_s?"),
        ("[rum]\n", ":1: unknown section [rum]; did you mean run?"),
        ("[run]\npoll_s = 'x'\n", ":2: run.poll_s must be a number, not 'x'"),
        ("[run\n", "line 1"),
        ("[slurm]\ntimeout_s = inf\n", ":2: slurm.timeout_s must be from 0 to 1000000000, not inf"),
        ("[slurm]\ntimeout_s = nan\n", ":2: slurm.timeout_s must be from 0 to 1000000000, not nan"),
        ("[slurm]\ntimeout_s = -5\n", ":2: slurm.timeout_s must be from 0 to 1000000000, not -5"),
        ("[slurm]\ntimeout_s = 1e300\n", "not 1e+300"),
        ("[run]\nhang_timeout_s = -2\n", ":2: run.hang_timeout_s must be from 0 to 1000000000, not -2"),
    ],
)
def test_a_file_is_checked_with_the_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "sovctl.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check_file(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def _sovctl(env: dict[str, str], monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return main.run(["config", *words])


def test_show(env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _sovctl(env, monkeypatch, "show", "--changed") == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["SETTING", "VALUE", "FROM"]
    assert [row[0] for row in rows[1:]] == [
        "health.act*",
        "run.same_crash_limit",
        "run.unknown_limit",
        "probes.nvlink*",
    ]
    assert rows[3][1:] == ["9", "SOVCTL_RUN_UNKNOWN_LIMIT"]
    assert err == "* only the site may set it\n"


def test_show_as_json(env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _sovctl(env, monkeypatch, "show", "run.unknown_limit", "--json") == 0
    (setting,) = json.loads(capsys.readouterr().out)["settings"]
    assert (setting["value"], setting["origin"], setting["site_only"]) == (9, "variable", False)


def test_show_names_the_nearest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["config", "show", "swep"]) == 2
    assert "did you mean sweep?" in capsys.readouterr().err


def test_check_says_what_does_not_count(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings, "_own", lambda path: False)
    assert _sovctl({**env, "SOVCTL_HEALTH_ACT": "true"}, monkeypatch, "check") == 0
    out, err = capsys.readouterr()
    assert "site.toml: 3 settings, all known" in out
    assert "SOVCTL_HEALTH_ACT: health.act does not count: only the site's file may set it" in err


def test_check_refuses_a_probe_that_there_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sovctl.toml"
    path.write_text('[probes]\nnvlin = "off"\n')
    assert main.run(["config", "check", str(path)]) == 2
    assert f"{path}:2: there is no probe nvlin; did you mean nvlink?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SOVCTL_SWEEP_RETEST_TIMEOUT", "SOVCTL_SWEEP_RETEST_TIMEOUT_S"),
        ("SOVCTL_HEALTH_ACTT", "SOVCTL_HEALTH_ACT"),
        ("SOVCTL_CHECKPOINTS_DIR", "SOVCTL_CHECKPOINT_DIR"),
        ("SOVCTL_XYZZY", ""),
    ],
)
def test_a_variable_that_sets_nothing_is_told_with_the_nearest(
    name: str,
    nearest: str,
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = {**env, name: "1"}
    assert load_config(env) == load_config({key: value for key, value in env.items() if key != name})
    for verb in ("show", "check"):
        assert _sovctl(env, monkeypatch, verb) == 0
        err = capsys.readouterr().err
        assert f"sovctl: {name} sets nothing{f'; did you mean {nearest}?' if nearest else ''}\n" in err
        assert f"unset {name}" in err
        assert _sovctl(env, monkeypatch, verb, "--json") == 0
        assert json.loads(capsys.readouterr().out)["unknown_variables"] == [{"name": name, "nearest": nearest}]


def test_no_variable_that_sovctl_sets_or_reads_is_unknown() -> None:
    root = Path(__file__).parents[3]
    paths = [path for folder in ("sovctl", "plugins", "debian") for path in root.joinpath(folder).rglob("*")]
    texts = (
        path.read_text("utf-8", "ignore") for path in paths if path.is_file() and path.suffix not in (".h", ".pyc")
    )
    found = {name for text in texts for name in re.findall(r"\bSOVCTL_[A-Z0-9_]*[A-Z0-9]\b(?!_)", text)}
    settings_ = {f"SOVCTL_{name}".upper().replace(".", "_") for name in (one.name for one in trace_config({}).settings)}
    assert len(found) > 25
    marks = {"SOVCTL_SCRIPT", "SOVCTL_SPANK", "SOVCTL_PROBES"}
    assert {one.name for one in unknown_variables(dict.fromkeys(found | settings_, "1"))} - marks == set()
