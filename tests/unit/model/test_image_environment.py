"""/etc/environment of an image, written and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.image_environment import environment_of, environment_text

NAMES = st.text("AZ_az09.", min_size=1, max_size=8)
VALUES = st.text(st.one_of(st.sampled_from(" \t#='\"$\\"), st.characters(exclude_characters="\0\n")), max_size=12)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_what_is_written_is_read(env: list[tuple[str, str]]) -> None:
    assert environment_of(environment_text(env)) == tuple(env)


def test_a_value_of_several_lines_says_nothing_else() -> None:
    assert environment_text([("A", "1\nLD_PRELOAD=/x"), ("B", "2\0"), ("C", "3")]) == "C=3\n"


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ('PATH="/usr/bin:/bin"\n', (("PATH", "/usr/bin:/bin"),)),  # Ubuntu's own
        ("# words\n\n  \nexport A='1 2'\n \tB=\nC=a=b", (("A", "1 2"), ("B", ""), ("C", "a=b"))),
        ('nothing\n=x\na b=c\nD="\nE=\'x"\n', (("D", '"'), ("E", "'x\""))),
        ("A=1\nB=2\0\nC=3\n", (("A", "1"), ("B", "2"))),
        ("", ()),
    ],
)
def test_what_others_write(text: str, env: tuple[tuple[str, str], ...]) -> None:
    assert environment_of(text) == env
