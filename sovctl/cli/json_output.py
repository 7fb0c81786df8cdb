"""JSON for scripts: one object a command, with the name and version of its form. docs/schemas/ describes each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def print_json(schema: str, fields: Mapping[str, Any], *, flush: bool = False) -> None:
    """Print one object on one line. Times in it are seconds since the epoch, or UTC.

    `schema`: `sovctl.<what>/<version>`; the version rises when a field goes or changes its meaning, not when one is
    added.
    """
    print(json.dumps({"schema": schema, **fields}, allow_nan=False), flush=flush)
