"""What skopeo logs, in the words of a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.isolation.image_tools import ImageTools
from sovctl.errors import TryLaterError
from sovctl.isolation.reference import parse_reference

LOGGED = (
    r'time="2026-11-30T03:31:00Z" level=fatal msg="Error parsing image name: pinging container registry reg.example: '
    r'Get \"https://reg.example/v2/\": dial tcp: lookup reg.example on 10.0.0.53:53: no such host"'
)


def test_a_registry_that_is_away_is_said_without_the_marks_of_a_log(tmp_path: Path) -> None:
    skopeo = tmp_path / "skopeo"
    skopeo.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{LOGGED}\nEND\nexit 1\n")
    skopeo.chmod(0o755)
    runner = CommandRunner({"PATH": f"{tmp_path}:/usr/bin:/bin"})
    with pytest.raises(TryLaterError) as caught:
        ImageTools(runner, "amd64").resolve(parse_reference("reg.example/team/train:1", "/"))
    assert caught.value.message.endswith(
        'Get "https://reg.example/v2/": dial tcp: lookup reg.example on 10.0.0.53:53: no such host'
    )
    assert "level=" not in caught.value.message
