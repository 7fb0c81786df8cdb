"""What a node answered when the sweep asked it. Pure; the bytes come from another machine and are not trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sovctl.health.peers import ClockReading
from sovctl.model.facts import NodeFacts, facts_from_record
from sovctl.model.verdict import Verdict
from sovctl.model.verdict_json import verdict_from_record

_LONGEST_QUOTE = 80


@dataclass(frozen=True, slots=True)
class NodeReply:
    """One node's answer, as far as it can be used."""

    verdict: Verdict | None = None
    fresh: bool = False
    """The verdict is of the running boot and not older than it claims to be good for."""
    facts: NodeFacts | None = None
    clock: ClockReading | None = None
    garbage: str = ""
    """Why the answer is none; empty when it can be used or simply has nothing."""


def read_stored(node: str, answer: bytes, sent_at: float, answered_at: float) -> NodeReply:
    """The answer to `stored_command`: time, boot id, then the files that are there.

    `sent_at`, `answered_at`: seconds since the epoch on our clock.
    """
    lines = answer.split(b"\n")
    try:
        now, boot_id = float(lines[0]), lines[1].decode("ascii").strip()
    except (ValueError, IndexError, UnicodeDecodeError):
        return NodeReply(garbage=f"its answer is no answer: {_quoted(answer)}")
    slack = max(0.0, answered_at - sent_at) / 2
    clock = ClockReading(now - (sent_at + answered_at) / 2, slack)
    verdict, valid_until, facts, garbage = _objects(node, lines[2:])
    fresh = verdict is not None and verdict.boot_id == boot_id and valid_until >= now
    return NodeReply(verdict, fresh, facts, clock, garbage)


def read_checked(node: str, answer: bytes) -> NodeReply:
    """The answer to a check that was made just now: one object `sovctl.verdict/1`, with `facts` where it has them."""
    verdict, _, facts, garbage = _objects(node, answer.split(b"\n"))
    if verdict is None and not garbage:
        garbage = f"its check said no verdict: {_quoted(answer)}"
    return NodeReply(verdict, verdict is not None, facts, None, garbage)


def _objects(node: str, lines: list[bytes]) -> tuple[Verdict | None, float, NodeFacts | None, str]:
    verdict: Verdict | None = None
    facts: NodeFacts | None = None
    valid_until, garbage = 0.0, ""
    for record in _records(lines):
        if record is None:
            garbage = garbage or "its answer is not JSON"
            continue
        found = verdict_from_record(record)
        facts = facts_from_record(record.get("facts") if found else record) or facts
        if found is not None:
            verdict, valid_until = found, _number(record.get("valid_until"))
    for said in (verdict, facts):
        if said is not None and said.node != node:
            return None, 0.0, None, f"it calls itself {said.node[:64]}"
    return verdict, valid_until, facts, "" if verdict else garbage


def _records(lines: list[bytes]) -> Iterator[dict[str, Any] | None]:
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            yield None
            continue
        yield record if isinstance(record, dict) else None


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) else 0.0


def _quoted(answer: bytes) -> str:
    text = answer[:_LONGEST_QUOTE].decode("utf-8", "replace")
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return f'"{plain}"' if plain else "nothing"
