"""The random numbers of one rank, as bytes without pickle: Python, NumPy, torch and the current accelerator."""

from __future__ import annotations

import json
import random
import sys
from typing import Any


def capture() -> bytes:
    """Every generator's state as JSON. NumPy and accelerators only where they are in use."""
    import torch

    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, keys, position, has_gauss, cached = numpy.random.get_state()
        state["numpy"] = [kind, keys.tolist(), int(position), int(has_gauss), float(cached)]
    if _cuda_in_use():
        state["cuda"] = bytes(torch.cuda.get_rng_state().tolist()).hex()
    return json.dumps(state, separators=(",", ":")).encode()


def restore(data: bytes) -> None:
    """Put every generator back that was saved and is there now. Raises ValueError for other bytes."""
    import torch

    state = json.loads(data)
    try:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        torch.set_rng_state(_bytes_tensor(state["torch"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a saved random state: {error}") from error
    if "numpy" in state:
        import numpy

        kind, keys, position, has_gauss, cached = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes_tensor(state["cuda"]))


def _bytes_tensor(text: str) -> Any:
    import torch

    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def _cuda_in_use() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
