"""`sovctl health explain` as people call it: a pipe or a file in, one explanation a fault out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FAULT = b"[12345.678901] NVRM: Xid (PCI:0000:0f:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"
OFF_BUS = (
    b"[   33.1] NVRM: The NVIDIA GPU 0000:b3:00.0\n"
    b"[   33.1] NVRM: (PCI ID: 10de:20b0) installed in this system has\n"
    b"[   33.1] NVRM: fallen off the bus and is not responding to commands.\n"
)


def explain(*argv: str, log: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    # Neither Slurm nor a GPU nor a configuration is to be found here.
    env = {**os.environ, "PATH": "/nonexistent", "SOVCTL_CONFIG": "/nonexistent", "SLURM_CONF": "/nonexistent"}
    command = [sys.executable, "-P", "-m", "sovctl", "health", "explain", *argv]
    return subprocess.run(command, input=log, capture_output=True, env=env, timeout=60)


def test_words() -> None:
    done = explain(log=b"hello\n" + FAULT)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0] == FAULT.decode().strip()
    assert lines[1] == "  XID 79 (drain): GPU has fallen off the bus"
    assert lines[2] == "  repair: reboot; to blame: this GPU, its power or its PCIe slot"


def test_json_is_one_object_a_fault(tmp_path: Path) -> None:
    log = tmp_path / "kern.log"
    log.write_bytes(
        b"noise\n" + FAULT + b"nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 24007, Fatal, Link 24 sourcetrack\n"
    )
    done = explain("--json", str(log))
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["xid"], first["class"], first["repair"], first["number"]) == (79, "drain", "reboot", 2)
    assert first["line"] == FAULT.decode().strip()
    assert (second["sxid"], second["class"], second["repair"], second["link"]) == (24007, "drain", "reboot", 24)
    assert "xid" not in second


def test_no_fault_is_nothing() -> None:
    done = explain("--json", "-", log=b"usb 1-1: new device\n\xff\xfe\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert explain(log=b"").stderr == b"sovctl: no XID or SXID in this log\n"


def test_a_sentence_over_three_lines_is_one_fault() -> None:
    done = explain("--json", log=b"[ 1.0] NVRM: loading\n" + OFF_BUS + OFF_BUS.replace(b"b3", b"b4"))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["xid"], record["pci"], record["number"]) for record in records] == [
        (79, "0000:b3:00", 4),
        (79, "0000:b4:00", 7),
    ]


def test_an_endless_line_costs_no_memory_and_hides_nothing() -> None:
    endless = b"A" * 40_000_000 + b" NVRM: Xid (PCI:0000:0f:00): 48, DBE\n"
    done = explain("--json", log=endless + FAULT)
    assert [json.loads(line)["xid"] for line in done.stdout.splitlines()] == [79]


def test_control_characters_are_not_obeyed() -> None:
    done = explain(log=b"NVRM: Xid (PCI:0000:0f:00): 31, pid=1, name=\x1b[31mred\n")
    assert b"\x1b" not in done.stdout
    assert b"\\x1b[31mred" in done.stdout


def test_a_missing_file_is_one_sentence() -> None:
    done = explain("/nonexistent/kern.log")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"sovctl: cannot read /nonexistent/kern.log: No such file or directory\n")
