"""What SSH says of a silent node, against a real sshd: alive, anew, gone, or no witness."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback_sshd import SSHD, LoopbackSshd

from sovctl.adapters.background import InThread
from sovctl.adapters.clock import SystemClock
from sovctl.adapters.command import CommandRunner
from sovctl.adapters.site.bmc import PowerCommand
from sovctl.adapters.site.ssh import SshSettings, SshShell
from sovctl.errors import SovctlError
from sovctl.model.node import NodeState, NodeView
from sovctl.model.witness import Shell
from sovctl.operations.watch.deaths import WitnessPorts, ask_witnesses

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed (Debian: openssh-server)")
NAMES = ("alive", "anew", "mute", "stranger")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    with LoopbackSshd(tmp_path_factory.mktemp("sshd"), NAMES) as running:
        for name in NAMES:
            (running.node(name) / "boot_id").write_text(f"boot-{name}\n")
        running.answer("mute", "sleep 30")
        hosts = (running.root / "known_hosts").read_text().splitlines()
        (running.root / "known_hosts").write_text("\n".join(hosts[:-1]) + "\n")
        with open(running.root / "ssh_config", "a") as config:
            config.write("Host gone\n  HostName 127.0.0.1\n  Port 1\n  HostKeyAlias alive\n")
        yield running


def test_each_kind_of_witness(sshd: LoopbackSshd) -> None:
    shell = SshShell(SshSettings(config_file=str(sshd.root / "ssh_config"), known_hosts=str(sshd.root / "known_hosts")))
    power = PowerCommand(CommandRunner(), "sh -c 'test $0 = mute && echo Power is OFF' {node}", 5.0)
    ports = WitnessPorts(shell, power)
    nodes = [NodeView(name, NodeState("ALLOCATED"), address="127.0.0.1") for name in (*NAMES, "gone")]
    boots = {node.name: f"boot-{node.name}" for node in nodes} | {"anew": "boot-before"}
    said = ask_witnesses(ports, nodes, boots, "boot_id", 3.0)
    assert {name: item.shell for name, item in said.items()} == {
        "alive": Shell.ANSWERS,
        "anew": Shell.REBOOTED,
        "mute": Shell.SILENT,
        "stranger": Shell.NO_WITNESS,
        "gone": Shell.SILENT,
    }
    assert [name for name, item in said.items() if item.power_off] == ["mute"]


def test_work_beside_the_passes_is_told_when_it_is_over() -> None:
    clock = SystemClock()
    until = clock.now() + 5

    def awaited(work: InThread[int]) -> InThread[int]:
        while not work.done and clock.now() < until:
            clock.sleep(0.005)
        assert work.done
        return work

    def fails() -> int:
        raise ValueError("of its own")

    assert awaited(InThread(lambda: 7)).result() == 7
    with pytest.raises(SovctlError, match="of its own"):
        awaited(InThread(fails)).result()
