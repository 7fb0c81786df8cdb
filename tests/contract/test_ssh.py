"""SshShell against a real sshd: who is let in, what is refused, and what a bad node costs."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_sshd import SSHD, LoopbackSshd

from sovctl.adapters.ssh import LARGEST_ANSWER, SshSettings, SshShell
from sovctl.errors import ConfigError
from sovctl.ports import SshFailure

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed (Debian: openssh-server)")
NAMES = tuple(f"n{number:03d}" for number in range(1, 9))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    with LoopbackSshd(tmp_path_factory.mktemp("sshd"), NAMES) as running:
        yield running


@pytest.fixture
def shell(sshd: LoopbackSshd) -> Iterator[SshShell]:
    yield SshShell(_settings(sshd))
    for name in NAMES:
        (sshd.node(name) / "answer").unlink(missing_ok=True)


def _settings(sshd: LoopbackSshd, **changes: object) -> SshSettings:
    own = {"config_file": str(sshd.root / "ssh_config"), "known_hosts": str(sshd.root / "known_hosts")}
    return SshSettings(**{**own, **changes})  # type: ignore[arg-type]


def _addresses(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "127.0.0.1")


def test_each_node_answers_for_itself(sshd: LoopbackSshd, shell: SshShell) -> None:
    for name in NAMES:
        (sshd.node(name) / "who").write_text(name, "utf-8")
    before = time.time()
    answers = shell.ask(_addresses(*NAMES), "cat who; echo oh >&2; exit 10", 20)
    assert list(answers) == list(NAMES)
    for name, answer in answers.items():
        assert (answer.stdout, answer.stderr, answer.status) == (name.encode(), b"oh\n", 10)
        assert answer.failure is None
        assert before <= answer.sent_at <= answer.answered_at <= time.time()


def test_nobody_is_asked() -> None:
    assert SshShell(SshSettings(known_hosts="/nonexistent")).ask({}, "true", 1) == {}


def test_an_unknown_or_changed_host_key_is_refused(sshd: LoopbackSshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    lines = (sshd.root / "known_hosts").read_text("utf-8").splitlines()
    other = (sshd.root / "id.pub").read_text("utf-8").split()
    known.write_text(f"{lines[0]}\nn002 {other[0]} {other[1]}\n", "utf-8")
    shell = SshShell(_settings(sshd, known_hosts=str(known)))
    answers = shell.ask(_addresses("n001", "n002", "n003"), "echo hi", 20)
    assert answers["n001"].stdout == b"hi\n"
    assert (answers["n002"].failure, answers["n003"].failure) == (SshFailure.HOST_KEY, SshFailure.HOST_KEY)
    assert answers["n002"].problem == "its host key is not the one in known_hosts"
    assert answers["n003"].problem == "no host key of n003 is in known_hosts"


def test_hashed_and_bracketed_names_are_found(sshd: LoopbackSshd, tmp_path: Path) -> None:
    import paramiko

    key = " ".join((sshd.root / "host.pub").read_text("utf-8").split()[:2])
    known, config = tmp_path / "known_hosts", tmp_path / "config"
    hashed = paramiko.HostKeys.hash_host(f"[127.0.0.1]:{sshd.ports['n001']}")
    known.write_text(f"{hashed} {key}\n[127.0.0.1]:{sshd.ports['n002']} {key}\n", "utf-8")
    config.write_text("", "utf-8")
    for name in ("n001", "n002"):
        settings = SshSettings(
            port=sshd.ports[name], key_file=str(sshd.root / "id"), config_file=str(config), known_hosts=str(known)
        )
        assert SshShell(settings).ask(_addresses(name), "echo hi", 20)[name].stdout == b"hi\n"


def test_a_wrong_key_is_not_let_in(sshd: LoopbackSshd, tmp_path: Path) -> None:
    shell = SshShell(_settings(sshd, key_file=str(sshd.root / "host")))
    answer = shell.ask(_addresses("n001"), "echo hi", 20)["n001"]
    assert answer.failure is SshFailure.REFUSED
    assert "does not let" in answer.problem


def test_a_flood_is_cut(sshd: LoopbackSshd, shell: SshShell) -> None:
    sshd.answer("n001", "exec cat /dev/zero")
    began = time.monotonic()
    answers = shell.ask(_addresses("n001", "n002"), "echo hi", 30)
    assert answers["n001"].failure is SshFailure.FLOOD
    assert f"{LARGEST_ANSWER // 1024} KiB" in answers["n001"].problem
    assert answers["n002"].stdout == b"hi\n"
    assert time.monotonic() - began < 25


def test_a_node_that_never_ends_costs_its_own_deadline_only(sshd: LoopbackSshd, shell: SshShell) -> None:
    sshd.answer("n001", "echo begun; exec sleep 600")
    began = time.monotonic()
    answers = shell.ask(_addresses(*NAMES), "echo hi", 3)
    assert answers["n001"].failure is SshFailure.TIMEOUT
    assert answers["n001"].problem == "no answer within 3 s after the command was sent"
    assert all(answers[name].stdout == b"hi\n" for name in NAMES[1:])
    assert time.monotonic() - began < 8


def test_bytes_that_trickle_in_do_not_move_the_deadline(sshd: LoopbackSshd, shell: SshShell) -> None:
    sshd.answer("n001", "while :; do echo x; sleep 0.1; done")
    began = time.monotonic()
    assert shell.ask(_addresses("n001"), "echo hi", 2)["n001"].failure is SshFailure.TIMEOUT
    assert time.monotonic() - began < 5


def test_silence_and_garbage_instead_of_ssh(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("127.0.0.1", 0)) as loud:
        threading.Thread(target=_talk_garbage, args=(loud,), daemon=True).start()
        config = tmp_path / "config"
        ports = {"n001": mute.getsockname()[1], "n002": loud.getsockname()[1], "n003": 1}
        config.write_text(
            "".join(f"Host {name}\n Port {port}\n HostKeyAlias {name}\n" for name, port in ports.items()), "utf-8"
        )
        answers = SshShell(_settings(sshd, config_file=str(config))).ask(_addresses(*ports), "echo hi", 2)
    assert answers["n001"].failure is SshFailure.TIMEOUT
    assert answers["n002"].failure in (SshFailure.UNREACHABLE, SshFailure.TIMEOUT)
    assert answers["n003"].failure is SshFailure.UNREACHABLE
    assert "Connection refused" in answers["n003"].problem


def _talk_garbage(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"SSH-2.0-x\r\n" + os.urandom(4096))
        connection.recv(65536)


def test_a_name_nobody_knows(sshd: LoopbackSshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host n001\n  HostKeyAlias n001\n", "utf-8")
    shell = SshShell(_settings(sshd, config_file=str(config)))
    assert shell.ask({"n001": "no-such-host.invalid"}, "true", 5)["n001"].failure is not None


def test_a_proxy_is_said_and_not_followed(sshd: LoopbackSshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host n001\n  ProxyJump gate\n", "utf-8")
    answer = SshShell(_settings(sshd, config_file=str(config))).ask(_addresses("n001"), "true", 5)["n001"]
    assert answer.problem == "n001: its SSH configuration asks for proxyjump, which sovctl does not follow"


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ssh\.known_hosts names a file that is not there"):
        SshShell(SshSettings(known_hosts="/nonexistent/known")).ask(_addresses("n001"), "true", 1)


def test_nothing_is_logged(sshd: LoopbackSshd, capfd: pytest.CaptureFixture[str]) -> None:
    shell = SshShell(_settings(sshd, key_file=str(sshd.root / "host")))
    shell.ask(_addresses("n001"), "true", 20)
    assert capfd.readouterr() == ("", "")
