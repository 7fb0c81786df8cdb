"""The command lines of other runtimes, for `sovctl exec --runtime`. One call a rank: they share no namespaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sovctl.errors import UsageError
from sovctl.model.isolated import IsolatedStep, IsolatedTask

BUILT_IN = "bubblewrap"


@dataclass(frozen=True, slots=True)
class RuntimeCall:
    """A program to become."""

    argv: tuple[str, ...]
    environment: dict[str, str]


def apptainer(step: IsolatedStep, task: IsolatedTask, host: Mapping[str, str]) -> RuntimeCall:
    """apptainer takes a squashfs, a SIF or a directory, and variables for the inside with a prefix (1.0 and newer)."""
    words = ["apptainer", "exec", "--containall"]
    words += ["--bind", f"{step.home}:{step.home}"] if step.home_visible else []
    words += ["--writable-tmpfs"] if step.writable else []
    words += ["--nv"] if step.devices else []
    for mount in step.mounts:
        words += ["--bind", f"{mount.source}:{mount.target}:{'ro' if mount.read_only else 'rw'}"]
    words += ["--pwd", task.work_dir, step.squashfs or step.directory, *task.command]
    # It refuses HOME among them, and sets it to the user's own.
    inner = {f"APPTAINERENV_{name}": value for name, value in task.environment.items() if name != "HOME"}
    return RuntimeCall(tuple(words), {**_of_the_host(host), **inner})


def charliecloud(step: IsolatedStep, task: IsolatedTask, host: Mapping[str, str]) -> RuntimeCall:
    """ch-run 0.31 and newer, on a directory. It sees the host's processes, /dev and /dev/shm. Raises UsageError."""
    if step.writable or any(mount.read_only for mount in step.mounts):
        what = "a writable layer" if step.writable else "read-only mounts"
        raise UsageError(f"charliecloud has no {what} that every version knows", hint=f"Use --runtime {BUILT_IN}.")
    words = ["ch-run", "--private-tmp"]
    words += ["--home"] if step.home_visible else []
    for mount in step.mounts:
        words += ["--bind", f"{mount.source}:{mount.target}"]
    words += ["--cd", task.work_dir, step.directory, "--", *task.command]
    # Its own environment is the task's; it refuses to start without USER.
    return RuntimeCall(tuple(words), {"USER": host.get("USER", "user"), **task.environment})


def podman(step: IsolatedStep, task: IsolatedTask, host: Mapping[str, str]) -> RuntimeCall:
    """podman 4 and newer, rootless, on a directory."""
    words = ["podman", "run", "--rm", "--network=host", "--userns=keep-id", "--cap-drop=all"]
    words += ["--security-opt=no-new-privileges"]
    words += [] if step.writable else ["--read-only"]
    words += ["--tmpfs=/tmp", "--tmpfs=/var/tmp"]
    words += [f"--device={device}" for device in step.devices]
    words += [f"--volume={step.home}:{step.home}"] if step.home_visible else []
    words += [f"--volume={one.source}:{one.target}:{'ro' if one.read_only else 'rw'}" for one in step.mounts]
    # By name only: a command line can be read by everybody on the node.
    inner = sorted(task.environment)
    words += [f"--env={name}={task.environment[name]}" if name in _HOST_NAMES else f"--env={name}" for name in inner]
    # O: what is written goes to a layer of its own, never into the directory that other steps use.
    words += [f"--workdir={task.work_dir}", "--rootfs", f"{step.directory}:O", *task.command]
    return RuntimeCall(tuple(words), {**task.environment, **_of_the_host(host)})


_HOST_NAMES = ("PATH", "HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "TMPDIR", "LANG")


def _of_the_host(host: Mapping[str, str]) -> dict[str, str]:
    """What a runtime itself needs; nothing of it is meant for the inside."""
    return {name: host[name] for name in _HOST_NAMES if name in host}


RUNTIMES: dict[str, Callable[[IsolatedStep, IsolatedTask, Mapping[str, str]], RuntimeCall]] = {
    "apptainer": apptainer,
    "charliecloud": charliecloud,
    "podman": podman,
}
NEEDS_DIRECTORY = frozenset({"charliecloud", "podman"})
"""Runtimes that cannot run a squashfs in every version that is around."""
