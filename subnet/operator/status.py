"""The status file of a running process: ``mesh status`` and the container's health check read it.

The process replaces the file at every head and every PERIOD_S, so an old file means that the
process is dead or hangs. If the head has not moved for MAX_HEAD_AGE_BLOCKS, the chain or the
connection to it is at fault. The file holds no secret. It is best effort: a failed write never
ends the process.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consensus.phases import Phase
from consensus.types import EpochPosition
from subnet.errors import ConfigError
from subnet.private_file import replace_private_file

STATUS_FILE = "status.json"
STATUS_VERSION = 3
MAX_STATUS_SIZE = 64 * 1024
PERIOD_S = 10.0
SILENT_AFTER_S = 3 * PERIOD_S
"""A process that has not written for so long is no longer called by what it said last."""
MAX_HEAD_AGE_BLOCKS = 20
DEFAULT_BLOCK_TIME_S = 6.0

Amount = Annotated[str, Field(pattern=r"^\d{1,40}$")]
"""Units of 10^-18: JSON's numbers lose digits."""

logger = structlog.get_logger(__name__)


class DutyLine(BaseModel):
    """One duty of the present epoch: done, due, later or missed; ``until`` is a chain block."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duty: str
    progress: str
    until: int


class EarnedLine(BaseModel):
    """What one scored epoch brought the node; amounts are units of 10^-18 TENSOR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    paid: Amount
    proposing: Amount | None
    slashed: Amount
    reason: str | None = None
    """Why ``paid`` is 0."""


class NodeLoad(BaseModel):
    """What the node serves and whom it reaches; None for what it does not have or know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: int | None = None
    rows_per_s: float | None = None
    """Tokens that the served blocks computed a second, prompts and answers, over PERIOD_S."""
    cache_used: int | None = None
    cache_size: int | None = None
    peers_direct: int | None = None
    peers_relayed: int | None = None
    servers: int | None = None
    """Hosters that take sessions, as far as this node knows."""
    least_hosters: int | None = None
    """The number of hosters of the block that the fewest serve."""


class NodeStatus(BaseModel):
    """The state of one process. Times are seconds since 1970.

    A bootstrap has no ``subnet_node_id``. While no subnet names it, it has no ``subnet_id``, and
    follows no ``head`` either. ``standing`` says the node's class and what it waits for,
    ``eligibility`` whether it can earn in the next epoch. ``stay`` is why stopping it now would
    cost something. ``scores`` are (epoch, score at 10^18) of the last epochs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = STATUS_VERSION
    peer_id: str
    subnet_id: int | None
    subnet_node_id: int | None
    role: str
    blocks: tuple[int, int] | None
    written_at: float
    head: int | None
    head_moved_at: float | None
    block_time_s: float | None
    epoch: int | None
    phase: str | None
    taking_part: str
    addresses: tuple[str, ...]
    reach: str | None = None
    """How peers reach the node: direct, relayed, none, private or unknown; None: not asked."""
    relays_refused: int | None = None
    """Steps that the relay guard has refused since the start; None without an engine."""
    missed: tuple[str, ...] = ()
    """Duties missed and proposals refused in the last epochs, and why, the newest first."""
    is_stopped: bool = False
    phase_ends: int | None = None
    epoch_ends: int | None = None
    duties: tuple[DutyLine, ...] = ()
    stay: str | None = None
    standing: str | None = None
    eligibility: str | None = None
    stake: Amount | None = None
    reputation: Amount | None = None
    earned: tuple[EarnedLine, ...] = ()
    scores: tuple[tuple[int, Amount], ...] = ()
    endpoint: str | None = None
    load: NodeLoad = NodeLoad()
    examined_at: float | None = None
    """When the node's hourly examination ended; None before the first."""
    failing: tuple[str, ...] = ()
    """The checks of ``mesh doctor`` that failed in it, each with what it found."""
    warned: tuple[str, ...] = ()
    """The checks that gave a warning."""

    @property
    def name(self) -> str:
        """Return whose status it is, in words."""
        node = self.role if self.subnet_node_id is None else f"node {self.subnet_node_id}"
        return node if self.subnet_id is None else f"{node} of subnet {self.subnet_id}"

    def is_silent(self, *, now_s: float) -> bool:
        """Whether the process has stopped, or has not written lately: it may be dead."""
        return self.is_stopped or now_s - self.written_at > SILENT_AFTER_S

    def describe_life(self, *, now_s: float) -> str:
        """Return whether the process takes part, or since when it does not run or write."""
        ago = f"{max(0.0, now_s - self.written_at):.0f} s"
        if self.is_stopped:
            return f"stopped {ago} ago"
        if self.is_silent(now_s=now_s):
            return f"silent for {ago}, killed or hanging (last: {self.taking_part})"
        return f"{self.taking_part}, {ago} ago"

    def describe(self, *, now_s: float) -> str:
        """Return one line for people."""
        place = self.describe_place()
        mark = ":" if place == self.name else ","
        facts = [f"{place}{mark} {self.describe_life(now_s=now_s)}"]
        if self.missed:
            facts.append(f"{len(self.missed)} missed: {self.missed[0]}")
        if self.failing:
            count = len(self.failing)
            facts.append(f"{count} {'check fails' if count == 1 else 'checks fail'}: mesh doctor")
        return ", ".join(facts)

    def describe_place(self) -> str:
        """Return which process it is, what it serves, and where it last saw the chain."""
        facts = []
        if self.head is not None:
            facts = [f"head {self.head}", f"epoch {self.epoch}", f"{self.phase}"]
        if self.subnet_node_id is not None:
            blocks = "" if self.blocks is None else f" blocks {self.blocks[0]}:{self.blocks[1]}"
            facts = [f"{self.role}{blocks}", *facts]
        return f"{self.name}: {', '.join(facts)}" if facts else self.name

    def check(self, *, now_s: float, max_age_s: float) -> None:
        """Raise ConfigError if the process is silent or its head stands still."""
        silent_s = now_s - self.written_at
        if self.is_stopped:
            raise ConfigError(
                f"{self.name} was stopped {silent_s:.0f} s ago", "start it again with mesh-test"
            )
        if silent_s > max_age_s:
            raise ConfigError(
                f"{self.name} has been silent for {silent_s:.0f} s",
                "look at its log, then start it again",
            )
        if self.head_moved_at is None or self.block_time_s is None:
            return
        stands_s = now_s - self.head_moved_at
        if stands_s > MAX_HEAD_AGE_BLOCKS * self.block_time_s:
            raise ConfigError(
                f"the head of {self.name} has stood at block {self.head} for {stands_s:.0f} s",
                "check that the chain makes blocks and that --chain names a synchronised endpoint",
            )


