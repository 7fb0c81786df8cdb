"""Which images a site allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from sovctl.errors import RefusedError
from sovctl.model.image import ImageKind, ImageReference


def check_image(reference: ImageReference, allowed: Sequence[str]) -> None:
    """Refuse an image outside the site's list. Empty list: all allowed.

    An entry `registry.example` or `registry.example/team` allows all below it, part by part, so that
    `registry.example/team` does not allow `registry.example/team2`; an entry with a leading `/` allows paths below it.
    Raises RefusedError naming the rule.
    """
    if not allowed or any(_matches(reference, entry) for entry in allowed):
        return
    raise RefusedError(
        f"the site does not allow the image {reference.canonical} (isolation.allow_images)",
        hint=f"Allowed are {', '.join(allowed)}: sovctl config show isolation.allow_images",
    )


def _matches(reference: ImageReference, entry: str) -> bool:
    in_registry = reference.kind is ImageKind.REGISTRY
    if entry.startswith("/") == in_registry:
        return False
    name = f"{reference.registry}/{reference.repository}" if in_registry else reference.path
    path = PurePosixPath(name)
    return ".." not in path.parts and path.is_relative_to(entry.rstrip("/"))
