"""Commands typed where little is as usual: no home, no name, a directory that is gone, nobody reads what they say."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sovctl.adapters.own_place import own_place

NOBODY = 4242
"""A number that has no entry in passwd."""
BUG = "This is a bug in sovctl"


def _sovctl(
    words: Sequence[str], cwd: Path, *, user: int | None = None, before: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """In a shell, after what `before` does in it; with no variables but PATH and `env`."""
    line = f'{before} exec "$@"'
    argv = ["/bin/sh", "-c", line, "sh", sys.executable, "-m", "sovctl", *words]
    known = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.fspath(Path.cwd()), **env}
    return subprocess.run(argv, capture_output=True, text=True, env=known, cwd=cwd, user=user, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a name")
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["image", "ls"], 0),
        (["image", "gc", "--dry-run"], 0),
        (["image", "env", "ls"], 0),
        (["exec", "--image", "/no/such.sqsh", "--", "true"], 2),
        (["lab", "status"], 1),
        (["run", "ls"], 0),
        (["alert", "send"], 0),
    ],
)
def test_a_user_without_home_and_name_gets_an_answer(words: list[str], status: int) -> None:
    done = _sovctl(words, Path("/"), user=NOBODY)
    assert done.returncode == status, done.stderr
    assert BUG not in done.stderr
    assert "Permission denied" not in done.stderr


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache"),
    ],
)
def test_a_place_of_the_users_own(environ: dict[str, str], place: str) -> None:
    assert own_place(environ, "XDG_CACHE_HOME", ".cache") == Path(place)


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_usable_home_passwd_tells_it(home: str | None) -> None:
    environ = {} if home is None else {"HOME": home}
    assert own_place(environ, "XDG_CACHE_HOME", ".cache") == Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".cache"


@pytest.mark.parametrize(
    "words",
    [["run", "ls"], ["run", "show", "3"], ["ckpt", "ls"], ["submit", "--wrap", "true"], ["doctor"], ["report"]],
    ids=" ".join,
)
def test_a_directory_that_is_gone_is_said(tmp_path: Path, words: list[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = _sovctl(words, gone, before=f"rmdir {gone};", HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "sovctl: the current directory is not there any more\n        Go to one that is: cd ~\n"


@pytest.mark.parametrize(
    "words", [["submit", "--dry-run", "--wrap", "true"], ["no-such-command"], ["run", "show", "3"]]
)
def test_nobody_reads_what_is_said(tmp_path: Path, words: list[str]) -> None:
    """`2>&1 | true`: the status is one of sovctl's own, not Python's for streams it could not write at its end."""
    for _ in range(3):
        read, write = os.pipe()
        os.close(read)
        argv = [sys.executable, "-m", "sovctl", *words]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": os.fspath(Path.cwd())}
        done = subprocess.run(argv, stdout=write, stderr=write, env=env, cwd=tmp_path, timeout=60)
        os.close(write)
        assert done.returncode in (1, 2)


def test_a_name_that_is_too_long_for_any_file_is_said(tmp_path: Path) -> None:
    done = _sovctl(["ckpt", "ls", "a" * 5000], tmp_path, HOME=str(tmp_path))
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == f"sovctl: cannot use {'a' * 200}...: File name too long"
    assert "ls -ld" in second


def test_a_setting_that_names_the_wrong_directory_of_slurm_is_said(tmp_path: Path) -> None:
    done = _sovctl(["node", "ls"], tmp_path, HOME=str(tmp_path), SOVCTL_SLURM_BIN_DIR="/opt/none")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "sovctl: /opt/none/scontrol cannot be started",
        "        Slurm is not in /opt/none; see who said so: sovctl config show slurm.bin_dir",
    ]
