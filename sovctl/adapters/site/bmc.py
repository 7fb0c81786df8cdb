"""Asks the site's own command whether a node's power is off (ipmitool, a Redfish script)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sovctl.adapters.command import CommandRunner
from sovctl.errors import ConfigError, SovctlError
from sovctl.model.node import NodeView

_AT_ONCE = 8
_PLACES = {"{node}": "name", "{address}": "address"}
_EXAMPLE = "Write it as in: ipmitool -H {node}-bmc -f /etc/sovctl/bmc chassis power status"
_OFF = re.compile(r"\boff\b", re.IGNORECASE)


class PowerCommand:
    """ports.PowerWitness by a command line in which {node} and {address} stand for the node's."""

    def __init__(self, runner: CommandRunner, template: str, timeout_s: float) -> None:
        """Raises ConfigError when the template cannot be taken apart."""
        self._runner = runner
        self._timeout_s = timeout_s
        try:
            self._words = shlex.split(template)
        except ValueError as error:
            raise ConfigError("watch.bmc_command", f"cannot be taken apart: {error}", hint=_EXAMPLE) from error
        if self._words and not any(place in word for word in self._words for place in _PLACES):
            raise ConfigError(
                "watch.bmc_command", "names no node: write {node} or {address} where it belongs", hint=_EXAMPLE
            )

    def off(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of those whose power is off for certain: the command ended with 0 and said the word `off`."""
        if not self._words or not nodes:
            return frozenset()
        with ThreadPoolExecutor(min(_AT_ONCE, len(nodes))) as pool:
            said = pool.map(self._off, nodes)
            return frozenset(node.name for node, off in zip(nodes, said, strict=True) if off)

    def _off(self, node: NodeView) -> bool:
        argv = [word.replace("{node}", node.name).replace("{address}", node.address) for word in self._words]
        try:
            done = self._runner.run(argv, timeout_s=self._timeout_s, check=False)
        except SovctlError:
            return False
        return done.status == 0 and _OFF.search(done.stdout[:4096]) is not None
