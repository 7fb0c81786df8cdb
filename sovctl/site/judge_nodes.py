"""What the nodes said when each was asked over SSH, and who is not like the rest. Pure; answers are not trusted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sovctl.site.line import SCHEMA, Line, State, failed, passed, skipped, warned

_LONGEST = 200
_MOST_LINES = 60


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """One node's own lines, as far as they can be used."""

    node: str
    lines: tuple[Line, ...] = ()
    version: str = ""
    config_digest: str = ""
    clock_offset_s: float | None = None
    """Of the node's clock against ours, after half of the round trip."""
    problem: str = ""
    """Why there is no answer."""


def read_answer(node: str, answer: bytes, sent_at: float, answered_at: float) -> NodeAnswer:
    """The object that `sovctl doctor --node --json` prints; anything else is a problem and never an exception."""
    try:
        record = json.loads(answer)
        if record["schema"] != SCHEMA:
            raise ValueError(record["schema"])
        lines = tuple(_line(one) for one in record["lines"][:_MOST_LINES])
        at = float(record["at"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return NodeAnswer(node, problem="its answer cannot be read; is sovctl there the same?")
    offset = max(0.0, abs(at - (sent_at + answered_at) / 2) - (answered_at - sent_at) / 2)
    return NodeAnswer(node, lines, _text(record.get("version")), _text(record.get("config_digest")), offset)


def judge_nodes(answers: Iterable[NodeAnswer], fold: Callable[[Iterable[str]], str], clock_s: float) -> list[Line]:
    """The nodes together: who could not be heard, who has what wrong, who differs from most."""
    all_answers = tuple(answers)
    heard = [answer for answer in all_answers if not answer.problem]
    lines = _unheard(all_answers, fold)
    if heard:
        lines.append(passed("ssh", f"{len(heard)} of {len(all_answers)} nodes answered"))
        lines += _troubles(heard, fold)
        lines += _odd_ones(heard, fold, "sovctl-version", lambda answer: answer.version, "--version")
        lines += _odd_ones(heard, fold, "site-config", lambda answer: answer.config_digest, "config show")
        lines.append(_clocks(heard, fold, clock_s))
        lines += _plugin(heard, fold)
    return lines


def _unheard(answers: Iterable[NodeAnswer], fold: Callable[[Iterable[str]], str]) -> list[Line]:
    by_problem: dict[str, list[str]] = {}
    for answer in answers:
        if answer.problem:
            by_problem.setdefault(answer.problem, []).append(answer.node)
    return [
        failed("ssh", f"{fold(nodes)}: {problem}", f"ssh {nodes[0]} sovctl doctor --node")
        for problem, nodes in by_problem.items()
    ]


def _troubles(answers: Iterable[NodeAnswer], fold: Callable[[Iterable[str]], str]) -> list[Line]:
    by_line: dict[Line, list[str]] = {}
    for answer in answers:
        for line in answer.lines:
            if line.state in (State.WARN, State.FAIL):
                by_line.setdefault(line, []).append(answer.node)
    return [Line(line.check, line.state, f"{fold(nodes)}: {line.seen}", line.fix) for line, nodes in by_line.items()]


def _odd_ones(
    answers: list[NodeAnswer],
    fold: Callable[[Iterable[str]], str],
    check: str,
    value: Callable[[NodeAnswer], str],
    look: str,
) -> list[Line]:
    counted = Counter(value(answer) for answer in answers)
    usual, many = counted.most_common(1)[0]
    odd = [answer.node for answer in answers if value(answer) != usual]
    if odd:
        said = f"{fold(odd)} differ from the other {many}" if many > 1 else "differs from node to node"
        return [warned(check, said, f"Install the same on every node, or know why not: ssh {odd[0]} sovctl {look}")]
    return [passed(check, f"{usual[:12] or 'none'} on all {many}")]


def _clocks(answers: list[NodeAnswer], fold: Callable[[Iterable[str]], str], clock_s: float) -> Line:
    off = [answer.node for answer in answers if (answer.clock_offset_s or 0.0) > clock_s]
    if off:
        return warned("clocks", f"{fold(off)}: more than {clock_s:g} s from this machine", "chronyc tracking, on both")
    return passed("clocks", f"all within {clock_s:g} s of this machine")


def _plugin(answers: list[NodeAnswer], fold: Callable[[Iterable[str]], str]) -> list[Line]:
    """Where slurmd has the SPANK plugin in memory, and where nobody could see that; what is wrong was said above."""
    said = {answer.node: line for answer in answers for line in answer.lines if line.check == "spank"}
    having = [node for node, line in said.items() if line.state is State.PASS]
    unseen = [node for node, line in said.items() if line.state is State.SKIP]
    lines = [passed("spank", f"slurmd has it in memory on {len(having)} of {len(answers)} nodes")] if having else []
    if unseen:
        fix = "As root: sovctl doctor --nodes"
        lines.append(skipped("spank", f"{fold(unseen)}: {said[unseen[0]].seen}", fix))
    return lines


def _line(record: Mapping[str, Any]) -> Line:
    return Line(_text(record["check"]), State(record["state"]), _text(record["seen"]), _text(record.get("fix", "")))


def _text(value: object) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""
