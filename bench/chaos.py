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
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, at_least, figure, publish

from sovctl.lab.chaos.plan import ChaosSpec
from sovctl.lab.chaos.report import Report
from sovctl.lab.chaos.run import Chaos


def figures(report: Report) -> list[Figure]:
    """All figures of one run, also of one that ended early."""
    back = report.back_s
    times = {"median": statistics.median, "worst": max} if back else {}
    return [
        at_least("faults recovered from or correctly held", 100 * report.recovered_share, "%", target=100),
        figure("restarts on a blamed node that was still broken", [len(report.on_blamed)], "", target=0),
        figure("restarts on a blamed node that was not forgiven", [len(report.on_unforgiven)], ""),
        figure("steps lost beyond the last proven checkpoint", [report.steps_lost], "steps", target=0),
        at_least("losses bit-identical to an undisturbed run", float(report.identical), "", target=1),
        at_least("retry chains successful", 100 * report.chain_share, "%", target=95),
        at_least("right node blamed, or rightly nobody", 100 * report.blame_share, "%", target=95),
        *(figure(f"fault to next training step, {name}", [of(back)], "s") for name, of in times.items()),
    ]


def tell(report: Report) -> None:
    """What went wrong, in words."""
    wrong = (report.on_blamed, report.on_unforgiven, report.misjudged, report.failed_chains)
    for words in [report.lost, *(words for several in wrong for words in several)]:
        if words:
            print(words, file=sys.stderr)


def status(report: Report, found: Sequence[Figure]) -> int:
    """1: a target was missed, or the run did not get to its end; 0: neither."""
    return int(bool(report.lost) or any(item.met is False for item in found))


def main() -> int:
    """One run, its figures, and a status that says whether every target was met."""
    seed = int(os.environ.get("BENCH_SEED") or random.SystemRandom().randrange(10**6))
    only = tuple(filter(None, os.environ.get("BENCH_KINDS", "").split(",")))
    spec = ChaosSpec(seed=seed, faults=int(os.environ.get("BENCH_FAULTS") or 100), only=only)
    print(f"seed {seed}, {spec.faults} faults, {spec.job_nodes} of {spec.nodes} nodes", file=sys.stderr)
    root = Path(tempfile.mkdtemp(prefix="sovchaos-", dir="/var/tmp"))
    root.chmod(0o755)
    chaos = Chaos(spec, root / "lab", say=lambda words: print(words, file=sys.stderr, flush=True))
    try:
        chaos.run(root)
    except (Exception, KeyboardInterrupt) as error:
        traceback.print_exc()
        chaos.report.lost = chaos.report.lost or f"ended early: {error!r}"
    report = chaos.report
    if report.lost:
        print(f"the record of the lost run stays in {root}", file=sys.stderr)
    else:
        shutil.rmtree(root, ignore_errors=True)
    tell(report)
    found = figures(report)
    publish_all(report, found)
    return status(report, found)


def publish_all(report: Report, found: Sequence[Figure]) -> None:
    """The figures, and the conditions under which they were taken."""
    spec = report.spec
    kinds = sorted({item.kind.name for item in report.struck})
    publish(
        "chaos",
        found,
        {
            "seed": spec.seed,
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
    sys.exit(main())
