"""What a failed submission gives away."""

from __future__ import annotations

import pytest

from sovctl.operations.submit import advice
from sovctl.ports import SubmitOutcome


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            "sbatch: unrecognized option '--nodez=3'\nTry \"sbatch --help\" for more information\n",
            "did you mean --nodes?",
        ),
        ("sbatch: unrecognized option '--spare-node'\n", "did you mean --spare-nodes?"),
        ("sbatch: unrecognized option '--quantum'\n", ""),
        ("sbatch: error: Unable to contact slurm controller (connect failure)\n", "scontrol ping"),
    ],
)
def test_a_hint_where_the_words_tell(said: str, hint: str) -> None:
    assert hint in advice(SubmitOutcome(1, "", said))
    assert bool(advice(SubmitOutcome(1, "", said))) is bool(hint)
    assert advice(SubmitOutcome(0, "Submitted batch job 1\n", said)) == ""
