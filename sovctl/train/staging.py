"""A copy of what a rank will write, in host memory, so that training goes on while it is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Staged:
    """The data of one checkpoint, frozen. Stands in for the planner when the files are written."""

    def __init__(self, data: dict[Any, Any], event: Any) -> None:
        self._data = data
        self._event = event

    def wait_for_device(self) -> None:
        """Until the copies from the accelerator have arrived."""
        if self._event is not None:
            self._event.synchronize()

    def resolve_data(self, item: Any) -> Any:
        """What `torch.distributed.checkpoint` asks a planner for: a tensor in host memory, or bytes."""
        return self._data[item.index]


class HostBuffers:
    """Host memory for one checkpoint, used again for the next: pages that are there already cost half as much.

    Pinned where there is an accelerator: the copies are queued on its current stream, before the next optimizer step
    on the same stream, and nobody waits for them but the writer. Without one it is ordinary memory.
    """

    def __init__(self) -> None:
        self._buffers: dict[Any, Any] = {}

    @property
    def size_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def stage(self, planner: Any, items: Iterable[Any]) -> Staged:
        """Copy what `items` name. The result is valid until the next call."""
        import torch

        data: dict[Any, Any] = {}
        device = None
        for item in items:
            if item.index in data:
                continue
            value = planner.resolve_data(item)
            if isinstance(value, torch.Tensor):
                device = device or (None if value.device.type == "cpu" else value.device)
                value = self._copied(item.index, value.detach())
            data[item.index] = value
        self._buffers = {index: buffer for index, buffer in self._buffers.items() if index in data}
        return Staged(data, _recorded_event(device))

    def _copied(self, index: Any, tensor: Any) -> Any:
        import torch

        on_device = tensor.device.type != "cpu"
        buffer = self._buffers.get(index)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=on_device)
            self._buffers[index] = buffer
        buffer.copy_(tensor, non_blocking=on_device)
        return buffer


def _recorded_event(device: Any) -> Any:
    if device is None:
        return None
    import torch

    event = torch.Event(device)
    event.record(torch.accelerator.current_stream(device))
    return event
