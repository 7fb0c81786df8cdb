"""`sovctl ckpt`: the group. `latest DIR` is answered here: scripts call it at each start, and typer alone is 100 ms."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from sovctl.model.checkpoint import Checkpoint

_FORMAT = "--checkpoint-format"


def run(argv: Sequence[str]) -> int:
    """Run `sovctl ckpt ARGV` and return its exit status."""
    plain = _plain_latest(list(argv))
    if plain is not None:
        return latest(*plain)
    from sovctl.cli.ckpt_commands import app
    from sovctl.cli.typer_app import run_app

    return run_app(app, argv, "sovctl ckpt")


def __getattr__(name: str) -> Any:
    """`app`, the commands, for those who list them."""
    if name != "app":
        raise AttributeError(name)
    from sovctl.cli.ckpt_commands import app

    return app


def latest(directory: Path, checkpoint_format: str = "auto") -> int:
    """Print the path of the newest complete checkpoint in a directory. Raises NoCheckpoint, CheckpointDirUnreadable."""
    from sovctl.operations.checkpoints import latest_checkpoint

    print_path(latest_checkpoint(directory.absolute(), known_format(checkpoint_format)))
    return EXIT_DONE


def print_path(checkpoint: Checkpoint) -> None:
    """A path is bytes, and scripts need them all."""
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), os.fsencode(checkpoint.path) + b"\n")


def known_format(name: str) -> str:
    """Raises UsageError for a format that there is not."""
    from sovctl.checkpoint.formats.registry import CHOICES

    if name not in CHOICES:
        raise UsageError(
            f"there is no checkpoint format {name!r}",
            hint=f"Name one with --checkpoint-format; there are {', '.join(CHOICES)}.",
        )
    return name


def default_directory() -> Path:
    return Path(os.environ.get("SOVCTL_CHECKPOINT_DIR") or ".")


def _plain_latest(argv: list[str]) -> tuple[Path, str] | None:
    """The directory and format of `latest [--checkpoint-format FORMAT] [DIR]`; `None` when it says more than that."""
    if argv[:1] != ["latest"]:
        return None
    words, chosen = argv[1:], "auto"
    if words[:1] == [_FORMAT] and len(words) > 1:
        chosen, words = words[1], words[2:]
    elif words and words[0].startswith(f"{_FORMAT}="):
        chosen, words = words[0].partition("=")[2], words[1:]
    if len(words) > 1 or any(word.startswith("-") for word in words):
        return None
    return Path(words[0]) if words else default_directory(), chosen
