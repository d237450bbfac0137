"""Faults of ``mesh localnet --fault``: ``kill:2@reveal`` and ``pause:2@commit``.

A killed node ends by SIGKILL in the first block of the phase and does not come back. A paused one
is stopped there, and goes on in the first block of the next phase.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from consensus.phases import Phase
from consensus.types import Epoch
from subnet.errors import UsageError

MAX_FAULTS = 16
_FORM = re.compile(r"(?P<action>[^:@]*):(?P<node>[^:@]*)@(?P<phase>[^:@]*)")


class Action(StrEnum):
    """What happens to the node."""

    KILL = "kill"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to which node, by its number in the table, in which phase."""

    action: Action
    node: int
    phase: Phase

    def __str__(self) -> str:
        return f"{self.action}:{self.node}@{self.phase.value.lower()}"


def parse_faults(texts: Sequence[str], *, num_nodes: int) -> tuple[Fault, ...]:
    """Return the faults. Raises UsageError naming what is wrong."""
    if len(texts) > MAX_FAULTS:
        raise UsageError(
            f"--fault is given {len(texts)} times", f"give it {MAX_FAULTS} times at most"
        )
    faults = tuple(parse_fault(text, num_nodes=num_nodes) for text in texts)
    killed = [fault.node for fault in faults if fault.action is Action.KILL]
    for node in killed:
        if sum(fault.node == node for fault in faults) > 1:
            raise UsageError(
                f"--fault: node {node} is killed and has another fault",
                "give a killed node one fault",
            )
    if len(set(killed)) == num_nodes:
        raise UsageError("--fault: every node is killed", "leave one alive")
    return faults


def parse_fault(text: str, *, num_nodes: int) -> Fault:
    """Return the fault that ``ACTION:NODE@PHASE`` says. Raises UsageError."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--fault: {text[:80]!r} is not ACTION:NODE@PHASE", "give for example kill:2@reveal"
        )
    actions = {action.value: action for action in Action}
    phases = {phase.value.lower(): phase for phase in Phase}
    action, phase = actions.get(found["action"].lower()), phases.get(found["phase"].lower())
    if action is None:
        raise UsageError(
            f"--fault: {found['action'][:40]!r} is not an action", f"use {' or '.join(actions)}"
        )
    if phase is None:
        raise UsageError(
            f"--fault: {found['phase'][:40]!r} is not a phase", f"use one of {', '.join(phases)}"
        )
    digits = found["node"]
    node = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 4 else 0
    if not 1 <= node <= num_nodes:
        raise UsageError(
            f"--fault: {digits[:40]!r} is not a node", f"use a number from 1 to {num_nodes}"
        )
    return Fault(action, node, phase)


@dataclass
class FaultPlan:
    """Strikes each fault once, at the first block of its phase in ``epoch``.

    ``get_pid`` returns the process of a node, None if it is gone; ``say`` tells the person.
    """

    faults: Sequence[Fault]
    get_pid: Callable[[int], int | None]
    say: Callable[[str], None]
    epoch: Epoch | None = None
    killed: set[int] = field(default_factory=set)
    _struck: set[Fault] = field(default_factory=set)
    _paused: dict[Fault, int] = field(default_factory=dict)

    @property
    def nodes(self) -> frozenset[int]:
        """The nodes that a fault strikes."""
        return frozenset(fault.node for fault in self.faults)

    def note_phase(self, epoch: Epoch, phase: Phase) -> None:
        """Hear of a block; strike what is due and let paused nodes go on."""
        for fault, stopped in list(self._paused.items()):
            if (epoch, phase) != (self.epoch, fault.phase):
                del self._paused[fault]
                self._send(fault, stopped, signal.SIGCONT, "goes on")
        if epoch != self.epoch:
            return
        for fault in self._get_due(phase):
            self._struck.add(fault)
            pid = self.get_pid(fault.node)
            if pid is None:
                self.say(f"fault {fault}: node {fault.node} does not run any more")
            elif fault.action is Action.KILL:
                self.killed.add(fault.node)
                self._send(fault, pid, signal.SIGKILL, "is killed")
            else:
                self._paused[fault] = pid
                self._send(fault, pid, signal.SIGSTOP, "is paused")

    def resume_all(self) -> None:
        """Let every paused node go on, so that it can be stopped in good order."""
        for fault, pid in self._paused.items():
            self._send(fault, pid, signal.SIGCONT, "goes on")
        self._paused.clear()

    def _get_due(self, phase: Phase) -> Iterable[Fault]:
        return [f for f in self.faults if f.phase is phase and f not in self._struck]

    def _send(self, fault: Fault, pid: int, number: signal.Signals, what: str) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            what = "does not run any more"
        self.say(f"fault {fault}: node {fault.node} {what}")
