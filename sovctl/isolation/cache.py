"""The cache of images: names, room, and what goes first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sovctl.errors import SovctlError, TryLaterError
from sovctl.model.byte_size import size_words
from sovctl.model.image import CachedImage

_SUPERBLOCK_BYTES = 96
_MAGIC = b"hsqs"
_FILE_NAME = re.compile(r"sha256-([0-9a-f]{64})-[a-z0-9_]+\.sqsh")
# Layers, what they unpack to, and the squashfs of that lie side by side until the image is ready: with gzip at 3 to 1,
# 1 + 3 + 1 times the layers.
_ROOM_FACTOR = 5.0
_ROOM_BYTES = 64 * 2**20


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture(machine: str) -> str:
    """What OCI calls a machine (`uname -m`)."""
    return _ARCHITECTURES.get(machine, machine)


def file_name(digest: str, of: str) -> str:
    """Name of an image in the cache: `sha256-<hex>-<architecture>.sqsh`.

    One digest may name an image for several architectures, and one cache may serve nodes of several.
    """
    return f"{digest.replace(':', '-')}-{of}.sqsh"


def digest_of(name: str) -> str | None:
    """The digest in a name made by `file_name`; None for any other name."""
    found = _FILE_NAME.fullmatch(name)
    return f"sha256:{found[1]}" if found else None


def check_room(compressed_bytes: int, free_bytes: int, where: str) -> None:
    """Raise TryLaterError where a pull would fill the disk; looked at before the first byte is loaded."""
    needed = int(compressed_bytes * _ROOM_FACTOR) + _ROOM_BYTES
    if free_bytes < needed:
        raise TryLaterError(
            f"there is no room for the image in {where}: {size_words(needed)} needed while it is prepared, "
            f"{size_words(free_bytes)} free",
            hint="Remove images that nobody used lately: sovctl image gc --keep 0",
        )


def check_squashfs(header: bytes, size_bytes: int, path: str) -> None:
    """Refuse what is no squashfs or is cut short. `header`: its first 96 bytes (squashfs 4.0: bytes_used at 40)."""
    if len(header) < _SUPERBLOCK_BYTES or not header.startswith(_MAGIC):
        raise SovctlError(f"{path} is not a squashfs image", hint="Make one: mksquashfs ROOTFS IMAGE.sqsh")
    used = int.from_bytes(header[40:48], "little")
    if used > size_bytes:
        raise SovctlError(
            f"{path} is cut short: {size_bytes} bytes of {used}",
            hint="Copy it again, or load it anew: sovctl image prefetch",
        )


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What `gc` removes and what it leaves."""

    remove: tuple[CachedImage, ...]
    keep: tuple[CachedImage, ...]

    @property
    def freed_bytes(self) -> int:
        return sum(image.size_bytes for image in self.remove)


def plan_cleaning(images: Sequence[CachedImage], keep_bytes: int, used_since: float) -> Cleaning:
    """Least recently used first, until at most `keep_bytes` are left.

    One that is in use, or was used after `used_since` (seconds since the epoch), stays whatever it costs.
    """
    left = sum(image.size_bytes for image in images)
    remove = []
    for image in sorted(images, key=lambda image: (image.used_at, image.digest)):
        if left <= keep_bytes:
            break
        if image.in_use or image.used_at > used_since:
            continue
        remove.append(image)
        left -= image.size_bytes
    return Cleaning(tuple(remove), tuple(image for image in images if image not in remove))
