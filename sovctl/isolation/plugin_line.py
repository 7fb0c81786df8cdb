"""The SPANK plugin's line in plugstack.conf: where it lies, whose image files it mounts, what it keeps seen. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sovctl.errors import RefusedError
from sovctl.model.site import SPANK_PLUGIN

_DEFAULT = "0"
_OWNERS = re.compile(r"any|[0-9,-]{1,63}")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def plugin_path(lines: Iterable[str]) -> str:
    """Where the plugin lies, as it is written there; empty: it has no line."""
    words = _words(lines)
    return words[0] if words else ""


def image_owners(lines: Iterable[str]) -> str | None:
    """The value of `image_owners`, root where it does not stand there; None: the plugin has no line.

    A value that the plugin cannot use changes nothing (`set_owners` in plugins/spank/settings.c)."""
    words = _words(lines)
    values = [word.partition("=")[2] for word in words or () if word.startswith("image_owners=")]
    given = [value for value in values if _OWNERS.fullmatch(value)]
    return None if words is None else given[-1] if given else _DEFAULT


def kept_paths(lines: Iterable[str], node: str) -> tuple[str, ...]:
    """The values of `keep`: what isolated steps on this node see although it lies under a covered directory."""
    words = _words(lines) or ()
    return tuple(word.partition("=")[2].replace("%n", node) for word in words if word.startswith("keep="))


def _words(lines: Iterable[str]) -> list[str] | None:
    for line in lines:
        words = line.partition("#")[0].split()
        if len(words) > 1 and words[0] in ("required", "optional") and words[1].rpartition("/")[2] == SPANK_PLUGIN:
            return words[1:]
    return None


def check_owner(owners: str | None, owner: int, path: str) -> None:
    """Raise RefusedError where the plugin will not mount this file of `owner`; not where nothing is known."""
    if owners is None or owners == "any" or _listed(owners, owner):
        return
    raise RefusedError(
        f"the SPANK plugin mounts no image of user {owner} ({path}): image_owners={owners} in plugstack.conf",
        hint="Have one of these prefetch it into the site's cache (isolation.cache_dir), or use --runtime bubblewrap.",
    )


def _listed(owners: str, owner: int) -> bool:
    """Numbers and ranges, read as far as they are understood, like `number_listed` in plugins/spank/settings.c."""
    at = 0
    while found := _RANGE.match(owners, at):
        if int(found[1]) <= owner <= int(found[2] or found[1]):
            return True
        if not owners.startswith(",", found.end()):
            return False
        at = found.end() + 1
    return False
