"""Burn in an idle node: do a piece, compare the answers with each other and with what their kind gave before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError
from sovctl.health.burn_in import (
    BurnInMemory,
    due,
    judge_run,
    memory_from_record,
    memory_record,
    next_piece,
    references_from_record,
    references_record,
    remembered,
)
from sovctl.health.rules_gpu import expected_gpus
from sovctl.model.burn_in import BurnInOutcome, BurnInResult, BurnInRun, BurnInSpec, Piece
from sovctl.model.inventory import inventory_from_record
from sovctl.model.node import NodeSnapshot

if TYPE_CHECKING:
    from sovctl.ports.common import Turn
    from sovctl.ports.node import BurnInWork, GpuProbe, NodeRecords, References

RECORD = "burn-in"


@dataclass(frozen=True, slots=True)
class BurnInPorts:
    """What a burn-in touches."""

    work: BurnInWork
    records: NodeRecords
    references: References
    turn: Turn
    busy: Callable[[], str]
    """Whose job is here, in words; empty: nobody's. Also asked while the work goes on."""


@dataclass(frozen=True, slots=True)
class BurnInSettings:
    """How long and with what."""

    node: str
    device: str
    """`cuda`, `cpu` or `auto`."""
    seconds: float
    timeout_s: float
    every_s: float = 0.0
    """Between two pieces after jobs."""


def recall(records: NodeRecords) -> BurnInMemory:
    """What earlier burn-ins of this node said."""
    return memory_from_record(records.load(RECORD))


def burn_in(
    ports: BurnInPorts, settings: BurnInSettings, pieces: Sequence[Piece], gpus: int | None
) -> tuple[tuple[BurnInResult, ...], tuple[str, ...]]:
    """Do these pieces one after the other, as long as nobody comes: (results, what could not be written).

    `gpus`: how many NVML shows; None: it cannot be asked.
    """
    results: list[BurnInResult] = []
    notes: list[str] = []
    for piece in pieces:
        device = _device(settings.device, gpus)
        busy = ports.busy()
        spec = BurnInSpec(piece, settings.seconds, device, settings.timeout_s)
        run = BurnInRun(piece, 0.0, interrupted=busy) if busy else ports.work.run(spec, ports.busy)
        if busy:
            results.append(judge_run(run, {}, settings.node, gpus)[0])
            break
        result, trouble = _judge(ports, settings, run, gpus)
        results.append(result)
        notes += trouble
    return tuple(results), tuple(notes)


def after_job(
    ports: BurnInPorts, settings: BurnInSettings, snapshot: NodeSnapshot
) -> tuple[tuple[BurnInResult, ...], tuple[str, ...]]:
    """One piece, when the last one is long enough ago and nothing holds a GPU. The node must be idle."""
    memory = recall(ports.records)
    held = any(gpu.process_ids for gpu in snapshot.gpus)
    if held or not due(memory, snapshot.observed_at, settings.every_s):
        return (), ()
    return burn_in(ports, settings, (next_piece(memory),), gpus_of(len(snapshot.gpus), expected_gpus(snapshot)))


def burn_in_now(
    ports: BurnInPorts, settings: BurnInSettings, pieces: Sequence[Piece], probe: GpuProbe, expected: int | None
) -> tuple[tuple[BurnInResult, ...], tuple[str, ...]]:
    """As a person or a sweep asks for it. `expected`: GPUs by the configuration; None: what the inventory says."""
    inventory = inventory_from_record(ports.records.load("inventory"))
    if expected is None and inventory is not None:
        expected = inventory.gpus
    try:
        gpus = probe.read()
    except SovctlError:
        # Without NVML there is nothing to hold a GPU by; where GPUs should be, torch will miss them.
        return burn_in(ports, settings, pieces, gpus_of(None, expected))
    held = next((gpu for gpu in gpus if gpu.process_ids), None)
    if held is not None:
        words = f"{pieces[0]}: process {held.process_ids[0]} holds GPU {held.index}"
        return (BurnInResult(pieces[0], 0.0, BurnInOutcome.INTERRUPTED, words),), ()
    return burn_in(ports, settings, pieces, gpus_of(len(gpus), expected))


def next_of(records: NodeRecords) -> Piece:
    """The piece that is due on this node."""
    return next_piece(recall(records))


def gpus_of(seen: int | None, expected: int | None) -> int | None:
    """How many GPUs must take part: where NVML is silent or shows too few, those that should be there."""
    known = [count for count in (seen, expected) if count is not None]
    return max(known) if known else None


def _judge(
    ports: BurnInPorts, settings: BurnInSettings, run: BurnInRun, gpus: int | None
) -> tuple[BurnInResult, list[str]]:
    try:
        with ports.turn.take():
            # Read and written in one turn: two nodes that learn at the same time must not lose each other's.
            known = references_from_record(ports.references.load())
            result, grown = judge_run(run, known, settings.node, gpus)
            if grown != known:
                ports.references.save(references_record(grown))
    except SovctlError as error:
        result, _ = judge_run(run, {}, settings.node, gpus)
        return result, [error.message, *_keep(ports.records, result)]
    return result, _keep(ports.records, result)


def _keep(records: NodeRecords, result: BurnInResult) -> list[str]:
    try:
        records.save(RECORD, memory_record(remembered(recall(records), result)))
    except SovctlError as error:
        return [error.message]
    return []


def _device(wanted: str, gpus: int | None) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if gpus else "cpu"
