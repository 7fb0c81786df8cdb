"""The JSON of commands: every schema is described, and the descriptions are no empty words."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import json_schemas
import pytest
from jsonschema import Draft202012Validator

from sovctl.cli.json_output import print_json

ROOT = Path(__file__).parents[2]
FILES = sorted(json_schemas.SCHEMAS.glob("*.json"))


def _printed() -> set[str]:
    """Every schema that a module of the command line prints, wherever the name itself is kept."""
    names = set()
    for path in [*(ROOT / "sovctl/cli").glob("*.py"), ROOT / "sovctl/lab/demo.py"]:
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names |= {node.value} if node.value.startswith("sovctl.") and "/" in node.value[8:] else set()
    return {name for name in names if name.rpartition("/")[2].isdigit()}


def test_every_schema_that_is_printed_is_described() -> None:
    names = _printed()
    assert len(names) > 10, "the pattern finds too few: it is wrong"
    assert [name for name in sorted(names) if json_schemas.validator(name) is None] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_description_is_a_schema_and_names_its_command(path: Path) -> None:
    schema: dict[str, Any] = json.loads(path.read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"].replace("/", "-") == path.stem
    assert "schema" in schema["required"]
    assert schema["title"].startswith("sovctl ")
    assert "--json" in schema["title"]


def test_a_missing_field_is_found() -> None:
    assert json_schemas.faults('{"schema": "sovctl.runs/1", "runs": []}') == []
    assert "'runs' is a required property" in json_schemas.faults('{"schema": "sovctl.runs/1"}')[0]
    assert "is not of type" in json_schemas.faults('{"schema": "sovctl.runs/1", "runs": [3]}')[0]
    assert "there is no docs/schemas" in json_schemas.faults('{"schema": "sovctl.nothing/1"}')[0]


PROMISED: dict[str, dict[str, str]] = json.loads(json_schemas.PROMISED.read_text("utf-8"))


@pytest.mark.parametrize("name", PROMISED)
def test_a_field_goes_or_changes_its_type_only_with_a_new_version(name: str) -> None:
    now = json_schemas.described()
    what, _, version = name.rpartition("/")
    if any(later.startswith(f"{what}/") and int(later.rpartition("/")[2]) > int(version) for later in now):
        return
    lost = {field: kind for field, kind in PROMISED[name].items() if now.get(name, {}).get(field) != kind}
    assert lost == {}, f"whoever reads {name} counts on these; give it a new version"


def test_every_field_is_promised() -> None:
    new = {name: sorted(set(found) - set(PROMISED.get(name, {}))) for name, found in json_schemas.described().items()}
    assert {name: found for name, found in new.items() if found} == {}, "type: python tests/json_schemas.py"


def test_fields_are_found_at_every_depth() -> None:
    row = {"properties": {"a": {"type": ["null", "string"]}, "b": {"type": "string"}}, "required": ["a"]}
    table = {"type": "array", "items": {"type": "object", **row}}
    by_name = {"type": "object", "additionalProperties": {"type": "object", **row}}
    schema = {"properties": {"rows": table, "named": by_name, "own": row}, "required": ["rows", "named"]}
    assert json_schemas.fields(schema) == {
        "rows": "array",
        "rows[].a": "null|string",
        "named": "object",
        "named.*.a": "null|string",
    }


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("2026-11-22T21:46:40", True),
        ("since 2026-11-22 21:46", True),
        ("2026-11-22T21:46:40Z", False),
        ("seen at 2026-11-22 21:46:40 UTC)", False),
        ("2026-11-22T21:46:40+09:00", False),
        ("2026-11-22", False),
        ("261122-221440-n002-ab12", False),
    ],
)
def test_a_time_of_no_zone_is_refused(text: str, refused: bool) -> None:
    record = {"schema": "sovctl.runs/1", "runs": [], "more": [{"at": text, "reason": text}]}
    found = [fault for fault in json_schemas.faults(json.dumps(record)) if "a time of no zone" in fault]
    assert [fault.split()[1] for fault in found] == (["$.more[0].at:"] if refused else [])


def test_what_is_printed_in_any_test_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="required property"):
        print_json("sovctl.runs/1", {})
    script = 'print(\'{"schema": "sovctl.runs/1"}\')'
    with pytest.raises(AssertionError, match="required property"):
        subprocess.run([sys.executable, "-c", script, "sovctl", "--json"], capture_output=True, text=True)


def test_the_demo_of_the_readme_is_as_described() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    text = readme.split("```json\n", 1)[1].partition("\n```")[0]
    assert '"sovctl.demo/1"' in text
    json_schemas.check(text)
