"""A training run without a model: what a training script does to a cluster, in less than a second of start-up.

    srun python -P -m sovctl.lab.toy_training --steps 200

Each rank holds one number and advances it with the mean over all ranks, a chaotic map: one step left out, done twice,
or resumed from another rank's state changes every later loss. The ranks meet at each step over TCP as in a collective:
a rank that is stopped stops all of them, one that dies ends all of them. Checkpoints are written by every rank, proven
and committed as the library does. The losses are the same to the last bit however often the run was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sovctl.checkpoint import commit
from sovctl.checkpoint.complete import sha256_of
from sovctl.checkpoint.dcp import METADATA
from sovctl.checkpoint.mark import Mark
from sovctl.train import RunContext

_LENGTH_BYTES = 4
_MEET_S = 120.0
"""So long ranks wait for rank 0 to be there: a busy machine starts processes slowly."""
_KEEP = 3
T = TypeVar("T")


class Group:
    """The ranks of one step of the job, joined by rank 0."""

    def __init__(self, rank: int, peers: Sequence[socket.socket]) -> None:
        self._rank = rank
        self._peers = peers

    @classmethod
    def meet(cls, ctx: RunContext, place: Path) -> Group:
        """Rank 0 writes its port to the file `place`, the others come. Raises ConnectionError, TimeoutError."""
        if ctx.rank:
            return cls(ctx.rank, [_connect(ctx.rank, place)])
        peers: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
            server.settimeout(_MEET_S)
            place.parent.mkdir(parents=True, exist_ok=True)
            unfinished = place.with_name(f"{place.name}.new")
            unfinished.write_text(str(server.getsockname()[1]), "ascii")
            unfinished.replace(place)
            while len(peers) < ctx.world_size - 1:
                peers.append(server.accept()[0])
                peers[-1].settimeout(None)
        place.unlink(missing_ok=True)
        ranked = {_receive(peer, -1): peer for peer in peers}
        return cls(0, [ranked[rank] for rank in sorted(ranked)])

    def exchange(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank. Waits for all. Raises ConnectionError."""
        if self._rank:
            _send(self._peers[0], value)
            everyone: list[T] = _receive(self._peers[0], 0)
            return everyone
        everyone = [value, *(_receive(peer, rank) for rank, peer in enumerate(self._peers, 1))]
        for peer in self._peers:
            _send(peer, everyone)
        return everyone


def _connect(rank: int, place: Path) -> socket.socket:
    deadline = time.monotonic() + _MEET_S
    while True:
        with suppress(OSError, ValueError):
            peer = socket.create_connection(("127.0.0.1", int(place.read_text("ascii"))))
            _send(peer, rank)
            return peer
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 was not there within {_MEET_S:g} s")
        time.sleep(0.02)


def _send(peer: socket.socket, value: object) -> None:
    data = json.dumps(value).encode()
    peer.sendall(len(data).to_bytes(_LENGTH_BYTES, "big") + data)


def _receive(peer: socket.socket, rank: int) -> Any:
    return json.loads(_read(peer, rank, int.from_bytes(_read(peer, rank, _LENGTH_BYTES), "big")))


