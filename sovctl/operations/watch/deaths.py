"""Dead nodes: hears the witnesses, and sets down what is dead, within the limits."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sovctl.errors import SlurmUnreachable, SovctlError
from sovctl.health.death import (
    CODE,
    DeathLimits,
    Down,
    budget_words,
    cut_off_words,
    decide_dead,
    in_service,
    may_be_asked,
    shell_testimony,
    suspects,
    unheard,
)
from sovctl.health.drain import incident_id
from sovctl.model.node import NodeView
from sovctl.model.reason import incident_time, parse_reason
from sovctl.model.witness import Shell, WitnessWords
from sovctl.operations.supervisor.suspicion import NodeSuspicion
from sovctl.operations.watch.site import Site
from sovctl.operations.watch.unwatched import UnwatchedNodes
from sovctl.operations.watch.voice import Voice
from sovctl.ports.common import Beside, Clock, Pending
from sovctl.ports.site import AliveMarks, PowerWitness, RemoteAnswer, RemoteShell, SshFailure
from sovctl.ports.slurm import NodePing
from sovctl.recovery.attempts import seconds

_PING_SILENCE_S = 1.0
_SETTLE_S = 2.0
"""Nodes that fall silent together do so within so long: no decision while their number still grows."""
_TESTIMONY_S = 10.0
"""How long what SSH said counts."""
_TRY_AGAIN_S = 30.0
_HOUR_S = 3600.0
_MARK_TELLS_S = 60.0
_OUR_OWN_FAULT = ("Name or service not known", "name resolution", "Network is unreachable", "No address associated")
"""getaddrinfo's and connect's words for a network or a name service that is gone here."""


@dataclass(frozen=True, slots=True)
class WitnessPorts:
    """Who is asked only about nodes whose slurmd is silent."""

    shell: RemoteShell | None
    """None: SSH is no witness here."""
    power: PowerWitness


@dataclass(frozen=True, slots=True)
class DeathPorts:
    """Slurm and the witnesses."""

    site: Site
    ping: NodePing
    marks: AliveMarks
    witnesses: WitnessPorts
    beside: Beside
    clock: Clock


@dataclass(frozen=True, slots=True)
class DeathSettings:
    """When a node is dead, and how far to go."""

    act: bool
    silent_for_s: float = 6.0
    limits: DeathLimits = field(default_factory=DeathLimits)
    boot_id_file: str = "/proc/sys/kernel/random/boot_id"
    shell_timeout_s: float = 5.0
    ask_unwatched_s: float = 60.0


@dataclass(slots=True)
class DeathWatch:
    """`look` is one pass."""

    ports: DeathPorts
    settings: DeathSettings
    voice: Voice
    before_down: Callable[[str], None]
    after_down: Callable[[str], None]
    _suspicion: NodeSuspicion = field(init=False)
    _unwatched: UnwatchedNodes = field(init=False)
    _silent_since: dict[str, float] = field(default_factory=dict)
    _heard: dict[str, tuple[float, WitnessWords]] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    """When a node that Slurm would not set down may be tried again."""
    _declared: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Incidents of the last hour: when which node was set down. One that was given back counts all the same."""
    _leans_on_slurm: bool = True
    _asked: tuple[float, Pending[Mapping[str, WitnessWords]]] | None = None

    def __post_init__(self) -> None:
        self._suspicion = NodeSuspicion(self.ports.ping, self.ports.clock)
        self._unwatched = UnwatchedNodes(self.ports.ping, self.ports.clock, self.settings.ask_unwatched_s)

    @property
    def leans_on_slurm(self) -> bool:
        """Slurm's own word on some node is needed: it has no watcher, or its watcher is silent."""
        return self._leans_on_slurm

    @property
    def busy(self) -> bool:
        """Some node is under suspicion."""
        return bool(self._silent_since) or self._suspicion.any

    @property
    def asking(self) -> bool:
        """Witnesses are being asked beside the passes."""
        return self._asked is not None

    def restore(self, events: Sequence[Mapping[str, Any]], never: Collection[str] = ()) -> None:
        """From the watch's journal: what was set down within the hour. What was only begun counts as done, but for
        incidents that are known never to have been carried out."""
        ours = {
            str(event.get("incident")): (seconds(event, "at") or 0.0, str(event.get("node")))
            for event in events
            if event.get("kind") == "down-intended" and _code(str(event.get("reason", ""))) == CODE
        }
        failed = {str(event.get("incident")) for event in events if event.get("kind") == "down-failed"}
        self._declared = {incident: one for incident, one in ours.items() if incident not in {*failed, *never}}

    def look(self, nodes: Sequence[NodeView], named: Collection[str] = ()) -> None:
        """`named`: nodes that a run's supervisor found silent. Raises SovctlError when Slurm refuses a command."""
        self._take_answers()
        expected = [node.name for node in nodes if in_service(node)]
        marks = self.ports.marks.look(expected)
        unwatched = [node for node in nodes if node.name not in marks and may_be_asked(node)]
        found = self._unwatched.silent(unwatched, self._silent_since)
        under_suspicion = suspects(nodes, marks, self.settings.silent_for_s, {*named, *found})
        self._leans_on_slurm = bool(unwatched or under_suspicion)
        self.voice.forget("left:", {f"left:{node.name}" for node in under_suspicion})
        if not under_suspicion:
            self._suspicion.clear()
            self._silent_since.clear()
            self.voice.forget("stopped:")
            return
        self._suspicion.look(under_suspicion)
        standing_still = {
            node.name for node in under_suspicion if unheard(node, marks.get(node.name), self.settings.silent_for_s)
        }
        gone = self._suspicion.silent_for(_PING_SILENCE_S) | standing_still
        now = self.ports.clock.now()
        self._silent_since = {name: self._silent_since.get(name, now) for name in gone}
        silent = [node for node in under_suspicion if node.name in gone]
        if not silent:
            return
        if self.settings.limits.cut_off(len(silent), len(expected)):
            self.voice.alarm("stopped:cut off", cut_off_words(len(silent), len(expected)))
            return
        self._hear(silent)
        if now - max(self._silent_since.values()) >= _SETTLE_S:
            self._judge(nodes, silent, marks)

    # Witnesses

    def _hear(self, silent: Sequence[NodeView]) -> None:
        """Have SSH and the BMCs asked beside the passes, and take in what they said."""
        now = self.ports.clock.now()
        self._heard = {
            node.name: self._heard[node.name]
            for node in silent
            if node.name in self._heard and now - self._heard[node.name][0] < _TESTIMONY_S
        }
        unheard = [node for node in silent if node.name not in self._heard]
        if unheard and self._asked is None:
            boots = {node.name: self.ports.marks.boot_id(node.name) for node in unheard}
            self._asked = (now, self.ports.beside(lambda: self._ask(unheard, boots)))
            self._take_answers()

    def _take_answers(self) -> None:
        if self._asked is None:
            return
        now, (asked_at, pending) = self.ports.clock.now(), self._asked
        if pending.done:
            self._asked = None
            self._heard |= {name: (now, said) for name, said in pending.result().items()}
        elif now - asked_at > 4 * self.settings.shell_timeout_s + _TESTIMONY_S:
            # Stuck in a name lookup: whoever waits for it waits for ever. It is asked anew.
            self._asked = None

    def _ask(self, nodes: Sequence[NodeView], boots: Mapping[str, str]) -> Mapping[str, WitnessWords]:
        settings = self.settings
        return ask_witnesses(self.ports.witnesses, nodes, boots, settings.boot_id_file, settings.shell_timeout_s)

    # Judgement

    def _judge(self, nodes: Sequence[NodeView], silent: Sequence[NodeView], marks: Mapping[str, float]) -> None:
        now = self.ports.clock.now()
        dead: list[Down] = []
        unheard: list[str] = []
        # As it is now: what was read for all nodes may be seconds old, and a person may have come first.
        for node in self.ports.site.nodes([node.name for node in silent]):
            if not in_service(node):
                continue
            if node.name not in self._heard:
                unheard.append(node.name)
                continue
            silence_s = now - self._silent_since[node.name] + _PING_SILENCE_S
            incident = incident_id(node.name, str(node.boot_time or 0), now)
            decision = decide_dead(node, silence_s, marks.get(node.name), self._heard[node.name][1], incident)
            if isinstance(decision, Down):
                dead.append(decision)
            else:
                self.voice.tell(f"left:{node.name}", f"{node.name} looks dead and is left as it is: {decision.why}")
        now_dead = {*unheard, *(decision.node for decision in dead)}
        declared = self._declared_last_hour(nodes, now_dead)
        words = budget_words(len(now_dead), declared, self.settings.limits.allowed(len(nodes))) if dead else ""
        if words:
            self.voice.alarm("stopped:budget", words)
            return
        self._not_before = {name: at for name, at in self._not_before.items() if at > now}
        for decision in dead:
            if decision.node not in self._not_before:
                self._declare(decision, self._last_heard(decision.node, marks))

    def _declared_last_hour(self, nodes: Sequence[NodeView], now_dead: Collection[str]) -> int:
        """How many nodes, by Slurm's own reasons, which outlive any file of ours, and by what was written down. One
        that was set down twice counts once, and not at all while it looks dead now and is counted as such: a slurmctld
        that came back with an older state has forgotten that it was set down."""
        now = self.ports.clock.now()
        self._declared = {incident: one for incident, one in self._declared.items() if now - one[0] < _HOUR_S}
        shown = {node.name for node in nodes if node.state.down and _declared_since(node, now - _HOUR_S)}
        written = {name for _, name in self._declared.values()}
        return len((shown | written) - set(now_dead))

    def _last_heard(self, node: str, marks: Mapping[str, float]) -> float:
        """Since when the node is silent: slurmd was asked only after its watcher fell silent. A watcher that was dead
        long before tells nothing."""
        since = self._silent_since[node]
        marked = self.ports.clock.now() - marks[node] if node in marks else since
        return round(marked if since - _MARK_TELLS_S <= marked <= since else since, 3)

    def _declare(self, decision: Down, silent_since: float) -> None:
        if not self.settings.act:
            self.voice.tell(f"left:{decision.node}", f"would set {decision.node} down: {shlex.join(decision.argv)}")
            return
        begun = self.voice.begun("down-intended", node=decision.node)
        if begun is not None and _code(str(begun.get("reason", ""))) == CODE:
            decision = replace(decision, reason=str(begun["reason"]))
        reason = parse_reason(decision.reason)
        incident = reason.incident if reason else ""
        if begun is None or begun.get("incident") != incident:
            self.voice.write(
                "down-intended",
                node=decision.node,
                incident=incident,
                reason=decision.reason,
                silent_since=silent_since,
            )
        self.before_down(decision.node)
        try:
            self.ports.site.set_down(decision.node, decision.reason)
        except SlurmUnreachable:
            raise
        except SovctlError as error:
            self.voice.write("down-failed", node=decision.node, incident=incident, error=error.message)
            self.voice.say(f"could not set {decision.node} down: {error.message}")
            self._not_before[decision.node] = self.ports.clock.now() + _TRY_AGAIN_S
            return
        self._declared[incident] = (self.ports.clock.now(), decision.node)
        self.voice.write("down-done", node=decision.node, incident=incident)
        self.voice.say(f"set {decision.node} down: {decision.reason}")
        self.after_down(decision.node)


