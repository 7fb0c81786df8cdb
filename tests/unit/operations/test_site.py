"""Doctor and site with stand-ins at their edges: who answers what, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from sovctl.errors import RefusedError, SlurmUnreachable, SovctlError
from sovctl.model.node import NodeState, NodeView
from sovctl.model.site import MachineView, Preemptable
from sovctl.operations.doctor import DoctorPorts, DoctorSettings, diagnose
from sovctl.operations.site import SitePorts, install, status, uninstall
from sovctl.ports import RemoteAnswer, SshFailure
from sovctl.site.catalogue import Places, Role
from sovctl.site.line import State

PLACES = Places("/usr/local", "/etc/slurm", "/bin/sovctl", "/bin/python3")


class Files:
    """ports.SiteFiles in memory; `fail_at`: the write that fails."""

    def __init__(self) -> None:
        self.there: dict[str, bytes] = {}
        self.record: Any = None
        self.fail_at = -1

    def source(self, name: str) -> bytes:
        return f"content of {name}".encode()

    def outside(self, path: str) -> bytes:
        return b"\x7fELF"

    def digests(self, paths: Iterable[str]) -> dict[str, str | None]:
        import hashlib

        return {path: hashlib.sha256(self.there[path]).hexdigest() if path in self.there else None for path in paths}

    def write(self, path: str, data: bytes, mode: int) -> tuple[str, ...]:
        if self.fail_at == len(self.there):
            raise SovctlError("no space left")
        self.there[path] = data
        return ()

    def remove(self, path: str) -> None:
        self.there.pop(path, None)

    def remove_empty(self, directories: Iterable[str]) -> None: ...

    def load(self) -> Any:
        return self.record

    def save(self, record: Mapping[str, Any]) -> None:
        self.record = dict(record)

    def forget(self) -> None:
        self.record = None

    def enabled_units(self, names: Iterable[str]) -> tuple[str, ...]:
        return ()


def site(files: Files, **settings: str) -> SitePorts:
    return SitePorts(files, lambda: settings, lambda: "[health]\nact = false\n")


def put(files: Files, *, dry_run: bool = False) -> None:
    install(site(files), PLACES, frozenset({Role.NODE}), spank="", version="1", dry_run=dry_run)


def test_an_uninstall_that_would_drain_nodes_is_refused() -> None:
    files = Files()
    put(files)
    before = dict(files.there)
    in_use = site(files, Prolog="/usr/local/libexec/sovctl/prolog")
    with pytest.raises(RefusedError, match="still names them: Prolog"):
        uninstall(in_use, force=False, dry_run=False)
    assert files.there == before
    uninstall(in_use, force=True, dry_run=False)
    assert files.there == {} and files.record is None


@pytest.mark.parametrize("fail_at", range(8))
def test_an_install_that_was_cut_off_goes_on_and_leaves_nothing_unknown(fail_at: int) -> None:
    files = Files()
    files.fail_at = fail_at
    with pytest.raises(SovctlError, match="no space left"):
        put(files)
    files.fail_at = -1
    put(files)
    whole = Files()
    put(whole)
    assert files.there == whole.there
    uninstall(site(files), force=False, dry_run=False)
    assert files.there == {}


def test_a_dry_run_writes_nothing_and_a_spoilt_record_is_none() -> None:
    files = Files()
    put(files, dry_run=True)
    assert (files.there, files.record) == ({}, None)
    files.record = {"schema": "sovctl.site/1", "roles": ["pilot"]}
    assert status(site(files), PLACES).steps == ()
    with pytest.raises(SovctlError, match="nothing is installed"):
        uninstall(site(files), force=False, dry_run=False)


# doctor


class Slurm:
    """ports.SlurmSettings with two nodes."""

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent

    def settings(self) -> Mapping[str, str]:
        if self.silent:
            raise SlurmUnreachable()
        return {"SLURM_VERSION": "22.05.8", "PreemptType": "preempt/qos", "Prolog": "/p q"}

    def preemptable_partitions(self) -> tuple[Preemptable, ...]:
        return ()

    def preemptable_qos(self) -> tuple[Preemptable, ...]:
        raise SovctlError("no slurmdbd")

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        return tuple(NodeView(name, NodeState("IDLE"), address=f"10.0.0.{name[-1]}") for name in ("n1", "n2"))


class Shell:
    """ports.RemoteShell: n1 answers nonsense, n2 is away."""

    def __init__(self) -> None:
        self.asked: dict[str, str] = {}
        self.command = ""

    def ask(self, nodes: Mapping[str, str], command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        self.asked, self.command = dict(nodes), command
        gone = RemoteAnswer(failure=SshFailure.UNREACHABLE, problem="no route to host")
        return {"n1": RemoteAnswer(b"hello", b"", 0, 1.0, 2.0), "n2": gone}


def doctor(shell: Shell, *, silent: bool = False, missing: tuple[str, ...] = ()) -> DoctorPorts:
    def machine(settings: Mapping[str, str], is_node: bool) -> MachineView:
        return MachineView("here", False, "1", 0.0, gpu_problem="none")

    return DoctorPorts(missing, Slurm(silent=silent), machine, lambda: shell, ",".join)


def test_nodes_are_asked_only_when_told_to() -> None:
    shell = Shell()
    found = diagnose(doctor(shell), DoctorSettings("here"))
    assert shell.asked == {}
    assert [line.state for line in found.groups["nodes"]] == [State.SKIP]
    assert {line.check: line.state for line in found.groups["Slurm"]}["GraceTime"] is State.SKIP
    assert found.groups["what this Slurm can do"]


def test_every_node_that_gave_no_answer_is_named() -> None:
    shell = Shell()
    found = diagnose(doctor(shell), DoctorSettings("here", ask_nodes=True, program="/opt/sovctl"))
    assert shell.asked == {"n1": "10.0.0.1", "n2": "10.0.0.2"}
    assert shell.command == "/opt/sovctl doctor --node --json '--told=Prolog=/p q'"
    said = [line.seen for line in found.groups["nodes"]]
    assert said == ["n1: its answer cannot be read; is sovctl there the same?", "n2: no route to host"]
    assert found.worst is State.FAIL


@pytest.mark.parametrize(("silent", "missing"), [(True, ()), (False, ("scontrol",))])
def test_without_slurm_the_machine_is_looked_at_all_the_same(silent: bool, missing: tuple[str, ...]) -> None:
    found = diagnose(doctor(Shell(), silent=silent, missing=missing), DoctorSettings("here", ask_nodes=True))
    assert [line.check for line in found.groups["Slurm"]] == ["slurm"]
    assert found.groups["this machine, here"]
    assert found.groups["what this Slurm can do"] == ()
    assert found.groups["nodes"] == ()


def test_a_node_that_is_asked_asks_nobody() -> None:
    found = diagnose(doctor(Shell(), silent=True), DoctorSettings("n1", told={"Prolog": "/p"}))
    assert list(found.groups) == ["this machine, here"]
