"""Doctor and site with stand-ins at their edges: who answers what, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest

from sovctl.errors import CommandMissing, RefusedError, SlurmUnreachable, SovctlError
from sovctl.model.node import NodeState, NodeView
from sovctl.model.site import HookProgram, MachineView, Preemptable
from sovctl.operations.doctor import DoctorPorts, DoctorSettings, diagnose
from sovctl.operations.site import SitePorts, install, status, uninstall
from sovctl.ports.images import StepAnswer
from sovctl.ports.site import RemoteAnswer, SshFailure
from sovctl.ports.slurm import SubmitOutcome
from sovctl.site.catalogue import Places, Role
from sovctl.site.line import State

PLACES = Places("/usr/local", "/etc/slurm", "/bin/sovctl", "/bin/python3")


class Files:
    """ports.SiteFiles in memory; `fail_at`: the write that fails; `links`: of the administrator's, by directory."""

    def __init__(self) -> None:
        self.there: dict[str, bytes] = {}
        self.links: dict[str, str] = {}
        self.record: Any = None
        self.fail_at = -1

    def source(self, name: str) -> bytes:
        return f"content of {name}".encode()

    def outside(self, path: str) -> bytes:
        return b"\x7fELF"

    def read(self, path: str) -> bytes | None:
        return self.there.get(path)

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

    def resolved(self, paths: Iterable[str]) -> dict[str, str]:
        return {path: self.links.get(path, path) for path in paths}

    def programs(self, values: Iterable[str]) -> tuple[HookProgram, ...]:
        found = [HookProgram(value, self.links.get(value, value)) for value in values if "*" not in value]
        for value in values:
            found += [
                HookProgram(path, aim, by_pattern=True) for path, aim in self.links.items() if fnmatchcase(path, value)
            ]
        return tuple(found)


def site(files: Files, **settings: str) -> SitePorts:
    return SitePorts(files, lambda: settings, lambda: "[health]\nact = false\n")


def silent(files: Files, *, staged: bool = False) -> SitePorts:
    def settings() -> Mapping[str, str]:
        raise SlurmUnreachable()

    return SitePorts(files, settings, lambda: "", staged)


def put(files: Files, *, dry_run: bool = False) -> None:
    install(site(files), PLACES, frozenset({Role.NODE}), spank="", version="1", dry_run=dry_run)


PROLOG = "/usr/local/libexec/sovctl/prolog"
LINK = "/etc/slurm/prolog.d/10-sovctl-prolog"


@pytest.mark.parametrize(
    ("settings", "link", "said"),
    [
        ({"Prolog": PROLOG}, "", f"still uses them: Prolog ({PROLOG})"),
        ({"Prolog": "/etc/slurm/prolog.d/*"}, LINK, f"still uses them: Prolog ({LINK})"),
        ({"Prolog": "/srv/hooks/[0-9]*"}, "/srv/hooks/10-x", "still uses them: Prolog (/srv/hooks/10-x)"),
        ({}, LINK, f"still uses them: Prolog ({LINK})"),
        ({"HealthCheckProgram": "/usr/local/libexec/sovctl/health_check"}, "", "still uses them: HealthCheckProgram"),
    ],
)
def test_an_uninstall_that_would_drain_nodes_is_refused(settings: dict[str, str], link: str, said: str) -> None:
    files = Files()
    put(files)
    files.links = {link: PROLOG} if link else {}
    before = dict(files.there)
    in_use = site(files, **settings)
    with pytest.raises(RefusedError) as refused:
        uninstall(in_use, force=False, dry_run=False)
    assert said in refused.value.message and files.there == before
    assert not link or f"rm {link}" in refused.value.hint
    forced = uninstall(in_use, force=True, dry_run=False)
    assert forced.links == ((link,) if link else ())
    assert files.there == {} and files.record is None


def test_where_slurm_is_silent_nothing_that_it_may_need_is_removed() -> None:
    files = Files()
    put(files)
    with pytest.raises(RefusedError, match="slurmctld does not answer") as refused:
        uninstall(silent(files), force=False, dry_run=False)
    assert "--force" in refused.value.hint and PROLOG in files.there
    uninstall(silent(files), force=True, dry_run=False)
    assert files.there == {}
    put(files)
    uninstall(silent(files, staged=True), force=False, dry_run=False)
    assert files.there == {}


def test_what_slurm_never_starts_goes_also_where_slurm_is_silent() -> None:
    """Hooks that the administrator changed stay anyway."""
    files = Files()
    put(files)
    hooks = {path for path in files.there if "/libexec/" in path}
    files.there |= dict.fromkeys(hooks, b"#!/bin/sh")
    uninstall(silent(files), force=False, dry_run=False)
    assert len(hooks) == 4 and set(files.there) == hooks


