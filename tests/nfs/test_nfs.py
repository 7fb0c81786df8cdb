"""What doctor says of real NFS mounts, and the journal and the cache of images through two clients of one server. A
Linux that runs as a program (User-mode Linux) has server and clients in its own kernel. Run by `make test-nfs`, which
fetches it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif("SOVCTL_TEST_NFS" not in os.environ, reason="real NFS is tried by `make test-nfs`"),
    pytest.mark.skipif(os.geteuid() != 0, reason="what is root inside has the rights of who starts it outside"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program inside printed."""
    disk = tmp_path_factory.mktemp("nfs") / "served"
    disk.touch()
    os.truncate(disk, 64 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    root = Path(os.environ["SOVCTL_TEST_NFS"]) / "root"
    argv = [
        *(
            str(root / "usr/bin/linux.uml"),
            "mem=256M",
            "quiet",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            f"ubda={disk}",
        ),
        *(f"init={HERE / 'guest.sh'}", "con=null", "con0=null,fd:1"),
        *(f"nfs_root={root}", f"nfs_run={HERE / 'on_the_mounts.py'}", f"nfs_python={sys.executable}"),
    ]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False
    )
    said = done.stdout.decode("utf-8", "replace")
    lines = [line.partition("@@")[2] for line in said.splitlines() if "@@" in line]
    assert lines, said[-4000:]
    told: dict[str, Any] = json.loads(lines[-1])
    assert told["mounts"]["/mnt/nfs4"] == "nfs4", said[-4000:]
    assert told["mounts"]["/mnt/nfs3"] == "nfs", said[-4000:]
    return told


@pytest.mark.parametrize("mount", ["nfs4", "nfs3"])
def test_a_mount_with_locks_passes_and_no_more_is_claimed_of_appends_than_holds(
    found: dict[str, Any], mount: str
) -> None:
    line = found["doctor"][mount]
    assert line["state"] == "pass", found["doctor"]
    assert "O_APPEND holds on one machine" in line["seen"]


def test_a_mount_without_locks_is_told(found: dict[str, Any]) -> None:
    line = found["doctor"]["nfs3-nolock"]
    assert line["state"] == "warn"
    assert "locks hold on one machine only" in line["seen"]
    assert "nolock" in line["fix"]


def test_two_machines_lose_nothing_of_a_journal(found: dict[str, Any]) -> None:
    assert found["journal"] == list(range(1, 81))
    # Without the lock they do: else this says nothing of it.
    assert found["plain"] < 1


@pytest.mark.parametrize("mount", ["nfs4", "nfs3"])
def test_two_machines_load_an_image_once_and_remove_none_in_use(found: dict[str, Any], mount: str) -> None:
    seen = found["images"][mount]
    assert seen["pulls"] == ["waits", "finds it"]
    assert seen["leftovers"] == []
    assert seen["used"] == [True, True, False]
    assert seen["unused"] == [False, False, True]
    assert seen["left"] == []


@pytest.mark.parametrize("mount", ["nfs4", "nfs3"])
def test_what_was_unpacked_on_a_mount_can_be_removed(found: dict[str, Any], mount: str) -> None:
    assert found["unpacked"][mount] == [True, True, False]
