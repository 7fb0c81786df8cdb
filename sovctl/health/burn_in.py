"""Whether what the accelerators computed is right: against each other, and against what their kind computed before.

A reference is the answer of one kind of accelerator with one torch. It is learnt where nothing is known and everybody
agrees, and never from a node whose accelerators disagree; a whole node that agrees with itself and not with the
reference is another software before it is eight broken accelerators, so it is shown and neither believed nor condemned.
Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sovctl.model import pauses
from sovctl.model.burn_in import (
    SILENT,
    BurnInOutcome,
    BurnInResult,
    BurnInRun,
    DeviceAnswer,
    Piece,
    result_from_record,
    result_record,
)
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Finding, Repair, Severity

SCHEMA = "sovctl.burn-in/1"
REFERENCES_SCHEMA = "sovctl.burn-in-references/1"
SLOW_SHARE = 0.7
"""Of the rate of its kind; clocks and temperatures alone make a tenth."""
_MAJORITY = 2 / 3
_FEWEST_FOR_A_MAJORITY = 3
_MOST_SEEN = 16
_MOST_REFERENCES = 256
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Reference:
    """What one kind of accelerator computes."""

    checksum: str
    """Empty for pieces that know by themselves whether they are right."""
    rate: float
    """In the unit of the piece."""
    seen: tuple[str, ...] = ()
    """Accelerators that gave this answer: their UUIDs, or the node's name where they have none."""
    learnt_on: str = ""
    learnt_at: float = 0.0


References = Mapping[str, Reference]


@dataclass(frozen=True, slots=True)
class BurnInMemory:
    """What a node remembers of its burn-ins."""

    results: Mapping[Piece, BurnInResult] = field(default_factory=dict)
    """The last one of each piece that said something."""
    tried: Mapping[Piece, float] = field(default_factory=dict)
    """When each was last tried, also in vain; seconds since the epoch."""


# Rotation


def next_piece(memory: BurnInMemory) -> Piece:
    """The one that was tried longest ago."""
    return min(Piece, key=lambda piece: memory.tried.get(piece, 0.0))


def due(memory: BurnInMemory, now: float, every_s: float) -> bool:
    """Whether the last one is long enough ago; after the clock was set back at once."""
    last = max(memory.tried.values(), default=0.0)
    return pauses.due(now, last, every_s)


def remembered(memory: BurnInMemory, result: BurnInResult) -> BurnInMemory:
    """With one more result. One that says nothing does not wipe out what was known."""
    tried = {**memory.tried, result.piece: result.at}
    if result.outcome in SILENT:
        return replace(memory, tried=tried)
    return BurnInMemory({**memory.results, result.piece: result}, tried)


# Judgement


def judge_run(
    run: BurnInRun, references: References, node: str, expected: int | None
) -> tuple[BurnInResult, References]:
    """The result of one piece, and the references with what may be learnt. `expected`: accelerators of the node."""
    broken = _broken(run, expected)
    if broken is not None:
        return broken, references
    wrong = [device for device in run.devices if device.wrong]
    if wrong:
        words = f"{_named(wrong)} gave another answer {sum(device.wrong for device in wrong)} times"
        return _result(run, BurnInOutcome.WRONG, words, wrong), references
    outcome, words, odd = _compare(run, references, node)
    if outcome in (BurnInOutcome.PASSED, BurnInOutcome.LEARNT):
        slow = _slow(run, references)
        references = _learnt(run, references, node)
        if slow:
            return slow, references
    return _result(run, outcome, words, odd), references


def _broken(run: BurnInRun, expected: int | None) -> BurnInResult | None:
    if run.interrupted:
        return _result(run, BurnInOutcome.INTERRUPTED, run.interrupted)
    if run.absent:
        return _result(run, BurnInOutcome.ABSENT, run.absent)
    errors = [device for device in run.devices if device.error]
    if errors:
        return _result(run, BurnInOutcome.FAILED, f"{_named(errors)}: {errors[0].error}", errors)
    missing = sorted(set(range(run.count)) - {device.rank for device in run.devices})
    if missing or run.problem or not run.devices:
        silent = f"accelerator {', '.join(map(str, missing[:_NAMED]))} gave no answer" if missing else "no answer"
        return _result(run, BurnInOutcome.FAILED, "; ".join(filter(None, (run.problem, silent))))
    if run.device == "cuda" and expected is not None and run.count < expected:
        return _result(run, BurnInOutcome.FAILED, f"torch sees {run.count} of {expected} GPUs")
    return None


