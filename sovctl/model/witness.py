"""What others than slurmd say about whether a node lives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Shell(StrEnum):
    """What SSH said of a node."""

    ANSWERS = "answers"
    """The boot that Slurm knows is alive."""
    SILENT = "silent"
    """Nobody is there: no connection, or no answer in time."""
    REBOOTED = "rebooted"
    """It answers, but has started anew: what ran there is gone."""
    NO_WITNESS = "no witness"
    """SSH cannot be used with this node, so it says nothing."""


@dataclass(frozen=True, slots=True)
class WitnessWords:
    """What SSH and the BMC said of one node."""

    shell: Shell = Shell.NO_WITNESS
    words: str = ""
    """SSH's own words, where it is silent or no witness."""
    power_off: bool = False
    """The BMC says that the power is off."""
