"""Completion in the real shells: a person's keys go in through a terminal, what the shell inserts comes out."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPLETIONS = ROOT / "completions"
PATIENCE_S = 30.0
PROMPT = "person> "
_ESCAPES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r(?!\n)")
SINFO = """#!/bin/sh
echo asked >>"$HOME/asked"
case "$*" in
*%N*) printf 'n001\\nn002\\nn010\\n' ;;
*%R*) printf 'gpu\\nlong\\n' ;;
esac
"""
SACCTMGR = """#!/bin/sh
[ -e "$HOME/slurmdbd-hangs" ] && exec sleep 60
printf 'normal\\nhigh\\n'
"""


class Shell:
    """An interactive shell in a terminal of its own."""

    def __init__(self, argv: list[str], env: dict[str, str], setup: str, keys: str) -> None:
        """`keys`: pressed behind the words, so that the shell prints the candidates between << and >>."""
        self._keys = keys
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(env["HOME"])
            os.execvpe(argv[0], argv, env)
        self._seen = ""
        self._until(f"{PROMPT}$")
        for line in setup.splitlines():
            self._enter(line + "\n", f"\n{PROMPT}$")

    def completes(self, typed: str) -> list[str]:
        """The words that stand in the place of the last word of `typed` when every candidate is inserted."""
        return self._enter(typed + self._keys, rf"\n<<(.*)>>\r\n.*{PROMPT}$")[1].split()

    def _enter(self, keys: str, answer: str) -> re.Match[str]:
        """Type a line and wait for the next prompt: before it, the terminal itself would take the keys."""
        self._seen = ""
        os.write(self._terminal, keys.encode())
        return self._until(answer)

    def _until(self, answer: str) -> re.Match[str]:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(answer, _ESCAPES.sub("", self._seen))):
            assert time.monotonic() < deadline, self._seen
            if select.select([self._terminal], [], [], 0.2)[0]:
                self._seen += os.read(self._terminal, 65536).decode("utf-8", "replace")
        return found

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self._pid, 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("person")
    commands = made / "bin"
    commands.mkdir()
    (commands / "sinfo").write_text(SINFO)
    (commands / "squeue").write_text("#!/bin/sh\nprintf '12\\n13_1\\n'\n")
    (commands / "sacctmgr").write_text(SACCTMGR)
    for path in commands.iterdir():
        path.chmod(0o755)
    (commands / "sovctl").symlink_to(Path(sys.executable).with_name("sovctl"))
    runs = made / ".local/state/sovctl/runs"
    runs.mkdir(parents=True)
    (runs / "77-1700000000.json").write_text("{}")
    (made / "train.sbatch").write_text("")
    return made


@pytest.fixture(scope="module")
def env(home: Path) -> dict[str, str]:
    path = f"{home / 'bin'}:/usr/bin:/bin"
    return {"HOME": str(home), "PATH": path, "TERM": "dumb", "PS1": PROMPT, "PS2": "", "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="module", params=["bash", "zsh", "fish"])
def completes(request: pytest.FixtureRequest, env: dict[str, str]) -> Iterator[Callable[[str], list[str]]]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    if request.param == "fish":
        yield lambda typed: _fish(typed, env)
        return
    if request.param == "bash":  # every candidate is inserted, in front of the line goes an echo
        keys = "\x18a\x01echo '<<' \x05 '>>'\n"
        setup = f"bind '\"\\C-xa\": insert-completions'; source {COMPLETIONS / 'sovctl.bash'}"
        argv = ["bash", "--norc", "--noprofile", "-i"]
    else:
        setup = (
            "unsetopt prompt_cr prompt_sp; autoload -U compinit; compinit -D -u; bindkey -e; setopt no_beep\n"
            "compadd() { local -a hits; if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\\ * ]]; then"
            ' builtin compadd -A hits "$@"; every+=($hits); fi; builtin compadd "$@"; }\n'
            f"source {COMPLETIONS / '_sovctl'}"
        )
        argv = ["zsh", "-f", "-i"]
        keys = '\t\x15print -r -- "<< $every >>"; every=()\n'
    shell = Shell(argv, env, setup, keys)
    yield (lambda typed: _behind(typed, shell.completes(typed))) if request.param == "bash" else shell.completes
    shell.close()


def _behind(typed: str, words: list[str]) -> list[str]:
    """Of a whole line what stands in the place of the last word."""
    return words[len(typed.split()) - (not typed.endswith(" ")) :]


def _fish(typed: str, env: dict[str, str]) -> list[str]:
    words = ["fish", "--no-config", "-c", f"source {COMPLETIONS / 'sovctl.fish'}; complete -C '{typed}'"]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=env["HOME"], timeout=PATIENCE_S)
    assert done.stderr == ""
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


CASES = [
    ("sovctl no", {"node"}),
    ("sovctl run s", {"show", "stop"}),
    ("sovctl image env ", {"ls", "rm", "export"}),
    ("sovctl run ls --noh", {"--noheader"}),
    ("sovctl submit --open-mode ", {"append", "truncate"}),
    ("sovctl submit --ntasks-per-n", {"--ntasks-per-node"}),
    ("sovctl submit -N 4 --hang", {"--hang-timeout"}),
    ("sovctl submit --run-dir . tr", {"train.sbatch"}),
    ("sovctl submit train.sbatch --ntasks-per-n", set()),  # an argument of the script
    ("sovctl health burn-in --piece m", {"matmul", "memory"}),
    ("sovctl completion ", {"bash", "zsh", "fish"}),
    ("sovctl submit -p ", {"gpu", "long"}),
    ("sovctl submit --qos ", {"normal", "high"}),
    ("sovctl submit --qos h", {"high"}),
    ("sovctl node show n00", {"n001", "n002"}),
    ("sovctl node show n001,n0", {"n001,n002", "n001,n010"}),
    ("sovctl health prolog --job 1", {"12", "13_1"}),
    ("sovctl run why ", {"77"}),
    ("sovctl ckpt ls --run 7", {"77"}),
    ("sovctl nonsense ", set()),
]


@pytest.mark.parametrize(("typed", "expected"), CASES)
def test_completes(completes: Callable[[str], list[str]], typed: str, expected: set[str]) -> None:
    found = set(completes(typed))
    if expected:
        assert found == expected
    else:  # what was typed stays as it is
        assert found <= {typed.rpartition(" ")[2]}


def test_a_value_behind_an_equals_sign(completes: Callable[[str], list[str]]) -> None:
    found = completes("sovctl submit --open-mode=a")
    assert [word.rpartition("=")[2] for word in found] == ["append"]


def _complete(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    sovctl = str(Path(sys.executable).with_name("sovctl"))
    return subprocess.run([sovctl, "complete", *words], capture_output=True, text=True, env=env, timeout=PATIENCE_S)


def test_names_are_kept_for_a_while(env: dict[str, str], home: Path, tmp_path: Path) -> None:
    fresh = {**env, "XDG_CACHE_HOME": str(tmp_path)}
    (home / "asked").unlink(missing_ok=True)
    for _ in range(3):
        assert _complete(fresh, "partition", "").stdout.split() == ["gpu", "long"]
    assert (home / "asked").read_text() == "asked\n"


def _seconds(env: dict[str, str], cache: Path, said: list[str]) -> float:
    """Of the quickest of three that said it, so that a busy machine tells as much as an idle one; nothing is kept from
    one to the next."""
    took: list[float] = []
    turn, deadline = 0, time.monotonic() + PATIENCE_S
    while len(took) < 3:
        assert time.monotonic() < deadline, took
        turn += 1
        began = time.monotonic()
        done = _complete({**env, "XDG_CACHE_HOME": str(cache / str(turn))}, "qos", "")
        assert (done.returncode, done.stderr) == (0, "")
        if done.stdout.split() == said:
            took.append(time.monotonic() - began)
    return min(took)


def test_a_silent_controller_costs_a_second_and_no_words(env: dict[str, str], home: Path, tmp_path: Path) -> None:
    at_once = _seconds(env, tmp_path / "answers", ["high", "normal"])
    (home / "slurmdbd-hangs").touch()
    try:
        silent = _seconds(env, tmp_path / "hangs", [])
    finally:
        (home / "slurmdbd-hangs").unlink()
    assert silent - at_once < 1.0


@pytest.mark.parametrize("words", [(), ("nothing",), ("node", "--", "x"), ("run", "")])
def test_nothing_is_ever_said_about_a_failure(words: tuple[str, ...], tmp_path: Path) -> None:
    bare = {"PATH": "/nonexistent", "HOME": str(tmp_path / "not-there")}
    done = _complete(bare, *words)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
