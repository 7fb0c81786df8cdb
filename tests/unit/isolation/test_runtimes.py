"""The command lines of other runtimes, word by word."""

from __future__ import annotations

import pytest

from sovctl.errors import UsageError
from sovctl.isolation.runtimes import NEEDS_DIRECTORY, RUNTIMES
from sovctl.model.image import Mount
from sovctl.model.isolated import IsolatedStep, IsolatedTask

HOST = {"PATH": "/host/bin", "HOME": "/home/u", "USER": "u", "SSH_AUTH_SOCK": "/s"}
TASK = IsolatedTask(("python", "t.py", "--a b"), {"PATH": "/img/bin", "HOME": "/home/u", "KEY": "secret"}, "/w")
MOUNTS = (Mount("/data", "/in", True), Mount("/scratch", "/out"))
FULL = IsolatedStep(
    directory="/d", writable=True, mounts=MOUNTS, home="/home/u", home_visible=True, devices=("/dev/nvidia0",)
)
PLAIN = IsolatedStep(directory="/d", home="/home/u")


@pytest.mark.parametrize(
    ("name", "step", "argv"),
    [
        ("apptainer", PLAIN, "apptainer exec --containall --pwd /w /d"),
        (
            "apptainer",
            FULL,
            "apptainer exec --containall --bind /home/u:/home/u --writable-tmpfs --nv --bind /data:/in:ro"
            " --bind /scratch:/out:rw --pwd /w /d",
        ),
        ("apptainer", IsolatedStep(squashfs="/i.sif"), "apptainer exec --containall --pwd /w /i.sif"),
        ("charliecloud", PLAIN, "ch-run --private-tmp --cd /w /d --"),
        (
            "charliecloud",
            IsolatedStep(directory="/d", mounts=MOUNTS[1:], home_visible=True),
            "ch-run --private-tmp --home --bind /scratch:/out --cd /w /d --",
        ),
        (
            "podman",
            PLAIN,
            "podman run --rm --network=host --userns=keep-id --cap-drop=all --security-opt=no-new-privileges"
            " --read-only --tmpfs=/tmp --tmpfs=/var/tmp --env=HOME=/home/u --env=KEY --env=PATH=/img/bin"
            " --workdir=/w --rootfs /d:O",
        ),
        (
            "podman",
            FULL,
            "podman run --rm --network=host --userns=keep-id --cap-drop=all --security-opt=no-new-privileges"
            " --tmpfs=/tmp --tmpfs=/var/tmp --device=/dev/nvidia0 --volume=/home/u:/home/u --volume=/data:/in:ro"
            " --volume=/scratch:/out:rw --env=HOME=/home/u --env=KEY --env=PATH=/img/bin --workdir=/w --rootfs /d:O",
        ),
    ],
)
def test_command_lines(name: str, step: IsolatedStep, argv: str) -> None:
    call = RUNTIMES[name](step, TASK, HOST)
    assert call.argv == (*argv.split(), "python", "t.py", "--a b")
    assert not any("secret" in word for word in call.argv)
    assert "SSH_AUTH_SOCK" not in call.environment
    assert "secret" in call.environment.values()


def test_what_charliecloud_cannot_do_is_refused() -> None:
    for step in (IsolatedStep(directory="/d", writable=True), IsolatedStep(directory="/d", mounts=MOUNTS)):
        with pytest.raises(UsageError, match="charliecloud has no"):
            RUNTIMES["charliecloud"](step, TASK, HOST)


def test_every_runtime_is_known_where_it_counts() -> None:
    assert set(RUNTIMES) >= NEEDS_DIRECTORY
