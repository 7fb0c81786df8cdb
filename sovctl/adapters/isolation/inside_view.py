"""What a task sees from inside its isolated step, and what is laid outside for it to find if it can."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping

_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
_MOST = 200
_ALL = 100_000
_OF_ONE_JOB = re.compile(r"/dev/nvidia(\d+|-caps/nvidia-cap\d+|-caps-imex-channels/channel\d+)")
"""A GPU, what opens a MIG instance, an IMEX channel."""


class Decoys:
    """A file in each shared directory and an open descriptor; `remove` works from any mount namespace."""

    def __init__(self) -> None:
        self.name = f".sovctl-decoy-{os.urandom(8).hex()}"
        self._directories: list[int] = []
        for place in _PLACES:
            with contextlib.suppress(OSError):
                directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._directories.append(directory)
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                os.close(os.open(self.name, flags, 0o644, dir_fd=directory))
        self._held = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        os.set_inheritable(self._held, True)

    def remove(self) -> None:
        """Take them away again."""
        for directory in self._directories:
            with contextlib.suppress(OSError):
                os.unlink(self.name, dir_fd=directory)
            os.close(directory)
        os.close(self._held)


def look_around(about: Mapping[str, object], environment: Mapping[str, str], own_devices: tuple[str, ...]) -> str:
    """One JSON object, `about` among it; called in the forked task, with nothing of the image run.

    `by_plugin` in it: the SPANK plugin isolated this process; it leaves the home directory of the host's root as it is,
    and covers the device files of others.
    """
    by_plugin = about.get("by_plugin")
    status = _status()
    directories = {place: _names(place) for place in _PLACES}
    if not by_plugin:
        directories["home"] = _names(environment.get("HOME", "/"))
    processes = [int(name) for name in _names("/proc") or () if name.isdigit()]
    descriptors = [int(name) for name in _names("/proc/self/fd") or () if _is_handed_down(int(name))]
    devices = [path for path in _device_files() if _OF_ONE_JOB.fullmatch(path)]
    if by_plugin:
        devices = [device for device in devices if os.access(device, os.R_OK)]
    pmi = environment.get("PMI_FD", "")
    return json.dumps(
        {
            **about,
            "directories": directories,
            "processes": processes[:_MOST],
            "own_process": os.getpid(),
            "environment": sorted(environment),
            "devices": sorted(devices),
            "own_devices": [device for device in own_devices if _OF_ONE_JOB.fullmatch(device)],
            "capabilities": {name: value for name, value in status.items() if name.startswith("Cap")},
            "no_new_privs": status.get("NoNewPrivs", ""),
            "descriptors": descriptors,
            "own_descriptors": [int(pmi)] if pmi.isdigit() else [],
        }
    )


def _device_files() -> list[str]:
    places = ("/dev", "/dev/nvidia-caps", "/dev/nvidia-caps-imex-channels")
    return [f"{place}/{name}" for place in places for name in _names(place, _ALL) or ()]


def _is_handed_down(descriptor: int) -> bool:
    """One that a task gets too. What this process opened itself (Python 3.14 keeps one more than 3.13) ends with its
    exec; what it was handed did not."""
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # the one that the listing itself was read through
        return False


def _names(place: str, most: int = _MOST) -> list[str] | None:
    try:
        return sorted(os.listdir(place))[:most]
    except OSError:
        return None


def _status() -> dict[str, str]:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
