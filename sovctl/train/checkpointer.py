"""Save and load with torch.distributed.checkpoint, so that a checkpoint is either complete or not there.

torch and torch.distributed.checkpoint are imported at the first save or load, not before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sovctl.checkpoint import commit
from sovctl.checkpoint.complete import judge, sha256_of
from sovctl.checkpoint.dcp import METADATA, shard_rank
from sovctl.checkpoint.find import step_of
from sovctl.checkpoint.mark import Mark
from sovctl.errors import CheckpointIncomplete, CheckpointUnloadable
from sovctl.model.checkpoint import CheckpointState
from sovctl.train import random_state
from sovctl.train.context import RunContext
from sovctl.train.heartbeat import Heartbeat

if TYPE_CHECKING:
    from torch import Tensor, nn, optim

T = TypeVar("T")
FileFacts = dict[str, tuple[int, str]]
"""File name -> (bytes, SHA-256 in hex or empty)."""


class Checkpointer:
    """Checkpoints of one run in `ctx.checkpoint_dir/step-<N>`.

    `keep`: so many complete checkpoints stay, `None`: all. `checksums`: each rank reads its files back (from memory,
    as a rule) and records their SHA-256 for `sovctl ckpt verify --deep`; about 1 s per GB and rank.
    Works in one process without torch.distributed, with DDP, FSDP2 and plain modules. `save` and `load` are
    collective: every rank calls them with the same step. They are synchronous.
    """

    def __init__(
        self, ctx: RunContext, keep: int | None = 3, *, heartbeat: Heartbeat | None = None, checksums: bool = True
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1 or None, not {keep}")
        self._ctx = ctx
        self._keep = keep
        self._heartbeat = heartbeat
        self._checksums = checksums

    def save(
        self,
        step: int,
        *,
        model: nn.Module | None = None,
        optimizer: optim.Optimizer | None = None,
        state: Mapping[str, Any] | None = None,
        rank_state: Mapping[str, Any] | None = None,
    ) -> bool:
        """Save after step `step` (>= 1); returns whether a complete checkpoint of that step is on disk.

        `state` is one for all ranks (a scheduler, counters), `rank_state` each rank's own (a data loader): names to
        objects with `state_dict()`/`load_state_dict()`, tensors, or dicts of those and plain values. The random
        numbers of every rank are always saved. When the disk is full or failing, one warning goes to stderr, False
        is returned on every rank, and the earlier checkpoints stay valid. Other errors are raised.
        """
        if step < 1:
            raise ValueError(f"a checkpoint needs a step of at least 1, not {step}")
        if self._heartbeat:
            self._heartbeat.saving()
        self._check_group()
        tree = _collect(_group_rank(), model, optimizer, state, rank_state)
        tree[_random_key(_group_rank())] = _tensor(random_state.capture())
        problem = self._save(step, tree)
        if problem and _is_first():
            _say(f"checkpoint of step {step} was not saved: {problem}; training goes on, earlier checkpoints are kept")
        if self._heartbeat:
            self._heartbeat.saved(None if problem else step)
        return not problem

    def load(
        self,
        *,
        model: nn.Module | None = None,
        optimizer: optim.Optimizer | None = None,
        state: Mapping[str, Any] | None = None,
        rank_state: Mapping[str, Any] | None = None,
        path: Path | None = None,
    ) -> int:
        """Load `path`, or what the context says to resume from; returns its step, 0 when there is nothing to load.

        Everything is changed in place; name what was named in `save`. Random numbers and `rank_state` come back for
        the ranks that were there when it was saved. The checkpoint is proven complete first.
        Raises CheckpointIncomplete, CheckpointUnloadable.
        """
        if self._heartbeat:
            self._heartbeat.loading()
        source = _from_first(lambda: str(path or self._ctx.resume_from or ""))
        step = self._load(Path(source), model, optimizer, state, rank_state) if source else 0
        if self._heartbeat:
            self._heartbeat.loaded(step)
        return step

    def _check_group(self) -> None:
        if _group() is None and self._ctx.world_size > 1:
            raise RuntimeError(
                f"{self._ctx.world_size} ranks cannot save one checkpoint before the process group is there: "
                "call ctx.init_process_group() first"
            )

    def _save(self, step: int, tree: dict[str, Any]) -> str:
        """Write and commit; returns why not, the same words on every rank."""
        directory, attempt = self._ctx.checkpoint_dir, self._ctx.attempt
        temporary = commit.temporary_path(directory, step, attempt)
        if _from_first(lambda: commit.already_complete(directory, step)):
            return ""
        problem = _from_first(lambda: _os_problem(lambda: commit.begin(directory, step, attempt)))
        facts: FileFacts = {}
        if not problem:
            problem = _write(temporary, tree)
        if not problem:
            facts, problem = self._all_facts(temporary)
        if not problem:
            problem = _from_first(lambda: _os_problem(lambda: self._commit(temporary, step, facts)))
        if problem and _is_first():
            commit.discard(temporary)
        return problem

    def _all_facts(self, temporary: Path) -> tuple[FileFacts, str]:
        """What every rank says about the files it wrote: its own view is right even where others' caches lag."""
        facts: FileFacts = {}
        problem = _os_problem(lambda: facts.update(self._own_facts(temporary)))
        everyone = _gather((facts, problem))
        merged = {name: fact for part, _ in everyone for name, fact in part.items()}
        return merged, next((words for _, words in everyone if words), "")

    def _own_facts(self, temporary: Path) -> FileFacts:
        rank = _group_rank()
        names = [path.name for path in temporary.iterdir()]
        mine = [name for name in names if shard_rank(name) == rank or (rank == 0 and name == METADATA)]
        return {
            name: ((temporary / name).stat().st_size, sha256_of(temporary / name) if self._checksums else "")
            for name in mine
        }

    def _commit(self, temporary: Path, step: int, facts: FileFacts) -> None:
        mark = Mark(
            step=step,
            world_size=_group_size(),
            files={name: size for name, (size, _) in facts.items()},
            saved_at=time.time(),
            attempt=self._ctx.attempt,
            run_id=self._ctx.run_id,
            sha256={name: digest for name, (_, digest) in facts.items() if digest},
        )
        commit.commit(temporary, self._ctx.checkpoint_dir, mark)
        problem = _os_problem(lambda: self._tidy(step))
        if problem:
            _say(f"old checkpoints could not be removed: {problem}")

    def _tidy(self, step: int) -> None:
        directory = self._ctx.checkpoint_dir
        for path in commit.sweep(directory, self._ctx.attempt):
            _say(f"removed {path}, left unfinished by an earlier attempt")
        if self._keep is not None:
            commit.retire(directory, step, self._keep)

    def _load(
        self,
        path: Path,
        model: nn.Module | None,
        optimizer: optim.Optimizer | None,
        state: Mapping[str, Any] | None,
        rank_state: Mapping[str, Any] | None,
    ) -> int:
        step, why = _from_first(lambda: _proven_step(path))
        if why:
            raise CheckpointIncomplete(str(path), why)
        tree = _collect(_group_rank(), model, optimizer, state, rank_state)
        _read(path, tree, _group_rank())
        _distribute(tree, _group_rank(), model, optimizer, state, rank_state)
        return step


