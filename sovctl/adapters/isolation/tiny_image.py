"""A root file system with one program of this machine in it, for trying runtimes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.errors import CommandMissing, SovctlError

_LIBRARY = re.compile(r"(/\S+) \(0x")
_MARKER = "sovctl-marker"
_SAY = 'word=outside; [ ! -r "$0" ] || read -r word <"$0"; echo "$word ${SLURMD_NODENAME-}"'


class TinyImage:
    """Implements `ports.TinyImage`: two programs, the libraries they load, and a file with a word nobody can guess."""

    def __init__(self, runner: CommandRunner, below: Path) -> None:
        """`below`: on a file system that the node of the step sees too."""
        self._runner = runner
        self._below = below
        self.place = ""
        self.directory = ""
        self.squashfs = ""
        """Empty where it cannot be made."""
        self.secret = os.urandom(8).hex()
        self.command: tuple[str, ...] = ("/bin/sh", "-c", _SAY, f"/etc/{_MARKER}")

    def make(self) -> None:
        """Raises SovctlError."""
        try:
            self._below.mkdir(parents=True, exist_ok=True)
            self.place = tempfile.mkdtemp(prefix="doctor-", dir=self._below)
            root = Path(self.place, "rootfs")
            self._fill(root)
        except OSError as error:
            raise SovctlError(
                f"cannot make an image for the test in {self._below}: {error.strerror}",
                hint=f"Check it: ls -ld {self._below}",
            ) from error
        self.directory = str(root)
        self._squash(root)

    def remove(self) -> None:
        """Take it away; what is not there is no error."""
        if self.place:
            shutil.rmtree(self.place, ignore_errors=True)

    def _fill(self, root: Path) -> None:
        # enroot runs nothing without a shell in the image.
        programs = [shutil.which(name, path="/bin:/usr/bin") or f"/bin/{name}" for name in ("cat", "sh")]
        loaded = _LIBRARY.findall(self._runner.run(["ldd", *programs], timeout_s=10.0, check=False).stdout)
        for place in ("bin", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "run"):
            (root / place).mkdir(parents=True, exist_ok=True)
        for source in loaded:
            target = root / source.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        for program in programs:
            shutil.copy(program, root / "bin" / Path(program).name)
        (root / "etc" / _MARKER).write_text(f"{self.secret}\n")
        for name, text in (
            ("passwd", "root:x:0:0::/:\n"),
            ("group", "root:x:0:\n"),
            ("hosts", ""),
            ("resolv.conf", ""),
        ):
            (root / "etc" / name).write_text(text)
        for path in (root.parent, root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)

    def _squash(self, root: Path) -> None:
        target = root.with_name("image.sqsh")
        words = ["mksquashfs", str(root), str(target), "-quiet", "-no-progress", "-processors", "1"]
        try:
            self._runner.run(words, timeout_s=60.0)
        except (CommandMissing, SovctlError):
            return
        self.squashfs = str(target)
