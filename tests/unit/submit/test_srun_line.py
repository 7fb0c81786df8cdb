"""Where srun's options end and its command begins."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.errors import UsageError
from sovctl.submit.sbatch_options import Value
from sovctl.submit.srun_line import LONG, SHORT, around_command


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("python x.py", "P python x.py"),
        ("-N2 -n 4 python x.py -n 3", "-N2 -n 4 P python x.py -n 3"),
        ("--nodes 2 --mpi=pmix -l hostname", "--nodes 2 --mpi=pmix -l P hostname"),
        ("-K -u --overlap python", "-K -u --overlap P python"),
        ("-K1 -lun2 python", "-K1 -lun2 P python"),
        ("-lun 2 python", "-lun 2 P python"),
        ("--exclusive --pty bash", "--exclusive --pty P bash"),
        ("--ntasks-per 8 true", "--ntasks-per 8 P true"),
        ("-- -odd name", "-- P -odd name"),
        ("- x", "P - x"),
        ("-n1 a b : -n2 c", "-n1 P a b : -n2 P c"),
        ("--help", "--help"),
        ("-N2", "-N2"),
        ("", ""),
        ("--sov-image /x.sqsh --container-image y true", "--sov-image /x.sqsh --container-image y P true"),
        ("--unheard-of true", "--unheard-of P true"),
    ],
)
def test_the_command_gets_its_prefix(typed: str, meant: str) -> None:
    assert around_command(shlex.split(typed), ["P"]) == tuple(shlex.split(meant))


def test_a_file_of_commands_is_refused() -> None:
    for words in (["--multi-prog", "x.conf"], ["-n2", "--multi-p", "x.conf"]):
        with pytest.raises(UsageError, match="multi-prog"):
            around_command(words, ["P"])


_options = st.lists(
    st.one_of(
        st.sampled_from(sorted(name for name in LONG if name != "multi-prog")).flatmap(
            lambda name: st.sampled_from(
                [[f"--{name}=v"], [f"--{name}", "v"] if LONG[name] is Value.REQUIRED else [f"--{name}"]]
            )
        ),
        st.sampled_from(sorted(SHORT)).map(
            lambda letter: [f"-{letter}", "v"] if SHORT[letter] is Value.REQUIRED else [f"-{letter}"]
        ),
    ),
    max_size=6,
).map(lambda parts: [word for part in parts for word in part])


@given(_options, st.lists(st.sampled_from(["-n", "x", "--", "--nodes", ""]), max_size=4))
def test_nothing_but_the_prefix_is_added(options: list[str], arguments: list[str]) -> None:
    words = [*options, "program", *arguments]
    assert list(around_command(words, ["P", "Q"])) == [*options, "P", "Q", "program", *arguments]
