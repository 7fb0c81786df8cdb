"""One training through many random faults: what comes back, how soon, on whose account.

make bench NAME=chaos        BENCH_SEED=7 repeats a run; BENCH_FAULTS=20 is a shorter one
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, at_least, figure, publish

from sovctl.lab.chaos import Chaos, ChaosSpec, Report


def figures(report: Report) -> list[Figure]:
    """All figures of one run."""
    back = report.back_s or [float("nan")]
    return [
        at_least("faults recovered from or correctly held", 100 * report.recovered_share, "%", target=100),
        figure("restarts on a blamed node", [len(report.on_blamed)], "", target=0),
        figure("steps lost beyond the last proven checkpoint", [report.steps_lost], "steps", target=0),
        at_least("losses bit-identical to an undisturbed run", float(report.identical), "", target=1),
        at_least("retry chains successful", 100 * report.chain_share, "%", target=95),
        at_least("right node blamed, or rightly nobody", 100 * report.blame_share, "%", target=95),
        figure("fault to next training step, median", [statistics.median(back)], "s"),
        figure("fault to next training step, worst", [max(back)], "s"),
    ]


def tell(report: Report) -> None:
    """What went wrong, in words."""
    for words in [report.lost, *report.on_blamed, *report.misjudged, *report.failed_chains]:
        if words:
            print(words, file=sys.stderr)


def main() -> None:
    """One run, its figures, and a status that says whether every target was met."""
    seed = int(os.environ.get("BENCH_SEED") or random.SystemRandom().randrange(10**6))
    only = tuple(filter(None, os.environ.get("BENCH_KINDS", "").split(",")))
    spec = ChaosSpec(seed=seed, faults=int(os.environ.get("BENCH_FAULTS") or 100), only=only)
    print(f"seed {seed}, {spec.faults} faults, {spec.job_nodes} of {spec.nodes} nodes", file=sys.stderr)
    root = Path(tempfile.mkdtemp(prefix="sovchaos-", dir="/var/tmp"))
    root.chmod(0o755)
    report = None
    try:
        report = Chaos(spec, root / "lab", say=lambda words: print(words, file=sys.stderr, flush=True)).run(root)
    finally:
        if report is not None and report.lost:
            print(f"the record of the lost run stays in {root}", file=sys.stderr)
        else:
            shutil.rmtree(root, ignore_errors=True)
    tell(report)
    kinds = sorted({item.kind.name for item in report.struck})
    publish(
        "chaos",
        figures(report),
        {
            "seed": seed,
            "faults": {kind: sum(item.kind.name == kind for item in report.struck) for kind in kinds},
            "during_recovery": sum(item.during_recovery for item in report.struck),
            "attempts": report.attempts,
            "retry_chains": report.chains,
            "compared_steps": report.compared_steps,
            "nodes": spec.nodes,
            "job_nodes": spec.job_nodes,
            "spare_nodes": spec.spares,
            "hang_timeout_s": spec.hang_timeout_s,
            "seconds": round(report.seconds),
            "cores": os.cpu_count(),
            "training": "sovctl.lab.toy_training, one rank a node",
            "limits_raised": ["health.drain_limit_per_hour", "watch.dead_limit_per_hour"],
        },
    )


if __name__ == "__main__":
    main()