def _compare(run: BurnInRun, references: References, node: str) -> tuple[BurnInOutcome, str, Sequence[DeviceAnswer]]:
    """Each kind of accelerator by itself; the worst of them stands for the node."""
    kinds: dict[str, list[DeviceAnswer]] = defaultdict(list)
    for device in run.devices:
        kinds[_key(run, device)].append(device)
    said = [_compare_kind(devices, references.get(key), node) for key, devices in kinds.items()]
    worst = max(said, key=lambda item: _WORST_LAST.index(item[0]))
    if worst[0] in (BurnInOutcome.PASSED, BurnInOutcome.LEARNT):
        return worst[0], _praise(run, worst[0]), ()
    return worst


_WORST_LAST = (BurnInOutcome.PASSED, BurnInOutcome.LEARNT, BurnInOutcome.UNSURE, BurnInOutcome.WRONG)


def _compare_kind(
    devices: Sequence[DeviceAnswer], reference: Reference | None, node: str
) -> tuple[BurnInOutcome, str, Sequence[DeviceAnswer]]:
    counts = Counter(device.checksum for device in devices)
    if len(counts) > 1:
        return _disagreeing(devices, counts, reference)
    own = {_identity(device, node) for device in devices}
    if reference is None:
        return BurnInOutcome.LEARNT, "", ()
    if devices[0].checksum == reference.checksum:
        return BurnInOutcome.PASSED, "", ()
    others = set(reference.seen) - own
    words = (
        f"{_named(devices)} agree on another answer than {len(others)} others gave (learnt on {reference.learnt_on})"
    )
    if len(devices) == 1 and len(others) >= _FEWEST_FOR_A_MAJORITY:
        return BurnInOutcome.WRONG, f"{_named(devices)} gives another answer than {len(others)} others", devices
    return BurnInOutcome.UNSURE, f"{words}: another software, or a reference that is wrong", ()


def _disagreeing(
    devices: Sequence[DeviceAnswer], counts: Counter[str], reference: Reference | None
) -> tuple[BurnInOutcome, str, Sequence[DeviceAnswer]]:
    """Same work, different answers: at least one of them is wrong."""
    answer, count = counts.most_common(1)[0]
    if len(devices) >= _FEWEST_FOR_A_MAJORITY and count >= _MAJORITY * len(devices):
        odd = [device for device in devices if device.checksum != answer]
        return BurnInOutcome.WRONG, f"{_named(odd)} gives another answer than the {count} others here", odd
    if reference is not None and len(reference.seen) > 1 and reference.checksum in counts:
        odd = [device for device in devices if device.checksum != reference.checksum]
        return BurnInOutcome.WRONG, f"{_named(odd)} gives another answer than {reference.learnt_on} learnt", odd
    words = f"{len(devices)} accelerators gave {len(counts)} different answers, and nothing says which is right"
    return BurnInOutcome.UNSURE, words, ()


def _slow(run: BurnInRun, references: References) -> BurnInResult | None:
    slow = [
        device
        for device in run.devices
        if (known := references.get(_key(run, device)))
        and device.rate < SLOW_SHARE * known.rate
        # A CPU shares its caches and its clock with whatever else runs there.
        and run.device == "cuda"
    ]
    if not slow:
        return None
    usual = references[_key(run, slow[0])].rate
    words = f"{_named(slow)} reached {min(device.rate for device in slow):.4g} {run.unit}, its kind {usual:.4g}"
    return _result(run, BurnInOutcome.SLOW, words, slow)


