"""Resolve an image once, load it once, and clean the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError
from sovctl.isolation.cache import Cleaning, check_room, plan_cleaning
from sovctl.isolation.policy import check_image
from sovctl.model.image import CachedImage, ImageKind, ImageReference, ResolvedImage

if TYPE_CHECKING:  # every rank of an isolated step pays for each import
    from sovctl.ports.common import Clock
    from sovctl.ports.images import ImageCache, ImageTools, UnpackedImages

SCHEMA = "sovctl.images/1"


@dataclass(frozen=True, slots=True)
class ImagePorts:
    """What the operations on images touch."""

    tools: ImageTools
    cache: ImageCache
    clock: Clock
    unpacked: Sequence[UnpackedImages]
    """On this node, and beside the cache for Slurm's own containers."""


def resolve(reference: ImageReference, ports: ImagePorts, allowed: Sequence[str]) -> ResolvedImage:
    """The digest that a reference means now, where the site allows the image."""
    check_image(reference, allowed)
    if reference.digest and ports.cache.find(reference.digest):
        return ResolvedImage(reference, reference.digest)  # nothing to ask: also without a network
    return ports.tools.resolve(reference)


def prefetch(image: ResolvedImage, ports: ImagePorts, say: Callable[[str], None]) -> CachedImage:
    """The image in the cache, loaded now where it was not. Raises SovctlError; a later try goes on where this ended."""
    reference = image.reference
    if not needs_cache(image):
        raise SovctlError(
            f"{reference.canonical} is used where it is and needs no cache", hint="Check it: sovctl image resolve"
        )
    found = ports.cache.find(image.digest)
    if found:
        return found
    with ports.cache.pulling(image.digest, say) as staging:
        found = ports.cache.find(image.digest)
        if found:  # the one we waited for has done it
            return found
        check_room(image.compressed_bytes, ports.cache.free_bytes(), ports.cache.where())
        return ports.cache.add(ports.tools.build(image, staging, say))


def needs_cache(image: ResolvedImage) -> bool:
    """Whether the image must be made a squashfs first; files and root directories are used where they are."""
    if image.reference.kind in (ImageKind.SQUASHFS, ImageKind.SIF):
        return False
    return bool(image.digest)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a cleaning did, or would do."""

    plan: Cleaning
    removed: tuple[CachedImage, ...]
    leftovers: tuple[str, ...]


def clean(ports: ImagePorts, *, keep_bytes: int, unused_s: float, act: bool) -> Cleaned:
    """Remove what was used least recently, what broken pulls left, and what this node unpacked; nothing in use."""
    plan = plan_cleaning(ports.cache.entries(), keep_bytes, ports.clock.now() - unused_s)
    leftovers, since = ports.cache.leftovers(), ports.clock.now() - unused_s
    unpacked = [(roots, path) for roots in ports.unpacked for path in roots.unused(since)]
    if not act:
        return Cleaned(plan, (), (*leftovers, *(path for _, path in unpacked)))
    removed = tuple(image for image in plan.remove if ports.cache.remove(image))
    gone = [path for path in leftovers if ports.cache.remove_leftover(path)]
    gone += [path for roots, path in unpacked if roots.remove(path)]
    return Cleaned(plan, removed, tuple(gone))
