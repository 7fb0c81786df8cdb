"""`sovctl site` below a staging root: install, change, upgrade, uninstall; and what it writes is accepted by those who
read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def site(root: Path, *argv: str, status: int = 0) -> dict[str, Any]:
    words = [sys.executable, "-P", "-m", "sovctl", "site", *argv, "--root", str(root), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env={**os.environ, "SLURM_CONF": ""})
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    return dict(json.loads(done.stdout)) if done.stdout else {"said": done.stderr}


def files(root: Path) -> set[str]:
    return {f"/{path.relative_to(root)}" for path in root.rglob("*") if not path.is_dir()}


def deeds(record: dict[str, Any]) -> set[str]:
    return {file["deed"] for file in record["files"]}


BOTH = ("install", "--role", "node", "--role", "controller")


def test_from_nothing_to_nothing(root: Path) -> None:
    site(root, *BOTH, "--dry-run")
    assert not root.exists()
    assert deeds(site(root, *BOTH)) == {"create"}
    assert {"/usr/local/libexec/sovctl/prolog", "/etc/sovctl/sovctl.toml", "/var/lib/sovctl/site.json"} <= files(root)
    assert deeds(site(root, *BOTH)) == {"unchanged"}
    assert "/etc/slurm/cli_filter.lua" not in files(root)
    site(root, "install", "--role", "login")
    assert "/etc/slurm/cli_filter.lua" in files(root) and "/etc/slurm/job_submit.lua" in files(root)
    assert deeds(site(root, "uninstall")) == {"remove"}
    assert list(root.iterdir()) == []
    assert "nothing is installed" in site(root, "uninstall", status=1)["said"]


def test_what_is_printed_is_readable_in_80_columns(root: Path) -> None:
    argv = [sys.executable, "-P", "-m", "sovctl", "site", *BOTH, "--root", str(root), "--dry-run"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout
    assert "# slurm.conf" in said and "#   systemctl enable --now sovctl-watch.service" in said
    assert [line for line in said.splitlines() if len(line) > 80] == []


def test_what_an_administrator_changed_is_kept(root: Path) -> None:
    """Also a file that was there before, by a site that has a job_submit.lua of its own."""
    own = root / "etc/slurm/job_submit.lua"
    own.parent.mkdir(parents=True)
    own.write_text("-- the site's\n", "utf-8")
    found = site(root, *BOTH)
    assert own.read_text("utf-8") == "-- the site's\n"
    assert [file["path"] for file in found["files"] if file["deed"] == "keep"] == ["/etc/slurm/job_submit.lua"]
    assert own.with_name("job_submit.lua.new").exists()
    settings = root / "etc/sovctl/sovctl.toml"
    settings.write_text("[health]\nact = true\n", "utf-8")
    site(root, *BOTH, "--prefix", "/opt/sovctl")
    assert settings.read_text("utf-8") == "[health]\nact = true\n"
    assert "/opt/sovctl/libexec/sovctl/prolog" in files(root)
    assert "/usr/local/libexec/sovctl/prolog" not in files(root)
    states = {file["path"]: file["deed"] for file in site(root, "status")["files"]}
    assert states["/etc/sovctl/sovctl.toml"] == "keep"
    site(root, "uninstall")
    assert files(root) == {"/etc/slurm/job_submit.lua", "/etc/sovctl/sovctl.toml"}


LINKS = ("/etc/slurm/epilog.d/10-sovctl-epilog", "/etc/slurm/prolog.d/10-sovctl-prolog")


def link_hooks(root: Path, prefix: str) -> None:
    """As `sovctl site lines` says it to who has hooks of their own."""
    for link in LINKS:
        place = root / link.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(f"{prefix}/libexec/sovctl/{link.rpartition('-')[2]}")


def test_hooks_that_links_lead_to_are_not_taken_away(root: Path) -> None:
    site(root, *BOTH)
    link_hooks(root, "/usr/local")
    before = files(root)
    said = site(root, "uninstall", status=3)["said"]
    assert files(root) == before
    assert (
        "Prolog (/etc/slurm/prolog.d/10-sovctl-prolog)" in said
        and f"this machine: `rm {LINKS[1]}; rm {LINKS[0]}`. Then" in said
    )
    argv = [sys.executable, "-P", "-m", "sovctl", "site", "uninstall", "--force", "--root", str(root)]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    assert {f"rm {link}" for link in LINKS} <= set(told.splitlines())
    assert files(root) == set(LINKS)


def test_another_prefix_leaves_the_old_hooks_until_no_link_leads_to_them(root: Path) -> None:
    site(root, *BOTH)
    link_hooks(root, "/usr/local")
    kept = {file["path"]: file["why"] for file in site(root, *BOTH, "--prefix", "/opt/sovctl")["files"] if file["why"]}
    hooks = {f"/usr/local/libexec/sovctl/{name}" for name in ("prolog", "epilog")}
    assert kept.keys() == hooks and "install again" in kept["/usr/local/libexec/sovctl/prolog"]
    assert hooks < files(root) and "/usr/local/libexec/sovctl/task_prolog" not in files(root)
    link_hooks(root, "/opt/sovctl")
    gone = {file["path"] for file in site(root, *BOTH, "--prefix", "/opt/sovctl")["files"] if file["deed"] == "remove"}
    assert gone == hooks and not hooks & files(root)
    for link in LINKS:
        (root / link.lstrip("/")).unlink()
    site(root, "uninstall")
    assert files(root) == set()


PRERM = Path(__file__).parents[2] / "debian" / "sovctl.prerm"


@pytest.mark.parametrize(
    ("conf", "link", "script", "said"),
    [
        ("", "", "", ""),
        ("Prolog=/site # /usr/libexec/sovctl/prolog", "", "#!/bin/sh\n# no /usr/libexec/sovctl/prolog\n", ""),
        ("prolog = /usr/libexec/sovctl/prolog", "", "", "still names /usr/libexec/sovctl/prolog:"),
        ("TaskProlog=/usr/libexec/sovctl/task_prolog", "", "", "still names /usr/libexec/sovctl/task_prolog:"),
        ("HealthCheckProgram=/usr/libexec/sovctl/health_check", "", "", "still names /usr/libexec/sovctl/health"),
        ("Prolog=/srv/prolog.d/*", "/srv/prolog.d/10-x", "", "rm /srv/prolog.d/10-x"),
        ("", "/etc/slurm/prolog.d/10-sovctl-prolog", "", "rm /etc/slurm/prolog.d/10-sovctl-prolog"),
        ("Epilog=/site", "", "#!/bin/sh\nexec /usr/libexec/sovctl/epilog\n", "scripts run them: /site"),
    ],
)
def test_the_package_is_not_removed_while_slurm_uses_it(
    tmp_path: Path, conf: str, link: str, script: str, said: str
) -> None:
    """dpkg tells the scripts of a package where the system is that it works on."""
    (tmp_path / "etc/slurm").mkdir(parents=True)
    (tmp_path / "etc/slurm/slurm.conf").write_text(f"ClusterName=c\n{conf}\n", "ascii")
    (tmp_path / "site").write_text(script, "ascii")
    if link:
        (tmp_path / link[1:]).parent.mkdir(parents=True)
        (tmp_path / link[1:]).symlink_to("/usr/libexec/sovctl/prolog")
    env = {**os.environ, "DPKG_ROOT": str(tmp_path)}
    for word in ("upgrade", "remove"):
        done = subprocess.run(["/bin/sh", PRERM, word], capture_output=True, text=True, env=env, timeout=60)
        assert (done.returncode, bool(done.stderr)) == ((1, True) if said and word == "remove" else (0, False))
    assert said in done.stderr


def test_a_unit_that_systemd_starts_is_not_taken_away(root: Path) -> None:
    site(root, *BOTH)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    (wants / "sovctl-watch.service").symlink_to("/etc/systemd/system/sovctl-watch.service")
    assert "systemctl disable --now sovctl-watch.service" in site(root, "uninstall", status=3)["said"]
    assert "/etc/systemd/system/sovctl-watch.service" in files(root)
    site(root, "uninstall", "--force")


def test_a_plugin_that_was_built_is_put_in_place_and_named(root: Path, tmp_path: Path) -> None:
    """And an install without --spank leaves it, as it leaves all that an earlier one wrote."""
    built, plugin = tmp_path / "sovctl_spank.so", root / "opt/sov/libexec/sovctl/sovctl_spank.so"
    built.write_bytes(b"\x7fELF built for this Slurm")
    argv = ("install", "--role", "login", "--prefix", "/opt/sov")
    lines = site(root, *argv, "--spank", str(built))["lines"]
    assert plugin.read_bytes() == built.read_bytes()
    conf = (root / "etc/slurm/plugstack.conf.d/sovctl.conf").read_text("utf-8")
    assert [line.split()[:2] for line in conf.splitlines() if line and not line.startswith("#")] == [
        ["optional", "/opt/sov/libexec/sovctl/sovctl_spank.so"]
    ]
    assert ("plugstack.conf", "include /etc/slurm/plugstack.conf.d/*.conf") in {
        (one["file"], one["line"]) for one in lines
    }
    assert deeds(site(root, *argv)) == {"unchanged"}
    assert plugin.exists()
    built.write_bytes(b"\x7fELF built for the next Slurm")
    assert deeds(site(root, *argv, "--spank", str(built))) == {"unchanged", "update"}
    assert plugin.read_bytes() == built.read_bytes()
    site(root, "uninstall")
    assert files(root) == set()


@pytest.mark.parametrize(("content", "said"), [(None, "cannot read"), ("int main;", "is no shared object")])
def test_a_file_that_is_no_plugin_is_refused_before_anything_is_written(
    root: Path, tmp_path: Path, content: str | None, said: str
) -> None:
    built = tmp_path / "plugin.c"
    if content is not None:
        built.write_text(content, "ascii")
    told = site(root, "install", "--role", "node", "--spank", str(built), status=1)["said"]
    assert f"{said}" in told and str(built) in told and "make -C" in told
    assert not root.exists()


@pytest.mark.parametrize("argv", [("--role", "pilot"), (), ("--role", "node", "--prefix", "here")])
def test_a_wrong_command_line_is_told(root: Path, argv: tuple[str, ...]) -> None:
    assert site(root, "install", *argv, status=2)["said"]
    assert not root.exists()


def test_a_link_in_the_place_of_a_file_is_never_followed(root: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole", "ascii")
    (root / "etc/default").mkdir(parents=True)
    (root / "etc/default/sovctl").symlink_to(victim)
    site(root, *BOTH)
    assert victim.read_text("ascii") == "whole"
    assert (root / "etc/default/sovctl.new").is_file()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(root: Path) -> None:
    """They start a program that is there."""
    site(root, *BOTH)
    units = sorted((root / "etc/systemd/system").iterdir())
    for unit in units:
        assert unit.suffix == ".timer" or f"ExecStart={sys.executable} -P -m sovctl " in unit.read_text("utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "sovctl" in line]) == (0, [])


def test_sh_and_lua_accept_what_is_written(root: Path) -> None:
    site(root, *BOTH)
    for hook in (root / "usr/local/libexec/sovctl").iterdir():
        subprocess.run(["sh", "-n", hook], check=True)
        assert os.access(hook, os.X_OK)
    for script in (root / "etc/slurm").glob("*.lua"):
        for luac in filter(None, map(shutil.which, ("luac5.1", "luac5.4"))):
            subprocess.run([luac, "-p", script], check=True)
    told = subprocess.run(
        ["sh", "-c", f'. {root}/etc/default/sovctl; echo "$SOVCTL_PYTHON"'], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == sys.executable


def test_the_other_health_check_of_a_site_runs_too(root: Path, tmp_path: Path) -> None:
    site(root, *BOTH)
    other = tmp_path / "nhc"
    other.write_text(f"#!/bin/sh\necho seen > {tmp_path}/seen\n", "ascii")
    other.chmod(0o755)
    env = {**os.environ, "SOVCTL_OTHER_HEALTH_CHECK": str(other), "SOVCTL_PYTHON": "/bin/true"}
    done = subprocess.run([root / "usr/local/libexec/sovctl/health_check"], env=env, timeout=60, check=False)
    assert done.returncode == 0
    assert (tmp_path / "seen").exists()
