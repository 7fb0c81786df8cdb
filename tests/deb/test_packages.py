"""The Debian packages in root file systems of Debian 12 and 13: they install, work, are removed and purged, and leave
nothing. Run by `make test-deb`, as root; the root file systems are kept in /var/cache/sovctl-deb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.lab import gpus

ROOT = Path(__file__).parents[2]
CACHE = Path("/var/cache/sovctl-deb")
MIRROR = "http://deb.debian.org/debian"
SUITES = {"bookworm": "22.05", "trixie": "24.11"}
# What the packages depend on, and the Slurm that they are for.
INCLUDED = (
    "python3 python3-rich python3-typing-extensions python3-regex python3-yaml python3-cryptography python3-bcrypt "
    "python3-nacl slurm-client slurmd logrotate openssh-client libslurm-dev"
)
pytestmark = [
    pytest.mark.skipif("SOVCTL_TEST_DEB" not in os.environ, reason="packages are tried by `make test-deb`"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes root file systems"),
    pytest.mark.timeout(900),
]


def run(*argv: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=600, **more)  # type: ignore[call-overload, no-any-return]


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@dataclass
class Debian:
    """A root file system with the packages of this checkout in /debs."""

    root: Path
    slurm: str

    def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """A command inside, with /proc and /dev of its own, which go with it."""
        script = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        return run("unshare", "--mount", "--pid", "--fork", "sh", "-c", script, self.root, *argv, env=env)

    def files(self) -> set[str]:
        listed = self.call("find", "/", "-xdev", "(", "-type", "f", "-o", "-type", "l", ")", "-print")
        ignored = ("/var/lib/dpkg/", "/var/log/", "/var/cache/", "/debs/", "/proc/", "/dev/", "/var/lib/systemd/")
        return {
            path for path in succeed(listed).splitlines() if not path.startswith(ignored) and "__pycache__" not in path
        }

    def dpkg(self, *argv: str) -> str:
        return succeed(self.call("dpkg", *argv))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages, and the plugin for each Slurm."""
    build(None)
    for suite, slurm in SUITES.items():
        if suite != "bookworm":
            headers = tmp_path_factory.mktemp(suite)
            succeed(run("tar", "-C", headers, "-xf", tarball(suite), "./usr/include/slurm"))
            build(headers / "usr/include")
        assert list((ROOT / "dist").glob(f"sovctl-slurm-plugin_*+slurm{slurm}_*.deb"))
    return ROOT / "dist"


def build(include: Path | None) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if include is not None:
        env["SLURM_INCLUDE"] = str(include)
    succeed(run("sh", "scripts/deb.sh", sys.executable, cwd=ROOT, env=env))


def tarball(suite: str) -> Path:
    made = CACHE / f"{suite}.tar"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = CACHE / f"{suite}.part.tar"
        options = ["--variant=apt", "--include", INCLUDED.replace(" ", ","), "--aptopt=APT::Install-Recommends false"]
        succeed(run("mmdebstrap", *options, suite, part, MIRROR))
        part.rename(made)
    return made


