"""Every error says what to type next: read from the source, so that one nobody met yet does too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovctl.config import Config
from sovctl.errors import CommandFailed, CommandMissing, CommandTimeout, ConfigError, NotPermitted, SovctlError

ROOT = Path(__file__).parents[3]
SOURCES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.glob("sovctl/**/*.py"))}
INTERNAL = frozenset({"sovctl/lab/chaos/run.py", "sovctl/lab/training.py"})
"""What a benchmark or a test of the lab meets and nobody else."""
CLASSES = {node.name: node for tree in SOURCES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
SECTIONS = "|".join(Config.__dataclass_fields__)
TYPED = re.compile(
    r": X$"  # a command that is known only then
    r"|`[^`]+`"  # a command in its quotes
    r"|(?<![\w-])--?[A-Za-z][\w-]*"  # an option
    r"|\b(?:sovctl|man|unset|export) \S"
    r"|\b(?:scontrol|squeue|sinfo|sacctmgr|sbatch|srun|systemctl|sysctl|chronyc|nvidia-smi|findmnt|fuser|skopeo"
    r"|unsquashfs|mksquashfs|apptainer|ipmitool|modprobe|apt-get|chmod|mkdir|realpath|dmesg|make|pip|ldd|ls|df|rm|cd|ss)"
    r"(?=[ ,)]|$)"
    r"|\b[A-Z][A-Z_]+=|\bSet [A-Z_]+\b"  # a variable
    rf"|\b(?:{SECTIONS})\.[a-z_]+|\b(?:slurm|oci|plugstack|cgroup|sovctl-policy)\.conf\b"
    r"|\bsovctl\.toml\b|#SOVCTL|@sha256:"  # what stands in a file
)


def _is_error(name: str) -> bool:
    bases = CLASSES[name].bases if name in CLASSES else []
    return name == "SovctlError" or any(_is_error(base.id) for base in bases if isinstance(base, ast.Name))


def _own_init(name: str) -> ast.FunctionDef | None:
    found = (item for item in CLASSES[name].body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    return next(found, None)


def _needs_hint(name: str) -> bool:
    """Not one that has its own words for it."""
    init = _own_init(name)
    if init is None:
        bases = [base.id for base in CLASSES[name].bases if isinstance(base, ast.Name)]
        return any(_needs_hint(base) for base in bases if _is_error(base))
    passed_on = any(isinstance(hint, ast.Name) for call in ast.walk(init)
                    if isinstance(call, ast.Call) and (hint := _hint(call)))  # fmt: skip
    defaults = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    empty = any(argument.arg == "hint" and ast.unparse(default) == "''" for argument, default in defaults if default)
    return name == "SovctlError" or (passed_on and empty)


def _made() -> Iterator[tuple[str, ast.Call]]:
    """Every place that makes an error, or has its base make it."""
    errors = {name for name in CLASSES if _is_error(name)}
    inits = {id(call) for name in errors - {"SovctlError"} if (init := _own_init(name)) for call in ast.walk(init)}
    for file, tree in SOURCES.items():
        if file in INTERNAL:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            parent = isinstance(node.func, ast.Attribute) and node.func.attr == "__init__" and id(node) in inits
            if parent or (name in errors and _needs_hint(name)):
                yield f"{file}:{node.lineno}", node


def _hint(call: ast.Call) -> ast.expr | None:
    return next((item.value for item in call.keywords if item.arg == "hint"), None)


def _texts(hint: ast.expr) -> Iterator[str]:
    """What is written there, a blank X for what is known only then; nothing where a name stands for it."""
    if isinstance(hint, ast.IfExp):
        yield from _texts(hint.body)
        yield from _texts(hint.orelse)
    elif isinstance(hint, ast.BoolOp):
        for part in hint.values:
            yield from _texts(part)
    elif isinstance(hint, ast.Constant):
        yield str(hint.value)
    elif isinstance(hint, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in hint.values)


def _constants() -> Iterator[tuple[str, str]]:
    """Sentences that several errors share."""
    for file, tree in SOURCES.items():
        named = {hint.id for node in ast.walk(tree) if isinstance(node, ast.Call)
                 and isinstance(hint := _hint(node), ast.Name)}  # fmt: skip
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in named:
                for text in _texts(node.value):
                    yield f"{file}:{node.lineno}", text


def test_every_error_has_a_hint() -> None:
    made = list(_made())
    assert len(made) > 150
    assert [place for place, call in made if _hint(call) is None] == []


def test_every_hint_names_something_to_type() -> None:
    said = [(place, text) for place, call in _made() if (hint := _hint(call)) for text in _texts(hint)]
    said += _constants()
    assert len(said) > 150
    assert [f"{place}: {text}" for place, text in said if not TYPED.search(text)] == []


def test_every_fix_of_doctor_names_something_to_type() -> None:
    said = [
        (f"{file}:{call.lineno}", text)
        for file, tree in SOURCES.items()
        if file.startswith("sovctl/site/judge_")
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("warned", "failed")
        for text in _texts(_given(call.args[2], tree))
    ]
    assert len(said) > 35
    assert [f"{place}: {text}" for place, text in said if not TYPED.search(text)] == []


def _given(fix: ast.expr, tree: ast.Module) -> ast.expr:
    """What a name stands for, where it is made of words in the same file."""
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(fix, ast.Name)
              and isinstance(node.targets[0], ast.Name) and node.targets[0].id == fix.id]  # fmt: skip
    return ast.BoolOp(ast.Or(), values) if values else fix


@pytest.mark.parametrize(
    "words", ["It belongs to another user.", "Is the disk full?", "See [alerts] in the manual.", ""]
)
def test_mere_words_name_nothing_to_type(words: str) -> None:
    assert not TYPED.search(words)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            CommandFailed(["skopeo", "inspect", "docker://a b"], 1, "no"),
            "Try it by hand: skopeo inspect 'docker://a b'",
        ),
        (CommandFailed(["bwrap", *["--bind"] * 100], 1, "no"), "Try it by hand: bwrap --help"),
        (CommandTimeout(["scontrol", "show", "node"], 30.0), "scontrol ping"),
        (CommandTimeout(["sacct"], 30.0), "systemctl status slurmdbd"),
        (CommandTimeout(["skopeo", "copy"], 30.0), "Try it by hand: skopeo copy"),
        (CommandMissing("unsquashfs"), "apt-get install squashfs-tools"),
        (CommandMissing("scontrol"), "sovctl lab up"),
        (CommandMissing("/opt/slurm/scontrol"), "sovctl config show slurm.bin_dir"),
        (CommandMissing("/opt/venv/bin/python"), "ls -l /opt/venv/bin/python"),
        (CommandMissing("ldd"), "apt-get install libc-bin"),
        (ConfigError("alerts.kinds", "no"), "sovctl config show alerts.kinds"),
        (ConfigError("SOVCTL_SWEEP_ACT", "no"), "unset SOVCTL_SWEEP_ACT"),
        (ConfigError("/etc/sovctl/sovctl.toml:3", "no"), "man sovctl.toml"),
        (NotPermitted("job 12"), "squeue -j 12"),
        (NotPermitted("node n001"), "as root: sovctl node"),
    ],
)
def test_the_hint_fits_what_failed(error: SovctlError, hint: str) -> None:
    assert hint in error.hint
