"""Have the SPANK plugin isolate a step on the host's own root, and print what was seen from inside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError
from sovctl.isolation.inside import PLUGIN_OPTION, SPANK, Inside, variables
from sovctl.isolation.proof import SCHEMA

if TYPE_CHECKING:
    from sovctl.ports.images import StepCommand

_STEP_S = 120.0


def measure_by_plugin(
    step: StepCommand, node: str, kept: Sequence[str], lay_decoys: Callable[[], tuple[str, Callable[[], None]]]
) -> str:
    """What `sovctl exec --look` printed in an isolated step of this job on this node.

    `kept`: paths that the site has isolated steps see. `lay_decoys`: lays files outside, by a name that is returned,
    beside what takes them away. Raises SovctlError.
    """
    if not node or not step.offers(PLUGIN_OPTION[SPANK]):
        raise SovctlError(
            "srun knows no --sov-image here: the SPANK plugin is not loaded" if node else "it needs a step of Slurm",
            hint="See plugstack.conf, or measure the built-in runtime: sovctl doctor isolation",
        )
    name, remove = lay_decoys()
    try:
        # Slurm itself sets TMPDIR, to /tmp, behind the last plugin.
        about: dict[str, object] = {"schema": SCHEMA, "decoy": name, "node": node, "by_plugin": True}
        about |= {"own_environment": ["TMPDIR"], "kept": list(kept)}
        words = (sys.executable, "-P", "-m", "sovctl", "exec", "--look", json.dumps(about))
        told: Mapping[str, str] = variables(Inside(runtime=SPANK), "", ())
        answer = step.program(words, (f"--nodelist={node}", "--nodes=1", "--ntasks=1"), _STEP_S, told)
    finally:
        remove()
    if answer.status:
        said = " ".join(answer.stderr.split())[-300:] or f"status {answer.status}"
        raise SovctlError(f"the isolated step does not run: {said}", hint="Try it: srun --sov-isolate true")
    return answer.stdout.strip()