@pytest.fixture(scope="module", params=SUITES)
def debian(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    root = tmp_path_factory.mktemp(request.param)
    succeed(run("tar", "-C", root, "-xf", tarball(request.param)))
    (root / "debs").mkdir()
    slurm = SUITES[request.param]
    for deb in built.glob("*.deb"):
        if "+slurm" not in deb.name or f"+slurm{slurm}_" in deb.name:
            shutil.copy(deb, root / "debs")
    # One node, so that `sovctl doctor` has a slurm.conf whose controller is away.
    (root / "etc/slurm/slurm.conf").write_text("ClusterName=c\nSlurmctldHost=localhost\nNodeName=n001\n", "ascii")
    yield Debian(root, slurm)
    shutil.rmtree(root, ignore_errors=True)


def test_lintian_finds_no_error(built: Path) -> None:
    done = run("lintian", "--allow-root", "--fail-on", "error", *sorted(built.glob("*.deb")))
    assert [line for line in done.stdout.splitlines() if line.startswith("E:")] == []
    assert done.returncode == 0, done.stderr


def test_from_installation_to_purge(debian: Debian, tmp_path: Path) -> None:
    """One story for a release: what is tried in between needs the packages installed."""
    before = debian.files()
    debian.dpkg("--install", *(f"/debs/{path.name}" for path in (debian.root / "debs").iterdir()))
    assert debian.dpkg("--audit") == ""
    the_command_works(debian)
    a_node_checks_itself(debian)
    the_plugin_is_loaded(debian)
    (debian.root / "etc/sovctl/sovctl.toml").write_text("[health]\nact = true\n", "ascii")

    conf = debian.root / "etc/slurm/slurm.conf"
    conf.write_text(conf.read_text("ascii") + "Prolog=/usr/libexec/sovctl/prolog\n", "ascii")
    refused = debian.call("dpkg", "--remove", "sovctl")
    assert refused.returncode != 0 and "slurm.conf still names /usr/libexec/sovctl/prolog" in refused.stderr
    conf.write_text(conf.read_text("ascii").replace("Prolog=", "#Prolog="), "ascii")
    link = debian.root / "etc/slurm/prolog.d/10-sovctl-prolog"
    link.parent.mkdir()
    link.symlink_to("/usr/libexec/sovctl/prolog")
    refused = debian.call("dpkg", "--remove", "sovctl")
    assert refused.returncode != 0 and "rm /etc/slurm/prolog.d/10-sovctl-prolog" in refused.stderr
    link.unlink()
    link.parent.rmdir()

    debian.dpkg("--remove", "sovctl", "sovctl-py-spy", "sovctl-slurm-plugin")
    settings = {"/etc/default/sovctl", "/etc/logrotate.d/sovctl", "/etc/sovctl/sovctl.toml"}
    left = {path for path in debian.files() - before if not path.startswith(("/var/lib/sovctl/", "/run/sovctl/"))}
    assert left == settings
    debian.dpkg("--purge", "sovctl", "sovctl-py-spy", "sovctl-slurm-plugin")
    assert debian.files() == before


def the_command_works(debian: Debian) -> None:
    assert "Keeps large-model training running" in succeed(debian.call("sovctl", "--help"))
    for group in ("ckpt", "node", "run", "site"):
        assert "Example" in succeed(debian.call("sovctl", group, "ls" if group != "site" else "lines", "--help"))
    doctor = debian.call("sovctl", "doctor", "--json")
    lines = {line["check"]: line for line in json.loads(doctor.stdout)["lines"]}
    assert doctor.returncode == 1  # the controller is away
    assert lines["slurm"]["state"] == "fail" and lines["config"]["state"] == "pass"
    assert lines["py-spy"]["seen"] == "/usr/bin/py-spy"
    wanted = succeed(debian.call("sovctl", "site", "lines", "--prefix", "/usr"))
    assert "Prolog=/usr/libexec/sovctl/prolog" in wanted
    staged = succeed(debian.call("sovctl", "site", "install", "--role", "controller", "--root", "/stage"))
    assert "create: /etc/slurm/job_submit.lua" in staged
    assert (
        "ExecStart=/usr/bin/sovctl watch" in (debian.root / "stage/etc/systemd/system/sovctl-watch.service").read_text()
    )
    shutil.rmtree(debian.root / "stage")
    for module in ("paramiko", "ClusterShell.NodeSet", "pynvml", "regex", "typer"):
        code = f"import sovctl.cli.main, {module}"
        assert debian.call("/usr/bin/python3", "-P", "-c", code).returncode == 0, module
    assert "x /var/tmp/sovctl-*" in succeed(debian.call("cat", "/usr/lib/tmpfiles.d/sovctl.conf"))
    assert debian.call("logrotate", "--debug", "/etc/logrotate.d/sovctl").returncode == 0


def a_node_checks_itself(debian: Debian) -> None:
    """With the simulated NVML: a fault of a GPU is seen by the package's own health check and refused by its prolog."""
    lab = debian.root / "opt/lab"
    lab.mkdir(parents=True)
    library = gpus.build_nvml(lab, CommandRunner()).name
    gpus.write_healthy_state(lab / "gpus", "n001", 2)
    (lab / "kmsg").write_text("", "ascii")
    settings = (
        f'[node]\nname = "n001"\nnvml_library = "/opt/lab/{library}"\nkernel_log = "/opt/lab/kmsg"\nexpected_gpus = 2\n'
        "[health]\nact = true\n"
    )
    (lab / "sovctl.toml").write_text(settings, "ascii")
    env = ("env", "SOVCTL_CONFIG=/opt/lab/sovctl.toml", "SOVCTL_LAB_NVML_STATE=/opt/lab/gpus")
    whole = debian.call(*env, "sovctl", "health", "check", "--observe", "--json")
    verdict = json.loads(whole.stdout)
    assert verdict["schema"] == "sovctl.verdict/1" and verdict["state"] != "failed", whole.stdout
    assert debian.call(*env, "/usr/libexec/sovctl/prolog").returncode == 0
    (lab / "kmsg").write_text("3,1,1000000,-;NVRM: Xid (PCI:0000:0f:00): 79, GPU has fallen off the bus.\n", "ascii")
    broken = debian.call(*env, "sovctl", "health", "check", "--observe", "--json")
    assert json.loads(broken.stdout)["state"] == "failed", broken.stdout
    assert debian.call(*env, "SLURM_JOB_ID=1", "/usr/libexec/sovctl/prolog").returncode == 1
    shutil.rmtree(lab)


def the_plugin_is_loaded(debian: Debian) -> None:
    """srun of this release takes the plugin that was built for it."""
    plugstack = debian.root / "etc/slurm/plugstack.conf"
    own = plugstack.read_text("utf-8")
    plugstack.write_text("include /usr/share/sovctl/plugstack.conf\n", "ascii")
    assert "--sov-isolate" in succeed(debian.call("srun", "--help"))
    plugstack.write_text(own, "utf-8")
    version = succeed(debian.call("dpkg-query", "-W", "-f", "${Version}", "sovctl-slurm-plugin"))
    assert version.endswith(f"+slurm{debian.slurm}")
