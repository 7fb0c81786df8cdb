"""The only place that starts processes.

Two ways: `CommandRunner.run` for a program whose answer is wanted now, with a deadline; `spawn` for a child that
lives on (the user's script, a daemon of the lab).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sovctl.errors import CommandFailed, CommandMissing, CommandTimeout, CommandUnstartable


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program that ended left behind; undecodable bytes are replaced."""

    status: int
    """Exit status; negative: killed by that signal."""
    stdout: str
    stderr: str


class CommandRunner:
    """Runs programs to their end. `env` replaces nothing: it is laid over the current environment."""

    def __init__(self, env: Mapping[str, str] | None = None, *, ignore_signals: bool = False) -> None:
        """`ignore_signals`: children ignore SIGTERM, for work that must end while Slurm is killing the job."""
        self._env = dict(env or {})
        self._ignore_signals = ignore_signals

    def variable(self, name: str) -> str:
        """What a child would find in its environment; empty when it would not."""
        return self._env.get(name, os.environ.get(name, ""))

    def environment(self) -> dict[str, str]:
        """The whole environment of a child, for one that `spawn` starts."""
        return {**os.environ, **self._env}

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        input: str | None = None,
        env: Mapping[str, str | None] | None = None,
        check: bool = True,
    ) -> Completed:
        """Run to the end. `env`: laid over the runner's for this one; None leaves a name out.

        Raises CommandMissing, CommandTimeout, and CommandFailed when `check` and status != 0.
        """
        own = {**self.environment(), **(env or {})}
        try:
            done = subprocess.run(
                list(argv),
                input=None if input is None else input.encode("utf-8", "surrogateescape"),
                stdin=subprocess.DEVNULL if input is None else None,
                capture_output=True,
                timeout=timeout_s,
                env={name: value for name, value in own.items() if value is not None},
                preexec_fn=_ignore_sigterm if self._ignore_signals else None,
            )
        except FileNotFoundError as error:
            raise CommandMissing(argv[0]) from error
        except PermissionError as error:
            raise CommandMissing(argv[0]) from error
        except subprocess.TimeoutExpired as error:
            raise CommandTimeout(argv, timeout_s) from error
        except OSError as error:
            # No process can be made now (EAGAIN, ENOMEM, EMFILE), or the program's file system is in trouble.
            raise CommandUnstartable(argv[0], error.strerror or str(error)) from error
        completed = Completed(
            done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )
        if check and completed.status != 0:
            raise CommandFailed(argv, completed.status, completed.stderr or completed.stdout)
        return completed


class Child:
    """A process of ours that goes on while we do other things."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status, negative for a signal, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Exit status, or None when it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def send(self, signum: int) -> None:
        """Signal the process itself, not its children. A process that ended is no error."""
        if self._process.poll() is None:
            self._process.send_signal(signum)

    def kill_group(self) -> None:
        """SIGKILL the process and all it started, where it leads its own session."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError:
            self.send(signal.SIGKILL)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: IO[bytes] | int | None = None,
    new_session: bool = True,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a child; `env` is its whole environment. `stdout` takes its stderr too; None: inherit both.

    It gets `pass_fds` beside stdin, stdout and stderr. Raises CommandMissing.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT if stdout is not None else None,
            start_new_session=new_session,
            pass_fds=tuple(pass_fds),
        )
    except (FileNotFoundError, PermissionError) as error:
        raise CommandMissing(argv[0]) from error
    return Child(process)


def replace_process(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Become another program (a shell); returns only by raising CommandMissing."""
    try:
        os.execvpe(argv[0], list(argv), dict(env))
    except OSError as error:
        raise CommandMissing(argv[0]) from error


def become(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """As `replace_process`, with the program found on this process's PATH and not on that of `env`."""
    program = _found(argv[0])
    if program is None:
        raise CommandMissing(argv[0])
    replace_process((program, *argv[1:]), env)


def become_behind(front: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """As `become`, with the program found in any directory of the PATH but `front`."""
    places = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if place != front]
    program = _found(argv[0], os.pathsep.join(places))
    if program is None:
        raise CommandMissing(argv[0])
    replace_process((program, *argv[1:]), env)


def _found(program: str, path: str | None = None) -> str | None:
    from shutil import which  # takes as long to import as a short answer of Slurm

    return which(program, path=path)


def _ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
