"""After a crash: what the output says died first, and what the nodes say about themselves with the user's rights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sovctl.errors import SovctlError
from sovctl.model.rank_look import NodeLook
from sovctl.ports.supervised import AttemptFiles, JobLooks, RunFiles
from sovctl.recovery.crash import Crash, read_crash

_ROOM = 64 * 1024


@dataclass(slots=True)
class CrashLook:
    """One crash of one attempt."""

    gpus: int | None
    files: RunFiles
    kept: AttemptFiles | None
    looks: JobLooks | None
    looked: tuple[NodeLook, ...] = ()
    """What the nodes answered; empty before they have."""

    def begin(self, since: float, nodes: Sequence[str]) -> None:
        """Ask these nodes; the answer is fetched by `pending`."""
        if self.looks is None:
            return
        self.looks.cancel()
        if not nodes:
            return
        try:
            self.looks.begin(nodes, since=since, stacks=False, gpus=self.gpus)
        except SovctlError:
            # Without srun the node states of Slurm alone must do.
            return

    @property
    def pending(self) -> bool:
        """Whether some node still owes an answer."""
        if self.looks is None:
            return False
        if self.looks.going_on and (answer := self.looks.poll()) is not None:
            self.looked = answer.looks
        return self.looks.going_on

    def findings(self, node: str) -> tuple[str, ...]:
        """What fails this node by its own evidence, seen as the user."""
        return next((look.findings for look in self.looked if look.node == node), ())

    def read(self, attempt: int, tails: Sequence[str], status: int) -> Crash:
        """What the end of the output tells; the lines that tell it are kept beside the script."""
        nodes = {item.rank: item.node for item in self.files.all_progress() if item.attempt == attempt and item.node}
        crash = read_crash("\n".join(tails), status, ranks=nodes)
        if crash.excerpt and self.kept is not None:
            self.kept.keep(attempt, "traceback.txt", crash.excerpt[:_ROOM].encode("utf-8", "replace") + b"\n")
        return crash
