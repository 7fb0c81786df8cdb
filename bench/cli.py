"""What a command costs a person who waits for it: medians of whole processes, in a lab; the listings and --help of
bench/listings.py on recorded answers of a large Slurm.

make bench NAME=cli
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from listings import figures as listings
from report import as_people_have_it, figure, publish

from sovctl.adapters.command import CommandRunner
from sovctl.lab import cluster

RUNS = 15
SCRIPT = "#!/bin/sh\n#SBATCH --nodes=1\n#SBATCH --begin=now+1hour\ntrue\n"
"""Never starts while measuring: only the submission is timed."""


def timed(command: Callable[[], object], runs: int = RUNS) -> list[float]:
    """Milliseconds of each run, after one that warms the caches."""
    command()
    samples = []
    for _ in range(runs):
        began = time.perf_counter()
        command()
        samples.append((time.perf_counter() - began) * 1000)
    return samples


def main() -> None:
    """Measure and print."""
    as_people_have_it()
    sovctl = str(Path(sys.executable).with_name("sovctl"))
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        # No watchers: they would share the two cores with what is measured.
        lab = cluster.up(cluster.Request(Path(name) / "lab", health=False))
        try:
            node = lab.nodes[2]
            runner = CommandRunner(lab.environment)
            checker = CommandRunner(cluster.node_environment(lab.layout, node))
            script = Path(name) / "script.sh"
            script.write_text(SCRIPT)
            target = [f"--chdir={name}", "--parsable", str(script)]
            check = timed(lambda: checker.run([sovctl, "health", "check"], timeout_s=30))
            pairs = [
                (
                    timed(lambda: runner.run(["sbatch", *target], timeout_s=30), 1)[0],
                    timed(lambda: runner.run([sovctl, "submit", *target], timeout_s=30), 1)[0],
                )
                for _ in range(RUNS)
            ]
        finally:
            cluster.down(lab.layout.root)
    sbatch, submit = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    extra = [ours - theirs for theirs, ours in pairs]
    publish(
        "cli",
        [
            *listings(),
            figure("sovctl submit", submit, "ms", versus="sbatch", versus_samples=sbatch),
            figure("sovctl submit beyond sbatch", extra, "ms", target=250),
            figure("sovctl health check, 8 GPUs", check, "ms", target=200),
        ],
        {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "lab": "8 nodes, no watchers running"},
    )


if __name__ == "__main__":
    main()