def _read(peer: socket.socket, rank: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            raise ConnectionError(f"Connection closed by rank {rank}")
        data += part
    return data


def advance(state: float, mean: float) -> float:
    """One step of one rank; stays within 0..1."""
    mixed = 0.75 * state + 0.25 * mean
    return 3.99 * mixed * (1.0 - mixed)


class Toy:
    """One rank of the training."""

    def __init__(self, ctx: RunContext, args: argparse.Namespace, group: Group) -> None:
        self._ctx = ctx
        self._args = args
        self._group = group
        self._heartbeat = ctx.heartbeat
        self._state = 1.0 / (2.0 + ctx.rank)
        self._saved = 0
        self._step = 0

    def train(self) -> int:
        """To the last step or until asked to stop; returns the exit status."""
        self._load()
        while True:
            began = time.monotonic()
            everyone = self._group.exchange((self._state, self._ctx.stop_requested(), self._last_step()))
            stop, last = any(item[1] for item in everyone), everyone[0][2]
            if self._step >= last:
                break
            loss = sum(item[0] for item in everyone) / len(everyone)
            self._state = advance(self._state, loss)
            self._step += 1
            self._heartbeat.beat(self._step, loss)
            self._report(loss)
            self._crash()
            if stop:
                self._heartbeat.stopping()
            if stop or self._step % self._args.save_every == 0 or self._step >= last:
                self._save()
            if stop and self._step < last:
                return self._ctx.stopped_status
            time.sleep(max(0.0, began + self._args.step_seconds - time.monotonic()))
        self._heartbeat.finished()
        return 0

    def _last_step(self) -> int:
        """`--steps`, or what the file of --last-step-file says once it is there; asked by rank 0 alone."""
        if self._ctx.rank or not self._args.last_step_file:
            return int(self._args.steps)
        try:
            return int(self._args.last_step_file.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return int(self._args.steps)

    def _report(self, loss: float) -> None:
        """Rank 0 prints its loss and appends it, exact to the last bit, with the last checkpoint it committed."""
        if self._ctx.rank:
            return
        if self._step % self._args.print_every == 0:
            _say(f"step {self._step} loss {loss:.6f}")
        if self._args.loss_log:
            line = {"step": self._step, "loss": loss, "hex": loss.hex(), "attempt": self._ctx.attempt}
            with self._args.loss_log.open("a") as log:
                log.write(json.dumps({**line, "saved": self._saved}) + "\n")

    def _crash(self) -> None:
        """A bug in the user's code, on the last rank."""
        last = self._ctx.rank == self._ctx.world_size - 1
        if self._step == self._args.crash_at_step and last and self._ctx.attempt < self._args.crash_attempts:
            raise RuntimeError(f"--crash-at-step {self._step}: this rank fails on purpose")

    def _load(self) -> None:
        """Each rank its own shard; with fewer or more ranks than saved it, those there are."""
        self._heartbeat.loading()
        source, self._step = self._ctx.resume_from, self._ctx.resume_step
        if source is not None:
            saved_by = int(json.loads((source / METADATA).read_text("ascii"))["world_size"])
            shard = json.loads((source / _shard(self._ctx.rank % saved_by)).read_text("ascii"))
            self._state, self._saved = float.fromhex(shard["state"]), self._step
        self._heartbeat.loaded(self._step)

    def _save(self) -> None:
        """Every rank writes, rank 0 commits. A storage that refuses costs this checkpoint, not the run."""
        ctx, step, began = self._ctx, self._step, time.monotonic()
        self._heartbeat.saving()
        self._heartbeat.save_started(step)
        temporary = commit.temporary_path(ctx.checkpoint_dir, step, ctx.attempt)
        problem = ""
        if ctx.rank == 0:
            problem = _problem_of(lambda: commit.begin(ctx.checkpoint_dir, step, ctx.attempt))
        problem = self._first_problem(problem)
        facts: dict[str, tuple[int, str]] = {}
        if not problem:
            problem = _problem_of(lambda: facts.update(self._write(temporary)))
            everyone = self._group.exchange((facts, problem))
            facts = {name: fact for part, _ in everyone for name, fact in part.items()}
            problem = next((words for _, words in everyone if words), "")
        if ctx.rank == 0:
            problem = problem or _problem_of(lambda: self._commit(temporary, facts))
            if problem:
                commit.discard(temporary)
                _say(f"checkpoint of step {step} was not saved: {problem}")
        problem = self._first_problem(problem)
        if not problem:
            self._saved = step
        took = time.monotonic() - began
        self._heartbeat.save_ended(step, problem, save_seconds=took, stall_seconds=took)
        self._heartbeat.training_again()

    def _first_problem(self, problem: str) -> str:
        return next((words for words in self._group.exchange(problem) if words), "")

    def _write(self, temporary: Path) -> dict[str, tuple[int, str]]:
        ctx = self._ctx
        files = {_shard(ctx.rank): {"rank": ctx.rank, "state": self._state.hex()}}
        if ctx.rank == 0:
            files[METADATA] = {"step": self._step, "world_size": ctx.world_size}
        return {name: _write_file(temporary / name, content) for name, content in files.items()}

    def _commit(self, temporary: Path, facts: Mapping[str, Sequence[Any]]) -> None:
        ctx = self._ctx
        mark = Mark(
            step=self._step,
            world_size=ctx.world_size,
            files={name: size for name, (size, _) in facts.items()},
            saved_at=time.time(),
            attempt=ctx.attempt,
            run_id=ctx.run_id,
            sha256={name: digest for name, (_, digest) in facts.items()},
        )
        commit.commit(temporary, ctx.checkpoint_dir, mark)
        commit.sweep(ctx.checkpoint_dir, ctx.attempt)
        commit.retire(ctx.checkpoint_dir, self._step, _KEEP)


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def _shard(rank: int) -> str:
    return f"__{rank}_0.distcp"


def _write_file(path: Path, content: object) -> tuple[int, str]:
    with open(path, "x", encoding="ascii") as stream:
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return path.stat().st_size, sha256_of(path)


def _problem_of(action: Callable[[], object]) -> str:
    """Do it; returns the system's words when it cannot be done."""
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _meeting_place(ctx: RunContext) -> Path:
    """A file that only the ranks of this very attempt know."""
    if ctx.run_dir is not None:
        return ctx.run_dir / "attempts" / str(ctx.attempt) / "toy-port"
    names = [ctx.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
    return Path(f".toy-port-{'-'.join(names)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--last-step-file", type=Path, help="once it is there, the number in it counts for --steps")
    parser.add_argument("--save-every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="a step takes at least so long")
    parser.add_argument("--print-every", type=int, default=10)
    parser.add_argument("--loss-log", type=Path, help="rank 0 appends one JSON line a step")
    parser.add_argument("--crash-at-step", type=int, default=0, help="one rank raises an error after this step")
    parser.add_argument("--crash-attempts", type=int, default=1000, help="only in the first K attempts")
    return parser.parse_args()


def main() -> int:
    """One rank."""
    args = _arguments()
    ctx = RunContext.from_env()
    return Toy(ctx, args, Group.meet(ctx, _meeting_place(ctx))).train()


if __name__ == "__main__":
    sys.exit(main())
