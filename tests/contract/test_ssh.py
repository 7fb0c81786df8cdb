"""SshShell against a real sshd: who is let in, what is refused, and what a bad node costs."""

from __future__ import annotations

import base64
import getpass
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_sshd import SSHD, LoopbackSshd

from sovctl.adapters.site.ssh import LARGEST_ANSWER, SshSettings, SshShell
from sovctl.adapters.site.ssh_known_hosts import why_not_trusted
from sovctl.errors import ConfigError
from sovctl.ports.site import SshFailure

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


def _config(sshd: LoopbackSshd, tmp_path: Path, extra: str) -> str:
    """`extra` first, because in OpenSSH's files the first word counts."""
    config = tmp_path / "config"
    config.write_text(extra + (sshd.root / "ssh_config").read_text("utf-8"), "utf-8")
    return str(config)


def test_nodes_behind_a_jump_host_share_one_connection_to_it(sshd: LoopbackSshd, tmp_path: Path) -> None:
    for name in NAMES[:4]:
        (sshd.node(name) / "who").write_text(name, "utf-8")
    config = _config(sshd, tmp_path, "Host n001 n002 n003\n  ProxyJump n008\n")
    answers = SshShell(_settings(sshd, config_file=config)).ask(_addresses(*NAMES[:4]), "cat who", 20)
    said = {name: answer.stdout.decode() or answer.problem or repr(answer) for name, answer in answers.items()}
    assert said == {name: name for name in NAMES[:4]}


def test_two_jumps_one_behind_the_other(sshd: LoopbackSshd, tmp_path: Path) -> None:
    (sshd.node("n001") / "who").write_text("n001", "utf-8")
    user, port = getpass.getuser(), sshd.ports["n007"]
    config = _config(sshd, tmp_path, f"Host n001\n  ProxyJump n008,{user}@n007:{port}\n")
    answer = SshShell(_settings(sshd, config_file=config)).ask(_addresses("n001"), "cat who", 20)["n001"]
    assert (answer.problem, answer.stdout) == ("", b"n001")


def test_a_jump_host_that_is_not_trusted_is_named_for_every_node_behind_it(sshd: LoopbackSshd, tmp_path: Path) -> None:
    config = _config(sshd, tmp_path, "Host n001 n002\n  ProxyJump gate\n")
    answers = SshShell(_settings(sshd, config_file=config)).ask(_addresses("n001", "n002", "n003"), "true", 20)
    for name in ("n001", "n002"):
        assert answers[name].failure is SshFailure.HOST_KEY
        assert answers[name].problem == "jump host gate: no host key of gate is in known_hosts"
    assert answers["n003"].failure is None


def test_a_proxy_program_is_the_connection(sshd: LoopbackSshd, tmp_path: Path) -> None:
    (sshd.node("n001") / "who").write_text("n001", "utf-8")
    program = tmp_path / "proxy.py"
    program.write_text(
        "import os, select, socket, sys\n"
        "link = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "while True:\n"
        "    for ready in select.select([link, 0], [], [])[0]:\n"
        "        data = link.recv(65536) if ready is link else os.read(0, 65536)\n"
        "        if not data: sys.exit(0)\n"
        "        os.write(1, data) if ready is link else link.sendall(data)\n",
        "utf-8",
    )
    config = _config(sshd, tmp_path, f"Host n001\n  ProxyCommand {sys.executable} {program} %h %p\n")
    shell = SshShell(_settings(sshd, config_file=config))
    assert shell.ask(_addresses("n001"), "cat who", 20)["n001"].stdout == b"n001"
    config = _config(sshd, tmp_path, "Host n001\n  ProxyCommand sleep 60\n")
    answer = SshShell(_settings(sshd, config_file=config)).ask(_addresses("n001"), "true", 1)["n001"]
    assert answer.failure is SshFailure.TIMEOUT, answer.problem


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    """Nodes whose host key is known only by an authority's word, for the name n001 alone."""
    root = tmp_path_factory.mktemp("certified")
    nodes = LoopbackSshd(root, NAMES[:2], certificate_for="n001")
    with nodes as running:
        yield running


