"""InfiniBand, RoCE and Ethernet: one function a rule, a snapshot in, findings out.

A switch that restarts takes every port behind it along, and a port that flaps is up at most looks: so being down counts
only when it lasts, and flaps are counted over a day.
"""

from __future__ import annotations

from collections.abc import Mapping

from sovctl.health.memory import DAY_S, HOUR_S, held_s, rose
from sovctl.model.host import PortSample
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Finding, Repair, Severity

DOWN_FOR_S = 45.0
"""Two looks of a HealthCheckProgram that runs each minute; a restart of the subnet manager is over by then."""
FLAPS_A_DAY = 5
"""AzNHC: 5 within 24 h."""
CARRIER_CHANGES_A_DAY = 10
"""Each flap is two changes."""
ERRORS_PER_HOUR: Mapping[str, int] = {
    "symbol_error": 120,
    "link_error_recovery": 300,
    "port_xmit_discards": 360_000,
    "port_rcv_errors": 36_000,
    "local_ack_timeout_err": 3600,
}
"""NVSentinel's limits for NICs, per hour."""
FATAL_COUNTERS = ("excessive_buffer_overrun_errors", "local_link_integrity_errors", "rnr_nak_retry_err")
"""One of them is already a broken connection (NVSentinel)."""


def port_down(snapshot: NodeSnapshot) -> list[Finding]:
    """A port that a healthy node has active is not, look after look."""
    expected = snapshot.inventory.ports if snapshot.inventory else {}
    seen = {port.name: port for port in snapshot.host.ports or ()}
    findings = []
    for name in expected:
        held = held_s(snapshot, f"port/{name}")
        if snapshot.host.ports is None or held is None:
            continue
        words = f"port {name} is {_state(seen.get(name))} for {held:.0f} s"
        severity = Severity.FAIL if held >= DOWN_FOR_S else Severity.WARN
        findings.append(Finding("IB_PORT_DOWN", severity, words, repair=Repair.REBOOT))
    return findings


def port_rate(snapshot: NodeSnapshot) -> list[Finding]:
    """An active port at a lower rate than a healthy node's slows every collective of its job down."""
    expected = snapshot.inventory.ports if snapshot.inventory else {}
    findings = []
    for port in snapshot.host.ports or ():
        wanted = expected.get(port.name)
        if wanted and port.state == "ACTIVE" and port.rate_gbps is not None and port.rate_gbps < wanted:
            words = f"port {port.name} runs at {port.rate_gbps:g} of {wanted:g} Gb/s"
            findings.append(Finding("IB_PORT_RATE", Severity.FAIL, words, repair=Repair.REBOOT))
    return findings


def port_flaps(snapshot: NodeSnapshot) -> list[Finding]:
    """Goes down and comes back, again and again: counted over a day, so that a quiet hour does not clear it."""
    findings = []
    for port in snapshot.host.ports or ():
        times = rose(snapshot, f"port/{port.name}/link_downed", DAY_S)
        if times >= FLAPS_A_DAY:
            words = f"port {port.name} went down {times:.0f} times within a day (limit {FLAPS_A_DAY})"
            findings.append(Finding("IB_PORT_FLAPS", Severity.FAIL, words, repair=Repair.REBOOT))
    return findings


def port_errors(snapshot: NodeSnapshot) -> list[Finding]:
    """Error counters that rise faster than a healthy link's."""
    findings = []
    for port in snapshot.host.ports or ():
        limits = {**ERRORS_PER_HOUR, **dict.fromkeys(FATAL_COUNTERS, 1)}
        for counter, limit in limits.items():
            count = rose(snapshot, f"port/{port.name}/{counter}", HOUR_S)
            if count >= limit:
                words = f"port {port.name}: {counter} rose by {count:.0f} within an hour (limit {limit})"
                findings.append(Finding("IB_PORT_ERRORS", Severity.FAIL, words))
    return findings


def ethernet(snapshot: NodeSnapshot) -> list[Finding]:
    """Interfaces of the inventory that are down, slow or flapping."""
    expected = snapshot.inventory.ethernets if snapshot.inventory else {}
    findings = []
    for link in snapshot.host.ethernets or ():
        wanted = expected.get(link.name, 0)
        if wanted and link.speed_mbps is not None and 0 < link.speed_mbps < wanted:
            words = f"interface {link.name} runs at {link.speed_mbps} of {wanted} Mb/s"
            findings.append(Finding("ETHERNET_SPEED", Severity.FAIL, words))
        changes = rose(snapshot, f"ethernet/{link.name}/changes", DAY_S)
        if link.name in expected and changes >= CARRIER_CHANGES_A_DAY:
            words = f"interface {link.name} lost and found its carrier {changes / 2:.0f} times within a day"
            findings.append(Finding("ETHERNET_FLAPS", Severity.FAIL, words))
    for name in expected:
        held = held_s(snapshot, f"ethernet/{name}")
        if snapshot.host.ethernets is not None and held is not None:
            severity = Severity.FAIL if held >= DOWN_FOR_S else Severity.WARN
            findings.append(Finding("ETHERNET_DOWN", severity, f"interface {name} is not up for {held:.0f} s"))
    return findings


def _state(port: PortSample | None) -> str:
    if port is None:
        return "gone"
    return f"{port.state} ({port.physical_state})" if port.physical_state else port.state
