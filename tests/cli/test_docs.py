"""The words for people keep up with the code: commands, settings, events, files and statuses are all written down."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import re
from pathlib import Path
from types import ModuleType

import documented
import pytest

import sovctl
from sovctl import errors
from sovctl.cli import main
from sovctl.lab.faults import FAULTS
from sovctl.model import progress
from sovctl.submit.options import split

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS]
WRITERS = {
    "Events of a run": (
        "supervisor/supervise",
        "supervisor/live_run",
        "supervisor/look_at_run",
        "supervisor/site_words",
        "supervisor/recover",
        "supervisor/take_over",
        "supervisor/bring_back",
        "supervisor/follow_progress",
        "supervisor/watch_progress",
        "supervisor/watch_stragglers",
    ),
    "Events of a node": ("node/check_node", "node/end_job"),
    "Events of the watch": (
        "watch/restart",
        "watch/deaths",
        "watch/runs",
        "watch/suspects",
        "watch/voice",
        "watch/launches",
        "watch/records",
        "watch/places",
        "watch/preempted",
    ),
    "Events of the spares": ("spares",),
}
"""Heading in docs/architecture.md -> the operations that write that journal."""
TOLD_WITH = frozenset({"attempt", "happened"})
"""Fields that ProgressFollower._tell adds to every event."""


def _read(path: Path) -> str:
    return path.read_text("utf-8")


def _help(*words: str) -> str:
    """What `sovctl WORDS --help` prints."""
    if not words:
        return main.usage()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main.run([*words, "--help"])
    return said.getvalue()


def _verbs(group: str) -> list[str]:
    """The subcommands of a group: from its typer app, else from the list that argparse prints."""
    module: ModuleType = importlib.import_module(main.GROUPS[group].module)
    if hasattr(module, "app"):
        import typer

        return list(getattr(typer.main.get_command(module.app), "commands", {}))
    return re.findall(r"^ {4}([a-z][a-z-]*) {2,}\S", _help(group), re.MULTILINE)


LISTED = [name for name, group in main.GROUPS.items() if group.listed]
COMMANDS = [(group, verb) if verb else (group,) for group in LISTED for verb in (_verbs(group) or [""])]
_OPERATIONS = ROOT / "sovctl" / "operations"
OPERATIONS = {
    str(path.relative_to(_OPERATIONS).with_suffix("")): ast.parse(_read(path))
    for path in sorted(_OPERATIONS.rglob("*.py"))
    if path.stem != "__init__"
}
"""By its path below the folder, as in `watch/deaths`."""


# Commands


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_is_explained_with_an_example(command: tuple[str, ...]) -> None:
    text = _help(*command)
    assert re.search(r"(?i)^\s*examples?:", text, re.MULTILINE), text
    example = re.split(r"(?i)examples?:", text, maxsplit=1)[1]
    assert f"sovctl {' '.join(command)}" in " ".join(example.split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_is_in_the_documentation(command: tuple[str, ...]) -> None:
    typed = rf"sovctl {' '.join(command)}\b"
    assert any(re.search(typed, _read(page)) for page in (ROOT / "README.md", *DOCS))


@pytest.mark.parametrize(("page", "typed"), documented.lines("sovctl"))
def test_a_command_in_the_documentation_can_be_typed(page: str, typed: str) -> None:
    words = documented.words(typed)
    if words[0].startswith("--"):
        assert words[0] in main.usage()
        return
    group = words.pop(0)
    assert group in main.GROUPS
    if not main.GROUPS[group].listed:
        return
    if group == "submit":
        line = split(words)
        # sbatch knows the options of a site's SPANK plugin, and sovctl passes them on.
        site = set(re.findall(r'OPTION\("(sov-[a-z-]+)"', _read(ROOT / "plugins/spank/request.c")))
        assert all((option.known or option.name in site) and not option.broken for option in line.sbatch)
        return
    verbs = _verbs(group)
    path = [group]
    if verbs and words and not words[0].startswith("-"):
        path.append(words.pop(0))
        assert path[1] in verbs
    ours = words[: words.index("--")] if "--" in words else words
    text = _help(*path)
    for word in ours:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word.partition('=')[0])}(?![\w-])", text), f"{word} in {page}"


MAKEFILE = _read(ROOT / "Makefile")
READ_BY_MAKE = MAKEFILE + "".join(_read(path) for path in (ROOT / "scripts").glob("*.sh"))


@pytest.mark.parametrize(("page", "typed"), documented.lines("make"))
def test_what_make_is_asked_for_in_the_documentation_is_there(page: str, typed: str) -> None:
    words = documented.words(typed)
    if words[0] == "-C":
        assert (ROOT / words[1] / "Makefile").exists(), page
        return
    targets = {
        name for names in re.findall(r"^([a-z][a-z -]*):(?!=)", MAKEFILE, re.MULTILINE) for name in names.split()
    }
    given = dict(word.split("=", 1) for word in words if "=" in word)
    assert {word for word in words if "=" not in word} <= targets, page
    assert [name for name in given if not re.search(rf"\$[({{]?{name}\b", READ_BY_MAKE)] == []
    assert [name for name in given.get("NAME", "").split() if not (ROOT / "bench" / f"{name}.py").exists()] == []


# Links, files, blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _read(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), f"{target} in {page.name}"
        assert not anchor or anchor in _anchors(path), f"#{anchor} in {page.name}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(r"`((?:sovctl|tests|examples|bench|scripts|docs)/[\w./-]*)`", _read(page)):
        assert (ROOT / name).exists(), f"{name} in {page.name}"


def test_every_module_of_the_operations_and_every_folder_is_in_the_table() -> None:
    text = _read(ROOT / "docs" / "architecture.md")
    folders = [path.parent.name for path in (ROOT / "sovctl").glob("*/__init__.py")]
    names = [f"sovctl/operations/{name}.py" for name in OPERATIONS]
    missing = [name for name in [*(f"sovctl/{folder}/" for folder in folders), *names] if name not in text]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_json_blocks_are_json(page: Path) -> None:
    for block in re.findall(r"^```json\n(.*?)^```", _read(page), re.MULTILINE | re.DOTALL):
        json.loads(block)


def test_the_four_lines_are_those_of_the_example() -> None:
    example = [line.strip() for line in _read(ROOT / "examples" / "train_lm.py").splitlines()]
    blocks = re.findall(r"^```python\n(.*?)^```", _read(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 4
    assert set(lines) <= set(example)


def test_the_changelog_knows_this_version() -> None:
    assert f"## {sovctl.__version__}" in _read(ROOT / "CHANGELOG.md")


@pytest.mark.parametrize("entry", re.findall(r"^## (\d+)\. ", _read(ROOT / "docs" / "decisions.md"), re.MULTILINE))
def test_a_decision_has_its_five_fields(entry: str) -> None:
    text = re.split(rf"^## {entry}\. ", _read(ROOT / "docs" / "decisions.md"), flags=re.MULTILINE)[1].split("\n## ")[0]
    fields = re.findall(r"^- \*\*(.+?)\*\*: \S", text, re.MULTILINE)
    assert fields == ["Context", "Decision", "Rejected", "Consequence", "Revisit when"]


SHARED_FIGURES = {
    "memory of the watch": (r"`sovctl watch` at 64 nodes[^|]*\|[^|]*?(\d+) MB", r"\| `sovctl watch` \| (\d+) MB"),
    "CPU of the watch": (
        r"`sovctl watch` at 64 nodes[^|]*\| ([\d.]+) %",
        r"\| `sovctl watch` \|[^|]*?([\d.]+) % of a core",
    ),
    "memory of a watcher": (
        r"watcher's memory and CPU[^|]*\|[^|]*?(\d+) MB",
        r"`sovctl health watch`, a node \| (\d+) MB",
    ),
    "CPU of a watcher": (
        r"watcher's memory and CPU[^|]*\|[^|]*?([\d.]+) %",
        r"`sovctl health watch`, a node \|[^|]*?([\d.]+) %",
    ),
    "a sweep": (r"`sovctl sweep`, 63 nodes[^|]*\| ([\d.]+) s", r"63 nodes took ([\d.]+) s"),
    "runs back of twenty": (
        r"20 faults within a minute[^|]*\| (\d+ of \d+) back",
        r"20 faults in a minute[^|]*\| (\d+ of \d+) runs",
    ),
    "fault to the next step": (
        r"20 faults within a minute[^|]*\|[^|]*?([\d.]+) s in the median",
        r"fault to the next step, median[^|]*\| ([\d.]+) s",
    ),
    "the slowest of them": (
        r"20 faults within a minute[^|]*\|[^|]*?slowest (\d+) s",
        r"fault to the next step, median[^|]*\| [\d.]+ s; (\d+) s",
    ),
    "RPCs of a run": (
        r"20 faults within a minute[^|]*\|[^|]*?([\d.]+) RPC a second a run",
        r"RPCs in the steady state[^|]*\| ([\d.]+) a second a run",
    ),
    "a dead node without a spare": (
        r"dead node in a job on more than six nodes[^|]*\|[^|]*\| (\d+) s",
        r"\bneeds (\d+) s with them",
    ),
}
"""What both pages tell -> where README.md has the figure, and where docs/administration.md."""


@pytest.mark.parametrize("figure", SHARED_FIGURES)
def test_a_figure_on_two_pages_is_the_same(figure: str) -> None:
    pages = (ROOT / "README.md", ROOT / "docs" / "administration.md")
    found = [re.findall(pattern, _read(page)) for pattern, page in zip(SHARED_FIGURES[figure], pages, strict=True)]
    assert [len(values) for values in found] == [1, 1], found
    assert found[0] == found[1]


# Events


def _events_written(module: str) -> dict[str, set[str]]:
    """Kind -> fields, of every call in a module that writes a journal."""
    written: dict[str, set[str]] = {}
    for call in ast.walk(OPERATIONS[module]):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        told = name == "_tell" and module == "supervisor/follow_progress"
        place = {"append": 0, "write": 0, "_journal": 1}.get(name, 0 if told else None)
        if place is None or len(call.args) <= place:
            continue
        kind = call.args[place]
        if not (isinstance(kind, ast.Constant) and isinstance(kind.value, str)) or not (call.keywords or told):
            continue
        fields = {keyword.arg for keyword in call.keywords if keyword.arg}
        written.setdefault(kind.value, set()).update(fields | (TOLD_WITH if told else set()))
    return written


@pytest.mark.parametrize("heading", WRITERS)
def test_events_are_documented_with_their_fields(heading: str) -> None:
    text = _read(ROOT / "docs" / "architecture.md")
    section = re.split(r"^#+ ", text.split(f"#### {heading}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]*) \|", section, re.MULTILINE)
    documented = {kind: set(re.findall(r"`(\w+)`", fields)) for kind, fields in rows}
    written: dict[str, set[str]] = {}
    for module in WRITERS[heading]:
        for kind, fields in _events_written(module).items():
            written.setdefault(kind, set()).update(fields)
    assert documented == written


def test_no_other_operation_writes_events() -> None:
    known = {module for modules in WRITERS.values() for module in modules}
    assert {module for module in OPERATIONS if _events_written(module)} == known


# Settings, variables, statuses


def _rows(page: str, columns: int) -> list[list[str]]:
    rows = re.findall(r"^\|(.*)\|$", _read(ROOT / "docs" / page), re.MULTILINE)
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return [row for row in cells if len(row) == columns]


def test_every_exit_status_is_documented() -> None:
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    codes |= {name: getattr(progress, name) for name in ("STOPPED", "FINISHED")}
    documented = {row[1].strip("`"): row[0] for row in _rows("configuration.md", 3)}
    assert {name: documented.get(name) for name in codes} == {name: str(value) for name, value in codes.items()}
    table = {row[0] for row in _rows("architecture.md", 2)}
    assert {str(value) for name, value in codes.items() if name.startswith("EXIT_")} <= table


def test_every_variable_is_documented() -> None:
    text = "".join(_read(page) for page in DOCS)
    sources = [*(ROOT / "sovctl").rglob("*.py"), *(ROOT / "sovctl").rglob("*.c")]
    names = {name for path in sources for name in re.findall(r"\"(SOVCTL_[A-Z_]*[A-Z])\"", _read(path))}
    assert names, "the pattern finds none: it is wrong"
    assert sorted(name for name in names if f"`{name}`" not in text) == []


NOT_FINDINGS = frozenset({"POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN", "POWERING_UP", "REBOOT_ISSUED"})
"""Node states of Slurm among the constants of the modules below; REBOOT and the like have no underscore."""


def _codes() -> set[str]:
    """Every code that a finding or a Reason can carry: the constants in the modules that make them."""
    health = [path for path in (ROOT / "sovctl" / "health").glob("*.py") if path.stem not in ("nvlink5", "xid")]
    operations = [ROOT / "sovctl" / "operations" / f"{name}.py" for name in ("sweep", "watch/cluster")]
    found = set()
    for path in [*health, *operations, *(ROOT / "sovctl" / "ports").glob("*.py")]:
        for node in ast.walk(ast.parse(_read(path))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^[A-Z]+(?:_[A-Z]+)+$", node.value))
    return (found | {"FIRMWARE"}) - NOT_FINDINGS - {"NOT_RESPONDING", "INVALID_REG"}


def test_every_code_is_explained_and_nothing_else_is() -> None:
    table = re.findall(r"^\| (`[A-Z][^|]*) \|", _read(ROOT / "docs" / "operations.md"), re.MULTILINE)
    explained = {code for cell in table for code in re.findall(r"`([A-Z_]+)`", cell)}
    assert explained == _codes()


def test_every_fault_of_the_lab_is_documented() -> None:
    assert [name for name in FAULTS if f"| `{name}` |" not in _read(ROOT / "docs" / "lab.md")] == []
