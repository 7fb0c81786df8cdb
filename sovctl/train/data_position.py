"""Where training is in its data, in samples, so that it goes on there on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping


class DataPosition:
    """Deals out the numbers of the samples of each global batch, and remembers how many are gone.

    Save it in `state` (one for all ranks): `checkpointer.save(..., state={"position": position})`. The samples of a
    step depend on the step alone, not on the number of ranks, so a run that goes on with more or fewer ranks sees the
    same data in the same order; a changed global batch goes on at the right sample too.
    """

    def __init__(self, global_batch: int, rank: int, world_size: int) -> None:
        """`global_batch`: samples a step over all ranks. Raises ValueError unless each rank gets as many."""
        if global_batch < 1 or world_size < 1 or global_batch % world_size:
            raise ValueError(f"{world_size} ranks cannot share {global_batch} samples evenly")
        self.global_batch = global_batch
        self.samples = 0
        """Dealt out so far, over all ranks."""
        self._share = global_batch // world_size
        self._rank = rank

    def next_batch(self) -> range:
        """The numbers of this rank's samples of the next step, counted from 0 over the whole run."""
        first = self.samples + self._rank * self._share
        self.samples += self.global_batch
        return range(first, first + self._share)

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs."""
        return {"samples": self.samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where it was saved."""
        self.samples = int(state["samples"])
