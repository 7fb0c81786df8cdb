"""The generated batch script, read back by a real bash."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sovctl.submit.directives import leading_block, words_of
from sovctl.submit.nodes import NodePlan
from sovctl.submit.options import OwnOptions
from sovctl.submit.script import (
    Launch,
    Supervised,
    UserScript,
    batch_script,
    delimiter,
    embedded,
    quoted,
    supervised,
)

_body = st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
_words = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=4)


def _launch(python: str = "/usr/bin/env") -> Launch:
    return Launch(python, "1.2.3", 1700000000)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Takes the place of Python: shows its arguments and what is on descriptor 3, byte for byte."""
    path = tmp_path_factory.mktemp("bin") / "it's a python"
    path.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\nprintf 'END\\0'\nexec cat <&3\n")
    path.chmod(0o755)
    return str(path)


def _run(text: bytes, *arguments: str) -> tuple[list[str], bytes]:
    done = subprocess.run(
        ["bash", "-c", 'f=$1; shift; exec bash "$f" "$@"', "x", "/dev/stdin", *arguments],
        input=text,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    shown, _, script = done.stdout.partition(b"END\0")
    return [word.decode("utf-8", "surrogateescape") for word in shown.split(b"\0")[:-1]], script


@given(_body.map(lambda body: b"#!" + body.replace(b"\0", b"")))
@example(b"#!/bin/sh\n\001\177\\\n`x` $y 'z' \"\n<<EOF\nEOF\n\xff\xfe\n")
@example(b"#!/bin/sh")
@example(b"#!/bin/sh\n\n\n")
@example(b"#!/bin/sh\n" + b"echo a long line of a large script\n" * 4000)
def test_the_script_arrives_byte_for_byte(stand_in: str, text: bytes) -> None:
    _, script = _run(batch_script(UserScript("t.sh", text), OwnOptions(), _launch(stand_in)))
    assert script == embedded(text)
    assert script.removesuffix(b"\n") == text.removesuffix(b"\n")


@given(_words, _words.map("".join))
@example([":", "", "a\nb", "--", "-x", "'\"$x`y`\\"], 'it\'s\na "name"')
def test_arguments_and_names_arrive_unchanged(stand_in: str, arguments: list[str], name: str) -> None:
    script = UserScript(name, b"#!/bin/sh\n")
    own = OwnOptions(run_dir="/r " + name, max_hardware_faults=3)
    passed = [word for word in arguments if word != ":"]
    words, _ = _run(batch_script(script, own, _launch(stand_in), arguments), *passed)
    assert words[:4] == ["-P", "-m", "sovctl", "supervise"]
    assert words[4:] == [
        *("--submitted", "1700000000", "--name", name, "--run-dir", "/r " + name, "--max-hardware-faults", "3", "--"),
        *arguments,
    ]


def test_what_sbatch_reads_stands_on_the_same_lines() -> None:
    text = b"#!/usr/bin/python3\n#SBATCH -N2\n\n  # note\n#SOVCTL --run-dir=x\nprint()\n#SBATCH -N3\n"
    lines = batch_script(UserScript("t.py", text), OwnOptions(), _launch()).split(b"\n")
    assert lines[:5] == [b"#!/bin/bash", b"#SBATCH -N2", b"", b"  # note", b"#SOVCTL --run-dir=x"]
    assert lines[5] == b"# Written by sovctl 1.2.3 around t.py; the script itself is at the end."
    assert not lines[6].startswith(b"#")


def test_it_is_the_same_each_time() -> None:
    script = UserScript("t.sh", b"#!/bin/sh\necho\n")
    assert batch_script(script, OwnOptions(), _launch()) == batch_script(script, OwnOptions(), _launch())


@pytest.mark.parametrize("text", [b"", b" \n", b"echo hello\n", b"\n#!/bin/sh\n", b"\xef\xbb\xbf#!/bin/sh\n"])
def test_a_script_without_interpreter_is_left_to_sbatch(text: bytes) -> None:
    assert batch_script(UserScript("t.sh", text), OwnOptions(), _launch()) == text


@pytest.mark.parametrize("text", [b"#!/bin/sh\r\necho\r\n", b"#!/bin/sh\necho \0\n"])
def test_what_sbatch_refuses_is_still_in_it(text: bytes) -> None:
    assert text in batch_script(UserScript("t.sh", text), OwnOptions(), _launch())


def test_the_delimiter_is_no_line_of_the_script() -> None:
    body = b"#!/bin/sh\n"
    once = delimiter(body)
    assert delimiter(body) == once
    assert once not in body.split(b"\n")


def test_a_node_without_sovctl_says_so(tmp_path: Path) -> None:
    text = batch_script(UserScript("t.sh", b"#!/bin/sh\n"), OwnOptions(), _launch(str(tmp_path / "none")))
    done = subprocess.run(["bash"], input=text, capture_output=True)
    assert done.returncode == 127
    assert b"is not on this node; install sovctl where every node sees it" in done.stderr


def test_a_sigterm_before_the_supervisor_is_there_ends_nothing(tmp_path: Path) -> None:
    """Slurm sends it once; a job without its supervisor would wait for Slurm's own 121 s."""
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nkill -TERM $$\necho alive\n")
    slow.chmod(0o755)
    done = subprocess.run(
        ["bash", "/dev/stdin"],
        input=batch_script(UserScript("t.sh", b"#!/bin/sh\n"), OwnOptions(), _launch(str(slow))),
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b"alive\n")


def test_nothing_of_the_environment_is_lost(stand_in: str, tmp_path: Path) -> None:
    shower = tmp_path / "python"
    shower.write_text("#!/bin/sh\nexec env -0\n")
    shower.chmod(0o755)
    mine = {"PYTHONPATH": "/a:/b", "ODD": "a\nb ' \"", "PATH": "/usr/bin:/bin", "a.b": "dotted"}
    text = batch_script(UserScript("t.sh", b"#!/bin/sh\n"), OwnOptions(), _launch(str(shower)))
    done = subprocess.run(["/bin/bash"], input=text, capture_output=True, env=mine)
    seen = done.stdout.decode().split("\0")
    # dash, which stands in for Python here, drops names that are no identifiers; bash does not.
    assert {f"{name}={value}" for name, value in mine.items() if name != "a.b"} <= set(seen)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_quoted_is_one_word(text: str) -> None:
    done = subprocess.run(["bash"], input=b"printf %s " + quoted(text), capture_output=True)
    assert done.stdout == text.encode()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-N 4", ("-N", "4")),
        ("  --job-name='a b'  # note", ("--job-name=a b",)),
        ('-J "a \\" b"', ("-J", 'a " b')),
        ("-J a\\ b\\#c", ("-J", "a b#c")),
        ("-J a#b c", ("-J", "a")),
        ("", ()),
    ],
)
def test_words_of_a_directive(line: str, words: tuple[str, ...]) -> None:
    assert words_of(line) == (words, "")


