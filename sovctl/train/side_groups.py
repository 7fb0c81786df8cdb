"""Process groups over gloo beside the one that trains, so that no question waits for the GPU or meets another.

Collectives of one group must be called in the same order on every rank. What the training thread asks and what a
checkpoint in the background asks have no common order, so each has a group of its own.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

CONTROL = "control"
"""Used by the thread that trains."""
BACKGROUND = "background"
"""Used by the thread that writes checkpoints."""
_TIMEOUT = timedelta(minutes=30)

_made: dict[str, tuple[Any, Any]] = {}
_making = threading.Lock()


class SideGroup:
    """One of the groups, or this process alone where there is no process group."""

    def __init__(self, name: str) -> None:
        """Collective when it is the first of that name in this process group: every rank must make it."""
        dist = distributed()
        self._dist = dist
        self._group: Any = _group_of(name, dist) if dist else None
        self.rank: int = dist.get_rank() if dist else 0
        self.size: int = dist.get_world_size() if dist else 1

    def everyone(self, value: T) -> list[T]:
        """The value of every rank, on every rank. Pickled: for what the ranks of one run tell each other."""
        if self._dist is None:
            return [value]
        values: list[Any] = [None] * self.size
        self._dist.all_gather_object(values, value, group=self._group)
        return values

    def to_first(self, value: T) -> list[T]:
        """The value of every rank, on rank 0; an empty list elsewhere."""
        if self._dist is None:
            return [value]
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        self._dist.gather_object(value, values, dst=0, group=self._group)
        return values or []

    def scatter(self, values: list[T] | None) -> T:
        """One value for each rank, made by rank 0; `values` is `None` elsewhere."""
        if self._dist is None:
            return (values or [])[0]
        mine: list[Any] = [None]
        self._dist.scatter_object_list(mine, values, src=0, group=self._group)
        value: T = mine[0]
        return value

    def from_first(self, action: Callable[[], T]) -> T:
        """Rank 0 does it, every rank gets the result, or an exception: nobody is left waiting."""
        if self._dist is None:
            return action()
        box: list[Any] = [None, ""]
        try:
            if self.rank == 0:
                box[0] = action()
        except Exception as error:
            box[1] = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._dist.broadcast_object_list(box, src=0, group=self._group)
        if box[1]:
            raise RuntimeError(f"rank 0 failed with {box[1]}")
        result: T = box[0]
        return result

    def largest(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each number over all ranks."""
        return self.start_largest(*numbers)()

    def start_largest(self, *numbers: int) -> Callable[[], tuple[int, ...]]:
        """The same without waiting: what it returns waits and tells."""
        if self._dist is None:
            return lambda: numbers
        import torch

        words = torch.tensor(numbers, dtype=torch.int64)
        work = self._dist.all_reduce(words, op=self._dist.ReduceOp.MAX, group=self._group, async_op=True)

        def wait() -> tuple[int, ...]:
            work.wait()
            return tuple(words.tolist())

        return wait


def distributed() -> Any:
    """torch.distributed when a process group is there, else `None`; never the one who imports torch."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def renew(name: str) -> None:
    """Forget a group whose ranks lost each other: gloo never opens a connection again that was closed, and ranks that
    gave up at different calls would answer each other's next question. Every rank must call it; the next use makes
    the group anew. The old one stays with the calls that still wait in it."""
    with _making:
        _made.pop(name, None)


def destroy_all() -> None:
    """End every process group of this process; for the end of a script."""
    gc.collect()
    dist = distributed()
    _made.clear()
    if dist is not None:
        dist.destroy_process_group()


def _group_of(name: str, dist: Any) -> Any:
    with _making:
        world = dist.group.WORLD
        made = _made.get(name)
        if made is None or made[0] is not world:
            made = (world, dist.new_group(backend="gloo", timeout=_TIMEOUT))
            _made[name] = made
        return made[1]
