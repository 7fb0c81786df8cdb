"""What it costs to prove checkpoints complete: a large sparse DCP, very many files, and the command scripts call.

The files have their real sizes and no content, so what is measured is what the proof reads: the table of contents,
every file's size and time, the head and tail of every archive.

make bench NAME=checkpoint_check
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import figure, publish

from sovctl.checkpoint.find import latest_complete
from sovctl.checkpoint.mark import MARK
from sovctl.model.checkpoint import CheckpointState
from sovctl.operations.checkpoints import verify_checkpoint

RUNS = 5
SHARDS = 480
BYTES = 1_400_000_000_000
PIECES = 100
"""Of a shard, in the table of contents: 4 MB of it."""
MANY_PIECES = 2100
"""Of a shard, where a model of 700 tensors and its Adam state is split over all ranks."""
FILES = 10_000
COMMAND_RUNS = 15


class StorageInfo:
    """Pickles like the entries of DCP's table of contents."""

    def __init__(self, relative_path: str, offset: int, length: int) -> None:
        self.relative_path, self.offset, self.length = relative_path, offset, length


class Index:
    """The same for its keys."""

    def __init__(self, fqn: str, offset: tuple[int, ...]) -> None:
        self.fqn, self.offset, self.index = fqn, offset, None


def large(root: Path, pieces: int) -> Path:
    """480 shards of 2.9 GB, each of so many pieces in the table of contents."""
    path = root / "step-1000"
    path.mkdir(parents=True)
    size = BYTES // SHARDS
    table = []
    for rank in range(SHARDS):
        name = f"__{rank}_0.distcp"
        with open(path / name, "wb") as stream:
            stream.truncate(size)
        table += [
            (
                Index(f"layers.{piece}.attention.weight", (rank, 0)),
                StorageInfo(name, size // pieces * piece, size // pieces),
            )
            for piece in range(pieces)
        ]
    (path / ".metadata").write_bytes(pickle.dumps({"storage_data": table}, protocol=4))
    return path


def many(root: Path) -> Path:
    """10,000 archives of torch.save, of 4 MB, under the names of DeepSpeed."""
    path = root / "global_step1000"
    path.mkdir(parents=True)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"dp_world_size": FILES - 1, "mp_world_size": 1}))
        archive.writestr("archive/data/0", b"\0" * 4096)
    (path / "mp_rank_00_model_states.pt").write_bytes(held.getvalue())
    for rank in range(FILES - 1):
        (path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(held.getvalue())
    return path


def timed(work: Callable[[], object], before: Callable[[], object] = lambda: None, runs: int = RUNS) -> list[float]:
    """Seconds of each run."""
    samples = []
    for _ in range(runs):
        before()
        began = time.perf_counter()
        work()
        samples.append(time.perf_counter() - began)
    return samples


def proven(path: Path) -> None:
    """Raises when it is not proven: a fast wrong answer is not a figure."""
    result = verify_checkpoint(path)
    if not result.proven:
        raise SystemExit(f"sovctl: {path}: {result.why}")


def main() -> None:
    """Measure and print."""
    sovctl = str(Path(sys.executable).with_name("sovctl"))
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        root = Path(name)
        big, wide = large(root / "large", PIECES), many(root / "many")
        old = time.time() - 3600
        for path in [*wide.iterdir(), wide]:
            os.utime(path, (old, old))
        first = timed(lambda: proven(big), lambda: (big / MARK).unlink(missing_ok=True))
        long = large(root / "long", MANY_PIECES)
        long_first = timed(lambda: proven(long), lambda: (long / MARK).unlink(missing_ok=True))
        long_table_bytes = (long / ".metadata").stat().st_size
        wide_first = timed(lambda: proven(wide), lambda: (wide / MARK).unlink(missing_ok=True))
        wide_again = timed(lambda: latest_complete(wide.parent))
        command = [sovctl, "ckpt", "latest", str(big.parent)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if said != str(big) or latest_complete(big.parent).state is not CheckpointState.COMPLETE:  # type: ignore[union-attr]
            raise SystemExit("sovctl: the newest complete checkpoint was not found")
        whole = timed(lambda: subprocess.run(command, capture_output=True, check=True), runs=COMMAND_RUNS)
        bare = timed(lambda: subprocess.run([sys.executable, "-c", ""], check=True), runs=COMMAND_RUNS)
        listing = timed(lambda: sum(entry.stat().st_size for entry in os.scandir(wide)))
        table_bytes = (big / ".metadata").stat().st_size
        shutil.rmtree(root / "many")
    publish(
        "checkpoint_check",
        [
            figure(f"prove {SHARDS} shards, {BYTES / 1e12:g} TB, never looked at", first, "s", target=2),
            figure(f"the same with {long_table_bytes / 1e6:.0f} MB of table of contents", long_first, "s", target=2),
            figure(
                f"prove {FILES} files, never looked at",
                wide_first,
                "s",
                target=5,
                versus="stat of each",
                versus_samples=listing,
            ),
            figure(f"newest complete of {FILES} files, proven before", wide_again, "s"),
            figure(
                "sovctl ckpt latest, proven before",
                [1000 * one for one in whole],
                "ms",
                target=150,
                versus="bare Python",
                versus_samples=[1000 * one for one in bare],
            ),
        ],
        {"cores": os.cpu_count(), "pieces_of_a_shard": PIECES, "table_of_contents_bytes": table_bytes},
    )


if __name__ == "__main__":
    main()