@pytest.mark.parametrize("how", ["named", "linked", "silent"])
def test_an_install_elsewhere_leaves_the_old_hooks_while_slurm_uses_them(how: str) -> None:
    files = Files()
    put(files)
    elsewhere = replace(PLACES, prefix="/opt/sovctl")
    files.links = {LINK: PROLOG} if how == "linked" else {}
    settings = {"named": {"Prolog": PROLOG}, "linked": {"Prolog": "/etc/slurm/prolog.d/*"}}
    ports = silent(files) if how == "silent" else site(files, **settings[how])

    def again(ports: SitePorts) -> dict[str, tuple[str, str]]:
        done = install(ports, elsewhere, frozenset({Role.NODE}), spank="", version="1", dry_run=False)
        return {step.path: (step.deed, step.why) for step in done.steps}

    steps = again(ports)
    assert {PROLOG, "/opt/sovctl/libexec/sovctl/prolog"} <= files.there.keys()
    assert (
        steps[PROLOG][0] == "keep"
        and ("slurmctld does not answer" if how == "silent" else "Prolog") in steps[PROLOG][1]
    )
    old_epilog = "/usr/local/libexec/sovctl/epilog"
    assert (old_epilog in files.there) == (how == "silent")
    # The administrator changes slurm.conf or the link, and does it again: now it goes, and nothing is unknown.
    files.links = dict.fromkeys(files.links, "/opt/sovctl/libexec/sovctl/prolog")
    free = site(files, Prolog=settings[how]["Prolog"] if how == "linked" else "/opt/sovctl/libexec/sovctl/prolog")
    assert again(free)[PROLOG][0] == "remove"
    assert PROLOG not in files.there and old_epilog not in files.there
    files.links = {}
    uninstall(site(files), force=False, dry_run=False)
    assert files.there == {}


@pytest.mark.parametrize("prefix", ["/usr/local", "/opt/sovctl"])
def test_an_install_without_a_plugin_keeps_the_one_that_is_there(prefix: str) -> None:
    """And takes it along to another prefix: plugstack.conf goes on naming one. One that was changed is not ours."""
    files, places = Files(), replace(PLACES, prefix=prefix)

    def again(spank: str = "") -> dict[str, str]:
        done = install(site(files), places, frozenset({Role.LOGIN}), spank=spank, version="1", dry_run=False)
        return {step.path: step.deed for step in done.steps}

    old, new = "/usr/local/libexec/sovctl/sovctl_spank.so", f"{prefix}/libexec/sovctl/sovctl_spank.so"
    install(site(files), PLACES, frozenset({Role.LOGIN}), spank="/built.so", version="1", dry_run=False)
    assert again()[new] == ("unchanged" if old == new else "create")
    assert [path for path in files.there if path.endswith(".so")] == [new]
    files.there[new] = b"of the administrator"
    assert again()[new] == "keep"
    assert files.there[new] == b"of the administrator"
    uninstall(site(files), force=False, dry_run=False)
    assert list(files.there) == [new]


def test_a_link_that_is_there_counts_as_set() -> None:
    files = Files()
    put(files)
    ports = site(files, Prolog="/etc/slurm/prolog.d/*", Epilog="/site")
    files.links = {LINK: PROLOG, "/etc/slurm/epilog.d/10-sovctl-epilog": "/usr/local/libexec/sovctl/epilog"}
    lines = {line.line: line for line in status(ports, PLACES).lines}
    assert lines["Prolog=/etc/slurm/prolog.d/*"].there
    assert not lines["Epilog=/etc/slurm/epilog.d/*"].there


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
        self.steps: list[list[str]] = []

    def ask(self, nodes: Mapping[str, str], command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        self.asked, self.command = dict(nodes), command
        gone = RemoteAnswer(failure=SshFailure.UNREACHABLE, problem="no route to host")
        return {"n1": RemoteAnswer(b"hello", b"", 0, 1.0, 2.0), "n2": gone}


def doctor(shell: Shell, *, silent: bool = False, missing: tuple[str, ...] = ()) -> DoctorPorts:
    def machine(settings: Mapping[str, str], is_node: bool) -> MachineView:
        return MachineView("here", False, "1", 0.0, gpu_problem="none")

    def sbatch(options: Sequence[str]) -> SubmitOutcome:
        raise CommandMissing("sbatch")

    def step(words: Sequence[str], options: Sequence[str]) -> StepAnswer:
        shell.steps.append(list(options))
        return StepAnswer(0, "sovctl n1 NoNewPrivs:\t1\n", "", by_step=True)

    return DoctorPorts(missing, Slurm(silent=silent), machine, lambda: shell, sbatch, step, ",".join)


def test_nodes_are_asked_only_when_told_to() -> None:
    shell = Shell()
    found = diagnose(doctor(shell), DoctorSettings("here"))
    assert shell.asked == {}
    assert [line.state for line in found.groups["nodes"]] == [State.SKIP]
    assert {line.check: line.state for line in found.groups["Slurm"]}["GraceTime"] is State.SKIP
    assert found.groups["what this Slurm can do"]


def test_steps_are_run_only_when_told_to() -> None:
    shell = Shell()
    assert "steps" not in diagnose(doctor(shell), DoctorSettings("here")).groups
    assert shell.steps == []
    found = diagnose(doctor(shell), DoctorSettings("here", try_steps=True))
    assert [line.state for line in found.groups["steps"]] == [State.PASS, State.WARN]
    assert ["--nodelist=n1,n2" in options for options in shell.steps] == [True]


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
