"""Every JSON object that sovctl prints in any test is held to its schema in docs/schemas/."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
PROMISED = Path(__file__).parent / "data" / "json_fields.json"
"""Schema -> each field that is always there -> its type, as printed by a version that somebody may read by now."""
_LOCAL_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?!\S*(?:Z| UTC|[+-]\d\d:?\d\d)\b)")
OTHERS_WORDS = frozenset({"reason", "evidence"})
"""Fields with what Slurm, the kernel or a person wrote, times included."""


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
    return [
        *(f"{name} {error.json_path}: {error.message[:300]}" for error in known.iter_errors(record)),
        *(
            f"{name} {place}: {text!r} is a time of no zone; seconds since the epoch are"
            for place, text in _local(record)
        ),
    ]


def _local(value: Any, place: str = "$") -> Iterator[tuple[str, str]]:
    """Whatever looks like a time of this machine's zone, which its reader does not know."""
    if isinstance(value, str) and _LOCAL_TIME.search(value):
        yield place, value
    for key, below in value.items() if isinstance(value, dict) else ():
        if key not in OTHERS_WORDS:
            yield from _local(below, f"{place}.{key}")
    for number, below in enumerate(value if isinstance(value, list) else ()):
        yield from _local(below, f"{place}[{number}]")


def fields(schema: Mapping[str, Any], place: str = "") -> dict[str, str]:
    """Path of every field that is always there, in the form `runs[].state.word` -> its type."""
    found: dict[str, str] = {}
    for name, below in schema.get("properties", {}).items():
        here = f"{place}.{name}".lstrip(".")
        if name in schema.get("required", ()):
            kind = below.get("type", "const" if "const" in below else "any")
            found[here] = kind if isinstance(kind, str) else "|".join(sorted(kind))
            found |= fields(below, here)
    if "items" in schema:
        found |= fields(schema["items"], f"{place}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        found |= fields(schema["additionalProperties"], f"{place}.*")
    return found


def described() -> dict[str, dict[str, str]]:
    """Every schema of docs/schemas -> its fields."""
    texts = [json.loads(path.read_text("utf-8")) for path in sorted(SCHEMAS.glob("*.json"))]
    return {text["properties"]["schema"]["const"]: fields(text) for text in texts}


def promise() -> None:
    """Write down what is new in docs/schemas; nothing that was promised goes."""
    kept = json.loads(PROMISED.read_text("utf-8")) if PROMISED.exists() else {}
    now = described()
    merged = {name: {**now.get(name, {}), **kept.get(name, {})} for name in sorted({*now, *kept})}
    PROMISED.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n", "utf-8")


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


if __name__ == "__main__":
    promise()
