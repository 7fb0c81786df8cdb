"""Taking a command line apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.errors import RefusedError, UsageError
from sovctl.submit import options
from sovctl.submit.directives import SBATCH, SOVCTL, directives
from sovctl.submit.options import OwnOptions, split


@pytest.mark.parametrize(
    ("argv", "words", "script", "arguments"),
    [
        (["t.sh"], (), "t.sh", ()),
        (["-N", "4", "t.sh", "-N", "5"], ("-N", "4"), "t.sh", ("-N", "5")),
        (["-N4", "t.sh"], ("-N4",), "t.sh", ()),
        (["--nodes", "4", "t.sh"], ("--nodes", "4"), "t.sh", ()),
        (["--nodes=4", "t.sh"], ("--nodes=4",), "t.sh", ()),
        (["--nodes=", "t.sh"], ("--nodes=",), "t.sh", ()),
        (["-J", "a name", "t.sh"], ("-J", "a name"), "t.sh", ()),
        (["-J", "-x", "t.sh"], ("-J", "-x"), "t.sh", ()),
        (["--job-name", "--", "t.sh"], ("--job-name", "--"), "t.sh", ()),
        (["-HN", "4", "t.sh"], ("-HN", "4"), "t.sh", ()),
        (["-HQN4", "t.sh"], ("-HQN4",), "t.sh", ()),
        (["-k", "t.sh"], ("-k",), "t.sh", ()),
        (["-koff", "t.sh"], ("-koff",), "t.sh", ()),
        (["--exclusive", "t.sh"], ("--exclusive",), "t.sh", ()),
        (["--exclusive=user", "t.sh"], ("--exclusive=user",), "t.sh", ()),
        (["--nice", "100"], ("--nice",), "100", ()),
        (["--get-user-env=10L", "t.sh"], ("--get-user-env=10L",), "t.sh", ()),
        (["--requeue", "t.sh"], ("--requeue",), "t.sh", ()),
        (["--partit", "gpu", "t.sh"], ("--partit", "gpu"), "t.sh", ()),
        (["--container-image", "a b", "t.sh"], ("--container-image", "a b"), "t.sh", ()),
        (["--site-thing=v", "t.sh"], ("--site-thing=v",), "t.sh", ()),
        (["--site-thing", "t.sh"], ("--site-thing",), "t.sh", ()),
        (["-N1", "-"], ("-N1",), "-", ()),
        (["t.sh", "--", "--run-dir", ":", ""], (), "t.sh", ("--", "--run-dir", ":", "")),
        (["-N1"], ("-N1",), None, ()),
        ([], (), None, ()),
    ],
)
def test_split(argv: list[str], words: tuple[str, ...], script: str | None, arguments: tuple[str, ...]) -> None:
    line = split(argv)
    assert (line.words, line.script, line.arguments, line.is_command) == (words, script, arguments, False)
    assert line.own == OwnOptions()


def test_own_options_are_taken_out_and_the_rest_keeps_its_order() -> None:
    own = ("--run-dir", "/r", "--max-hardware-faults=7", "--checkpoint-dir=c", "--same-crash-limit", "0")
    line = split(["-N4", *own[:2], "--time", "5", *own[2:], "-p", "gpu", "t.sh", "a"])
    assert line.words == ("-N4", "--time", "5", "-p", "gpu")
    assert line.own == OwnOptions("/r", "c", 7, 0)
    assert (line.script, line.arguments) == ("t.sh", ("a",))


def test_how_progress_is_watched() -> None:
    own = ("--hang-timeout", "15m", "--restart-stragglers", r"--progress-regex=tick (\d+)")
    line = split([*own, "-N4", "t.sh"])
    assert (line.own.hang_timeout, line.own.progress_regex) == ("15m", r"tick (\d+)")
    assert line.own.restart_stragglers is True
    assert line.words == ("-N4",)
    with pytest.raises(UsageError, match="takes no value"):
        split(["--restart-stragglers=yes", "t.sh"])


def test_a_command_after_two_dashes() -> None:
    line = split(["-N1", "--dry-run", "--", "python", "-c", "print()"])
    assert line.is_command
    assert (line.script, line.arguments, line.own.dry_run) == ("python", ("-c", "print()"), True)


@pytest.mark.parametrize("argv", [["-N"], ["--nodes"], ["--hold=yes", "t.sh"], ["-Z", "t.sh"]])
def test_what_sbatch_will_refuse_is_marked(argv: list[str]) -> None:
    assert any(option.broken for option in split(argv).sbatch)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rundir", "x"], "did you mean --run-dir?"),
        (["--checkpoint_dir=x"], "did you mean --checkpoint-dir?"),
        (["--max-hardware-fault=3"], "did you mean --max-hardware-faults?"),
        (["--dryrun"], "did you mean --dry-run?"),
        (["--run-dir"], "--run-dir needs a value"),
        (["--run-dir="], "--run-dir needs a value"),
        (["--same-crash-limit=-1"], "must be a whole number, not '-1'"),
        (["--max-hardware-faults", "many"], "must be a whole number, not 'many'"),
        (["--dry-run=yes"], "--dry-run takes no value"),
    ],
)
def test_slips_in_our_own_options(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        split(argv)
    assert words in caught.value.message


@pytest.mark.parametrize("option", ["--container-name=x", "--segment=2", "--mpi=x", "--site", "--checkpoints-of=x"])
def test_options_of_others_are_not_taken_for_slips(option: str) -> None:
    assert split([option, "t.sh"]).words == (option,)


@pytest.mark.parametrize("argv", [["-N1", ":", "-N2", "t.sh"], ["--external"]])
def test_what_cannot_be_supervised_is_refused(argv: list[str]) -> None:
    with pytest.raises(RefusedError):
        split(argv)


def test_the_word_after_an_unknown_option_is_doubtful() -> None:
    doubt = split(["--site-thing", "v", "t.sh"]).doubtful
    assert doubt is not None and doubt.words == ("--site-thing",)
    assert split(["--site-thing=v", "t.sh"]).doubtful is None
    assert split(["--site-thing", "-N1", "t.sh"]).doubtful is None


_word = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
_typed = st.one_of(
    _word,
    st.sampled_from(["-N", "-N4", "-H", "-HQ", "-k", "-", "--", ":", "--nodes", "--nodes=4", "--exclusive", "--wrap"]),
    st.sampled_from(["--run-dir", "--run-dir=x", "--dry-run"]),
)


@given(st.lists(_typed, max_size=8))
def test_splitting_loses_nothing(argv: list[str]) -> None:
    try:
        line = split(argv)
    except (UsageError, RefusedError):
        return
    rest = [] if line.script is None else [line.script, *line.arguments]
    head = argv[: len(argv) - len(rest)]
    assert argv[len(head) :] == rest
    left = list(head)
    for word in (*line.words, *line.own_words):
        left.remove(word)
    assert left in ([], ["--"])
    if not line.own_words:
        assert head in ([*line.words], [*line.words, "--"])


@given(st.lists(_word), st.sampled_from(["-N4", "--nodes=4", "--exclusive", "-H"]))
def test_arguments_of_the_script_are_never_read(arguments: list[str], option: str) -> None:
    line = split([option, "t.sh", *arguments])
    assert (line.words, line.script, list(line.arguments)) == ((option,), "t.sh", arguments)


def _script(*lines: str) -> bytes:
    return "\n".join(["#!/bin/bash", *lines, "echo", "#SOVCTL --run-dir=late", ""]).encode()


def _said(*lines: str) -> OwnOptions:
    return options.script_options(directives(_script(*lines), "t.sh", SOVCTL))


def test_own_options_in_the_script() -> None:
    assert _said("# hello", "", "#SOVCTL --run-dir 'a b' # comment", "#SOVCTL --max-hardware-faults=3") == OwnOptions(
        run_dir="a b", max_hardware_faults=3
    )


def test_the_command_line_wins_over_the_script() -> None:
    script, line = OwnOptions(run_dir="s", same_crash_limit=1), OwnOptions(run_dir="l", dry_run=True)
    assert options.merge(script, line) == OwnOptions(run_dir="l", same_crash_limit=1, dry_run=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#SOVCTL --rundir=x", "t.sh:3: #SOVCTL knows no --rundir=x; did you mean --run-dir?"),
        ("#SOVCTL --nodes=4", "t.sh:3: #SOVCTL knows no --nodes=4"),
        ("#SOVCTL --dry-run", "t.sh:3: --dry-run belongs on the command line"),
        ("#SOVCTL run-dir=x", "t.sh:3: #SOVCTL knows no run-dir=x; did you mean --run-dir?"),
        ("#SOVCTL --run-dir", "t.sh:3: --run-dir needs a value"),
        ("#SOVCTL --run-dir 'x", "t.sh:3: unmatched ' in the line"),
        ("#SOVCTL --same-crash-limit=x", "t.sh:3: --same-crash-limit must be a whole number, not 'x'"),
    ],
)
def test_a_wrong_line_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        _said("#SBATCH -N2", text)
    assert caught.value.message.startswith(words)


def _choices(line: list[str], *script: str, **environ: str) -> options.Choices:
    from_script = options.script_sbatch_options(directives(_script(*script), "t.sh", SBATCH))
    return options.choices(from_script, environ, split(line).sbatch)


def test_defaults_are_added_only_where_the_user_left_it_open() -> None:
    both = ("--requeue", "--open-mode=append")
    assert _choices(["t.sh"]).defaults() == both
    assert _choices(["--requeue", "t.sh"]).defaults() == both[1:]
    assert _choices(["--open-mode", "truncate", "t.sh"]).defaults() == both[:1]
    assert _choices(["t.sh"], "#SBATCH --no-requeue", "#SBATCH --open=truncate").defaults() == ()
    assert _choices(["t.sh"], SBATCH_OPEN_MODE="a", SBATCH_NO_REQUEUE="1").defaults() == ()


def test_a_job_is_expedited_only_where_requeue_was_left_open() -> None:
    assert _choices(["t.sh"]).defaults(expedite=True) == ("--requeue=expedite", "--open-mode=append")
    for chosen in (["--requeue", "t.sh"], ["--requeue=expedite", "t.sh"], ["--no-requeue", "t.sh"]):
        assert _choices(chosen).defaults(expedite=True) == ("--open-mode=append",)


def test_a_job_for_another_cluster_is_known() -> None:
    assert _choices(["-M", "far", "t.sh"]).clusters == "far"
    assert _choices(["t.sh"], "#SBATCH --clusters=far").clusters == "far"
    assert _choices(["t.sh"], SLURM_CLUSTERS="far").clusters == "far"
    assert _choices(["t.sh"]).clusters is None


def test_the_command_line_wins_over_variables_and_those_over_the_script() -> None:
    assert _choices(["--requeue", "t.sh"], SBATCH_NO_REQUEUE="1").requeue is True
    assert _choices(["t.sh"], "#SBATCH --requeue", SBATCH_NO_REQUEUE="1").requeue is False
    assert _choices(["-D", "/b", "t.sh"], "#SBATCH -D /a").chdir == "/b"
    assert _choices(["t.sh"], '#SBATCH -N2 --chdir "/a b"', "#SBATCH -W").wait is True
    assert _choices(["t.sh"], '#SBATCH -N2 --chdir "/a b"').chdir == "/a b"


@pytest.mark.parametrize(
    ("line", "script", "variable", "kept"),
    [
        (["--no-kill"], "", None, True),
        (["-k"], "", None, True),
        (["--no-kill=set"], "", None, True),
        ([], "#SBATCH --no-kill", None, True),
        ([], "", "", True),
        (["--no-kill"], "", "off", True),
        (["--no-kill=off"], "#SBATCH --no-kill", "", False),
        (["-koff"], "", None, False),
        ([], "#SBATCH --no-kill", "NO", False),
        ([], "", None, False),
    ],
)
def test_the_last_word_on_no_kill_counts(line: list[str], script: str, variable: str | None, kept: bool) -> None:
    environ = {} if variable is None else {"SBATCH_NO_KILL": variable}
    assert _choices([*line, "t.sh"], script, **environ).no_kill is kept


@pytest.mark.parametrize("word", ["hetjob", "packjob", "HetJob"])
def test_a_heterogeneous_script_is_refused(word: str) -> None:
    with pytest.raises(RefusedError, match=r"t\.sh:3"):
        _choices(["t.sh"], "#SBATCH -N1", f"#SBATCH {word}", "#SBATCH -N2")


def test_a_checkpoint_format_must_be_known() -> None:
    assert split(["--checkpoint-format=megatron", "--fresh", "t.sh"]).own == OwnOptions(
        checkpoint_format="megatron", fresh=True
    )
    with pytest.raises(UsageError, match="there is no checkpoint format 'megatro'"):
        split(["--checkpoint-format", "megatro", "t.sh"])
