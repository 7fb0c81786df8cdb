"""What one look at a node of a running job saw: its ranks, where they stand, and what speaks against the node.

Taken on the node with the user's rights, sent through srun, read by the supervisor. The parser takes a bounded answer
and never raises.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = "sovctl.look/1"
_CHUNK = 800
_LARGEST = 4 * 1024 * 1024
"""Bytes of one node's answer; 64 deep stacks take 300 KB."""
_LINE = re.compile(
    r"sovctl\.look/1 (?P<node>[\w.-]{1,255}) (?P<number>\d{1,5})/(?P<of>\d{1,5}) (?P<data>[A-Za-z0-9+/=]{1,800})"
)
_MOST_RANKS = 512
_MOST_LINKS = 128
_MOST_FRAMES = 128


@dataclass(frozen=True, slots=True)
class RankLook:
    """One rank's process."""

    rank: int
    pid: int
    command: str = ""
    state: str = ""
    """As in /proc/PID/stat: R, S, D (uninterruptible), T (stopped), t (traced), Z."""
    wait: str = ""
    """Where in the kernel it waits (/proc/PID/wchan), or the number of its system call."""
    blocked: str = ""
    """A thread or child of it that stayed in state D over the whole look, in words; empty: none did."""
    cpu_share: float | None = None
    """CPU seconds a second over the look, of all its threads."""
    stack: tuple[str, ...] = ()
    """`function (file:line)`, innermost first."""
    moving: bool | None = None
    """Whether the stack differed at a second glance; None: it was not looked at twice."""
    problem: str = ""
    """Why there is no stack."""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """How busy one GPU is."""

    index: int
    utilization_percent: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    throttle_reasons: int | None = None


@dataclass(frozen=True, slots=True)
class LinkLook:
    """One port of a network adapter (`mlx5_0/1`), or all NVLinks of one GPU (`GPU 3 NVLink`)."""

    name: str
    state: str = ""
    """The kernel's word for a port: `ACTIVE`, `INIT`, `DOWN`, `ARMED`; `ACTIVE` for NVLinks unless one is down."""
    counters: dict[str, int] = field(default_factory=dict)
    """Error counters that are not 0, since the driver was loaded."""

    @property
    def active(self) -> bool:
        return self.state == "ACTIVE"


@dataclass(frozen=True, slots=True)
class NodeLook:
    """One node's answer."""

    node: str
    ranks: tuple[RankLook, ...] = ()
    findings: tuple[str, ...] = ()
    """What fails the node by its own evidence: code and sentence, as in a verdict."""
    gpus: tuple[GpuUse, ...] = ()
    links: tuple[LinkLook, ...] = ()
    network_bytes_s: float | None = None
    """In and out over all interfaces but the loopback; None: not measured."""
    took_s: float = 0.0
    problems: tuple[str, ...] = ()
    """What could not be looked at."""

    def to_lines(self) -> list[str]:
        """The answer in short lines, packed: srun passes on whole lines of at most 1 KiB, and cuts longer ones into
        pieces that mix with other nodes' (SLURM_IO_MAX_MSG_LEN, 22.05 to 26.05)."""
        data = json.dumps({"schema": SCHEMA, **asdict(self)}, separators=(",", ":")).encode()
        text = base64.b64encode(zlib.compress(data, 6)).decode("ascii")
        parts = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]
        return [f"{SCHEMA} {self.node} {number}/{len(parts)} {part}" for number, part in enumerate(parts, 1)]


def parse_looks(lines: Iterable[str]) -> tuple[list[NodeLook], list[str]]:
    """The answers that are whole, and the other lines (what srun itself said)."""
    parts: dict[tuple[str, int], dict[int, str]] = {}
    rest = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            rest.append(line)
            continue
        parts.setdefault((match["node"], int(match["of"])), {})[int(match["number"])] = match["data"]
    looks = []
    for (node, of), found in parts.items():
        look = _unpacked("".join(found[number] for number in sorted(found))) if len(found) == of else None
        if look is not None and look.node == node:
            looks.append(look)
    return looks, rest


def _unpacked(text: str) -> NodeLook | None:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), _LARGEST)
        return node_look(json.loads(data))
    except (ValueError, zlib.error, RecursionError):
        return None


def node_look(record: Any) -> NodeLook | None:
    """The answer in a JSON object; None when it is none. A value of the wrong type counts as absent."""
    if not isinstance(record, dict) or not isinstance(record.get("node"), str):
        return None
    return NodeLook(
        node=record["node"],
        ranks=tuple(item for value in _list(record, "ranks")[:_MOST_RANKS] if (item := _rank(value)) is not None),
        findings=_texts(record, "findings"),
        gpus=tuple(gpu for value in _list(record, "gpus")[:64] if (gpu := _gpu(value)) is not None),
        links=tuple(link for value in _list(record, "links")[:_MOST_LINKS] if (link := _link(value)) is not None),
        network_bytes_s=_number(record.get("network_bytes_s")),
        took_s=_number(record.get("took_s")) or 0.0,
        problems=_texts(record, "problems"),
    )


def _rank(record: Any) -> RankLook | None:
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("rank"), int)
        or not isinstance(record.get("pid"), int)
    ):
        return None
    moving = record.get("moving")
    return RankLook(
        rank=record["rank"],
        pid=record["pid"],
        command=_text(record, "command"),
        state=_text(record, "state"),
        wait=_text(record, "wait"),
        blocked=_text(record, "blocked"),
        cpu_share=_number(record.get("cpu_share")),
        stack=_texts(record, "stack")[:_MOST_FRAMES],
        moving=moving if isinstance(moving, bool) else None,
        problem=_text(record, "problem"),
    )


def _gpu(record: Any) -> GpuUse | None:
    if not isinstance(record, dict) or not isinstance(record.get("index"), int):
        return None
    return GpuUse(
        record["index"],
        _whole(record.get("utilization_percent")),
        _number(record.get("power_w")),
        _number(record.get("power_limit_w")),
        _whole(record.get("sm_clock_mhz")),
        _whole(record.get("sm_clock_max_mhz")),
        _whole(record.get("throttle_reasons")),
    )


def _link(record: Any) -> LinkLook | None:
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        return None
    counters = record.get("counters")
    pairs = list(counters.items())[:64] if isinstance(counters, dict) else []
    known = {name[:64]: count for name, value in pairs if (count := _whole(value)) is not None}
    return LinkLook(record["name"][:64], _text(record, "state"), known)


def _list(record: dict[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    return value if isinstance(value, list) else []


def _texts(record: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(item[:1000] for item in _list(record, key) if isinstance(item, str))


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    return value[:1000] if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        return None
    return float(value)