def test_the_block_ends_at_the_first_command() -> None:
    assert leading_block(b"#!/bin/sh\n\n# a\n\t# b\nls\n# c\n") == [b"#!/bin/sh", b"", b"# a", b"\t# b"]
    assert leading_block(b"#!/bin/sh") == [b"#!/bin/sh"]


def test_an_expedited_job_that_cannot_start_is_not_held_by_slurm(tmp_path: Path) -> None:
    asked = tmp_path / "scontrol"
    asked.write_text('#!/bin/sh\necho "$@" >>"$0.said"\n')
    asked.chmod(0o755)
    script, launch = UserScript("t.sh", b"#!/bin/sh\n"), _launch(str(tmp_path / "none"))
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    for expedite, said in ((False, ""), (True, "update JobId=7 Requeue=0\n")):
        text = batch_script(script, OwnOptions(), launch, expedite=expedite)
        assert subprocess.run(["bash"], input=text, capture_output=True, env=env).returncode == 127
        log = tmp_path / "scontrol.said"
        assert (log.read_text() if log.exists() else "") == said


# Read back


@given(st.integers(0, 10**11), st.text(min_size=1), st.none() | st.integers(1, 9), st.text())
@example(5, "a 'b' -- c", 2, "#!/bin/sh\nexec x -m sovctl supervise --submitted 9 --\n")
def test_what_a_batch_script_says_of_its_run_is_read_back(
    submitted: int, run_dir: str, spares: int | None, body: str
) -> None:
    if "\0" in run_dir or any(char in run_dir for char in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"):
        return
    own = OwnOptions(run_dir=run_dir)
    plan = NodePlan(size=2, spares=spares or 0)
    user = UserScript("train.sh", b"#!/bin/sh\n" + body.encode("utf-8", "replace"))
    text = batch_script(user, own, Launch("/venv/bin/python", "1", submitted), nodes=plan)
    said = supervised(text.decode("utf-8", "surrogateescape"))
    assert said == Supervised(submitted, run_dir, bool(spares), 2)


@given(st.text())
@example("exec x -m sovctl supervise --submitted '\n")
@example("exec x -m sovctl supervise --submitted 1 --run-dir")
@example("exec x -m sovctl supervise --submitted -1 -- ")
def test_a_script_of_somebody_else_is_none_of_ours(text: str) -> None:
    said = supervised(text)
    assert said is None or said.submitted >= 0
