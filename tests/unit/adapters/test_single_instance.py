"""One process of a kind, also where the file system knows no locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from sovctl.adapters.single_instance import claim
from sovctl.errors import RefusedError


def test_the_second_one_is_refused(tmp_path: Path) -> None:
    said: list[str] = []
    first = claim(tmp_path / "deep" / "watch.lock", "sovctl watch", said.append)
    with pytest.raises(RefusedError, match="sovctl watch runs already"):
        claim(tmp_path / "deep" / "watch.lock", "sovctl watch", said.append)
    os.close(first)
    os.close(claim(tmp_path / "deep" / "watch.lock", "sovctl watch", said.append))
    assert said == []


def test_without_locks_it_is_said_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    said: list[str] = []
    os.close(claim(tmp_path / "watch.lock", "sovctl watch", said.append))
    (words,) = said
    assert words.startswith(f"{tmp_path / 'watch.lock'} cannot be locked (No locks available)")
    assert "run only one" in words
