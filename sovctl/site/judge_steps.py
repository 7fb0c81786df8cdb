"""Whether the SPANK plugin isolates steps, by what steps said of themselves from inside. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sovctl.site.line import Line, failed, passed, skipped, warned

CHECK = "spank-in-steps"
OPTION = "--sov-isolate"
WORDS = ("sh", "-c", 'echo "sovctl $SLURMD_NODENAME $(grep NoNewPrivs: /proc/self/status)"')
"""What each task runs: no privileges can be gained any more where the plugin has isolated it."""
WAIT_S = 15
_MOST = 160


@dataclass(frozen=True, slots=True)
class StepTrial:
    """One step on several nodes of a partition."""

    nodes: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


def srun_options(partition: str, hostlist: str, count: int) -> tuple[str, ...]:
    """Of one isolated task on each of these nodes, started soon or not at all."""
    return (
        *((f"--partition={partition}",) if partition else ()),
        *(f"--nodelist={hostlist}", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"),
        *(f"--immediate={WAIT_S}", "--time=1", "--kill-on-bad-exit=0", "--job-name=sovctl-doctor", OPTION),
    )


def by_partition(idle: Mapping[str, str]) -> dict[str, list[str]]:
    """Nodes that one step can reach together."""
    found: dict[str, list[str]] = {}
    for node, partition in idle.items():
        found.setdefault(partition, []).append(node)
    return found


def judge_steps(trials: Sequence[StepTrial], busy: int, fold: Callable[[Iterable[str]], str]) -> list[Line]:
    """`busy`: how many nodes had no room for a step."""
    said = {node: word for trial in trials for node, word in _answers(trial).items()}
    isolated = [node for node, word in said.items() if word == "1"]
    bare = [node for node, word in said.items() if word != "1"]
    lines = [passed(CHECK, f"{fold(isolated)}: a step there was isolated by the plugin")] if isolated else []
    if bare:
        fix = f"ssh {bare[0]} sovctl doctor --node; systemctl restart slurmd"
        lines.append(failed(CHECK, f"{fold(bare)}: a step there ran without the plugin", fix))
    for trial in trials:
        silent = [node for node in trial.nodes if node not in said]
        if silent:
            lines.append(_silent(fold(silent), silent[0], " ".join(trial.stderr.split())))
    if busy:
        lines.append(skipped(CHECK, f"{busy} nodes have no room for a step now", "Later: sovctl doctor --steps"))
    return lines


def _answers(trial: StepTrial) -> dict[str, str]:
    """Only of nodes that were asked: a plugin or a prolog may print whatever it likes."""
    found = re.findall(r"^sovctl (\S+) NoNewPrivs:\s*(\d)", trial.stdout, re.MULTILINE)
    return {node: word for node, word in found if node in trial.nodes}


def _silent(nodes: str, first: str, said: str) -> Line:
    if OPTION.lstrip("-") in said and ("unrecognized" in said or "invalid option" in said):
        return failed(CHECK, f"srun here does not know {OPTION}", "sovctl site lines")
    by_hand = f"srun -w {first} {OPTION} true"
    return warned(CHECK, f"{nodes}: no step ran there: {said[-_MOST:] or 'srun said nothing'}", by_hand)
