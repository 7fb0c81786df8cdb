"""`sovctl doctor`: look at Slurm, at this machine and, asked to, at every node, and have it judged. Changes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError
from sovctl.model.site import MachineView, SlurmView
from sovctl.site.judge_machine import backup_lines, judge_machine
from sovctl.site.judge_nodes import NodeAnswer, judge_nodes, read_answer
from sovctl.site.judge_policy import TEST_JOB, TriedJob, judge_policy, scripts_asked
from sovctl.site.judge_slurm import judge_slurm
from sovctl.site.judge_steps import WORDS, StepTrial, by_partition, judge_steps, srun_options
from sovctl.site.line import Line, State, passed, skipped, worst
from sovctl.submit.slurm_features import slurm_features

if TYPE_CHECKING:
    from sovctl.ports.images import StepAnswer
    from sovctl.ports.site import RemoteShell
    from sovctl.ports.slurm import SlurmSettings, SubmitOutcome

HOOKS = ("Prolog", "Epilog", "HealthCheckProgram", "TaskProlog")
_ROOM = frozenset({"CLOUD", "DYNAMIC_NORM"})
"""Of an idle node that a step can use as it is: not powered down, planned, reserved or out of service."""
TOLD = (*HOOKS, "SLURM_CONF", "PlugStackConfig")
"""What a node is told of slurm.conf."""


@dataclass(frozen=True, slots=True)
class DoctorPorts:
    """What a look touches."""

    missing_programs: tuple[str, ...]
    slurm: SlurmSettings
    machine: Callable[[Mapping[str, str], bool], MachineView]
    """Looks at this machine; gets Slurm's settings, and whether this is one of its nodes."""
    remote: Callable[[], RemoteShell]
    sbatch: Callable[[Sequence[str]], SubmitOutcome]
    """What it says to options alone."""
    step: Callable[[Sequence[str], Sequence[str]], StepAnswer]
    """A program in a step; options of srun."""
    fold: Callable[[Iterable[str]], str]


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """What to look at."""

    node: str
    ask_nodes: bool = False
    try_steps: bool = False
    """Run an isolated step on every idle node."""
    told: Mapping[str, str] | None = None
    """As a node that is asked: what slurm.conf says, told by who asks, so that thousands of nodes do not ask the
    controller at once."""
    program: str = "sovctl"
    """How a node starts sovctl."""
    timeout_s: float = 30.0
    clock_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was seen."""

    machine: MachineView
    groups: Mapping[str, tuple[Line, ...]] = field(default_factory=dict)

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(line for lines in self.groups.values() for line in lines)

    @property
    def worst(self) -> State:
        return worst(self.lines)


def diagnose(ports: DoctorPorts, settings: DoctorSettings) -> Diagnosis:
    """Look at all of it. What cannot be asked becomes a line and never an exception."""
    asked = settings.told is not None
    view = SlurmView(settings=settings.told) if settings.told is not None else look_at_slurm(ports)
    is_node = asked or settings.node in view.addresses
    machine = ports.machine(view.settings, is_node)
    has_gpus = "gpu" in view.gres.get(settings.node, "")
    site_mode = not asked and (machine.root or bool(machine.journal_dir))
    here = judge_machine(machine, is_node=is_node, has_gpus=has_gpus, site_mode=site_mode)
    groups: dict[str, tuple[Line, ...]] = {}
    if not asked:
        groups["Slurm"] = (
            *judge_slurm(view),
            *judge_policy(machine, view.settings, _test_job(ports, view)),
            *(backup_lines(machine, view.settings) if site_mode else ()),
        )
        groups["what this Slurm can do"] = tuple(_abilities(view))
    groups[f"this machine, {machine.node}"] = tuple(here)
    if not asked:
        groups["nodes"] = tuple(_nodes(ports, settings, view))
        if settings.try_steps:
            groups["steps"] = tuple(_steps(ports, view))
    return Diagnosis(machine, groups)


def look_at_slurm(ports: DoctorPorts) -> SlurmView:
    """What Slurm says about itself."""
    if ports.missing_programs:
        return SlurmView(missing=ports.missing_programs)
    try:
        settings = ports.slurm.settings()
        partitions = ports.slurm.preemptable_partitions()
        nodes = ports.slurm.nodes()
    except SovctlError as error:
        return SlurmView(problem=error.message, hint=error.hint)
    qos = None
    if settings.get("PreemptType") == "preempt/qos":
        try:
            qos = ports.slurm.preemptable_qos()
        except SovctlError:
            qos = None
    return SlurmView(
        settings=settings,
        partitions=partitions,
        qos=qos,
        addresses={node.name: node.address for node in nodes},
        gres={node.name: node.gres for node in nodes},
        idle={
            node.name: next(iter(node.partitions), "")
            for node in nodes
            if node.state.base == "IDLE" and node.state.flags <= _ROOM
        },
    )


def _test_job(ports: DoctorPorts, view: SlurmView) -> TriedJob | None:
    """Read-only: slurmctld says when such a job would start, and whoever judges jobs has a look at it before."""
    if not scripts_asked(view.settings):
        return None
    try:
        told = ports.sbatch(TEST_JOB)
    except SovctlError:
        return None
    return TriedJob(told.status, f"{told.stdout}\n{told.stderr}")


def node_command(program: str, settings: Mapping[str, str]) -> str:
    """What a node runs; a word of the shell each, whatever slurm.conf holds."""
    told = [f"{key}={settings[key]}" for key in TOLD if settings.get(key, "(null)") != "(null)"]
    return shlex.join([*shlex.split(program), "doctor", "--node", "--json", *(f"--told={one}" for one in told)])


def _abilities(view: SlurmView) -> list[Line]:
    """By version and settings; what is not there is no fault, so it says what happens instead."""
    if not view.settings:
        return []
    lines = []
    for feature in slurm_features(view.settings):
        if feature.there:
            lines.append(passed(feature.name, f"since {feature.since}"))
        else:
            fix = f"slurm.conf: {feature.enable}" if feature.enable else ""
            lines.append(skipped(feature.name, f"no ({feature.since}): {feature.otherwise}", fix))
    return lines


def _nodes(ports: DoctorPorts, settings: DoctorSettings, view: SlurmView) -> list[Line]:
    if not view.addresses:
        return []
    if not settings.ask_nodes:
        return [skipped("ssh", f"{len(view.addresses)} nodes were not asked", "sovctl doctor --nodes")]
    try:
        command = node_command(settings.program, view.settings)
        answers = ports.remote().ask(view.addresses, command, settings.timeout_s)
    except SovctlError as error:
        return [Line("ssh", State.FAIL, error.message, error.hint)]
    read = []
    for node, answer in sorted(answers.items()):
        if answer.failure is not None:
            read.append(NodeAnswer(node, problem=answer.problem or str(answer.failure)))
        elif answer.status not in (0, 1):
            said = " ".join(answer.stderr.decode("utf-8", "replace").split())[:160]
            read.append(NodeAnswer(node, problem=said or f"status {answer.status}"))
        else:
            read.append(read_answer(node, answer.stdout, answer.sent_at, answer.answered_at))
    return judge_nodes(read, ports.fold, settings.clock_s)


def _steps(ports: DoctorPorts, view: SlurmView) -> list[Line]:
    """One step a partition: nodes that are idle now are tried together."""
    trials = []
    for partition, nodes in by_partition(view.idle).items():
        options = srun_options(partition, ports.fold(nodes), len(nodes))
        try:
            told = ports.step(WORDS, options)
            trials.append(StepTrial(tuple(nodes), told.status, told.stdout, told.stderr))
        except SovctlError as error:
            trials.append(StepTrial(tuple(nodes), 1, "", error.message))
    return judge_steps(trials, len(view.addresses) - len(view.idle), ports.fold)
