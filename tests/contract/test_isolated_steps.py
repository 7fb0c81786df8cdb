"""Isolated steps on this machine's own kernel, as root and as an ordinary user."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from image_registry import make_layout, missing_programs, push, registry, rewrite, small_disk
from two_users import HOLD, REACH, reached

from sovctl.adapters.isolation import isolated_step, step_root
from sovctl.adapters.isolation.env_layers import EnvLayers
from sovctl.adapters.isolation.isolated_step import IsolatedSteps
from sovctl.adapters.isolation.isolation_host import IsolationHost
from sovctl.adapters.isolation.node_roots import NodeRoots
from sovctl.adapters.isolation.step_holder import Recipe
from sovctl.errors import RefusedError, SovctlError, TryLaterError
from sovctl.model.image import ImageOfRun, ImageSettings
from sovctl.model.isolated import IsolatedStep, IsolatedTask

ROOT = Path(__file__).parents[2]
NOBODY, OTHER = 65534, 65533
_MISSING = missing_programs() + ([] if shutil.which("bwrap") else ["bubblewrap"])
pytestmark = [
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (make test-packages)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become two other users"),
]


@dataclass(frozen=True)
class User:
    """Somebody who starts isolated steps."""

    uid: int
    home: Path
    cache: Path
    extra: dict[str, str] = field(default_factory=dict)

    def argv(self, *words: str) -> list[str]:
        become = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", "--"]
        return [*(become if self.uid else []), sys.executable, "-m", "sovctl", "exec", *words]

    def env(self, **more: str) -> dict[str, str]:
        settings = {"SOVCTL_ISOLATION_CACHE_DIR": str(self.cache), "SOVCTL_ISOLATION_NODE_DIR": str(self.home.parent)}
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(ROOT), **settings, **more}

    def run(self, *words: str, cwd: Path = Path("/"), **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), env=self.env(**more), cwd=cwd, capture_output=True, text=True, timeout=60
        )

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*words), env=self.env(**more), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = Path(
        subprocess.run(["mktemp", "-d", "/var/tmp/soviXXXX"], check=True, capture_output=True, text=True).stdout.strip()
    )
    made.chmod(0o777)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def image(place: Path) -> str:
    """A squashfs that everybody may read; the cache's owner is root."""
    layout = make_layout(place)
    cache = place / "cache"
    env = {**os.environ, "SOVCTL_ISOLATION_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "sovctl", "image", "prefetch", f"oci:{layout}:1"]
    subprocess.run(words, env=env, check=True, capture_output=True)
    cache.chmod(0o755)
    subprocess.run(["chmod", "-R", "a+rX", str(layout)], check=True)
    return f"oci:{layout}:1"


def _user(place: Path, uid: int) -> User:
    home = place / f"node{uid}" / "home"
    home.mkdir(parents=True, exist_ok=True)
    for path in (home, home.parent):
        os.chown(path, uid, uid)
        path.chmod(0o700)
    return User(uid, home, place / "cache")


@pytest.fixture(scope="module")
def user(place: Path) -> User:
    return _user(place, NOBODY)


@pytest.fixture(params=[0, NOBODY], ids=["root", "user"])
def anyone(request: pytest.FixtureRequest, place: Path) -> User:
    return _user(place, request.param)


def _sh(user: User, image: str, script: str, *words: str, **more: str) -> str:
    done = user.run("--image", image, *words, "--", "sh", "-c", script, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What a task sees


def test_a_task_sees_the_image_and_nothing_of_the_host(anyone: User, image: str) -> None:
    out = _sh(anyone, image, "cat /etc/marker; ls /; id -u; pwd; ls -A /tmp /dev/shm $HOME /run | grep -v : | wc -w")
    lines = out.splitlines()
    assert lines[0] == "busybox"
    assert {"bin", "etc", "opt", "proc", "dev", "sys", "tmp", "run"} <= set(lines)
    assert not {"boot", "usr", "lib"} & set(lines)
    assert lines[-3:] == [str(anyone.uid), "/opt/work", "0"]


def test_a_task_has_no_privileges_and_no_descriptors(anyone: User, image: str, tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(held, True)
    script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status; echo descriptors $(ls /proc/self/fd | wc -l)"
    words = anyone.argv("--image", image, "--", "sh", "-c", script)
    try:
        done = subprocess.run(
            words, env=anyone.env(), cwd="/", capture_output=True, text=True, close_fds=False, timeout=60
        )
    finally:
        os.close(held)
    found = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert {found[f"Cap{name}:"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert found["NoNewPrivs:"] == "1"
    assert found["descriptors"] == "4"  # ls holds the directory it reads


def test_the_root_is_read_only_or_writable_for_the_step_only(anyone: User, image: str) -> None:
    done = anyone.run("--image", image, "--", "touch", "/new")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert _sh(anyone, image, "touch /new /etc/new && ls /new", "--writable") == "/new\n"
    assert anyone.run("--image", image, "--writable", "--", "ls", "/new").returncode == 1


def test_mounts_and_home(anyone: User, image: str) -> None:
    data = anyone.home.parent / "data"
    data.mkdir(exist_ok=True)
    os.chown(data, anyone.uid, anyone.uid)
    (data / "file").write_text("of the host\n")
    mounts = ("--mount", f"{data}:/in:ro", "--mount", f"{data}:/deep/out", "--mount", f"{data}/file:/etc/one:ro")
    out = _sh(anyone, image, "cat /in/file /etc/one; touch /in/x; touch /deep/out/y; ls $HOME", *mounts)
    assert out == "of the host\nof the host\n"
    assert sorted(path.name for path in data.iterdir()) == ["file", "y"]
    (data / "y").unlink()
    (anyone.home / "mine").write_text("")
    os.chown(anyone.home / "mine", anyone.uid, anyone.uid)
    assert _sh(anyone, image, "ls $HOME", "--home", "mount") == "mine\n"
    (anyone.home / "mine").unlink()


def test_the_environment(anyone: User, image: str) -> None:
    job = {"MY_LR": "1", "NCCL_DEBUG": "INFO", "LD_PRELOAD_X": "1", "LD_LIBRARY_PATH": "/host"}
    free = _sh(anyone, image, "env", **job).splitlines()
    assert {"MY_LR=1", "NCCL_DEBUG=INFO", "FROM_IMAGE=yes", f"HOME={anyone.home}"} <= set(free)
    assert not any(line.startswith("LD_LIBRARY_PATH=") for line in free)
    clean = _sh(anyone, image, "env", "--clean-env", **job).splitlines()
    assert {"NCCL_DEBUG=INFO", "FROM_IMAGE=yes"} <= set(clean)
    assert not {"MY_LR=1", "LD_PRELOAD_X=1"} & set(clean)


def test_isolated_on_the_hosts_own_root(anyone: User) -> None:
    script = "cat /etc/hostname >/dev/null; ls -A /tmp /dev/shm | grep -v : | wc -w; ps ax | wc -l; env"
    done = anyone.run("--isolate", "--", "sh", "-c", script, MY_LR="1", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    private, processes, *env = done.stdout.splitlines()
    assert private == "0"
    assert int(processes) <= 6
    assert "LC_ALL=C" in env
    assert "MY_LR=1" not in env


def test_the_ranks_of_a_step_share_and_steps_do_not(user: User, image: str, eventually: Callable[..., object]) -> None:
    step = {"SLURM_JOB_ID": "71", "SLURM_STEP_ID": "0", "SLURMD_NODENAME": "n1", "SLURM_STEP_LAUNCHER_PORT": "4001"}
    script = (
        "touch /dev/shm/$RANK; readlink /proc/self/ns/pid; while [ $(ls /dev/shm | wc -l) -lt 3 ]; do sleep 0.05; done"
    )
    ranks = [user.start("--image", image, "--", "sh", "-c", script, RANK=str(rank), **step) for rank in range(3)]
    spaces = []
    for rank in ranks:
        out, err = rank.communicate(timeout=60)
        assert rank.returncode == 0, err
        spaces.append(out)
    assert len(set(spaces)) == 1
    # While the step is there: a joined one would show its files.
    held = user.start("--image", image, "--", "sh", "-c", "touch /dev/shm/held; echo up; exec sleep 60", **step)
    assert held.stdout is not None
    assert held.stdout.readline() == "up\n"
    assert _sh(user, image, "ls -A /dev/shm", **step) == "held\n"
    others = {"STEP_ID": "1", "JOB_ID": "72", "STEP_LAUNCHER_PORT": "4002", "LAUNCH_NODE_IPADDR": "10.0.0.2"}
    for name, value in others.items():
        assert _sh(user, image, "ls -A /dev/shm", **{**step, f"SLURM_{name}": value}) == "", name
    assert _sh(user, image, "ls -A /dev/shm", **{**step, "SLURMD_NODENAME": "n2"}) == ""
    held.terminate()
    assert held.wait(60) != 0


def test_the_end_of_a_task_is_the_end_of_sovctl_exec(user: User, image: str, eventually: Callable[..., object]) -> None:
    assert user.run("--image", image, "--", "sh", "-c", "exit 7").returncode == 7
    assert user.run("--image", image, "--", "sh", "-c", "kill -9 $$").returncode in (137, -9)
    missing = user.run("--image", image, "--", "no-such-program")
    assert (missing.returncode, missing.stderr) == (127, "sovctl: there is no program no-such-program in the image\n")
    for number in (signal.SIGUSR1, signal.SIGABRT, signal.SIGRTMIN):
        script = f"trap 'echo told; exit 3' {int(number)}; echo up; while :; do sleep 0.05; done"
        running = user.start("--image", image, "--", "sh", "-c", script)
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.send_signal(number)
        assert running.communicate(timeout=30)[0] == "told\n", number
        assert running.returncode == 3


@pytest.mark.parametrize(
    ("start", "needs"),
    [
        (b"#!/bin/bash\n", "/bin/bash"),
        (b"#! /usr/bin/python3 -u\nprint()\n", "/usr/bin/python3"),
        (b"", r"/lib\S*/ld-linux\S*"),
    ],
)
def test_a_program_says_what_runs_it_where_that_is_not_there(
    user: User, image: str, place: Path, start: bytes, needs: str
) -> None:
    program = place / "train"
    program.write_bytes(start or Path("/usr/bin/true").read_bytes())
    program.chmod(0o755)
    for name in ("train", "/bin/train"):
        done = user.run("--image", image, "--mount", f"{program}:/bin/train:ro", "--", name)
        assert done.returncode == 126
        (said,) = (line for line in done.stderr.splitlines() if "unpacking" not in line)
        assert re.fullmatch(f"sovctl: {name} needs {needs}, which the image has not", said)
    missing = user.run("--image", image, "--", "train")
    assert (missing.returncode, missing.stderr) == (127, "sovctl: there is no program train in the image\n")


def test_an_environment_that_no_program_can_have_is_told(user: User, place: Path) -> None:
    layout = rewrite(make_layout(place, "odd-env"), Env=["A=one\0two"])
    subprocess.run(["chmod", "-R", "a+rX", str(layout)], check=True)
    own = {"SOVCTL_ISOLATION_CACHE_DIR": str(user.home.parent / "odd-env-cache")}
    done = user.run("--image", f"oci:{layout}:1", "--", "true", **own)
    assert (done.returncode, done.stdout) == (126, "")
    why = "its environment or a word of the command is not valid: embedded null byte"
    assert done.stderr.splitlines()[-1] == f"sovctl: cannot run true in the image: {why}"


def test_an_image_with_device_files_that_root_loaded(user: User, place: Path) -> None:
    names = (("opt/null", tarfile.CHRTYPE), ("opt/disk", tarfile.BLKTYPE))
    entries = [tarfile.TarInfo(name) for name, _ in names]
    for entry, (_, kind) in zip(entries, names, strict=True):
        entry.type, entry.devmajor, entry.devminor, entry.mode = kind, 1, 3, 0o666
    layout = rewrite(make_layout(place, "devices"), entries=entries)
    subprocess.run(["chmod", "-R", "a+rX", str(layout)], check=True)
    script = "cat /etc/marker; echo 1 >/dev/null; ls -l /opt; cat /opt/disk"
    own = (place / "by-root", user.home / "by-user")
    root = _user(place, 0)
    for who, cache in zip((root, user), own, strict=True):
        out = _sh(who, f"oci:{layout}:1", script, SOVCTL_ISOLATION_CACHE_DIR=str(cache))
        assert out.startswith("devices\n")
    own[0].chmod(0o755)
    assert _sh(user, f"oci:{layout}:1", script, SOVCTL_ISOLATION_CACHE_DIR=str(own[0])).startswith("devices\n")
    by_root, by_user = (next(cache.glob("*.sqsh")).read_bytes() for cache in own)
    assert by_root == by_user


# Which image


def test_a_run_keeps_the_image_that_its_first_step_resolved(user: User, place: Path, tmp_path: Path) -> None:
    first, second = make_layout(place, "first"), make_layout(place, "second")
    run_dir = user.home.parent / "run"
    run_dir.mkdir()
    os.chown(run_dir, user.uid, user.uid)
    with registry(tmp_path / "registry") as served:
        settings = {"SOVCTL_ISOLATION_PLAIN_HTTP": served.address}
        settings["SOVCTL_ISOLATION_CACHE_DIR"] = str(user.home.parent / "own-cache")
        name = push(first, served, "team/moving:1")
        in_run = {**settings, "SOVCTL_RUN_DIR": str(run_dir)}
        assert _sh(user, name, "cat /etc/marker", **in_run) == "first\n"
        push(second, served, "team/moving:1")
        assert _sh(user, name, "cat /etc/marker", **in_run) == "first\n"
        assert _sh(user, name, "cat /etc/marker", **settings) == "second\n"
        (record,) = (run_dir / "images").iterdir()
        kept = json.loads(record.read_text())
        assert (kept["schema"], kept["name"], kept["digest"][:7]) == ("sovctl.run-image/1", name, "sha256:")
        assert _sh(user, name, f"touch {run_dir}/beat", **in_run) == ""  # heartbeats work inside
    assert (run_dir / "beat").exists()
    assert _sh(user, name, "cat /etc/marker", **in_run) == "first\n"  # no registry any more
    gone = user.run("--image", name, "--", "true", **settings)
    assert gone.returncode == 75
    assert "does not answer" in gone.stderr


def test_a_run_knows_a_layouts_tags_apart_and_refuses_one_that_moved(user: User, place: Path) -> None:
    layout, other = make_layout(place, "tagged"), make_layout(place, "elsewhere")
    run_dir = user.home.parent / "run-of-layout"
    run_dir.mkdir()
    os.chown(run_dir, user.uid, user.uid)
    in_run = {"SOVCTL_ISOLATION_CACHE_DIR": str(user.home.parent / "layouts"), "SOVCTL_RUN_DIR": str(run_dir)}

    def tag(source: Path, name: str) -> None:
        subprocess.run(["skopeo", "copy", "-q", f"oci:{source}:1", f"oci:{layout}:{name}"], check=True, timeout=60)
        subprocess.run(["chmod", "-R", "a+rX", str(layout)], check=True)

    tag(other, "2")
    assert _sh(user, f"oci:{layout}:1", "cat /etc/marker", **in_run) == "tagged\n"
    assert _sh(user, f"oci:{layout}:2", "cat /etc/marker", **in_run) == "elsewhere\n"
    tag(other, "1")
    assert _sh(user, f"oci:{layout}:1", "cat /etc/marker", **in_run) == "tagged\n"  # it is in the cache
    shutil.rmtree(user.home.parent / "layouts")
    gone = user.run("--image", f"oci:{layout}:1", "--", "true", **in_run)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "means another image by now" in gone.stderr


def test_a_file_that_was_replaced_is_not_the_image_of_the_run(user: User, image: str, place: Path) -> None:
    (whole,) = (place / "cache").glob("*.sqsh")
    run_dir, link, file = (user.home.parent / name for name in ("run-of-file", "current.sqsh", "v1.sqsh"))
    run_dir.mkdir()
    os.chown(run_dir, user.uid, user.uid)
    shutil.copy(whole, file)
    file.chmod(0o644)
    link.symlink_to(file)
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    host = IsolationHost(NodeRoots(place))
    host.record(str(run_dir), str(link), ImageOfRun(digest, host.stamp(str(file))))
    in_run = {"SOVCTL_RUN_DIR": str(run_dir)}
    before = file.stat().st_mtime_ns
    assert _sh(user, str(link), "cat /etc/marker", **in_run) == "busybox\n"
    assert file.stat().st_mtime_ns == before
    os.utime(file)  # the same bytes
    assert _sh(user, str(link), "cat /etc/marker", **in_run) == "busybox\n"
    other = file.with_name("v2.sqsh")
    other.write_bytes(whole.read_bytes() + bytes(4096))
    link.unlink()
    link.symlink_to(other)
    done = user.run("--image", str(link), "--", "cat", "/etc/marker", **in_run)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{link} means another image by now" in done.stderr
    assert _sh(user, str(link), "cat /etc/marker") == "busybox\n"  # outside of the run


def test_a_sif_is_a_squashfs_further_back(anyone: User, image: str, place: Path) -> None:
    (whole,) = (place / "cache").glob("*.sqsh")
    header = bytearray(8192)
    header[32:41] = b"SIF_MAGIC"
    struct.pack_into("<qq", header, 88, 1, 4096)
    struct.pack_into("<iBIIIqq", header, 4096, 0x4004, 1, 1, 1, 0, 8192, whole.stat().st_size)
    struct.pack_into("<ii", header, 4096 + 201, 1, 2)
    sif = place / "image.sif"
    sif.write_bytes(bytes(header) + whole.read_bytes())
    assert _sh(anyone, str(sif), "cat /etc/marker") == "busybox\n"
    sif.write_bytes(bytes(header) + whole.read_bytes()[:-5000])
    done = anyone.run("--image", str(sif), "--", "true")
    assert (done.returncode, done.stderr.count("is cut short")) == (1, 1)


@pytest.fixture
def in_memory(anyone: User) -> Iterator[Path]:
    """A directory of the user in the host's /dev/shm, with a neighbour."""
    folder = Path(f"/dev/shm/sovctl-test-{os.getpid()}-{anyone.uid}")
    for path in (folder, folder / "data"):
        path.mkdir()
    (folder / "data" / "file").write_text("staged\n")
    (folder / "neighbour").write_text("of the host\n")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, anyone.uid, anyone.uid)
    yield folder
    shutil.rmtree(folder)


def test_what_is_staged_in_memory_can_be_an_image_and_a_mount(anyone: User, image: str, in_memory: Path) -> None:
    (whole,) = anyone.cache.glob("*.sqsh")
    shutil.copy(whole, in_memory / "i.sqsh")
    (in_memory / "i.sqsh").chmod(0o644)
    (in_memory / "link").symlink_to("data")
    mounts = ("--mount", f"{in_memory}/link:/in", "--mount", f"{in_memory}/data/file:/one:ro")
    script = "cat /etc/marker /in/file /one; echo 1 >/in/new; ls -A /dev/shm"
    assert _sh(anyone, str(in_memory / "i.sqsh"), script, *mounts) == "busybox\nstaged\nstaged\n"
    assert (in_memory / "data" / "new").read_text() == "1\n"
    own = {"SOVCTL_ISOLATION_NODE_DIR": str(in_memory / "node"), "SOVCTL_ISOLATION_CACHE_DIR": str(in_memory / "cache")}
    assert _sh(anyone, image, "cat /etc/marker", **own) == "busybox\n"
    done = anyone.run("--isolate", "--mount", f"{in_memory}/data:/mnt", "--", "cat", "/mnt/file")
    assert (done.returncode, done.stdout) == (0, "staged\n"), done.stderr


@pytest.mark.parametrize(("words", "find"), [(("--image", "IMAGE"), "busybox find"), (("--isolate",), "find")])
def test_nothing_else_of_the_hosts_memory_is_seen(
    anyone: User, image: str, in_memory: Path, words: tuple[str, ...], find: str
) -> None:
    asked = [word.replace("IMAGE", image) for word in words]
    script = f"{find} /dev /mnt /run /tmp -name file -o -name neighbour; cat /proc/self/mountinfo"
    done = anyone.run(*asked, "--mount", f"{in_memory}/data:/mnt", "--", "sh", "-c", script)
    (found, *mounts) = done.stdout.splitlines()
    assert found == "/mnt/file", done.stderr
    device = os.stat("/dev/shm").st_dev
    of_host = [line.split() for line in mounts if line.split()[2] == f"{os.major(device)}:{os.minor(device)}"]
    if "--image" in words:  # with the host's own root the rest lies below the step's /dev, where no path leads
        assert {(root, place) for _, _, _, root, place, *_ in of_host} == {(f"/{in_memory.name}/data", "/mnt")}


def test_memory_that_the_kernel_does_not_hand_on_is_told() -> None:
    with pytest.raises(SovctlError, match=r"^/dev/shm/none cannot be in an isolated step on \S+: ") as met:
        step_root._kept("/dev/shm/none")
    assert met.value.hint.startswith("In /dev/shm it takes Linux 5.2 there, elsewhere it works: `cp -a /dev/shm/")


def test_a_layer_is_exported_into_memory(anyone: User, image: str, in_memory: Path) -> None:
    target = in_memory / "out.sqsh"
    assert _sh(anyone, image, "echo 1 >/opt/tool", "--env-name", "staged") == ""
    done = _image_command(anyone, "env", "export", "staged", str(target))
    assert done.returncode == 0, done.stderr
    assert _sh(anyone, str(target), "cat /opt/tool") == "1\n"
    assert _image_command(anyone, "env", "rm", "staged").returncode == 0


# Named layers


def _image_command(user: User, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    argv = [word if word != "exec" else "image" for word in user.argv()]
    return subprocess.run(
        [*argv, *words], env=user.env(**more), cwd=user.home, capture_output=True, text=True, timeout=60
    )


def test_a_named_layer_keeps_what_is_written_for_its_owner_alone(anyone: User, image: str, place: Path) -> None:
    assert _sh(anyone, image, "echo 1 >/opt/tool; rm /etc/marker; touch /tmp/x", "--env-name", "tools") == ""
    assert _sh(anyone, image, "cat /opt/tool; ls /etc /tmp", "--env-name", "tools").startswith("1\n")
    assert anyone.run("--image", image, "--env-name", "tools", "--", "cat", "/etc/marker").returncode == 1
    assert anyone.run("--image", image, "--env-name", "more", "--", "cat", "/opt/tool").returncode == 1
    assert anyone.run("--image", image, "--", "cat", "/opt/tool").returncode == 1
    layer = anyone.home / ".local" / "share" / "sovctl" / "env" / "tools"
    assert layer.stat().st_mode & 0o077 == 0
    found = json.loads(_image_command(anyone, "env", "ls", "--json").stdout)["environments"]
    assert [(one["name"], one["in_use"]) for one in found] == [("more", False), ("tools", False)]
    done = _image_command(anyone, "env", "export", "tools", "tools.sqsh")
    assert done.returncode == 0, done.stderr
    exported = str(anyone.home / "tools.sqsh")
    assert _sh(anyone, exported, "cat /opt/tool; echo $FROM_IMAGE") == "1\nyes\n"
    assert _sh(anyone, exported, "echo $FROM_IMAGE", FROM_IMAGE="of the job") == "of the job\n"
    assert anyone.run("--image", exported, "--", "cat", "/etc/marker").returncode == 1
    assert _sh(anyone, exported, "touch /again", "--env-name", "over-a-file") == ""
    assert _sh(anyone, exported, "ls /again", "--env-name", "over-a-file") == "/again\n"
    assert _image_command(anyone, "env", "rm", "over-a-file").returncode == 0
    other = make_layout(place, f"other{anyone.uid}")
    subprocess.run(["chmod", "-R", "a+rX", str(other)], check=True)
    own_cache = {"SOVCTL_ISOLATION_CACHE_DIR": str(anyone.home / "cache")}
    mixed = anyone.run("--image", f"oci:{other}:1", "--env-name", "tools", "--", "true", **own_cache)
    assert mixed.returncode == 3
    assert "was made over another image" in mixed.stderr
    assert _image_command(anyone, "env", "rm", "tools", "--dry-run").returncode == 0
    for name in ("tools", "more"):
        assert _image_command(anyone, "env", "rm", name).returncode == 0
    assert json.loads(_image_command(anyone, "env", "ls", "--json").stdout)["environments"] == []
    assert _image_command(anyone, "env", "rm", "tools").returncode == 2
    (anyone.home / "tools.sqsh").unlink()


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b", "-x", "a b", "x" * 65])
def test_names_of_layers_that_lead_elsewhere(user: User, image: str, name: str) -> None:
    done = user.run("--image", image, f"--env-name={name}", "--", "cat", "/etc/marker")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a name for an environment" in done.stderr


def test_one_step_at_a_time_writes_to_a_layer(user: User, image: str, eventually: Callable[..., object]) -> None:
    first = user.start("--image", image, "--env-name", "one", "--", "sh", "-c", "echo up; sleep 30")
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        second = user.run("--image", image, "--env-name", "one", "--", "true")
        assert second.returncode == 75
        assert "another step uses the environment one" in second.stderr
        assert _image_command(user, "env", "rm", "one").returncode == 75
    finally:
        first.kill()
        first.communicate(timeout=30)
    eventually(lambda: _image_command(user, "env", "rm", "one").returncode == 0, "the layer is free again")


@pytest.mark.parametrize("where", ["registry", "layout"])
def test_a_layer_can_be_exported_after_its_tag_has_moved(user: User, place: Path, tmp_path: Path, where: str) -> None:
    first, second = make_layout(place, f"before-{where}"), make_layout(place, f"after-{where}")
    target = user.home / f"{where}.sqsh"
    with registry(tmp_path / "registry") as served:
        own = {"SOVCTL_ISOLATION_CACHE_DIR": str(user.home.parent / f"moved-{where}")}
        own["SOVCTL_ISOLATION_PLAIN_HTTP"] = served.address

        def named(source: Path) -> str:
            if where == "registry":
                return push(source, served, "team/moved:1")
            words = ["skopeo", "copy", "-q", f"oci:{source}:1", f"oci:{place}/moved:1"]
            subprocess.run(words, check=True, capture_output=True, timeout=60)
            subprocess.run(["chmod", "-R", "a+rX", f"{place}/moved"], check=True)
            return f"oci:{place}/moved:1"

        name = named(first)
        assert _sh(user, name, "echo 1 >/opt/tool", "--env-name", "mv", **own) == ""
        named(second)
        assert user.run("--image", name, "--env-name", "mv", "--", "true", **own).returncode == 3
        done = _image_command(user, "env", "export", "mv", target.name, **own)
        assert done.returncode == 0, done.stderr
        assert _sh(user, str(target), "cat /etc/marker /opt/tool") == f"before-{where}\n1\n"
        target.unlink()
        shutil.rmtree(own["SOVCTL_ISOLATION_CACHE_DIR"])
        done = _image_command(user, "env", "export", "mv", target.name, **own)
        if where == "registry":
            assert done.returncode == 0, done.stderr
            target.unlink()
        else:
            assert done.returncode == 3
            assert f"the environment mv was made over another image ({name})" in done.stderr
            assert "remove" not in done.stderr
    assert _image_command(user, "env", "rm", "mv").returncode == 0


def test_layers_are_listed_while_they_are_written(user: User, image: str, tmp_path: Path) -> None:
    script = "mkdir /shut && echo 1 >/shut/file && chmod 0400 /shut"
    assert _sh(user, image, script, "--env-name", "shut") == ""
    found = _image_command(user, "env", "ls", "--json")
    assert found.returncode == 0, found.stderr
    assert _image_command(user, "env", "rm", "shut").returncode == 0
    layers, done = EnvLayers(tmp_path / "env"), threading.Event()
    upper = Path(layers.open("busy", "sha256-1", "an image"), "upper")
    for number in range(300):
        (upper / str(number)).write_text("12345")

    def write() -> None:
        while not done.is_set():
            (upper / "moment").write_text("")
            (upper / "moment").unlink()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(write)
        try:
            sizes = {layer.size_bytes for _ in range(100) for layer in layers.entries()}
        finally:
            done.set()
    assert sizes == {1500}


# Other runtimes


def _with_places(place: Path, name: str) -> Path:
    """An image with the directories and files that other runtimes mount over; they make none."""
    names = ("dev", "proc", "sys", "tmp", "run", "root", "home", "mnt", "usr/bin", "var/tmp")
    files = ("etc/hosts", "etc/resolv.conf", "etc/passwd", "etc/group", "etc/localtime")
    layout = make_layout(place, name, {f"{one}/.keep": "" for one in names} | dict.fromkeys(files, ""))
    subprocess.run(["chmod", "-R", "a+rX", str(layout)], check=True)
    return layout


def test_charliecloud_runs_the_same_image(user: User, place: Path) -> None:
    if shutil.which("ch-run") is None:
        pytest.skip("not installed: charliecloud (make test-packages)")
    layout = _with_places(place, "charlie")
    words = ("--image", f"oci:{layout}:1", "--runtime", "charliecloud", "--clean-env")
    own = {"SOVCTL_ISOLATION_CACHE_DIR": str(user.home / "charlie"), "USER": "u", "MY_KEY": "x", "NCCL_DEBUG": "INFO"}
    done = user.run(*words, "--", "sh", "-c", "cat /etc/marker; pwd; env; exit 5", **own)
    assert done.returncode == 5, done.stderr
    assert done.stdout.startswith("charlie\n/opt/work\n")
    assert "NCCL_DEBUG=INFO" in done.stdout
    assert "MY_KEY" not in done.stdout


def test_apptainer_runs_the_same_image(user: User, place: Path) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("not installed: apptainer (Debian sid has it)")
    layout = _with_places(place, "apptainer")
    data = user.home.parent / "shown"
    data.mkdir(exist_ok=True)
    (data / "file").write_text("of the host\n")
    data.chmod(0o755)
    words = ("--image", f"oci:{layout}:1", "--runtime", "apptainer", "--clean-env", "--mount", f"{data}:/in:ro")
    own = {"MY_KEY": "x", "NCCL_DEBUG": "INFO", "SOVCTL_ISOLATION_CACHE_DIR": str(user.home / "apptainer")}
    script = "cat /etc/marker /in/file; touch /in/x /new 2>/dev/null; ls -A /tmp $HOME; pwd; env; id -u; exit 5"
    done = user.run(*words, "--", "sh", "-c", script, **own)
    assert done.returncode == 5, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [layout.name, "of the host"]
    assert {"/opt/work", "NCCL_DEBUG=INFO", "FROM_IMAGE=yes"} <= set(lines)
    assert lines[-1] == str(user.uid)
    assert not any(line.startswith("MY_KEY") for line in lines)
    assert [path.name for path in data.iterdir()] == ["file"]
    written = user.run(*words, "--writable", "--", "sh", "-c", "touch /new && ls /new", **own)
    assert (written.returncode, written.stdout) == (0, "/new\n"), written.stderr


@pytest.mark.parametrize(
    ("runtime", "program"),
    [("bubblewrap", "bwrap"), ("charliecloud", "ch-run"), ("apptainer", "apptainer"), ("podman", "podman")],
)
def test_cleaning_removes_nothing_of_a_running_step(
    user: User, place: Path, runtime: str, program: str, eventually: Callable[..., object]
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program}")
    layout = _with_places(place, f"used-by-{runtime}")
    own = {"SOVCTL_ISOLATION_CACHE_DIR": str(user.home / f"cache-{runtime}"), "USER": "u"}
    words = ("--image", f"oci:{layout}:1", "--runtime", runtime)

    def clean() -> list[str]:
        argv = [*user.argv()[:-1], "image", "gc", "--keep", "0"]
        done = subprocess.run(argv, env=user.env(**own), cwd="/", capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if "sovctl-" in line or f"cache-{runtime}" in line]

    step = user.start(*words, "--", "sh", "-c", "echo up; sleep 60", **own)
    try:
        assert step.stdout is not None
        assert step.stdout.readline() == "up\n"
        clean()  # what steps of other tests left unpacked
        before = {*(user.home / f"cache-{runtime}").iterdir(), *user.home.parent.glob("sovctl-*/*")}
        assert clean() == []
        assert before == {*(user.home / f"cache-{runtime}").iterdir(), *user.home.parent.glob("sovctl-*/*")}
    finally:
        step.kill()
        step.communicate(timeout=30)
    gone: list[str] = []
    eventually(lambda: gone.extend(clean()) or any(".sqsh" in line for line in gone), "the image is free again")
    eventually(lambda: clean() == [] and not list(user.home.parent.glob("sovctl-*/*")), "what was unpacked is gone")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--runtime", "docker"), "there is no runtime docker"),
        (("--runtime", "podman", "--env-name", "x"), "podman has no --env-name"),
        (("--runtime", "apptainer"), "apptainer is not on PATH"),
    ],
)
def test_runtimes_that_do_not_go(user: User, image: str, words: tuple[str, ...], said: str) -> None:
    if shutil.which("apptainer") and "apptainer" in words:
        pytest.skip("apptainer is installed")
    done = user.run("--image", image, *words, "--", "true")
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_a_private_network_has_its_own_loopback_and_abstract_sockets(anyone: User, image: str) -> None:
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(f"\0sovctl-test-{os.getpid()}")
        mine = f"grep -c '@sovctl-test-{os.getpid()}$' /proc/net/unix"
        look = f"grep -c : /proc/net/dev; {mine}; true"
        private = _sh(anyone, image, look, "--private-network").split()
        assert private == ["1", "0"]
        assert _sh(anyone, image, mine).split() == ["1"]


# What can be wrong


@pytest.mark.parametrize("part", ["CACHE_DIR", "NODE_DIR"])
def test_a_full_disk_is_told_and_leaves_the_image_for_later(
    user: User, image: str, place: Path, tmp_path: Path, part: str
) -> None:
    if part == "NODE_DIR" and os.stat("/dev/fuse").st_mode & 0o002:
        pytest.skip("squashfuse mounts the image: nothing is unpacked here")
    with small_disk(place / f"small-{part}", "size=300k") as small:
        done = user.run("--image", image, "--", "true", **{f"SOVCTL_ISOLATION_{part}": str(small)})
        assert (done.returncode, done.stdout) == (75, ""), done.stderr
        assert re.search("no room|is full|No space", done.stderr)
        assert str(small) in done.stderr
        assert "Traceback" not in done.stderr
    assert user.run("--image", image, "--", "true").returncode == 0


def test_without_bubblewrap_it_says_so(user: User, image: str, tmp_path: Path) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir=/usr/bin,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    script = f"mount -t overlay -o {layers} none /usr/bin && rm /usr/bin/bwrap && exec " + shlex.join(
        user.argv("--image", image, "--", "true")
    )
    words = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(words, env=user.env(), cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "bwrap" in done.stderr
    assert len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    "home", ["", "relative", "/../root", "/etc", "/proc/1/root", "/nonexistent/x", "/a\nb", "/dev/shm"]
)
def test_a_hostile_home_shows_nothing_more(user: User, image: str, home: str) -> None:
    for words in ((), ("--home", "mount")):
        done = user.run("--image", image, *words, "--", "sh", "-c", "cat /etc/marker; ls /root /etc/shadow", HOME=home)
        assert "shadow" not in done.stdout or home == "/etc"
        assert "Traceback" not in done.stderr
        assert done.returncode != 0 or "busybox" in done.stdout or home == "/etc"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--mount", "/no/such:/x"), 2, "there is nothing to mount at /no/such"),
        (("--mount", "/etc:/dev/shm"), 2, "nothing can be mounted at /dev/shm"),
        (("--mount", "/etc/../root:/x"), 2, "'..' is not allowed"),
        (("--mount", "/etc:/x", "--mount", "/usr:/x"), 2, "two mounts at /x"),
        (("--mount", "/etc:/bin/sh/x"), 2, "but a link or a file"),
        (("--home", "some"), 2, "there is no --home 'some'"),
        (("--imag", "x"), 2, "there is no option --imag; did you mean --image?"),
    ],
)
def test_wrong_options_are_one_sentence(user: User, image: str, words: tuple[str, ...], status: int, said: str) -> None:
    done = user.run("--image", image, *words, "--", "true")
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    # One is found only in the image, which the node may have to unpack first.
    assert len([line for line in done.stderr.splitlines() if "unpacking" not in line]) <= 2


def test_wrong_images_are_one_sentence(user: User, place: Path, image: str) -> None:
    (whole,) = (place / "cache").glob("*.sqsh")
    short = place / "short.sqsh"
    short.write_bytes(whole.read_bytes()[:-5000])
    (place / "text.sqsh").write_text("no image")
    for name, said in (
        (str(short), "is cut short"),
        (str(place / "text.sqsh"), "is not a squashfs"),
        ("/no/such.sqsh", "there is no image /no/such.sqsh"),
        ("x.sqsh", "looks like a file"),
    ):
        done = user.run("--image", name, "--", "true")
        assert done.returncode in (1, 2)
        assert said in done.stderr
    assert user.run("--isolate").returncode == 2
    assert user.run("--", "true").returncode == 2


def test_the_sites_lists_are_obeyed(user: User, image: str, place: Path) -> None:
    link = user.home / "link"
    link.symlink_to("/etc")
    os.chown(link, user.uid, user.uid, follow_symlinks=False)
    mounts = {"SOVCTL_ISOLATION_ALLOW_MOUNTS": str(place)}
    assert user.run("--image", image, "--mount", f"{place}/busybox:/x", "--", "true", **mounts).returncode == 0
    done = user.run("--image", image, "--mount", f"{link}:/x", "--", "true", **mounts)
    assert done.returncode == 3
    assert "the site does not allow /etc" in done.stderr
    fake = user.home / "allowed"
    fake.symlink_to(place / "cache")
    (whole,) = (place / "cache").glob("*.sqsh")
    images = {"SOVCTL_ISOLATION_ALLOW_IMAGES": str(user.home)}
    done = user.run("--image", str(fake / whole.name), "--", "true", **images)
    assert done.returncode == 3
    assert "isolation.allow_images" in done.stderr
    link.unlink()
    fake.unlink()


def test_links_of_an_image_lead_nowhere(user: User, place: Path) -> None:
    root = place / "evil"
    victim = user.home / "victim"
    victim.mkdir()
    os.chown(victim, user.uid, user.uid)
    for folder in ("bin", "real"):
        (root / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "sh")
    (root / "etc").symlink_to(victim)
    (root / "tmp").symlink_to(victim)
    (root / "data").symlink_to(victim)
    for words in ((), ("--mount", "/usr:/data"), ("--mount", "/usr:/data/in"), ("--writable",)):
        user.run("--image", str(root), *words, "--", "/bin/sh", "-c", "echo x >/tmp/x; echo x >/etc/x")
    assert list(victim.iterdir()) == []
    done = user.run("--image", str(root), "--mount", "/usr:/data/in", "--", "/bin/sh", "-c", "true")
    assert done.returncode == 2
    assert "but a link or a file" in done.stderr


def test_without_user_namespaces_it_says_so(user: User, eventually: Callable[..., object]) -> None:
    # In a user namespace of its own the limit is its own.
    script = """
import os, pathlib, sys
from sovctl.adapters.isolation import linux
linux.unshare(linux.CLONE_NEWUSER)
sys.stdin.readline()
pathlib.Path("/proc/sys/user/max_user_namespaces").write_text("0")
os.execvp(sys.argv[1], sys.argv[1:])
"""
    words = [sys.executable, "-c", script, *user.argv("--isolate", "--", "true")]
    pipe = subprocess.PIPE
    kernel = subprocess.Popen(words, env=user.env(), cwd="/", stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    mine = os.readlink("/proc/self/ns/user")
    eventually(lambda: os.readlink(f"/proc/{kernel.pid}/ns/user") != mine, "the namespace is there")
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{kernel.pid}/{name}").write_text("0 0 65536")
    _, said = kernel.communicate("go\n", timeout=60)
    assert kernel.returncode == 1
    assert "forbids user namespaces: their limit is reached" in said
    assert len(said.splitlines()) == 2


# Two users on one node


def test_two_users_on_one_node_cannot_touch_each_other(user: User, image: str, place: Path, tmp_path: Path) -> None:
    other = _user(place, OTHER)
    script = "echo secret >/tmp/mine; echo secret >/dev/shm/mine; echo up; exec sleep 60"
    victim = user.start("--image", image, "--", "sh", "-c", script)
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "up\n"
        inside = [int(word) for word in _children(victim.pid)]
        attack = "ls /proc | grep -c '^[0-9]'; cat /tmp/mine /dev/shm/mine; " + "".join(
            f"kill -0 {pid}; cat /proc/{pid}/environ; ls /proc/{pid}/root/; " for pid in inside
        )
        done = other.run("--image", image, "--", "sh", "-c", f"({attack}) 2>/dev/null; true")
        # Nothing was read; at most bubblewrap, sh, its subshell, ls and grep were found.
        assert re.fullmatch(r"[1-5]\n", done.stdout), done.stdout + done.stderr
        outside = subprocess.run(
            ["setpriv", "--reuid", str(OTHER), "--regid", str(OTHER), "--clear-groups", sys.executable, "-c", _ATTACK],
            input=json.dumps(inside),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert json.loads(outside.stdout) == [], outside.stderr
    finally:
        victim.kill()
        victim.communicate(timeout=30)


def _with_gpus(count: int) -> list[str]:
    """Words before a command that then finds device files of GPUs in /dev, each one that everybody may open."""
    copy = "mount -t tmpfs none /mnt && cp -a /dev/. /mnt/ 2>/dev/null"
    made = " && ".join(f"mknod -m 666 /mnt/nvidia{number} c 1 3" for number in range(count))
    return ["unshare", "--mount", "sh", "-c", f'{copy}; {made} && mount --rbind /mnt /dev && exec "$0" "$@"']


@pytest.mark.parametrize(("words", "abstract"), [((), "None"), (("--private-network",), "Connection refused")])
def test_two_steps_of_two_users_cannot_reach_each_other(
    user: User, place: Path, words: tuple[str, ...], abstract: str
) -> None:
    other = _user(place, OTHER)
    python = ("/usr/bin/python3", "-c")
    pipe = subprocess.PIPE
    argv = user.argv("--isolate", *words, "--", *python, HOLD)
    victim = subprocess.Popen(argv, env=user.env(), cwd="/", stdin=pipe, stdout=pipe, text=True)
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline().startswith("ready ")
        (pid,) = _children(victim.pid)
        done = other.run("--isolate", "--", *python, REACH, pid, "/dev/nvidia")
    finally:
        victim.communicate(timeout=30)
    found = json.loads(done.stdout)
    assert reached(found) == {}
    assert found["abstract"] == abstract
    assert {fd for fd in found["fds"] if fd and not fd.startswith(("pipe:", "socket:", "/dev/null"))} == set()


def test_a_step_gets_the_device_files_of_its_own_gpus(user: User) -> None:
    job = {"SLURM_JOB_ID": "61", "SLURM_STEP_ID": "0", "SLURM_STEP_GPUS": "1"}
    look = "ls /dev | grep nvidia; cat /dev/nvidia1 && echo opened; cat /tmp/gpu 2>&1; true"
    inside = user.argv("--isolate", "--mount", "/dev/nvidia0:/tmp/gpu", "--", "sh", "-c", look)
    done = subprocess.run(
        [*_with_gpus(2), *inside], env=user.env(**job), cwd="/", capture_output=True, text=True, timeout=60
    )
    # The mount shows a device file of another job, which cannot be opened there.
    assert done.stdout.splitlines() == ["nvidia1", "opened", "cat: /tmp/gpu: Permission denied"], done.stderr


@pytest.fixture
def secret(user: User) -> Iterator[Path]:
    """A directory of the first user with a file that nobody else may read, beside one that everybody may."""
    vault, public = user.home / "vault", user.home.parent.parent / "public"
    for folder, name, text, mode in ((vault, "private", "secret\n", 0o700), (public, "file", "seen\n", 0o755)):
        folder.mkdir()
        (folder / name).write_text(text)
        (folder / name).chmod(mode & 0o644)
        folder.chmod(mode)
        for path in (folder, folder / name):
            os.chown(path, user.uid, user.uid)
    yield vault
    shutil.rmtree(public)
    shutil.rmtree(vault)


def _did_nothing(done: subprocess.CompletedProcess[str], secret: Path) -> None:
    assert "secret" not in done.stdout
    assert "Traceback" not in done.stderr
    for folder, name, text in ((secret, "private", "secret\n"), (secret.parents[2] / "public", "file", "seen\n")):
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == text


def test_links_into_anothers_place_show_and_change_nothing(user: User, image: str, place: Path, secret: Path) -> None:
    other = _user(place, OTHER)
    link = other.home / "link"
    for target in (secret, secret / "private", f"/proc/{os.getpid()}/cwd", link):
        link.symlink_to(target)
        os.chown(link, other.uid, other.uid, follow_symlinks=False)
        done = other.run("--image", image, "--mount", f"{link}:/x", "--", "sh", "-c", "cat /x /x/private; touch /x/new")
        assert done.returncode == 2, done.stderr
        assert "there is nothing to mount at" in done.stderr
        _did_nothing(done, secret)
        link.unlink()
    link.symlink_to(place / "public")
    done = other.run("--image", image, "--mount", f"{link}:/x", "--", "sh", "-c", "cat /x/file; touch /x/new")
    assert done.stdout == "seen\n"
    _did_nothing(done, secret)
    link.unlink()


@pytest.mark.parametrize("through", ["name", "link"])
@pytest.mark.parametrize(
    ("words", "variable"),
    [
        (("--image", "{}"), ""),
        (("--image", "{}/private"), ""),
        (("--image", "{}/i.sqsh"), ""),
        (("--image", "{}/i.sif"), ""),
        (("--image", "oci:{}"), ""),
        (("--image", "oci:{}:1"), ""),
        (("--image", "IMAGE", "--home", "mount"), "HOME"),
        (("--isolate", "--home", "mount"), "HOME"),
        (("--image", "IMAGE", "--env-name", "x"), "SOVCTL_ISOLATION_ENV_DIR"),
        (("--image", "IMAGE", "--env-name", "x"), "XDG_DATA_HOME"),
        (("--image", "IMAGE"), "SOVCTL_ISOLATION_CACHE_DIR"),
        (("--image", "IMAGE"), "SOVCTL_ISOLATION_NODE_DIR"),
    ],
)
def test_no_value_of_an_option_leads_into_anothers_place(
    user: User, image: str, place: Path, secret: Path, words: tuple[str, ...], variable: str, through: str
) -> None:
    other, target = _user(place, OTHER), secret
    (whole,) = (place / "cache").glob("*.sqsh")
    for name in ("i.sqsh", "i.sif"):
        shutil.copy(whole, secret / name)
        os.chown(secret / name, user.uid, user.uid)
    if through == "link":
        target = other.home / "link"
        target.symlink_to(secret)
        os.chown(target, other.uid, other.uid, follow_symlinks=False)
    try:
        options = [word.replace("{}", str(target)).replace("IMAGE", image) for word in words]
        script = f"cat {target}/private /private $HOME/private; touch {target}/new $HOME/new; cat /etc/marker"
        done = other.run(*options, "--", "sh", "-c", script, **({variable: str(target)} if variable else {}))
        if "{}" in "".join(words):
            assert done.returncode in (1, 2, 3), done.stderr
            assert "busybox" not in done.stdout
        for name in ("i.sqsh", "i.sif"):
            (secret / name).unlink()
        _did_nothing(done, secret)
    finally:
        (other.home / "link").unlink(missing_ok=True)


@pytest.mark.parametrize("part", ["", "upper", "work"])
@pytest.mark.parametrize("kind", ["secret", "public"])
def test_a_layer_of_links_writes_nowhere_else(
    user: User, image: str, place: Path, secret: Path, part: str, kind: str
) -> None:
    other = _user(place, OTHER)
    layer = other.home / ".local" / "share" / "sovctl" / "env" / "evil"
    (layer if part else layer.parent).mkdir(parents=True)
    (layer / part if part else layer).symlink_to(secret if kind == "secret" else place / "public")
    try:
        for path in (layer, *layer.parents):
            os.chown(path, other.uid, other.uid, follow_symlinks=False)
            if part or path != layer:
                path.chmod(0o700)
            if path == other.home:
                break
        words = ("--image", image, "--env-name", "evil", "--", "sh", "-c", "echo x >/new; echo x >/file; cat /private")
        done = other.run(*words)
        assert done.returncode != 0
        _did_nothing(done, secret)
    finally:
        shutil.rmtree(other.home / ".local")


@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_layers_in_a_directory_that_somebody_else_may_change_are_refused(
    user: User, image: str, place: Path, mode: int
) -> None:
    trap = place / f"trap-{mode:o}"
    trap.mkdir()
    os.chown(trap, OTHER if mode == 0o700 else user.uid, user.uid)
    trap.chmod(mode | 0o055)
    done = user.run("--image", image, "--env-name", "x", "--", "true", SOVCTL_ISOLATION_ENV_DIR=str(trap))
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert str(trap) in done.stderr
    assert list(trap.iterdir()) == []


@pytest.mark.parametrize("name", ["SOVCTL_RUN_DIR", "SOVCTL_CHECKPOINT_DIR"])
@pytest.mark.parametrize(
    "value",
    ["SECRET", "SECRET/private", "/proc/1/root", "/dev/shm", "/etc/shadow", "/a\nb", "/x:/etc", "/.."],
)
def test_a_hostile_directory_of_a_run_shows_nothing(
    user: User, image: str, place: Path, secret: Path, name: str, value: str
) -> None:
    other = _user(place, OTHER)
    hostile = value.replace("SECRET", str(secret))
    script = 'cat "$0" "$0/private" "$0/shadow" /etc/shadow; touch "$0/new"'
    done = other.run("--image", image, "--", "sh", "-c", script, hostile, **{name: hostile})
    assert "root:" not in done.stdout
    _did_nothing(done, secret)
    assert done.returncode in (1, 2, 3)


_LISTEN = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind(chr(0) + sys.argv[1])
    sock.listen()
    print("up", flush=True)
    sys.stdin.read()
"""
_CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    print(sock.connect_ex(chr(0) + sys.argv[1]))
"""


@pytest.mark.parametrize(("words", "reached"), [((), True), (("--private-network",), False)])
def test_an_abstract_socket_is_out_of_another_users_reach(
    user: User, place: Path, words: tuple[str, ...], reached: bool
) -> None:
    other, name = _user(place, OTHER), f"sovctl-test-{os.getpid()}"
    argv = user.argv("--isolate", *words, "--", "/usr/bin/python3", "-c", _LISTEN, name)
    pipe = subprocess.PIPE
    owner = subprocess.Popen(argv, env=user.env(), cwd="/", stdin=pipe, stdout=pipe, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        ask = ("/usr/bin/python3", "-c", _CONNECT, name)
        from_step = other.run("--isolate", "--", *ask)
        from_node = subprocess.run(
            ["setpriv", "--reuid", str(OTHER), "--clear-groups", *ask], capture_output=True, text=True, timeout=60
        )
        for said in (from_step, from_node):
            assert (said.stdout == "0\n") is reached, said.stderr
            assert said.stdout.strip().isdigit()
        assert other.run("--isolate", "--private-network", "--", *ask).stdout != "0\n"
    finally:
        owner.communicate(timeout=30)


_ATTACK = """
import ctypes, json, os, socket, sys
got = []
for pid in json.load(sys.stdin):
    for what in ("root/tmp/mine", "root/dev/shm/mine", "environ", "mem", "cwd/etc/marker", "fd"):
        try:
            path = f"/proc/{pid}/{what}"
            got.append([what, os.listdir(path) if what == "fd" else open(path, "rb").read(10).decode("latin1")])
        except OSError:
            pass
    try:
        os.kill(pid, 0)
        got.append(["kill"])
    except OSError:
        pass
    if ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0:
        got.append(["ptrace"])
    for space in ("user", "mnt", "pid"):
        try:
            got.append([space, os.open(f"/proc/{pid}/ns/{space}", os.O_RDONLY)])
        except OSError:
            pass
for line in open("/proc/net/unix"):
    name = line.split()[-1]
    if name.startswith("@sovctl-"):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(chr(0) + name[1:])
                data, fds, _, _ = socket.recv_fds(sock, 100, 8)
                if data or fds:
                    got.append(["holder", len(fds)])
        except OSError:
            pass
print(json.dumps(got))
"""


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_name_that_somebody_else_took_is_not_used(user: User, image: str) -> None:
    taker = f"""
import socket, sys
sys.path.insert(0, {str(ROOT)!r})
import os
from sovctl.adapters.isolation import isolated_step
isolated_step.os.getuid = lambda: {user.uid}
key = sys.argv[1]
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.bind(isolated_step._address(key, 0))
    sock.listen(5)
    print("taken", flush=True)
    sys.stdin.read()
"""
    step = {"SLURM_JOB_ID": "81", "SLURM_STEP_ID": "0"}
    from sovctl.operations.isolation.exec_step import ExecOptions, ExecPlace, ExecSettings, StepRunner

    asked = StepRunner(ExecOptions(("true",), image), ExecSettings(), ExecPlace(step, "/", ""), None, print)  # type: ignore[arg-type]
    squatter = subprocess.Popen(
        [
            "setpriv",
            "--reuid",
            str(OTHER),
            "--regid",
            str(OTHER),
            "--clear-groups",
            sys.executable,
            "-c",
            taker,
            asked.key(),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "taken\n"
        assert _sh(user, image, "cat /etc/marker", **step) == "busybox\n"
    finally:
        squatter.communicate(timeout=30)


def test_ranks_that_wait_are_told_why_their_step_cannot_be_made(eventually: Callable[..., object]) -> None:
    key, told, called = f"test-{os.getpid()}-waiting", threading.Event(), list[str]()
    name = isolated_step._address(key, 0).replace("\0", "@")

    def prepare() -> IsolatedStep:
        called.append("")
        told.wait(60)
        raise TryLaterError("the registry does not answer", hint="Try again later.")

    def rank() -> SovctlError:
        with pytest.raises(SovctlError) as met:
            IsolatedSteps(_RECIPE).run(key, prepare, _never)
        return met.value

    with ThreadPoolExecutor(4) as pool:
        ranks = [pool.submit(rank) for _ in range(4)]
        # The listener, and one end of each connection that waits for it.
        eventually(lambda: Path("/proc/net/unix").read_text().split().count(name) == 4, "three ranks wait")
        told.set()
        met = [one.result(60) for one in ranks]
    assert [(one.message, one.hint, one.exit_code) for one in met] == [
        ("the registry does not answer", "Try again later.", 75)
    ] * 4
    assert called == [""]


def test_a_rank_that_waits_for_one_that_dies_takes_its_place(eventually: Callable[..., object]) -> None:
    key = f"test-{os.getpid()}-dying"

    def prepare() -> IsolatedStep:
        raise RefusedError("this image is not allowed")

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dying, ThreadPoolExecutor(1) as pool:
        dying.bind(isolated_step._address(key, 0))
        dying.listen()
        rank = pool.submit(IsolatedSteps(_RECIPE).run, key, prepare, _never)
        eventually(lambda: select.select([dying], [], [], 0)[0], "the rank waits")
        dying.close()
        with pytest.raises(RefusedError, match="this image is not allowed"):
            rank.result(60)


def test_whatever_keeps_the_holder_from_its_work_is_told_once() -> None:
    with pytest.raises(SovctlError, match=r"the isolated step cannot be made on \S+: ValueError: an odd step$") as met:
        IsolatedSteps(_RECIPE).run(f"test-{os.getpid()}-odd", IsolatedStep, _never)
    assert met.value.exit_code == 1


def test_a_home_that_is_no_text(user: User, image: str) -> None:
    home = user.home.parent / "\udcff"
    home.mkdir()
    os.chown(home, user.uid, user.uid)
    out = _sh(user, image, f"grep -c ':{user.home.parent}/.:' /etc/passwd", HOME=str(home))
    assert out == "1\n"


def _odd(*_: object, **__: object) -> tuple[str, ...]:
    raise ValueError("an odd step")


def _never(_: ImageSettings) -> IsolatedTask:
    raise AssertionError("no task may start")


_RECIPE = Recipe(_odd, _odd)


# Nothing is left


def _left(user: User) -> list[str]:
    """Processes of the user, mounts and loop devices that belong to isolated steps."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and str(user.home) in (path / "environ").read_text() + (path / "cmdline").read_text():
                found.append((path / "cmdline").read_text().replace("\0", " ")[:100])
        except OSError:
            continue
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(user.home.parent) in line]
    loops = subprocess.run(["losetup", "-n", "-O", "BACK-FILE"], capture_output=True, text=True).stdout
    return found + [line for line in loops.splitlines() if str(user.cache) in line]


def test_nothing_is_left_whatever_is_killed(anyone: User, image: str, eventually: Callable[..., object]) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    before = _names()
    for number in range(12):
        step = {"SLURM_JOB_ID": str(9000 + number), "SLURM_STEP_ID": "0"}
        ranks = [anyone.start("--image", image, "--", "sleep", "30", **step) for _ in range(2)]
        if chance.random() < 0.7:
            eventually(lambda ranks=ranks: all(_children(rank.pid) for rank in ranks), "the ranks run")
        if chance.random() < 0.3:  # the holder and all, as the end of a cgroup does it
            for pid in _of(anyone):
                with suppress(ProcessLookupError):  # one takes others along
                    os.kill(pid, signal.SIGKILL)
        for rank in chance.sample(ranks, 2):
            rank.send_signal(chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
        for rank in ranks:
            rank.kill()
            rank.communicate(timeout=30)
    eventually(lambda: _left(anyone) == [], f"nothing is left (seed {seed})")
    # What other tests beside this one make there goes away again.
    new = {name for name in _names() - before if "sovctl" in name}
    eventually(lambda: not new & _names(), f"nothing of {new} is left (seed {seed})")


def _names() -> set[str]:
    return {path.name for place in ("/dev/shm", "/tmp", "/var/tmp") for path in Path(place).iterdir()}


def _of(user: User) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(user.home) in (path / "environ").read_text():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_fuse_serves_the_image_where_users_may(user: User, image: str) -> None:
    if shutil.which("squashfuse") is None or not Path("/dev/fuse").exists():
        pytest.skip("no squashfuse, or no FUSE in this kernel")
    inner = " ".join(user.argv("--image", image, "--", "sh", "-c", "'cat /etc/marker; cat /proc/mounts; touch /x'"))
    script = (
        "mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse"
        f" && mount --bind /mnt/fuse /dev/fuse && {inner}"
    )
    node_dir = user.home.parent / "with-fuse"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=user.env(SOVCTL_ISOLATION_NODE_DIR=str(node_dir)),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("busybox\n"), done.stderr
    assert "Read-only file system" in done.stderr
    assert not node_dir.exists()  # nothing was unpacked
