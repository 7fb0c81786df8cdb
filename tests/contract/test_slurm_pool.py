"""What PoolSite promises, kept by the fake and by a real Slurm with slurmdbd and MariaDB."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pool_fake import FakePool, ready_pool

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm.pool import SlurmPool
from sovctl.errors import CommandFailed, RefusedError
from sovctl.lab import cluster
from sovctl.model.pool import Qos


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.slurm)], scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "fake":
        yield FakePool(ready_pool(2))
        return
    root: Callable[[], Path] = request.getfixturevalue("new_root")
    lab = cluster.up(cluster.Request(root(), nodes=2, accounting=True, preemption=True, health=False))
    try:
        yield SlurmPool(CommandRunner(lab.environment))
    finally:
        cluster.down(lab.layout.root)


def test_each_command_changes_what_it_names_and_back(site: Any) -> None:
    def do(*argv: str) -> None:
        site.apply(argv)

    def qos(name: str) -> Qos:
        return site.pool().qos[name]

    before = site.pool()
    assert before.partitions == ready_pool(2).partitions
    assert (dict(before.qos), before.open_qos) == (dict(ready_pool().qos), ready_pool().open_qos)
    assert {key: before.settings[key] for key in ready_pool().settings} == dict(ready_pool().settings)

    do("sacctmgr", "-i", "add", "qos", "low")
    assert qos("low") == Qos("low")
    for words in ("Priority=7", "GraceTime=90061", "PreemptMode=requeue", "GrpTRES=node=4"):
        do("sacctmgr", "-i", "modify", "qos", "low", "set", words)
    assert qos("low") == Qos("low", 7, 90_061, frozenset(), "requeue", 4)
    do("sacctmgr", "-i", "modify", "qos", "normal", "set", "Preempt+=low")
    assert qos("normal").preempts == {"low"}
    do("sacctmgr", "-i", "modify", "account", "root", "cluster=lab", "set", "qos+=low")
    assert site.pool().open_qos == {"normal", "low"}
    do("scontrol", "update", "PartitionName=main", "QOS=low")
    do("scontrol", "update", "PartitionName=main", "DenyQos=low")
    do("scontrol", "update", "PartitionName=preemptible", "AllowQos=low")
    main, other = (site.pool().partitions[name] for name in ("main", "preemptible"))
    assert (main.qos, main.deny_qos, main.allow_qos) == ("low", {"low"}, None)
    assert other.allow_qos == {"low"}

    with pytest.raises(CommandFailed):
        do("sacctmgr", "-i", "add", "qos", "low")
    with pytest.raises(CommandFailed, match=r"(?i)qos"):
        do("scontrol", "update", "PartitionName=main", "QOS=nobody")

    do("scontrol", "update", "PartitionName=preemptible", "AllowQos=ALL")
    do("scontrol", "update", "PartitionName=main", "DenyQos=")
    do("scontrol", "update", "PartitionName=main", "QOS=")
    do("sacctmgr", "-i", "modify", "qos", "low", "set", "GrpTRES=node=-1")
    assert qos("low").node_limit is None
    do("sacctmgr", "-i", "modify", "account", "root", "cluster=lab", "set", "qos-=low")
    do("sacctmgr", "-i", "modify", "qos", "normal", "set", "Preempt-=low")
    do("sacctmgr", "-i", "delete", "qos", "low")
    with pytest.raises(CommandFailed):
        do("sacctmgr", "-i", "delete", "qos", "low")
    assert replace(site.pool(), settings={}) == replace(before, settings={})
    assert site.pool_jobs() == ()


@pytest.mark.parametrize("site", [pytest.param("real", marks=pytest.mark.slurm)], indirect=True)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_who_may_not_is_told_so(site: Any) -> None:
    switch = [shutil.which("setpriv") or "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

    class AsNobody(CommandRunner):
        def run(self, argv: Any, **options: Any) -> Any:
            return super().run([*switch, *argv], **options)

    nobody = SlurmPool(AsNobody(dict(site._runner._env)))
    with pytest.raises(RefusedError, match="does not let you"):
        nobody.apply(("sacctmgr", "-i", "add", "qos", "mine"))
    with pytest.raises(RefusedError, match="does not let you"):
        nobody.apply(("scontrol", "update", "PartitionName=main", "DenyQos=normal"))
    assert "mine" not in site.pool().qos


def test_what_slurm_conf_names(site: Any) -> None:
    if isinstance(site, FakePool):
        site.conf = "PartitionName=main QOS=low"
        assert (site.conf_names("low"), site.conf_names("nobody")) == (True, False)
        return
    conf = Path(site.settings()["SLURM_CONF"])
    with conf.open("a") as out:
        out.write("# QOS=commented\n")
    assert (site.conf_names("preemptible"), site.conf_names("commented")) == (True, False)
    (conf.parent / "plugstack.conf").mkdir()
    assert site.conf_names("commented") is None
