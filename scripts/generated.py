"""Writes what is made from the code: completions/, man/, and the table of settings in docs/configuration.md.

usage: python scripts/generated.py        (make generated)
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import man_pages as man

import sovctl
from sovctl import config
from sovctl.cli.shells import completion_script
from sovctl.cli.tree import Command, command_tree

DOCS = ROOT / "docs"
BEGIN = "<!-- settings: made from sovctl/config.py by `make generated` -->"
END = "<!-- end of settings -->"
COMPLETIONS = {"bash": "sovctl.bash", "zsh": "_sovctl", "fish": "sovctl.fish"}
PLUGINS = (
    ("administration.md", "Prolog and epilog"),
    ("administration.md", "Lua plugins: the policy at submission"),
    ("administration.md", "SPANK plugin: isolation on the nodes"),
    ("configuration.md", "The policy file"),
    ("configuration.md", "plugstack.conf"),
)
"""What sovctl-plugins(8) consists of: page of the docs and heading."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One setting as documented in sovctl/config.py."""

    name: str
    default: str
    unit: str
    site_only: bool
    meaning: str


def files() -> dict[Path, str]:
    """Every file that is made, with its text."""
    tree = command_tree()
    made = {ROOT / "completions" / name: completion_script(shell, tree) for shell, name in COMPLETIONS.items()}
    made |= {ROOT / "man" / name: text for name, text in _man(tree)}
    made[DOCS / "configuration.md"] = _configuration()
    return made


def stale() -> list[str]:
    """Names of files that are not what they would be made to, or that nobody makes any more."""
    made = files()
    old = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    old += [path for folder in ("completions", "man") for path in (ROOT / folder).glob("*") if path not in made]
    return sorted(str(path.relative_to(ROOT)) for path in old)


def main() -> None:
    """Write what changed, remove what nobody makes any more."""
    made = files()
    for name in stale():
        path = ROOT / name
        if path in made:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path], "utf-8")
        else:
            path.unlink()
        print(f"{'wrote' if path in made else 'removed'} {name}", file=sys.stderr)


# Settings


def settings() -> tuple[Key, ...]:
    """Every setting, with the text below it in sovctl/config.py. Raises ValueError for one without."""
    classes = {item.name: item for item in ast.parse(Path(config.__file__).read_text("utf-8")).body
               if isinstance(item, ast.ClassDef)}  # fmt: skip
    found = []
    for section in dataclasses.fields(config.Config):
        if section.name == "probes":
            continue
        words = _words_below(classes[str(section.type)])
        for name, default in dataclasses.asdict(getattr(config.Config(), section.name)).items():
            key = f"{section.name}.{name}"
            if name not in words:
                raise ValueError(f"{key} has no text below it in sovctl/config.py that says what it means")
            unit = "s" if name.endswith("_s") or name == "seconds" else "h" if name.endswith("_hours") else ""
            found.append(Key(key, json.dumps(default), unit, config.is_site_only(key), words[name]))
    return tuple(found)


