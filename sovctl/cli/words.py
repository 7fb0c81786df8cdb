"""How the commands write what comes from outside, times and ages."""

from __future__ import annotations

from typing import TextIO


def printable(text: str) -> str:
    """External text must not move the cursor or forge a line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def clock_time(at: float | None) -> str:
    """`2026-11-22 22:14:43` on the reader's clock; `-` when it is not known."""
    from datetime import datetime  # not needed by the commands that must start fast

    return "-" if at is None else datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def age(seconds: float) -> str:
    """Two figures are enough: `42s`, `3m05s`, `7h12m`, `9d04h`."""
    whole = max(int(seconds), 0)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole}s"


def fitted(text: str, width: int) -> str:
    """Help text for a terminal of this width: what fits stays as it is written, the rest is wrapped.

    Between an example or option and its words there are two blanks or more; wrapped words begin below the first one.
    A command that does not fit goes on after a backslash.
    """
    lines, made = text.splitlines(), list[str]()
    while lines:
        block = [lines.pop(0)]
        hang, gap = _hang(block[0])
        while lines and block[0] and lines[0].strip() and (gap or not hang) and _goes_on(lines[0], hang):
            block.append(lines.pop(0))
        made += block if max(map(len, block)) <= width else _wrapped(block, hang, gap, width)
    return "\n".join(made)


def terminal_width() -> int:
    """Columns of the terminal; 80 where there is none."""
    import os  # shutil has this too, and takes ten times as long to import

    if os.environ.get("COLUMNS", "").isdigit():
        return max(int(os.environ["COLUMNS"]), 40)
    try:
        # A serial line does not know how wide it is, and says 0.
        return max(os.get_terminal_size(1).columns or 80, 40)
    except OSError:
        return 80


def output_width(stream: TextIO | None = None) -> int | None:
    """Columns to print in, on stdout or another stream; None in a pipe, where a line is a line."""
    import os
    import sys

    if not (stream or sys.stdout).isatty() and not os.environ.get("COLUMNS", "").isdigit():
        return None
    return terminal_width()


def folded(line: str, hang: int, stream: TextIO | None = None) -> str:
    """A line of words as wide as the terminal, what goes on `hang` columns in. A path is never cut; a list of nodes
    that is too long goes on behind a comma."""
    width = output_width(stream)
    if width is None or len(line) <= width:
        return line
    import re

    made = [""]
    for word in re.findall(r"\s*\S+", line):
        cut = "," in word and "/" not in word and len(word.lstrip()) > width - hang
        for part in re.findall(r"[^,]*,|[^,]+", word) if cut else (word,):
            if made[-1].strip() and len(made[-1]) + len(part) > width:
                made.append(" " * hang + part.lstrip())
            else:
                made[-1] += part
    return "\n".join(made)


def flush_output() -> None:
    """Write what was printed so far. Raises OSError where it cannot be, BrokenPipeError where nobody reads it."""
    import sys

    if sys.stdout is not None:
        sys.stdout.flush()


def say(line: str, hang: int = 8) -> None:
    """Words for a person, on stderr, below what was printed before them: nothing in them moves the cursor, and a narrow
    terminal gets them folded."""
    import sys

    flush_output()
    print(folded(printable(line), hang, sys.stderr), file=sys.stderr, flush=True)


def print_line(line: str, hang: int | None = None) -> None:
    """The same on stdout, for what answers the question; what goes on stands 4 columns further in than the line."""
    print(folded(printable(line), len(line) - len(line.lstrip()) + 4 if hang is None else hang))


def say_next(hint: str) -> None:
    """What to type next, below the words on what failed. A command that would not fit gets a line of its own, to be
    copied."""
    import sys

    words, colon, command = hint.rpartition(": ")
    width = output_width(sys.stderr)
    if colon and width is not None and 8 + len(hint) > width >= 10 + len(command):
        say(f"        {words}:")
        say(f"          {command}")
    elif hint:
        say(f"        {hint}")


def _hang(line: str) -> tuple[int, bool]:
    """Where the words of a line begin, and whether something stands before them."""
    import re

    entry = re.match(r" +\S.*?\S? {2,}(?=\S)", line)
    return (entry.end(), True) if entry else (len(line) - len(line.lstrip()), False)


def _goes_on(line: str, hang: int) -> bool:
    own = len(line) - len(line.lstrip())
    return (
        own == hang and (hang > 0 or not line.partition(" ")[0].endswith(":")) and not line.startswith("exit status:")
    )


def _wrapped(block: list[str], hang: int, gap: bool, width: int) -> list[str]:
    import textwrap

    command = hang > 0 and not gap
    text = " ".join([block[0].rstrip(), *(line.strip() for line in block[1:])])
    below = " " * (hang + 2 if command else min(hang, width // 2))
    lines = textwrap.wrap(
        text, width - 2 * command, subsequent_indent=below, break_long_words=False, break_on_hyphens=False
    )
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:] if command else lines