class StatusFile:
    """Keeps the status file of this process up to date.

    ``get_facts`` returns the fields of NodeStatus that this class does not know: all but times,
    head, epoch and phase.
    """

    def __init__(
        self,
        directory: Path,
        get_facts: Callable[[], Mapping[str, Any]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._get_facts = get_facts
        self._clock = clock
        self._head: dict[str, Any] = dict.fromkeys(("head", "head_moved_at", "epoch", "phase"))
        self._is_failing = False

    def note_head(self, position: EpochPosition, phase: Phase) -> None:
        """Write down which block this process has come to."""
        if position.block != self._head["head"]:
            self._head |= {"head": position.block, "head_moved_at": self._clock()}
        self._head |= {"epoch": position.epoch, "phase": phase.value}
        self.write()

    def write(self, *, is_stopped: bool = False) -> None:
        """Replace the file. A first failure is logged, and the next write is the next attempt."""
        facts = {**self._get_facts(), **self._head, "is_stopped": is_stopped}
        status = NodeStatus(**facts, written_at=self._clock())
        try:
            write_status(self._directory, status)
        except OSError as error:
            if not self._is_failing:
                logger.warning("the status file cannot be written", reason=error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    async def keep_fresh(self) -> None:
        """Write it every PERIOD_S until cancelled."""
        while True:
            self.write()
            await asyncio.sleep(PERIOD_S)

    @contextmanager
    def say_when_stopped(self) -> Iterator[None]:
        """Write at the end of the block that the process was stopped."""
        try:
            yield
        finally:
            self.write(is_stopped=True)


def write_status(directory: Path, status: NodeStatus) -> None:
    """Replace the status file. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = f"{status.model_dump_json()}\n".encode()
    replace_private_file(directory / STATUS_FILE, content, is_durable=False)


def read_statuses(data_dir: Path) -> tuple[NodeStatus, ...]:
    """Return the status of every process that keeps its data below ``data_dir``.

    Raises ConfigError for a file that is not a status of a version up to STATUS_VERSION.
    """
    return tuple(read_status(path) for path in sorted(data_dir.glob(f"*/{STATUS_FILE}")))


def read_status(path: Path) -> NodeStatus:
    """Return what one status file says. Raises ConfigError."""
    try:
        if path.stat().st_size > MAX_STATUS_SIZE:
            raise ConfigError(f"{path} is too large for a status file", "remove it")
        body = _migrate(json.loads(path.read_bytes()))
        if body["version"] != STATUS_VERSION:
            raise ConfigError(
                f"the status file {path} is of version {body['version']!r}, "
                f"not {STATUS_VERSION} as this program writes it",
                "run the program that wrote it, or remove the file",
            )
        return NodeStatus.model_validate(body)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, ValidationError) as error:
        raise ConfigError(f"{path} is not a status file", "remove it") from error


def _migrate(body: dict[str, Any]) -> dict[str, Any]:
    """Bring version 1, which named no version, and version 2 to version 3."""
    if "version" not in body:
        added = {"head_moved_at": body["written_at"], "block_time_s": DEFAULT_BLOCK_TIME_S}
        return body | added | {"version": STATUS_VERSION}
    return body | {"version": STATUS_VERSION} if body["version"] == 2 else body
