"""Every format by name, and which one a directory entry is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from sovctl.checkpoint.formats import (
    accelerate,
    dcp,
    deepspeed,
    hf_trainer,
    lightning,
    megatron,
    nemo,
    neuronx,
    nvrx,
    safetensors,
    torchtitan,
)
from sovctl.checkpoint.formats.layout import Format

AUTO = "auto"
_ORDERED = (nemo, neuronx, megatron, lightning, deepspeed, hf_trainer, accelerate, torchtitan, dcp, safetensors, nvrx)
"""A format that lies inside another comes after it."""
FORMATS: Mapping[str, Format] = {module.NAME: cast(Format, module) for module in _ORDERED}
CHOICES = (AUTO, *sorted(FORMATS))

_STEP = re.compile(r"(?:^|[^a-z])(?:global_?)?step[=_-]?(\d{1,18})(?!\d)", re.ASCII | re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(\d{1,18})(?:-last)?$", re.ASCII)
_TELLING = re.compile(r"(?:step|iter|checkpoint|ckpt|global_?step)[-_=]?\d{1,18}", re.ASCII)
_NOT_ONE = re.compile(r"\..*|tmp[-_].*|.*\.tmp|.*\.dirty|.*-unfinished|.*\.lock", re.ASCII)


def step_in(name: str) -> int | None:
    """The step a name speaks of: after `step`, else the number at its end; `None` when it has none."""
    stem = name.removesuffix(lightning.SUFFIX).removesuffix(".safetensors")
    found = _STEP.search(stem) or _LAST_NUMBER.search(stem)
    return int(found[1]) if found else None


def says_step(name: str) -> bool:
    """Whether a name has the word `step` before its number: the number of `llama-3` is none."""
    return bool(_STEP.search(name))


def is_telling(name: str) -> bool:
    """Whether a name alone makes an entry a checkpoint, so that an empty one is shown as a broken one."""
    return bool(_TELLING.fullmatch(name)) or name.endswith(lightning.SUFFIX)


def is_temporary(name: str) -> bool:
    """Names that are never a checkpoint: hidden, being written, or the marks of others."""
    return bool(_NOT_ONE.fullmatch(name))


def recognise(name: str, top: frozenset[str]) -> str:
    """The format of an entry by its name and, of a directory, what is in it; empty when it is of none."""
    return next((module.NAME for module in _ORDERED if module.owns(name, top)), "")