def _learnt(run: BurnInRun, references: References, node: str) -> References:
    """Who agrees is remembered with the reference; its rate follows slowly, and never a slow one."""
    grown = dict(references)
    for key in dict.fromkeys(_key(run, device) for device in run.devices):
        devices = [device for device in run.devices if _key(run, device) == key]
        rate = sorted(device.rate for device in devices)[len(devices) // 2]
        seen = [_identity(device, node) for device in devices]
        known = references.get(key)
        if known is None:
            grown[key] = Reference(devices[0].checksum, rate, tuple(dict.fromkeys(seen))[:_MOST_SEEN], node, run.at)
            continue
        merged = tuple(dict.fromkeys((*known.seen, *seen)))[:_MOST_SEEN]
        steady = known.rate if rate < SLOW_SHARE * known.rate else known.rate + 0.1 * (rate - known.rate)
        grown[key] = replace(known, seen=merged, rate=steady)
    return dict(list(grown.items())[-_MOST_REFERENCES:])


def _key(run: BurnInRun, device: DeviceAnswer) -> str:
    return f"{run.piece} {run.size} | {device.name} | torch {run.torch} | {run.runtime}"


def _identity(device: DeviceAnswer, node: str) -> str:
    return device.uuid or node


def _named(devices: Sequence[DeviceAnswer]) -> str:
    names = ", ".join(str(device.rank) for device in devices[:_NAMED])
    more = f" and {len(devices) - _NAMED} more" if len(devices) > _NAMED else ""
    return f"accelerator {names}{more}"


def _praise(run: BurnInRun, outcome: BurnInOutcome) -> str:
    rates = [device.rate for device in run.devices]
    agreed = "equal answers" if run.devices[0].checksum else "right answers"
    learnt = ", learnt as the reference" if outcome is BurnInOutcome.LEARNT else ""
    return (
        f"{run.count} x {run.devices[0].name}: {agreed} in {min(device.repeats for device in run.devices)} rounds, "
        f"{min(rates):.4g} to {max(rates):.4g} {run.unit}{learnt}"
    )


def _result(run: BurnInRun, outcome: BurnInOutcome, words: str, devices: Sequence[DeviceAnswer] = ()) -> BurnInResult:
    uuids = tuple(device.uuid for device in devices if device.uuid)
    return BurnInResult(run.piece, run.at, outcome, f"{run.piece}: {words}"[:400], uuids)


# Findings


def burn_in_findings(snapshot: NodeSnapshot) -> list[Finding]:
    """What the last burn-in of each piece says; a wrong answer stands until a later one is right or the GPU is gone."""
    findings = []
    for result in snapshot.burn_in:
        if result.outcome is BurnInOutcome.WRONG:
            findings += _about(result, "BURN_IN_WRONG", Severity.FAIL, Repair.RMA, snapshot)
        elif result.outcome in (BurnInOutcome.UNSURE, BurnInOutcome.FAILED):
            findings += _about(result, "BURN_IN_UNSURE", Severity.WARN, Repair.NONE, snapshot)
    return findings


def slow_findings(snapshot: NodeSnapshot) -> list[Finding]:
    """Right and slow."""
    return [
        finding
        for result in snapshot.burn_in
        if result.outcome is BurnInOutcome.SLOW
        for finding in _about(result, "BURN_IN_SLOW", Severity.FAIL, Repair.NONE, snapshot)
    ]


def _about(
    result: BurnInResult, code: str, severity: Severity, repair: Repair, snapshot: NodeSnapshot
) -> list[Finding]:
    if not result.gpu_uuids:
        return [Finding(code, severity, result.evidence, repair=repair)]
    present = {gpu.uuid: gpu.index for gpu in snapshot.gpus}
    return [
        Finding(code, severity, result.evidence, uuid, present.get(uuid), repair)
        for uuid in result.gpu_uuids
        if not present or uuid in present
    ]


# Files


def memory_record(memory: BurnInMemory) -> dict[str, Any]:
    """As JSON."""
    return {
        "schema": SCHEMA,
        "results": [result_record(result) for result in memory.results.values()],
        "tried": {str(piece): at for piece, at in memory.tried.items()},
    }


def memory_from_record(record: Any) -> BurnInMemory:
    """Anything that is not exactly a memory is an empty one."""
    try:
        if record["schema"] != SCHEMA:
            return BurnInMemory()
        results = [result_from_record(item) for item in record["results"]]
        tried = {Piece(piece): float(at) for piece, at in record["tried"].items()}
        return BurnInMemory({result.piece: result for result in results}, tried)
    except (KeyError, TypeError, ValueError, AttributeError):
        return BurnInMemory()


def references_record(references: References) -> dict[str, Any]:
    """As JSON."""
    return {"schema": REFERENCES_SCHEMA, "references": {key: asdict(item) for key, item in references.items()}}


def references_from_record(record: Any) -> References:
    """Anything that is not exactly references knows nothing."""
    try:
        if record["schema"] != REFERENCES_SCHEMA:
            return {}
        return {
            str(key): Reference(
                str(item["checksum"]),
                float(item["rate"]),
                tuple(str(name) for name in item["seen"]),
                str(item["learnt_on"]),
                float(item["learnt_at"]),
            )
            for key, item in record["references"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
