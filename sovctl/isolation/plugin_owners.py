"""Whose image files the SPANK plugin mounts, by its line in plugstack.conf. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sovctl.errors import RefusedError

PLUGIN = "sovctl_spank.so"
_DEFAULT = "0"


def image_owners(lines: Iterable[str]) -> str | None:
    """The value of `image_owners`, root where it does not stand there; None: the plugin has no line."""
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] in ("required", "optional") and words[1].rpartition("/")[2] == PLUGIN:
            given = [word.partition("=")[2] for word in words[2:] if word.startswith("image_owners=")]
            return given[-1] if given else _DEFAULT
    return None


def check_owner(owners: str | None, owner: int, path: str) -> None:
    """Raise RefusedError where the plugin will not mount this file of `owner`; not where nothing is known."""
    if owners is None or owners == "any" or str(owner) in owners.split(","):
        return
    raise RefusedError(
        f"the SPANK plugin mounts no image of user {owner} ({path}): image_owners={owners} in plugstack.conf",
        hint="Have one of these prefetch it into the site's cache (isolation.cache_dir), or use --runtime bubblewrap.",
    )