def _proven_step(path: Path) -> tuple[int, str]:
    """(step, why it must not be loaded)."""
    step = step_of(path.name)
    if step is None:
        return 0, "its name is not step-<N>"
    checkpoint = judge(path, step)
    return step, "" if checkpoint.state is CheckpointState.COMPLETE else checkpoint.why


def _collect(
    rank: int,
    model: nn.Module | None,
    optimizer: optim.Optimizer | None,
    state: Mapping[str, Any] | None,
    rank_state: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything as one tree of tensors and plain values, the rank's own under names that only it uses."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    tree: dict[str, Any] = {}
    if model is not None:
        tree["model"] = get_model_state_dict(model)
    if optimizer is not None:
        tree["optimizer"] = get_optimizer_state_dict(_needed(model), optimizer)
    tree.update({f"state.{name}": _state_of(value) for name, value in (state or {}).items()})
    tree.update({_rank_key(rank, name): _state_of(value) for name, value in (rank_state or {}).items()})
    return tree


def _distribute(
    tree: Mapping[str, Any],
    rank: int,
    model: nn.Module | None,
    optimizer: optim.Optimizer | None,
    state: Mapping[str, Any] | None,
    rank_state: Mapping[str, Any] | None,
) -> None:
    """The way back of `_collect`; tensors and dicts were already changed in place."""
    from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict

    if model is not None:
        set_model_state_dict(model, tree["model"])
    if optimizer is not None:
        set_optimizer_state_dict(_needed(model), optimizer, tree["optimizer"])
    for name, value in (state or {}).items():
        _give_back(value, tree[f"state.{name}"])
    for name, value in (rank_state or {}).items():
        if _rank_key(rank, name) in tree:
            _give_back(value, tree[_rank_key(rank, name)])
    if _random_key(rank) in tree:
        random_state.restore(bytes(tree[_random_key(rank)].tolist()))


def _write(temporary: Path, tree: dict[str, Any]) -> str:
    """Every rank writes and syncs its files; returns the storage's complaint, the same on every rank."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = FileSystemWriter(temporary, single_file_per_rank=True, sync_files=True, thread_count=1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            save(tree, storage_writer=writer)
    except CheckpointException as error:
        words = [_storage_words(cause, temporary) for cause, _ in error.failures.values()]
        if not all(words):
            raise
        return words[0]
    return ""


def _read(path: Path, tree: dict[str, Any], rank: int) -> None:
    """Fill the tree from a checkpoint that is proven complete. What this rank did not save stays as it is."""
    import torch
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(path)
    saved = _saved_entries(path, reader)
    try:
        if _random_key(rank) in saved:
            tree[_random_key(rank)] = torch.empty(saved[_random_key(rank)].size, dtype=torch.uint8)
        else:  # this rank is new: it was not there when the checkpoint was saved
            for name in [name for name in tree if name.startswith(_rank_key(rank, ""))]:
                del tree[name]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(tree, storage_reader=reader)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise CheckpointUnloadable(str(path), f"{type(cause).__name__}: {cause}") from cause


def _saved_entries(path: Path, reader: Any) -> Mapping[str, Any]:
    """What the checkpoint holds, by name. This unpickles: only what the run itself saved and marked gets here."""
    try:
        entries: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    except Exception as error:
        raise CheckpointUnloadable(str(path), f"{type(error).__name__}: {error}") from error
    return entries


def _storage_words(error: BaseException, directory: Path) -> str:
    """The storage's own words when a failed write is the storage's fault, empty when it is a bug."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _TORCH_WRITE_FAILURES):
        # torch's zip writer swallows the system's error and complains about a short file instead
        full = _free_bytes(directory) < _NO_SPACE_BYTES
        return os.strerror(errno.ENOSPC) if full else "a file could not be written in full (a quota or a limit?)"
    return ""


def _free_bytes(directory: Path) -> int:
    try:
        found = os.statvfs(directory)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _os_problem(action: Callable[[], object]) -> str:
    """Do it; returns the system's words when it cannot be done."""
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _needed(model: nn.Module | None) -> nn.Module:
    if model is None:
        raise ValueError("an optimizer can be saved and loaded only together with its model")
    return model


def _state_of(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _give_back(value: Any, loaded: Any) -> None:
    if hasattr(value, "load_state_dict"):
        value.load_state_dict(loaded)


def _rank_key(rank: int, name: str) -> str:
    return f"rank-{rank}.{name}"


def _random_key(rank: int) -> str:
    return f"random-of-rank-{rank}"


def _tensor(data: bytes) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _group() -> Any:
    """torch.distributed when a process group is there, else `None`."""
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None


def _group_rank() -> int:
    dist = _group()
    return dist.get_rank() if dist else 0


def _group_size() -> int:
    dist = _group()
    return dist.get_world_size() if dist else 1


def _is_first() -> bool:
    return _group_rank() == 0


def _from_first(action: Callable[[], T]) -> T:
    """Rank 0 does it, every rank gets the result, or an exception: nobody is left waiting."""
    dist = _group()
    if not dist:
        return action()
    box: list[Any] = [None, ""]
    try:
        if _is_first():
            box[0] = action()
    except Exception as error:
        box[1] = f"{type(error).__name__}: {error}"
        raise
    finally:
        dist.broadcast_object_list(box, src=0)
    if box[1]:
        raise RuntimeError(f"rank 0 failed with {box[1]}")
    result: T = box[0]
    return result


def _gather(value: T) -> list[T]:
    dist = _group()
    if not dist:
        return [value]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"sovctl: {text}\n")


_NO_SPACE_BYTES = 16 << 20
_TORCH_WRITE_FAILURES = ("PytorchStreamWriter failed", "unexpected pos", "file write failed")