def _declared_since(node: NodeView, begin: float) -> bool:
    reason = parse_reason(node.reason)
    at = incident_time(reason.incident) if reason is not None and reason.code == CODE else None
    return at is not None and at > begin


def _code(words: str) -> str:
    reason = parse_reason(words)
    return reason.code if reason is not None else ""


def ask_witnesses(
    ports: WitnessPorts, nodes: Sequence[NodeView], boots: Mapping[str, str], boot_id_file: str, timeout_s: float
) -> Mapping[str, WitnessWords]:
    """What SSH and the BMCs say of these nodes; `boots`: the boot id that each node's watcher last told."""
    answers: Mapping[str, RemoteAnswer] = {}
    problem = "SSH is not asked (watch.ssh)"
    if ports.shell is not None:
        command = f"cat {shlex.quote(boot_id_file)} /proc/uptime"
        try:
            answers = ports.shell.ask({node.name: node.address for node in nodes}, command, timeout_s)
        except SovctlError as error:
            problem = error.message
    off = ports.power.off([node for node in nodes if not _answered(answers.get(node.name))])
    return {
        node.name: _witness_words(node, boots[node.name], answers.get(node.name), problem, node.name in off)
        for node in nodes
    }


def _answered(answer: RemoteAnswer | None) -> bool:
    return answer is not None and (answer.failure is None or answer.failure in _ALIVE)


