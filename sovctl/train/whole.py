"""The state of an object of the user as one piece: its containers as they are, its tensors beside them.

torch.distributed.checkpoint would flatten it, with every key as a string and lists cut to the length of the live ones,
and read only the keys that the live object has already: a data loader that was just made has few. The tensors stay
tensors for torch, so that they are copied without waiting for the accelerator and written by the rank that has least to
do. What each rank holds a part of stays flat: only torch can put that together on another shape.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any


def is_whole(key: str, saved: Mapping[str, Any]) -> bool:
    """Whether the state under `key` of a tree was saved as one piece; earlier checkpoints have it flat."""
    return _frame_key(key) in saved


def take_apart(key: str, state: Any) -> dict[str, Any]:
    """What a tree holds of the state under `key` so that torch writes it as one piece."""
    if _is_tensor(state) or _is_sharded(state):
        return {key: state}
    frame = io.BytesIO()
    pickler = _FramePickler(frame)
    pickler.dump(state)
    return {_frame_key(key): frame.getvalue(), **{_tensor_key(key, n): one for n, one in enumerate(pickler.tensors)}}


def room_for(key: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The same to read into. `saved`: torch's metadata of every entry of the checkpoint."""
    import torch

    room: dict[str, Any] = {_frame_key(key): b""}
    while (name := _tensor_key(key, len(room) - 1)) in saved:
        room[name] = torch.empty(saved[name].size, dtype=saved[name].properties.dtype)
    return room


def put_together(key: str, tree: Mapping[str, Any]) -> Any:
    """The state, from what was read. This unpickles, as torch's own reader just did."""
    return _FrameUnpickler(io.BytesIO(tree[_frame_key(key)]), key, tree).load()


def filled(live: Any, loaded: Any) -> Any:
    """What was saved, in the dicts, lists and tensors that are there already: others may hold those too."""
    if live is loaded:
        return live
    if isinstance(live, dict) and isinstance(loaded, Mapping):
        items = {key: filled(live.get(key), value) for key, value in loaded.items()}
        live.clear()
        live.update(items)
        return live
    if isinstance(live, list) and isinstance(loaded, list):
        there = [*live[: len(loaded)], *[None] * (len(loaded) - len(live))]
        live[:] = map(filled, there, loaded)
        return live
    if _is_tensor(live) and _is_tensor(loaded) and live.shape == loaded.shape:
        return _copied(live, loaded)
    return loaded


def filled_state(live: Any, loaded: Any) -> Any:
    """What an object takes in its `load_state_dict`: where it is sharded only now, its own parts."""
    return filled(live, loaded) if _is_sharded(live) and not _is_sharded(loaded) else loaded


class _FramePickler(pickle.Pickler):
    """Leaves a number, and the kind of device, in the place of each tensor."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.tensors: list[Any] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: Any) -> tuple[int, str] | None:
        if not _is_plain_tensor(value):
            return None
        number = self._numbers.setdefault(id(value), len(self.tensors))
        if number == len(self.tensors):
            self.tensors.append(value)  # which also keeps its id from being given to another
        return number, value.device.type


class _FrameUnpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, key: str, tree: Mapping[str, Any]) -> None:
        super().__init__(stream)
        self._key, self._tree = key, tree

    def persistent_load(self, number_and_device: tuple[int, str]) -> Any:
        number, device = number_and_device
        return _on_device(self._tree[_tensor_key(self._key, number)], device)


def _frame_key(key: str) -> str:
    return f"{key}:whole"


def _tensor_key(key: str, number: int) -> str:
    return f"{key}:tensor-{number}"


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _is_plain_tensor(value: Any) -> bool:
    """What torch can write by itself; other kinds (sparse, quantized) are pickled with the containers."""
    import torch

    return (
        type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided and not value.is_quantized
    )


def _is_sharded(state: Any) -> bool:
    """Whether there is a tensor in it of which each rank holds a part."""
    if isinstance(state, Mapping):
        return any(map(_is_sharded, state.values()))
    if isinstance(state, list | tuple):
        return any(map(_is_sharded, state))
    return hasattr(state, "placements") or type(state).__name__ == "ShardedTensor"


def _on_device(tensor: Any, kind: str) -> Any:
    """On this rank's own device of the kind it was saved from, not on that of the rank that saved it."""
    import torch

    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return tensor.to(kind) if here is not None and here.type == kind else tensor


def _copied(live: Any, loaded: Any) -> Any:
    import torch

    if hasattr(live, "placements"):
        from torch.distributed.tensor import distribute_tensor

        # Every rank read all of it, so that none has to send it.
        loaded = distribute_tensor(loaded.to(live.device), live.device_mesh, live.placements, src_data_rank=None)
    with torch.no_grad():
        return live.copy_(loaded)
