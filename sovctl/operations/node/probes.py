"""What is known of the probes of this node, and learning what a healthy node has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sovctl.errors import RefusedError
from sovctl.health.judge import judge
from sovctl.health.learn import learn
from sovctl.health.probes import DEFAULT_STATES, PROBES
from sovctl.health.tally import ProbeTally, tallies_from_record
from sovctl.model.inventory import Inventory, inventory_record
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import VerdictState
from sovctl.operations.node.look import LookPorts, LookSettings, look
from sovctl.ports.node import NodeRecords

SCHEMA = "sovctl.probes/1"


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One line of `sovctl health probes`."""

    name: str
    state: ProbeState
    default: ProbeState
    sources: tuple[str, ...]
    quick: bool
    why: str
    tally: ProbeTally


def probe_rows(records: NodeRecords, states: Mapping[str, ProbeState]) -> tuple[ProbeRow, ...]:
    """Every probe with its state and what it was worth on this node so far."""
    tallies = tallies_from_record(records.load("probes"))
    return tuple(
        ProbeRow(
            probe.name,
            states.get(probe.name, probe.default),
            probe.default,
            probe.sources,
            probe.quick,
            probe.why,
            tallies.get(probe.name, ProbeTally()),
        )
        for probe in PROBES
    )


def learn_inventory(
    ports: LookPorts, records: NodeRecords, node: str, expected_gpus: int | None, *, dry_run: bool
) -> Inventory:
    """Look at this node and, unless `dry_run`, keep what it has. Raises RefusedError when it is not sound itself.

    Judged without the old inventory: after an upgrade that would refuse the new one.
    """
    seen = look(ports, LookSettings(node, expected_gpus, DEFAULT_STATES), ports.kernel_log.boot_id(), 0)
    verdict = judge(replace(seen.snapshot, inventory=None))
    broken = [gpu.index for gpu in seen.snapshot.gpus if gpu.error]
    if verdict.state in (VerdictState.FAILED, VerdictState.UNKNOWN) or broken:
        worst = verdict.worst
        why = f"{worst.code} {worst.evidence}" if worst else "; ".join(verdict.blind)
        raise RefusedError(
            f"{node} is {verdict.state}, nothing is learnt from it: {why}",
            hint="See more with `sovctl health check`, and learn from a node that is healthy.",
        )
    inventory = learn(seen.snapshot)
    if not dry_run:
        records.save("inventory", inventory_record(inventory, node, seen.snapshot.observed_at))
    return inventory