def _authority(sshd: LoopbackSshd) -> str:
    return " ".join((sshd.root / "ca.pub").read_text("utf-8").split()[:2])


def _known(sshd: LoopbackSshd, tmp_path: Path, text: str) -> SshSettings:
    known = tmp_path / "known"
    known.write_text(text, "utf-8")
    return _settings(sshd, known_hosts=str(known))


def test_a_host_is_trusted_by_the_word_of_its_authority(certified: LoopbackSshd, tmp_path: Path) -> None:
    settings = _known(certified, tmp_path, f"# ours\n@cert-authority n* {_authority(certified)}\n")
    answers = SshShell(settings).ask(_addresses("n001", "n002"), "echo hello", 20)
    assert (answers["n001"].problem, answers["n001"].stdout) == ("", b"hello\n")
    assert answers["n002"].failure is SshFailure.HOST_KEY
    assert answers["n002"].problem == "its host certificate is for n001"


@pytest.mark.parametrize("case", ["other pattern", "other authority", "revoked authority", "revoked key"])
def test_nobody_else_vouches(certified: LoopbackSshd, sshd: LoopbackSshd, tmp_path: Path, case: str) -> None:
    own = _authority(certified)
    other = " ".join((sshd.root / "id.pub").read_text("utf-8").split()[:2])
    host = " ".join((certified.root / "host.pub").read_text("utf-8").split()[:2])
    text = {
        "other pattern": f"@cert-authority m*,!n001 {own}\n",
        "other authority": f"@cert-authority n* {other}\n",
        "revoked authority": f"@cert-authority n* {own}\n@revoked * {own}\n",
        "revoked key": f"@cert-authority n* {own}\n@revoked * {host}\n",
    }[case]
    answer = SshShell(_known(certified, tmp_path, text)).ask(_addresses("n001"), "echo hello", 20)["n001"]
    assert answer.failure is SshFailure.HOST_KEY and answer.stdout == b"", answer


def test_a_revoked_plain_key_is_refused(sshd: LoopbackSshd, tmp_path: Path) -> None:
    host = " ".join((sshd.root / "host.pub").read_text("utf-8").split()[:2])
    settings = _known(sshd, tmp_path, f"n001 {host}\n@revoked * {host}\n")
    answer = SshShell(settings).ask(_addresses("n001"), "echo hello", 20)["n001"]
    assert (answer.failure, answer.problem) == (SshFailure.HOST_KEY, "its host key is revoked in known_hosts")


def test_what_a_certificate_must_say(certified: LoopbackSshd) -> None:
    blob = base64.b64decode((certified.root / "host-cert.pub").read_text("utf-8").split()[1])
    authority = base64.b64decode(_authority(certified).split()[1])
    assert why_not_trusted(blob, ("n001",), (authority,), set()) == ""
    assert why_not_trusted(blob, ("[n001]:2222",), (authority,), set()) == ""
    assert "not valid at this time" in why_not_trusted(blob, ("n001",), (authority,), set(), now=1.0)
    assert "signature" in why_not_trusted(blob[:-1] + bytes([blob[-1] ^ 1]), ("n001",), (authority,), set())
    assert "cannot be read" in why_not_trusted(b"junk", ("n001",), (authority,), set())
    assert "cannot be read" in why_not_trusted(b"", ("n001",), (authority,), set())


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ssh\.known_hosts names a file that is not there"):
        SshShell(SshSettings(known_hosts="/nonexistent/known")).ask(_addresses("n001"), "true", 1)


def test_nothing_is_logged(sshd: LoopbackSshd, capfd: pytest.CaptureFixture[str]) -> None:
    shell = SshShell(_settings(sshd, key_file=str(sshd.root / "host")))
    shell.ask(_addresses("n001"), "true", 20)
    assert capfd.readouterr() == ("", "")
