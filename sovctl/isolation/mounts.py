"""Takes `--mount A:B[:ro]` apart, and says what may not be covered in an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from sovctl.errors import RefusedError, UsageError
from sovctl.model.image import Mount

_FORM = "Write it as in --mount=/data:/data:ro."
_OWN = ("/proc", "/sys", "/dev")
"""Made anew for each step; a mount over them would show what is to be hidden."""


def parse_mount(text: str) -> Mount:
    """`A:B`, `A:B:ro`, `A:B:rw` or `A` (the same place in both). Raises UsageError."""
    if not text.isprintable():
        raise UsageError(f"mount {text!r} holds a control character", hint=_FORM)
    parts = text.split(":")
    flags = parts[2] if len(parts) == 3 else "rw"
    if not 1 <= len(parts) <= 3 or flags not in ("ro", "rw") or not all(parts):
        raise UsageError(f"mount {text!r} is not of the form A:B or A:B:ro", hint=_FORM)
    source, target = parts[0], parts[1] if len(parts) > 1 else parts[0]
    for path in (source, target):
        _check_path(text, path)
    place = str(PurePosixPath(target))
    if place == "/" or any(place == own or place.startswith(f"{own}/") for own in _OWN):
        raise UsageError(
            f"mount {text!r}: nothing can be mounted at {place}", hint=f"Name another place: --mount={source}:/mnt"
        )
    return Mount(str(PurePosixPath(source)), place, read_only=flags == "ro")


def _check_path(text: str, path: str) -> None:
    # `//x` is an own root for POSIX, and `..` climbs out of where the policy looked.
    if not path.startswith("/") or path.startswith("//"):
        raise UsageError(f"mount {text!r}: {path} is not an absolute path", hint=_FORM)
    if ".." in PurePosixPath(path).parts:
        raise UsageError(
            f"mount {text!r}: '..' is not allowed in {path}", hint="Write the whole path; see it with: realpath DIR"
        )


def parse_mounts(texts: Iterable[str]) -> tuple[Mount, ...]:
    """All of them, in order. Raises UsageError, also for two at the same place."""
    mounts = tuple(parse_mount(text) for text in texts)
    places = [mount.target for mount in mounts]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"two mounts at {place}", hint=_FORM)
    return mounts


def check_sources(real_sources: Iterable[str], allowed: Sequence[str]) -> None:
    """Refuse a source outside the site's list; `real_sources` have every link resolved. Empty list: all allowed.

    Raises RefusedError naming the rule.
    """
    if not allowed:
        return
    for source in real_sources:
        if not any(PurePosixPath(source).is_relative_to(prefix) for prefix in allowed):
            raise RefusedError(
                f"the site does not allow {source} to be mounted (isolation.allow_mounts)",
                hint=f"Allowed are paths below {', '.join(allowed)}: sovctl config show isolation.allow_mounts",
            )
