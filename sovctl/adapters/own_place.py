"""Where a user's own files go, and what he is called: also for one without a home or without an entry in passwd, as in
a container that runs under a bare number."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_NO_HOME = "/nonexistent"
"""As in passwd for those that have none: nothing can be kept there, and whoever tries says so in words."""


def own_place(environ: Mapping[str, str], variable: str, otherwise: str) -> Path:
    """`$VARIABLE`, else `~/OTHERWISE`. A relative path counts as none (XDG Base Directory Specification)."""
    named = environ.get(variable) or ""
    return Path(named) if named.startswith("/") else _home(environ) / otherwise


def own_name() -> str:
    """The user's name; his number where he has none."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _home(environ: Mapping[str, str]) -> Path:
    named = environ.get("HOME") or ""
    if named.startswith("/"):
        return Path(named)
    import pwd

    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir or _NO_HOME)
    except KeyError:
        return Path(_NO_HOME)
