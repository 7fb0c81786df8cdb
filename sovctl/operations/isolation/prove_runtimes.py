"""Which runtimes work on which nodes: have each run a program of a tiny image in a step, and see whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError
from sovctl.isolation.inside import BY_VARIABLES, KNOWN, OCI, PLUGIN_OPTION, SPANK, Inside, variables
from sovctl.isolation.oci import bundle_config

if TYPE_CHECKING:
    from sovctl.ports.images import Bundles, StepAnswer, StepCommand, TinyImage

_STEP_S = 120.0
OUTSIDE = "outside"
"""What the program of a tiny image says where the image is not."""
OUTSIDE_WHY = "Slurm runs it outside of the image without a word: the plugin or oci.conf is missing"
_ISOLATED = (
    *("/bin/sh", "-c"),
    'while read -r key value; do [ "$key" != NoNewPrivs: ] || [ "$value" != 0 ] || '
    f'echo {OUTSIDE} "$SLURMD_NODENAME"; done </proc/self/status',
)
"""With the SPANK plugin, on the host's own root, which needs no image that this plugin trusts."""


@dataclass(frozen=True, slots=True)
class RuntimeProof:
    """Whether one runtime ran a program of an image in a step."""

    name: str
    works: bool
    why: str = ""
    """What it said where it does not."""
    nodes: tuple[str, ...] = ()
    """Of several nodes, those where it does not."""


def over(nodes: Sequence[str]) -> tuple[str, ...]:
    """What srun is told, so that each of these nodes has one task."""
    count = len(nodes)
    return (
        *(f"--nodelist={','.join(nodes)}", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"),
        "--kill-on-bad-exit=0",
    )


def prove_runtimes(
    tiny: TinyImage,
    step: StepCommand,
    bundles: Bundles,
    srun_options: Sequence[str],
    user: tuple[int, int],
    nodes: Sequence[str] = (),
) -> tuple[RuntimeProof, ...]:
    """One step a runtime, one after the other; `nodes`: over all of these, else on any one."""
    options = (*srun_options, *(over(nodes) if nodes else ()))
    try:
        tiny.make()
        return tuple(_prove(name, tiny, step, bundles, options, user, nodes) for name in KNOWN)
    finally:
        tiny.remove()


def nodes_outside(
    runtime: str, nodes: Sequence[str], tiny: TinyImage, step: StepCommand, bundles: Bundles, user: tuple[int, int]
) -> tuple[str, ...]:
    """Of the nodes of a job, those where Slurm would run its steps outside of the image of such a runtime.

    Only what was seen counts: a step that does not come to run says so itself.
    """
    try:
        if runtime == SPANK:
            told = variables(Inside(runtime=SPANK), "", ())
            said = step.program(_ISOLATED, over(nodes), _STEP_S, told).stdout
        else:
            tiny.make()
            said = step.program(tiny.command, over(nodes), _STEP_S, _told(runtime, tiny, step, bundles, user)).stdout
    except SovctlError:
        return ()
    finally:
        tiny.remove()
    seen = {node for word, node in _answers(said) if word == OUTSIDE}
    return tuple(node for node in nodes if node in seen)


def _answers(stdout: str) -> list[tuple[str, str]]:
    """The word and the node that each task said."""
    lines = (line.partition(" ") for line in stdout.splitlines())
    return [(word, node.strip()) for word, _, node in lines]


def _prove(
    name: str,
    tiny: TinyImage,
    step: StepCommand,
    bundles: Bundles,
    srun_options: Sequence[str],
    user: tuple[int, int],
    nodes: Sequence[str],
) -> RuntimeProof:
    try:
        if name in BY_VARIABLES:
            answer = step.program(tiny.command, srun_options, _STEP_S, _told(name, tiny, step, bundles, user))
        else:
            words = ("exec", "--image", tiny.directory, "--runtime", name, "--", *tiny.command)
            answer = step.run(words, srun_options, _STEP_S)
    except SovctlError as error:
        return RuntimeProof(name, False, error.message)
    return _judge(name, answer, tiny.secret, nodes)


def _judge(name: str, answer: StepAnswer, secret: str, nodes: Sequence[str]) -> RuntimeProof:
    answers = _answers(answer.stdout)
    inside = [node for word, node in answers if word == secret]
    if answer.status == 0 and len(inside) >= max(1, len(nodes)):
        return RuntimeProof(name, True)
    lacking = tuple(node for node in nodes if node not in inside) if len(nodes) > 1 and all(inside) else ()
    said = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    why = OUTSIDE_WHY if any(word == OUTSIDE for word, _ in answers) else " ".join(said)[:300]
    return RuntimeProof(name, False, why or "its program did not run in the image", lacking)


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