_ALIVE = frozenset({SshFailure.REFUSED, SshFailure.FLOOD})
"""It does not let us in, or talks too much; dead it is not."""


def _witness_words(node: NodeView, boot: str, answer: RemoteAnswer | None, problem: str, off: bool) -> WitnessWords:
    if answer is None:
        return WitnessWords(Shell.NO_WITNESS, problem, off)
    if answer.failure in (SshFailure.UNREACHABLE, SshFailure.TIMEOUT):
        ours = any(words in answer.problem for words in _OUR_OWN_FAULT)
        return WitnessWords(Shell.NO_WITNESS if ours else Shell.SILENT, f"SSH: {answer.problem}", off)
    if answer.failure is SshFailure.HOST_KEY:
        return WitnessWords(Shell.NO_WITNESS, f"SSH: {answer.problem}", off)
    said, uptime_s = _boot_and_uptime(answer.stdout) if answer.failure is None else ("", None)
    return WitnessWords(shell_testimony(boot, node.boot_time, said, uptime_s, answer.answered_at), "", off)


def _boot_and_uptime(stdout: bytes) -> tuple[str, float | None]:
    """Of `cat boot_id /proc/uptime`; a node may say anything."""
    lines = stdout[:4096].decode("utf-8", "replace").splitlines()
    boot = lines[0].strip()[:64] if lines else ""
    words = lines[1].split() if len(lines) > 1 else []
    try:
        uptime_s = float(words[0]) if words else None
    except ValueError:
        uptime_s = None
    return boot, uptime_s if uptime_s is None or 0 <= uptime_s < 1e10 else None
