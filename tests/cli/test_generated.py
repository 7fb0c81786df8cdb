"""What is made from the code is fresh, complete, and renders without a warning."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import generated
import pytest

from sovctl.cli import main
from sovctl.cli.tree import command_tree

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "man").glob("*"))
COMMANDS = [command for command in command_tree().every() if command.path and command.does]


def test_nothing_is_stale() -> None:
    assert generated.stale() == [], "type: make generated"


def _help(*words: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main.run([*words, "--help"])
    return said.getvalue()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.path))
def test_every_option_of_the_help_is_in_the_man_page_and_completed(command: generated.Command) -> None:
    """Against the help as it is printed, which is made by other code than the pages."""
    options = re.findall(r"^ {2,4}(?:-\w, )?(--[a-z-]+)", _help(*command.path).partition("ptions")[2], re.MULTILINE)
    assert options, "the pattern finds none: it is wrong"
    page = (ROOT / "man" / f"sovctl-{command.path[0]}.1").read_text("utf-8").replace("\\-", "-")
    words = " ".join(("sovctl", *command.path))
    bash = (ROOT / "completions" / "sovctl.bash").read_text("utf-8")
    completed = re.search(rf"^    \['{re.escape(words)}'\]='(.*--help.*)'$", bash, re.MULTILINE)
    assert completed
    assert f"\\fB{words}\\fR" in page
    for option in options:
        assert f"\\fB{option}\\fR" in page
        assert option in completed[1].split()


def test_every_command_has_a_page_and_internal_ones_have_none() -> None:
    pages = {path.name for path in PAGES}
    for name, group in main.GROUPS.items():
        assert (f"sovctl-{name}.1" in pages) == group.listed
    assert {"sovctl.1", "sovctl.toml.5", "sovctl-plugins.8"} <= pages


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_the_pages_render_without_a_warning() -> None:
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    done = subprocess.run(["man", "--warnings", "-l", *PAGES], capture_output=True, text=True, env=env, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert [page.stem for page in PAGES if f"{page.stem.upper()}({page.suffix[1:]})" not in done.stdout] == []


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_the_pages_have_no_faults() -> None:
    words = ["mandoc", "-T", "lint", "-W", "warning", *PAGES]
    said = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout.splitlines()
    # With a date a page would not come out the same on another day.
    assert [line for line in said if "missing date" not in line] == []


def test_every_setting_is_in_its_page_and_says_who_may_set_it() -> None:
    page = (ROOT / "man" / "sovctl.toml.5").read_text("utf-8").replace("\\-", "-")
    for key in generated.settings():
        section, _, name = key.name.partition(".")
        part = page.split(f'.SS "[{section}]"', 1)[1].partition(".SS")[0]
        entry = part.split(f"\\fB{name}\\fR = ", 1)[1].partition(".TP")[0]
        assert ("Only the site may set it." in entry) == key.site_only


def test_a_setting_without_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "_words_below", lambda of: {})
    with pytest.raises(ValueError, match=r"node\.name has no text below it"):
        generated.settings()
