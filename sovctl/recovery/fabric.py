"""From two looks at the links of a job's nodes to what happened to them in between. Pure.

A collective that lost a link hangs or dies on every rank alike: only the ports' own counters tell on which node. They
count since the driver was loaded, so one look says nothing; a rise since the run last moved does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sovctl.model.rank_look import LinkLook, NodeLook

LEAST_RISE: Mapping[str, int] = {
    "link_downed": 1,
    "link_error_recovery": 1,
    "excessive_buffer_overrun_errors": 1,
    "local_link_integrity_errors": 1,
    "rnr_nak_retry_err": 1,
    "local_ack_timeout_err": 20,
    "symbol_error": 120,
    "port_rcv_errors": 1000,
    "port_xmit_discards": 10_000,
    "nvlink_errors": 1,
}
"""What must have risen by how much to be worth a word: a link that goes down, retrains or loses a connection once can
stop a collective; single bits and drops are daily bread."""


def broken_links(before: Sequence[NodeLook], now: Sequence[NodeLook]) -> dict[str, str]:
    """Node -> what became of its links, for those where something did. `before`: a look while the run still moved;
    without one only a port that is down where its peers' are up tells."""
    earlier = {look.node: {link.name: link for link in look.links} for look in before}
    up = Counter(link.name for look in now for link in look.links if link.active)
    found = {}
    for look in now:
        known = earlier.get(look.node, {})
        words = [
            said
            for link in look.links
            if (said := _became(known.get(link.name), link, peers_up=up[link.name] > len(now) / 2))
        ]
        if words:
            found[look.node] = "; ".join(words[:3])
    return found


def _became(before: LinkLook | None, now: LinkLook, *, peers_up: bool) -> str:
    if not now.active and (peers_up if before is None else before.active):
        return f"port {now.name} is {now.state or 'gone'}"
    if before is None:
        return ""
    for name, least in LEAST_RISE.items():
        rose = now.counters.get(name, 0) - before.counters.get(name, 0)
        if rose >= least:
            return f"{now.name}: {name} rose by {rose}"
    return ""
