"""The files of an install, below a root that is `/` or a staging directory; each is replaced in one step."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import sovctl
from sovctl.adapters.node.verdict_file import read_trusted, replace_json
from sovctl.errors import SovctlError
from sovctl.model.site import HookProgram

RECORD = "var/lib/sovctl/site.json"
_LARGEST = 16 * 1024 * 1024
_LARGEST_SCRIPT = 256 * 1024
_MOST_LINKS = 40


class SiteFileUnusable(SovctlError):
    """A file of an install cannot be written or removed."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(
            f"cannot write {path}: {cause}",
            hint="Run it as root; --dry-run shows what it does, --root DIR stages it. What was done is on record.",
        )


class SiteFiles:
    """Implements `ports.SiteFiles`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def source(self, name: str) -> bytes:
        """A file below plugins/. Raises SovctlError where this sovctl came without them."""
        for base in _plugin_dirs():
            with suppress(OSError):
                return (base / name).read_bytes()
        raise SovctlError(
            f"this sovctl came without plugins/{name}",
            hint="Install the whole package, in a checkout: pip install --force-reinstall .",
        )

    def outside(self, path: str) -> bytes:
        """A file that the administrator named. Raises SovctlError."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise SovctlError(f"cannot read {path}: {error.strerror}", hint=_how_to_build()) from error
        if not data.startswith(b"\x7fELF"):
            raise SovctlError(f"{path} is no shared object", hint=_how_to_build())
        return data

    def read(self, path: str, at_most: int = _LARGEST) -> bytes | None:
        """What is there, of a plain file; a link in its place is not followed."""
        with suppress(OSError), os.fdopen(self._open(path), "rb") as stream:
            if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return stream.read(at_most)
        return None

    def digests(self, paths: Iterable[str]) -> dict[str, str | None]:
        """SHA-256 of each; None: nothing there; empty: a link, a directory, or not to be read."""
        return {path: self._digest(path) for path in paths}

    def write(self, path: str, data: bytes, mode: int) -> tuple[str, ...]:
        """Put the file there in one step; the directories that had to be made, the innermost last."""
        place = self._place(path)
        made = self._make_parents(place)
        temporary = ""
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).rename(place)
        except OSError as error:
            if temporary:
                with suppress(OSError):
                    Path(temporary).unlink()
            raise SiteFileUnusable(place, error.strerror or str(error)) from error
        return made

    def remove(self, path: str) -> None:
        """Raises SiteFileUnusable; one that is gone is no error."""
        try:
            self._place(path).unlink(missing_ok=True)
        except OSError as error:
            raise SiteFileUnusable(self._place(path), error.strerror or str(error)) from error

    def remove_empty(self, directories: Iterable[str]) -> None:
        """Those that are empty, the innermost first."""
        for directory in sorted(directories, key=len, reverse=True):
            with suppress(OSError):
                self._place(directory).rmdir()

    def load(self) -> Any:
        """What an earlier install wrote down, or None."""
        return read_trusted(self._root / RECORD)

    def save(self, record: Mapping[str, Any]) -> None:
        """Write it down. Raises SovctlError."""
        place = self._root / RECORD
        self._make_parents(place)
        replace_json(place, dict(record))

    def forget(self) -> None:
        """Nothing is installed any more."""
        record = self._root / RECORD
        with suppress(OSError):
            record.unlink()
            record.parent.rmdir()
            if self._root != Path("/"):
                record.parents[1].rmdir()
                record.parents[2].rmdir()

    def enabled_units(self, names: Iterable[str]) -> tuple[str, ...]:
        """Units that `systemctl enable` has linked."""
        wants = tuple((self._root / "etc/systemd/system").glob("*.wants"))
        return tuple(name for name in names if any((directory / name).is_symlink() for directory in wants))

    def resolved(self, paths: Iterable[str]) -> dict[str, str]:
        """Each with every link followed, as the machine that boots from the root follows them."""
        return {path: self._resolved(path) for path in paths}

    def programs(self, values: Iterable[str]) -> tuple[HookProgram, ...]:
        """What these paths and patterns name, as slurmd takes them."""
        found = {}
        for value in values:
            matches = [value]
            if by_pattern := glob.has_magic(value):
                matches = ["/" + name for name in sorted(glob.glob(value.lstrip("/"), root_dir=self._root))]  # noqa: PTH207
            for path in matches:
                target = self._resolved(path)
                found[path] = HookProgram(path, target, by_pattern, self._script(target))
        return tuple(found.values())

    def _resolved(self, path: str) -> str:
        """An absolute link stays below the root, which `Path.resolve` would leave."""
        done, left = PurePosixPath("/"), list(PurePosixPath("/", path).parts[1:])
        links = 0
        while left and links <= _MOST_LINKS:
            part = left.pop(0)
            if part == "..":
                done = done.parent
                continue
            try:
                aim = PurePosixPath(os.readlink(self._place(str(done / part))))
            except OSError:  # no link, or not there
                done /= part
                continue
            links += 1
            left = [*aim.parts, *left]
            if aim.is_absolute():
                done, left = PurePosixPath("/"), left[1:]
        return str(done.joinpath(*left))

    def _script(self, path: str) -> str:
        data = self.read(path, _LARGEST_SCRIPT)
        return data.decode("utf-8", "replace") if data is not None and data[:2] == b"#!" else ""

    def _open(self, path: str) -> int:
        return os.open(self._place(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)

    def _place(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _digest(self, path: str) -> str | None:
        try:
            descriptor = self._open(path)
        except FileNotFoundError:
            return None
        except OSError:
            return ""
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return ""
            return hashlib.sha256(stream.read(_LARGEST)).hexdigest()

    def _make_parents(self, place: Path) -> tuple[str, ...]:
        absent = [parent for parent in place.parents if not parent.exists()]
        try:
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise SiteFileUnusable(place.parent, error.strerror or str(error)) from error
        return tuple("/" + str(parent.relative_to(self._root)) for parent in reversed(absent))


def _plugin_dirs() -> tuple[Path, ...]:
    """In a checkout. Else `share` above the package, where every installer puts both below one directory: pip into a
    virtual environment, /usr/local (Debian's Python as root), ~/.local (--user), --prefix or --target, and the Debian
    package below /usr. Last where this Python would put them."""
    package = Path(sovctl.__file__).resolve().parent
    schemes = {sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")}
    roots = (*package.parents, *(Path(sysconfig.get_path("data", scheme)) for scheme in sorted(schemes)))
    return (package.parent / "plugins", *(root / "share/sovctl/plugins" for root in roots))


def _how_to_build() -> str:
    sources = next((base for base in _plugin_dirs() if (base / "spank/Makefile").exists()), Path("plugins"))
    return f"Build it: make -C {sources}/spank"
