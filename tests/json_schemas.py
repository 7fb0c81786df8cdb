"""Every JSON object that sovctl prints in any test is held to its schema in docs/schemas/."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


@functools.cache
def validator(name: str) -> Draft202012Validator | None:
    """The schema of `sovctl.<what>/<version>`, or None where there is no file of it."""
    path = SCHEMAS / f"{name.replace('/', '-')}.json"
    return Draft202012Validator(json.loads(path.read_text("utf-8"))) if path.exists() else None


def faults(text: str) -> list[str]:
    """What is wrong with a printed object; nothing for text that is no object of sovctl's."""
    try:
        record = json.loads(text)
    except ValueError:
        return []
    name = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(name, str) or not name.startswith("sovctl."):
        return []
    known = validator(name)
    if known is None:
        return [f"there is no docs/schemas/{name.replace('/', '-')}.json: write down what {name} has"]
    return [f"{name} {error.json_path}: {error.message[:300]}" for error in known.iter_errors(record)]


def check(text: str) -> None:
    """Raises AssertionError for an object that is not as described."""
    found = faults(text)
    assert not found, "\n".join(found)


def checked_run(run: Callable[..., Any]) -> Callable[..., Any]:
    """subprocess.run which also looks at what a `sovctl ... --json` printed."""

    @functools.wraps(run)
    def checked(argv: Any, *args: Any, **kwargs: Any) -> Any:
        done = run(argv, *args, **kwargs)
        if _is_ours(argv) and done.stdout:
            text = done.stdout if isinstance(done.stdout, str) else done.stdout.decode("utf-8", "replace")
            for piece in {text, *text.splitlines()}:
                if piece.startswith("{"):
                    check(piece)
        return done

    return checked


def _is_ours(argv: Any) -> bool:
    if isinstance(argv, str) or not isinstance(argv, Sequence):
        return False
    words = [str(word) for word in argv]
    return "--json" in words and any(Path(word).name == "sovctl" for word in words[:4])


def install() -> None:
    """For the whole test session: commands in a process of their own, and those called in this one."""
    from sovctl.cli import json_output

    subprocess.run = checked_run(subprocess.run)

    def print_checked(text: str, **kwargs: Any) -> None:
        check(text)
        print(text, **kwargs)

    json_output.print = print_checked  # type: ignore[attr-defined]
