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