def _words_below(of: ast.ClassDef) -> dict[str, str]:
    words = {}
    for field, text in zip(of.body, of.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(text):
            words[field.target.id] = " ".join(text.value.value.split())  # type: ignore[attr-defined]
    return words


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _configuration() -> str:
    text = (DOCS / "configuration.md").read_text("utf-8")
    rows = ["| key | default | unit | set by | meaning |", "|---|---|---|---|---|"]
    for key in settings():
        by = "site" if key.site_only else ""
        rows.append(f"| `{key.name}` | `{key.default}` | {key.unit} | {by} | {key.meaning.rstrip('.')} |")
    head, _, rest = text.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise ValueError(f"docs/configuration.md has lost its line {BEGIN!r} or {END!r}")
    return "\n".join([f"{head}{BEGIN}", "", *rows, "", f"{END}{tail}"])


# Man pages


def _man(tree: Command) -> Iterator[tuple[str, str]]:
    yield "sovctl.1", _of_sovctl(tree)
    for group in tree.commands:
        yield f"sovctl-{group.path[0]}.1", _of_group(group)
    yield "sovctl.toml.5", _of_settings()
    yield "sovctl-plugins.8", _of_plugins()


def _of_sovctl(tree: Command) -> str:
    pages = [(f"sovctl-{group.path[0]}", 1) for group in tree.commands]
    parts = [
        man.synopsis([tree]),
        man.single(dataclasses.replace(tree, description=_section("../README.md", "", level=1))),
        man.table_of_commands(tree.commands),
        man.of_markdown(_section("configuration.md", "Exit status", level=2), heading="Exit status"),
        man.of_markdown(_section("configuration.md", "Variables", level=2), heading="Environment"),
        man.see_also([*pages, ("sovctl.toml", 5), ("sovctl-plugins", 8), ("sbatch", 1), ("slurm.conf", 5)]),
    ]
    return man.page("sovctl", 1, tree.summary, sovctl.__version__, parts)


def _of_group(group: Command) -> str:
    name = f"sovctl-{group.path[0]}"
    leaves = [command for command in group.every() if command.does]
    if leaves == [group]:
        parts = [man.synopsis([group]), man.single(group)]
    else:
        parts = [man.synopsis(leaves), "\n".join([".SH DESCRIPTION", *map(man.of_command, leaves)])]
    status = ".SH EXIT STATUS\nSee \\fBsovctl\\fR(1)."
    also = [("sovctl", 1), ("sovctl.toml", 5), *([("sbatch", 1)] if group.path == ("submit",) else [])]
    return man.page(name, 1, group.summary, sovctl.__version__, [*parts, status, man.see_also(also)])


def _of_settings() -> str:
    intro = re.sub(r"\A# .*\n", "", (DOCS / "configuration.md").read_text("utf-8")).partition("\n## ")[0]
    parts = [man.of_markdown(intro, heading="Description"), ".SH SETTINGS"]
    sections: dict[str, list[tuple[str, str, str, str]]] = {}
    for key in settings():
        section, _, name = key.name.partition(".")
        by = "Only the site may set it." if key.site_only else ""
        sections.setdefault(section, []).append((name, key.default, by, key.meaning))
    for section, rows in sections.items():
        words = getattr(config.Config(), section).__doc__ or ""
        parts += [f'.SS "[{section}]"', words.strip(), *man.of_settings(rows)]
    parts.append(man.of_markdown(_section("configuration.md", "Probes", level=2), heading="Probes"))
    parts.append(".SH FILES\n.I /etc/sovctl/sovctl.toml\n.br\n.I ~/.config/sovctl/sovctl.toml")
    parts.append(man.see_also([("sovctl", 1), ("sovctl-config", 1), ("sovctl-plugins", 8)]))
    return man.page("sovctl.toml", 5, "settings of sovctl", sovctl.__version__, parts)


def _of_plugins() -> str:
    parts = [man.of_markdown(_section(page, heading), heading=heading) for page, heading in PLUGINS]
    parts.append(man.see_also([("sovctl", 1), ("sovctl.toml", 5), ("slurm.conf", 5), ("plugstack.conf", 5)]))
    summary = "programs and plugins of sovctl that Slurm runs"
    return man.page("sovctl-plugins", 8, summary, sovctl.__version__, parts)


def _section(name: str, heading: str, *, level: int = 0) -> str:
    """The text below a heading, up to the next one of its level. Raises ValueError where there is none."""
    text = (DOCS / name).read_text("utf-8")
    if not heading:  # the first paragraph of a page
        return re.sub(r"\A#.*\n+", "", text).partition("\n\n")[0]
    marks = "#" * level if level else "#{2,3}"
    found = re.search(rf"^({marks}) {re.escape(heading)}\n(.*?)(?=^#{{1,{level or 3}}} |\Z)", _hide(text), re.M | re.S)
    if not found:
        raise ValueError(f"docs/{name} has no section {heading!r} any more: name the new one in scripts/generated.py")
    return found[2].replace("\0", "#")


def _hide(text: str) -> str:
    """A # that begins a comment in a block of code is no heading."""
    return re.sub(r"^```.*?^```", lambda block: re.sub(r"^#", "\0", block[0], flags=re.M), text, flags=re.M | re.S)


if __name__ == "__main__":
    main()
