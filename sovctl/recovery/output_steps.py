"""Finds the training step in what a job prints, so that scripts that know nothing of sovctl can be followed. Pure.

The patterns answer to the lines as the frameworks print them (checked against Megatron-LM core 0.12, torchtitan 0.3,
DeepSpeed 0.19, Lightning 2.5, transformers 5.23). A line is looked at up to `LONGEST_LINE` characters, a user's own
pattern for at most `PATTERN_S` seconds a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sovctl.errors import UsageError

LONGEST_LINE = 2000
PATTERN_S = 0.02
_MOST_TIMEOUTS = 5
_TROUBLE = re.compile(r"error|exception|timeout|timed out|warning|traceback|failed", re.IGNORECASE)
"""A line of trouble may name a step, but is no sign that there was one."""
_ANSI = re.compile(r"\x1b\[[0-9;]{0,12}[A-Za-z]")
# A rank prefix of srun --label (`3: `), torchrun (`[default0]:`, `[rank0]:`).
_PREFIX = re.compile(r"^(?:\s*\d{1,6}:\s|\[(?:default|rank)\d{1,6}\]:\s?)")


@dataclass(frozen=True, slots=True)
class Mark:
    """One sign of progress in a line."""

    by: str
    """Whose line it is."""
    step: int | None
    """The training step; None where the line shows a place but no step."""
    place: tuple[float, ...]
    """Differs from the last one when the run moved."""


def _counted(match: re.Match[str]) -> Mark:
    step = int(match["step"])
    return Mark("", step, (step,))


def _megatron(match: re.Match[str]) -> Mark:
    return _counted(match)


def _lightning(match: re.Match[str]) -> Mark:
    epoch, batch, total = int(match["epoch"]), int(match["batch"]), int(match["total"] or 0)
    return Mark("", epoch * total + batch if total or not epoch else None, (epoch, batch))


def _epoch(match: re.Match[str]) -> Mark:
    return Mark("", None, (float(match["epoch"]),))


_ANYBODY = "output"
_N = r"(?P<step>\d{1,12})"
_RULES: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], Mark]], ...] = (
    # ` [2026-02-24 19:46:17] iteration       34/   10000 | consumed samples: ...`; older ones begin at `iteration`.
    ("Megatron-LM", re.compile(rf"\biteration\s{{1,12}}{_N}/\s{{0,12}}\d{{1,12}} \|"), _megatron),
    # `[titan] 2026-05-18 16:04:46,338 - root - INFO - step: 14  loss:  3.24405  grad_norm: ...`
    ("torchtitan", re.compile(rf"(?:^|- )step:\s{{1,12}}{_N}\s{{1,8}}loss:"), _counted),
    # `[...] [INFO] [logging.py:96:log_dist] [Rank 0] step=40, skipped=2, lr=[...], mom=[...]`
    ("DeepSpeed", re.compile(rf"\[Rank \d{{1,6}}\] step={_N}, skipped="), _counted),
    ("DeepSpeed", re.compile(rf"\bmicro_step=\d{{1,12}}/global_step={_N}, RunningAvgSamplesPerSec="), _counted),
    # `Epoch 3:  12%|##  | 120/1000 [00:12<01:28,  9.98it/s, v_num=0]`, without a length `Epoch 3: : 120it [...]`,
    # and rich's `Epoch 3/9 ---- 120/1000 0:00:12 ...`.
    (
        "Lightning",
        re.compile(
            r"^Epoch (?P<epoch>\d{1,9})(?:/\S{1,9})?(?::\s{0,3}\d{1,3}%\|[^|]{0,400}\|| [^\w|]{1,400}) "
            r"?(?P<batch>\d{1,12})/(?P<total>\d{1,12})\b"
        ),
        _lightning,
    ),
    ("Lightning", re.compile(r"^Epoch (?P<epoch>\d{1,9}): : (?P<batch>\d{1,12})(?P<total>)it \["), _lightning),
    # `  8%|###       | 1999/24128 [1:52:09<20:27:23,  3.33s/it]`
    (
        "HF Trainer",
        re.compile(rf"^\s{{0,3}}\d{{1,3}}%\|[^|]{{0,400}}\| {_N}/(?P<total>\d{{1,12}}) \[[\d:]{{4,12}}<"),
        lambda match: Mark("", int(match["step"]), (int(match["total"]), int(match["step"]))),
    ),
    # `{'loss': 6.2645, 'learning_rate': 0.001, 'epoch': 0.02}`, with figures in quotes since transformers 5.
    ("HF Trainer", re.compile(r"^\{'loss': .{1,400}'epoch': '?(?P<epoch>\d{1,9}(?:\.\d{1,9})?)'?\}"), _epoch),
    # Everybody else: `step 20 loss 2.4`, `iter 20: loss 2.4`, `global_step=20 ...`.
    (
        _ANYBODY,
        re.compile(rf"^(?:\S{{1,60}} ){{0,4}}(?:global[_ ])?(?:step|iter|iteration)\s?[:=#]?\s{{0,4}}{_N}\b"),
        _counted,
    ),
)


def compile_pattern(text: str) -> Any:
    """A user's own pattern (`--progress-regex`). Raises UsageError when it is none, or has no group to take the step
    from. The third-party `regex` engine takes the same patterns as `re` and can be given a time limit."""
    import regex

    try:
        pattern = regex.compile(text)
    except regex.error as error:
        raise UsageError(
            f"--progress-regex: {error}",
            hint="Write it as for Python's re module, as in --progress-regex 'step=(\\d+)'.",
        ) from error
    if not pattern.groups:
        raise UsageError(
            f"--progress-regex {text!r} has no group",
            hint="Put the step in parentheses, as in --progress-regex 'step=(\\d+)'.",
        )
    return pattern


class OutputSteps:
    """Reads lines one after the other and remembers how far they show the run to be."""

    def __init__(self, pattern: str = "") -> None:
        """`pattern`: the user's own; it replaces the built-in ones."""
        self._pattern = compile_pattern(pattern) if pattern else None
        self._timeouts = 0
        self._best: int | None = None
        self._places: dict[str, tuple[float, ...]] = {}
        self._longest_bar = 0.0
        self.step: int | None = None
        self.by = ""

    @property
    def gave_up(self) -> bool:
        """The user's pattern took too long too often and is no longer used."""
        return self._pattern is not None and self._timeouts >= _MOST_TIMEOUTS

    def feed(self, lines: Iterable[str]) -> bool:
        """Whether these lines show that the run moved."""
        moved = False
        for line in lines:
            mark = self._mark(line)
            if mark is not None and self._places.get(mark.by) != mark.place:
                self._places[mark.by] = mark.place
                moved = True
                self._take(mark)
        return moved

    def _take(self, mark: Mark) -> None:
        self.by = mark.by
        if mark.by == "HF Trainer" and len(mark.place) == 2:
            # An evaluation prints a bar of its own with a smaller total.
            self._longest_bar = max(self._longest_bar, mark.place[0])
            if mark.place[0] < self._longest_bar:
                return
        if mark.step is not None:
            self.step = mark.step

    def _mark(self, line: str) -> Mark | None:
        text = _PREFIX.sub("", _ANSI.sub("", line[:LONGEST_LINE]))
        if self._pattern is not None and not self.gave_up:
            return self._own(text)
        for number, (by, pattern, read) in enumerate(_RULES):
            # Once a framework has spoken, lines that only look like steps do not count.
            if self._best is not None and number > self._best and by != _RULES[self._best][0]:
                break
            match = pattern.search(text)
            if match is not None and not (by == _ANYBODY and _TROUBLE.search(text)):
                self._best = number if self._best is None else min(self._best, number)
                found = read(match)
                return Mark(by, found.step, found.place)
        return None

    def _own(self, text: str) -> Mark | None:
        assert self._pattern is not None
        try:
            match = self._pattern.search(text, timeout=PATTERN_S)
        except TimeoutError:
            self._timeouts += 1
            return None
        if match is None:
            return None
        word = match.group("step") if "step" in self._pattern.groupindex else match.group(1)
        digits = (word or "").replace(",", "").strip()
        if digits.isascii() and digits.isdigit() and len(digits) < 13:
            return Mark("--progress-regex", int(digits), (int(digits),))
        return Mark("--progress-regex", None, (float(hash(word)),)) if word else None
