"""Model, optimizer and state as one tree of tensors and plain values, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sovctl.train import random_state, whole

if TYPE_CHECKING:
    from torch import Tensor, nn, optim


@dataclass(frozen=True)
class Parts:
    """What a script wants saved or loaded."""

    model: nn.Module | None = None
    optimizer: optim.Optimizer | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    """One for all ranks."""
    rank_state: Mapping[str, Any] = field(default_factory=dict)
    """Each rank's own."""


def collect(rank: int, parts: Parts) -> dict[str, Any]:
    """Everything as one tree, the rank's own under names that only it uses. Tensors are shared, not copied."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    tree: dict[str, Any] = {}
    if parts.model is not None:
        tree["model"] = get_model_state_dict(parts.model)
    if parts.optimizer is not None:
        tree["optimizer"] = get_optimizer_state_dict(_needed(parts.model), parts.optimizer)
    tree.update({key: _state_of(value) for key, value in _states(rank, parts).items()})
    return tree


def collect_to_save(rank: int, parts: Parts) -> dict[str, Any]:
    """The same as it is written: each state in one piece, and the random numbers of this rank."""
    tree = collect(rank, parts)
    for key in _states(rank, parts):
        tree.update(whole.take_apart(key, tree.pop(key)))
    tree[random_key(rank)] = _random_numbers()
    return tree


def distribute(tree: Mapping[str, Any], rank: int, parts: Parts) -> None:
    """The way back of `collect`; what was not saved in one piece was already changed in place."""
    from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict

    if parts.model is not None:
        set_model_state_dict(parts.model, tree["model"])
    if parts.optimizer is not None:
        set_optimizer_state_dict(_needed(parts.model), parts.optimizer, tree["optimizer"])
    for key, value in _states(rank, parts).items():
        if key in tree:  # a rank that is new has no state of its own yet
            _give_back(value, tree[key])
    if random_key(rank) in tree:
        random_state.restore(bytes(tree[random_key(rank)].tolist()))


def rank_key(rank: int, name: str) -> str:
    """Under which name a rank keeps something of its own."""
    return f"rank-{rank}.{name}"


def random_key(rank: int) -> str:
    """Under which name a rank keeps its random numbers."""
    return f"random-of-rank-{rank}"


def _states(rank: int, parts: Parts) -> dict[str, Any]:
    """Every state by its name in a tree."""
    ours = {f"state.{name}": value for name, value in parts.state.items()}
    return ours | {rank_key(rank, name): value for name, value in parts.rank_state.items()}


def _random_numbers() -> Tensor:
    """The state of every generator of this rank as a tensor of bytes, shape (number of bytes,)."""
    import torch

    return torch.frombuffer(bytearray(random_state.capture()), dtype=torch.uint8)


def _needed(model: nn.Module | None) -> nn.Module:
    if model is None:
        raise ValueError("an optimizer can be saved and loaded only together with its model")
    return model


def _state_of(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _give_back(value: Any, loaded: Any) -> None:
    if hasattr(value, "load_state_dict"):
        value.load_state_dict(whole.filled_state(_state_of(value), loaded))
    else:
        whole.filled(value, loaded)
