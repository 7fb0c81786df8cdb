"""Which nodes run a program of an image, by what each of them said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sovctl.errors import CommandTimeout, SovctlError
from sovctl.isolation.inside import KNOWN
from sovctl.operations.isolation.prove_runtimes import OUTSIDE_WHY, nodes_outside, prove_runtimes
from sovctl.ports.images import StepAnswer

NODES = ("n001", "n002", "n003")


class Tiny:
    """An image of which nothing is needed but its word."""

    place = directory = "/tiny"
    squashfs = "/tiny.sqsh"
    secret = "word"
    command: tuple[str, ...] = ("say",)

    def __init__(self, broken: bool = False) -> None:
        self.there = False
        self._broken = broken

    def make(self) -> None:
        if self._broken:
            raise SovctlError("cannot make an image", hint="")
        self.there = True

    def remove(self) -> None:
        self.there = False


class Step:
    """Answers every step alike, and keeps what srun was told."""

    def __init__(self, answer: StepAnswer | SovctlError) -> None:
        self._answer = answer
        self.options: list[tuple[str, ...]] = []
        self.variables: list[Mapping[str, str]] = []

    def run(self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float) -> StepAnswer:
        return self.program(words, srun_options, timeout_s, {})

    def program(
        self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float, variables: Mapping[str, str]
    ) -> StepAnswer:
        self.options.append(tuple(srun_options))
        self.variables.append(variables)
        if isinstance(self._answer, SovctlError):
            raise self._answer
        return self._answer

    def offers(self, option: str) -> bool:
        return True


class Bundles:
    """Makes none."""

    def is_directory(self, path: str) -> bool:
        return True

    def make(self, run_dir: str, image: str, config: Mapping[str, Any]) -> str:
        return "/bundle"


def said(*lines: str, status: int = 0, stderr: str = "") -> StepAnswer:
    return StepAnswer(status, "".join(f"{line}\n" for line in lines), stderr, by_step=True)


def proof(answer: StepAnswer | SovctlError, nodes: Sequence[str]) -> tuple[bool, str, tuple[str, ...]]:
    step = Step(answer)
    found = prove_runtimes(Tiny(), step, Bundles(), ["-pgpu"], (1, 1), nodes)
    assert [one.name for one in found] == list(KNOWN)
    assert len({(one.works, one.why, one.nodes) for one in found}) == 1
    wanted = ("--nodelist=n001,n002,n003", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--kill-on-bad-exit=0")
    assert set(step.options) == {("-pgpu", *(wanted if nodes else ()))}
    return found[0].works, found[0].why, found[0].nodes


@pytest.mark.parametrize(
    ("answer", "nodes", "found"),
    [
        (said("word n001"), (), (True, "", ())),
        (said("word "), (), (True, "", ())),  # not in a step: no node
        (said("word n003", "word n001", "word n002"), NODES, (True, "", ())),
        (
            said("word n003", "word n001", status=1, stderr="n002: no bwrap\n"),
            NODES,
            (False, "n002: no bwrap", ("n002",)),
        ),
        (said("word n001", "outside n002", "outside n003"), NODES, (False, OUTSIDE_WHY, ("n002", "n003"))),
        (said("outside n001"), (), (False, OUTSIDE_WHY, ())),
        (said(status=1), (), (False, "its program did not run in the image", ())),
        (
            said("word", "word", status=0),
            NODES,
            (False, "its program did not run in the image", ()),
        ),  # who, is not known
        (CommandTimeout(["srun"], 1.0), NODES, None),
    ],
)
def test_a_runtime_works_where_every_node_said_the_word(
    answer: StepAnswer | SovctlError, nodes: Sequence[str], found: tuple[bool, str, tuple[str, ...]] | None
) -> None:
    works, why, lacking = proof(answer, nodes)
    if found is None:
        assert (works, lacking) == (False, ())
        assert "srun" in why
    else:
        assert (works, why, lacking) == found


@pytest.mark.parametrize("runtime", ["spank", "pyxis", "slurm"])
def test_only_a_node_that_was_seen_outside_counts(runtime: str) -> None:
    def outside(answer: StepAnswer | SovctlError, tiny: Tiny | None = None) -> tuple[str, ...]:
        image = tiny or Tiny()
        found = nodes_outside(runtime, NODES, image, Step(answer), Bundles(), (1, 1))
        assert not image.there
        return found

    assert outside(said("outside n003", "word n001", "outside n001x")) == ("n003",)
    assert outside(said("outside n003", "outside n001", status=1)) == ("n001", "n003")
    assert outside(said(status=1, stderr="srun: error: the image is refused")) == ()
    assert outside(CommandTimeout(["srun"], 1.0)) == ()
    if runtime != "spank":
        assert outside(said("outside n003"), Tiny(broken=True)) == ()


def test_the_spank_plugin_is_asked_without_an_image() -> None:
    step = Step(said())
    nodes_outside("spank", NODES, Tiny(broken=True), step, Bundles(), (1, 1))
    (told,) = step.variables
    assert told["SOVCTL_SPANK_ISOLATE"] == "1"
    assert "SOVCTL_SPANK_IMAGE" not in told
