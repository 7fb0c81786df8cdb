"""The registry and its four states; what shadow counts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from node_builders import NOW, gpu, snapshot, xid

from sovctl.errors import ConfigError
from sovctl.health.judge import judge, not_asked
from sovctl.health.probes import DEFAULT_STATES, PROBES, needed_sources, resolve
from sovctl.health.tally import ProbeTally, Tallies, counted, tallies_from_record, tallies_record
from sovctl.model.probe import ProbeSetting, ProbeState
from sovctl.model.verdict import Finding, Severity, Verdict, VerdictState

ECC = snapshot(gpus=(gpu(0), gpu(1, ecc_volatile_uncorrected=3)), expected_gpus=2)


def states(**changes: ProbeState) -> Mapping[str, ProbeState]:
    return {**DEFAULT_STATES, **{name.replace("_", "-"): state for name, state in changes.items()}}


def test_every_probe_has_a_name_of_its_own_and_a_reason() -> None:
    assert len({probe.name for probe in PROBES}) == len(PROBES) >= 30
    assert all(probe.why and probe.name == probe.name.lower() and probe.rule(snapshot()) == [] for probe in PROBES)
    assert sum(probe.quick for probe in PROBES) >= 12


@pytest.mark.parametrize(
    ("state", "verdict", "found", "shadow"),
    [
        (ProbeState.DRAIN, VerdictState.FAILED, [Severity.FAIL], []),
        (ProbeState.WARN, VerdictState.DEGRADED, [Severity.WARN], []),
        (ProbeState.SHADOW, VerdictState.HEALTHY, [], [Severity.FAIL]),
        (ProbeState.OFF, VerdictState.HEALTHY, [], []),
    ],
)
def test_a_state_bounds_what_a_probe_may_do(
    state: ProbeState, verdict: VerdictState, found: list[Severity], shadow: list[Severity]
) -> None:
    judged = judge(ECC, (), states(gpu_ecc=state))
    assert judged.state is verdict
    assert [finding.severity for finding in judged.findings] == found
    assert [finding.severity for finding in judged.shadow] == shadow
    assert {finding.probe for finding in (*judged.findings, *judged.shadow)} <= {"gpu-ecc"}


def test_an_unknown_probe_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no probe gpu-eec; did you mean gpu-ecc"):
        resolve([ProbeSetting("gpu-eec", ProbeState.OFF, "sovctl.toml:3")])
    assert resolve([ProbeSetting("nvlink", ProbeState.OFF, "x")])["nvlink"] is ProbeState.OFF


def test_a_probe_that_is_off_reads_nothing() -> None:
    off = dict.fromkeys(DEFAULT_STATES, ProbeState.OFF)
    assert needed_sources(off) == frozenset()
    assert needed_sources({**off, "nfs-backlog": ProbeState.SHADOW}) == {"nfs"}
    assert "answers" in needed_sources(DEFAULT_STATES) and "answers" not in needed_sources(DEFAULT_STATES, quick=True)


def look(tallies: Tallies, verdict: Verdict, earlier: Verdict | None) -> Tallies:
    return counted(tallies, verdict, earlier, {"gpu-ecc": 1.234})


def test_shadow_counts_once_what_it_would_have_drained_and_what_came_true() -> None:
    shadow = states(gpu_ecc=ProbeState.SHADOW)
    first = judge(ECC, (), shadow)
    tallies = look({}, first, None)
    tallies = look(tallies, judge(ECC, (), shadow), first)
    assert tallies["gpu-ecc"] == ProbeTally(1, 1, 0, 1.23, (NOW,))
    dead = judge(snapshot(xid(79)), (), shadow)
    tallies = look(tallies, dead, first)
    assert (tallies["gpu-ecc"].confirmed, tallies["xid"].hits) == (1, 1)
    assert look(tallies, dead, None)["gpu-ecc"].confirmed == 1
    assert tallies_from_record(tallies_record(tallies)) == tallies


@pytest.mark.parametrize("junk", [None, 3, {}, {"schema": "sovctl.probes/1", "probes": {"x": {}}}])
def test_tallies_of_another_shape_count_from_zero(junk: object) -> None:
    assert tallies_from_record(junk) == {}


def test_a_look_at_the_gpus_alone_keeps_what_was_found_on_the_host() -> None:
    earlier = judge(ECC)
    host_only = frozenset({"mounts"})
    kept, _ = not_asked(earlier, "boot-1", host_only, NOW + 10, 300)
    assert [finding.code for finding in kept] == ["ECC_UNCORRECTED"]
    in_shadow = judge(ECC, (), states(gpu_ecc=ProbeState.SHADOW))
    assert not_asked(in_shadow, "boot-1", host_only, NOW + 10, 300) == ((), in_shadow.shadow)
    nothing: tuple[tuple[Finding, ...], tuple[Finding, ...]] = ((), ())
    assert not_asked(earlier, "boot-1", frozenset({"nvml"}), NOW + 10, 300) == nothing
    assert not_asked(earlier, "boot-1", host_only, NOW + 301, 300) == nothing
    assert not_asked(earlier, "boot-2", host_only, NOW + 10, 300) == nothing
    assert not_asked(None, "boot-1", host_only, NOW, 300) == nothing
