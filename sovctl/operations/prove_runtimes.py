"""Which runtimes work here: have each run a program of a tiny image in a step, and see whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError
from sovctl.isolation.inside import BY_VARIABLES, KNOWN, OCI, PLUGIN_OPTION, Inside, variables
from sovctl.isolation.oci import bundle_config

if TYPE_CHECKING:
    from sovctl.ports import Bundles, StepCommand, TinyImage

_STEP_S = 120.0


@dataclass(frozen=True, slots=True)
class RuntimeProof:
    """Whether one runtime ran a program of an image here."""

    name: str
    works: bool
    why: str = ""
    """What it said where it does not."""


def prove_runtimes(
    tiny: TinyImage, step: StepCommand, bundles: Bundles, srun_options: Sequence[str], user: tuple[int, int]
) -> tuple[RuntimeProof, ...]:
    """One step a runtime, one after the other."""
    try:
        tiny.make()
        return tuple(_prove(name, tiny, step, bundles, srun_options, user) for name in KNOWN)
    finally:
        tiny.remove()


def _prove(
    name: str,
    tiny: TinyImage,
    step: StepCommand,
    bundles: Bundles,
    srun_options: Sequence[str],
    user: tuple[int, int],
) -> RuntimeProof:
    try:
        if name in BY_VARIABLES:
            answer = step.program(tiny.command, srun_options, _STEP_S, _told(name, tiny, step, bundles, user))
        else:
            words = ("exec", "--image", tiny.directory, "--runtime", name, "--", *tiny.command)
            answer = step.run(words, srun_options, _STEP_S)
    except SovctlError as error:
        return RuntimeProof(name, False, error.message)
    if answer.status == 0 and answer.stdout.strip() == tiny.secret:
        return RuntimeProof(name, True)
    said = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    return RuntimeProof(name, False, " ".join(said)[:300] or "its program did not run in the image")


def _told(name: str, tiny: TinyImage, step: StepCommand, bundles: Bundles, user: tuple[int, int]) -> dict[str, str]:
    """The variables that put a step inside; what is there on the host too would prove nothing."""
    option = PLUGIN_OPTION.get(name)
    if option and not step.offers(option):
        raise SovctlError(f"srun knows no {option}", hint="See which options its plugins add: srun --help")
    asked = Inside(tiny.directory, runtime=name)
    if name == OCI:
        return {**variables(asked, bundles.make(tiny.place, tiny.directory, bundle_config(asked, (), user, "")), ())}
    if not tiny.squashfs:
        raise SovctlError(
            "mksquashfs (squashfs-tools) is not installed here, to make an image for it",
            hint="Type: apt-get install squashfs-tools",
        )
    return dict(variables(asked, tiny.squashfs, ()))
