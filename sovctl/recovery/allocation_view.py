"""The environment in which a script sees an allocation of N nodes, though its job holds spares as well. Pure.

Slurm's lists of a figure for each node (`2(x3),4`) are in the order of SLURM_JOB_NODELIST (sbatch(1)).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

_ITEM = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_PER_NODE = ("SLURM_TASKS_PER_NODE", "SLURM_JOB_CPUS_PER_NODE")


def view(
    environment: Mapping[str, str],
    granted: Sequence[str],
    running_on: Sequence[str],
    fold: Callable[[Iterable[str]], str],
) -> dict[str, str]:
    """What to change in `environment`. `granted`: the nodes of the job when it started, in Slurm's order.

    `fold` writes names as a hostlist. Variables that are not set stay so. SLURM_NTASKS is what sbatch was given once,
    also for a job that was resized while it waited (22.05), so it is counted anew.
    """
    places = [place for place, node in enumerate(granted) if node in set(running_on)]
    count, names = str(len(running_on)), fold(running_on)
    changed = {"SLURM_JOB_NUM_NODES": count, "SLURM_NNODES": count}
    changed |= {"SLURM_JOB_NODELIST": names, "SLURM_NODELIST": names}
    for name in _PER_NODE:
        figures = unfold_figures(environment.get(name, ""))
        if len(figures) == len(granted):
            changed[name] = fold_figures([figures[place] for place in places])
    tasks = unfold_figures(changed.get("SLURM_TASKS_PER_NODE", ""))
    for name in ("SLURM_NTASKS", "SLURM_NPROCS"):
        if name in environment and tasks:
            changed[name] = str(sum(tasks))
    return {name: value for name, value in changed.items() if name in environment}


def unfold_figures(text: str) -> list[int]:
    """`2(x3),4` as [2, 2, 2, 4]; empty when it is no such list."""
    figures: list[int] = []
    for item in text.split(",") if text else ():
        match = _ITEM.fullmatch(item.strip())
        if match is None or len(figures) > 1_000_000:
            return []
        figures += [int(match[1])] * int(match[2] or 1)
    return figures


def fold_figures(figures: Sequence[int]) -> str:
    """[2, 2, 2, 4] as `2(x3),4`."""
    parts: list[tuple[int, int]] = []
    for figure in figures:
        if parts and parts[-1][0] == figure:
            parts[-1] = (figure, parts[-1][1] + 1)
        else:
            parts.append((figure, 1))
    return ",".join(f"{figure}(x{times})" if times > 1 else str(figure) for figure, times in parts)
