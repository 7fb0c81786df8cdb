"""Run a step, have it look around from inside, and judge what it saw: `sovctl doctor isolation`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError, UsageError
from sovctl.isolation.inside import SPANK
from sovctl.isolation.proof import Check, judge
from sovctl.isolation.runtimes import BUILT_IN

if TYPE_CHECKING:
    from sovctl.ports.images import StepCommand

SCHEMA = "sovctl.isolation/1"
_STEP_S = 300.0


@dataclass(frozen=True, slots=True)
class Proof:
    """What was measured where."""

    node: str
    by_step: bool
    """By a step of Slurm; else on this machine, without Slurm."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def prove_each(
    image: str,
    step: StepCommand,
    srun_options: Sequence[str],
    allowed_env: Sequence[str],
    nodes: Sequence[str],
    runtime: str = BUILT_IN,
) -> tuple[Proof, ...]:
    """The same on each of several nodes; a step that does not run there is a check that fails."""
    found = []
    for node in nodes:
        try:
            proof = prove(image, step, (*srun_options, f"--nodelist={node}"), allowed_env, runtime)
        except SovctlError as error:
            proof = Proof(node, True, (Check("step", False, error.message),))
        found.append(proof)
    return tuple(found)


def prove(
    image: str, step: StepCommand, srun_options: Sequence[str], allowed_env: Sequence[str], runtime: str = BUILT_IN
) -> Proof:
    """Measure in a step of Slurm where there is a Slurm, else here. Raises SovctlError when the step does not run."""
    if runtime not in (BUILT_IN, SPANK) or (image and runtime == SPANK):
        raise UsageError(
            f"the runtime {runtime} cannot be measured{' in an image' if runtime == SPANK else ''}",
            hint=f"There are --runtime {BUILT_IN}, and {SPANK} without --image; of the others see the list.",
        )
    wanted = ("--image", image) if image else ("--isolate",)
    by = ("--runtime", runtime) if runtime != BUILT_IN else ()
    answer = step.run(("exec", "--measure", *wanted, *by, "--home", "none", "--clean-env"), srun_options, _STEP_S)
    last = answer.stdout.strip().splitlines()[-1:] or [""]
    if answer.status != 0:
        said = " ".join(answer.stderr.split())[-300:] or f"status {answer.status}"
        raise SovctlError(
            f"the isolated step does not run: {said}", hint="Try it by hand: sovctl exec --isolate -- true"
        )
    try:
        inside = json.loads(last[0])
        checks = judge(inside, allowed_env)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SovctlError(
            "the measurement from inside the step cannot be read",
            hint="Is sovctl there the same? Compare: sovctl --version",
        ) from error
    return Proof(str(inside.get("node", "")), answer.by_step, checks)
