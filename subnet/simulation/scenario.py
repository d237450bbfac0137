"""What one seed decides: who is honest, who serves what, and which kinds of faults occur."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random

from consensus.types import LayerRange, Role
from subnet.simulation.byzantine import Behaviour
from subnet.simulation.inference import SHAPE
from subnet.simulation.windows import EPOCH_LENGTH, WINDOWS

MIN_NODES = 4
MIN_NODES_WITH_LIARS = 7
EPOCH_LENGTH_WEIGHTS = (80, 12, 8)
"""How often epochs of 20, 50 and 100 blocks are drawn."""
MAX_FAMILIES = 6
"""More at once leave too few epochs that are attested, and so little to check."""
QUIET_EPOCHS = 2
"""Faults stop so many epochs before the end. A node that was down for the whole scored epoch
judges it like the others, so only the sightings of the scored epoch itself must be had."""


class Fault(Enum):
    """One family of faults."""

    CRASH = "crash"
    LOSS = "loss"
    SLOW = "slow"
    NARROW = "narrow"
    """Links that pass few bytes a second, one message after the other."""
    PARTITION = "partition"
    HIDE = "hide"
    CHAIN = "chain"
    SKEW = "skew"
    BYZANTINE = "byzantine"
    SPLIT = "split"
    """Dishonest nodes that show different nodes different things."""
    EDGE = "edge"
    """Dishonest nodes whose records leave at the last moment of their window."""
    SELECT = "select"
    """Dishonest replicas that answer some readers, or about some authors, and not others."""

    DISK = "disk"
    """Writes of a journal that fail, or are torn when the power goes."""
    FORK = "fork"
    """The newest blocks are replaced, never a final one."""
    LATE_BLOCKS = "late-blocks"
    """Slots without a block, and blocks that come late."""


LYING = (Fault.BYZANTINE, Fault.SPLIT, Fault.EDGE, Fault.SELECT)
CHAIN_FAULTS = (Fault.FORK, Fault.LATE_BLOCKS)
"""What the chain does to all alike: every node must still do all that it owes."""
NETWORK_FAULTS = frozenset(Fault) - frozenset(LYING) - frozenset(CHAIN_FAULTS)
"""Where none of these is on, everybody is connected and nobody dies."""

_HOSTER_BEHAVIOURS = (
    Behaviour.GARBAGE,
    Behaviour.NAN,
    Behaviour.HUGE,
    Behaviour.INT8,
    Behaviour.COPY,
    Behaviour.LATE,
    Behaviour.LATE_REVEAL,
    Behaviour.SILENT,
    Behaviour.NO_REVEAL,
    Behaviour.EARLY,
    Behaviour.WITHHOLD_DRAWN,
)
_ANY_BEHAVIOURS = (
    Behaviour.FORGE,
    Behaviour.WITHHOLD,
    Behaviour.TAMPER,
    Behaviour.BAD_PROPOSAL,
    Behaviour.SEE_NOTHING,
    Behaviour.SEE_WRONG,
    Behaviour.ACCUSE,
    Behaviour.HIDE_LIST,
    Behaviour.CENSOR,
)


@dataclass(frozen=True)
class NodeSpec:
    """One node of the scenario; no behaviours means honest."""

    node_id: int
    role: Role
    layers: LayerRange
    behaviours: frozenset[Behaviour] = frozenset()
    owner: int | None = None
    """The node whose coldkey owns this one too; None if its coldkey owns no other node."""

    @property
    def is_honest(self) -> bool:
        return not self.behaviours

    @property
    def coldkey(self) -> int:
        """The node that names the coldkey: nodes of one coldkey have one vote on an output."""
        return self.node_id if self.owner is None else self.owner

    def __str__(self) -> str:
        does = "+".join(sorted(b.value for b in self.behaviours)) or "honest"
        serves = f" {self.layers}" if self.role is Role.HOSTER else ""
        owner = "" if self.owner is None else f", owned like node {self.owner}"
        return f"node {self.node_id}: {self.role.value}{serves}, {does}{owner}"


@dataclass(frozen=True)
class Scenario:
    """One run. ``seed`` decides everything else, and the order of events."""

    seed: int
    epochs: int
    nodes: tuple[NodeSpec, ...]
    faults: frozenset[Fault] = field(default_factory=frozenset)
    origin: str | None = None
    """What replays a run whose nodes were not drawn from the seed."""
    epoch_length: int = EPOCH_LENGTH
    """Blocks in an epoch, a key of WINDOWS."""

    @property
    def is_connected(self) -> bool:
        """Whether all honest nodes are up and see the same things in time."""
        return not self.faults & NETWORK_FAULTS

    def compute_quiet_block(self, slot: int) -> int:
        """Return the first block without faults; ``slot`` is the subnet's."""
        return slot + (self.epochs + 1 - QUIET_EPOCHS) * self.epoch_length

    @property
    def honest(self) -> frozenset[int]:
        return frozenset(node.node_id for node in self.nodes if node.is_honest)

    @property
    def command(self) -> str:
        """The line that replays this run."""
        if self.origin is not None:
            return self.origin
        faults = " ".join(sorted(fault.value for fault in self.faults)) or "none"
        return (
            f"python -m tests.simulation --seed {self.seed} --epochs {self.epochs} "
            f"--nodes {len(self.nodes)} --faults {faults}"
        )


def draw_scenario(
    seed: int, *, epochs: int = 20, nodes: int = 7, faults: Collection[Fault] | None = None
) -> Scenario:
    """Return the scenario of a seed; ``faults`` overrides the drawn families."""
    random = Random(f"scenario/{seed}")
    # Drawn even where they are given: the rest of the seed's draws must not depend on that.
    drawn = draw_faults(random)
    chosen = drawn if faults is None else frozenset(faults)
    specs = _draw_nodes(random, nodes, chosen)
    # A generator of its own: the faults and lies of a seed do not depend on these draws.
    random = Random(f"chain/{seed}")
    length = draw_epoch_length(random)
    return Scenario(seed, epochs, draw_owners(random, specs), chosen, epoch_length=length)


def draw_epoch_length(random: Random) -> int:
    """Return the blocks of an epoch: seldom many, because each costs the simulator time."""
    (length,) = random.choices(sorted(WINDOWS), weights=EPOCH_LENGTH_WEIGHTS)
    return length


def draw_owners(random: Random, specs: tuple[NodeSpec, ...]) -> tuple[NodeSpec, ...]:
    """In one of three scenarios, let some coldkeys own several nodes.

    Honest hosters keep a coldkey each, so that they stay the majority of the votes on each layer;
    honest validators are owned by one of the hosters 1 to 3, and all who lie by the first liar.
    """
    if random.random() >= 1 / 3:
        return specs
    liars = [spec.node_id for spec in specs if not spec.is_honest]
    owned = []
    for spec in specs:
        owner = spec.owner
        if not spec.is_honest and spec.node_id != liars[0]:
            owner = liars[0]
        elif spec.is_honest and spec.role is Role.VALIDATOR and random.random() < 0.7:
            owner = random.choice((1, 2, 3))
        owned.append(replace(spec, owner=owner))
    return tuple(owned)


def draw_faults(random: Random) -> frozenset[Fault]:
    """Return a set of families: swarms of different ones find more than all at once.

    Every size of a set is as likely as any other, and within a size every combination.
    """
    if random.random() < 0.1:
        return frozenset()
    # Where all are connected, the invariants ask for more.
    families = (*LYING, *CHAIN_FAULTS) if random.random() < 0.4 else tuple(Fault)
    count = random.randrange(1, 1 + min(MAX_FAMILIES, len(families)))
    return frozenset(random.sample(families, count))


def _draw_nodes(random: Random, count: int, faults: frozenset[Fault]) -> tuple[NodeSpec, ...]:
    num_validators = 2 + (count >= 7 and random.random() < 0.5)
    num_hosters = count - num_validators
    behaviours = _draw_behaviours(random, count, num_hosters, faults)
    specs = []
    for node_id in range(1, count + 1):
        is_hoster = node_id <= num_hosters
        specs.append(
            NodeSpec(
                node_id,
                Role.HOSTER if is_hoster else Role.VALIDATOR,
                _draw_layers(random, is_honest=node_id not in behaviours, index=node_id),
                behaviours.get(node_id, frozenset()),
            )
        )
    return tuple(specs)


def _draw_layers(random: Random, *, is_honest: bool, index: int) -> LayerRange:
    """Honest hosters serve everything or all but an end, so that each block has a majority."""
    whole = LayerRange(0, SHAPE.num_layers)
    part = random.random()
    if is_honest and index <= 3:
        return whole
    if part < 0.5:
        return whole
    return LayerRange(0, 1) if part < 0.75 else LayerRange(1, SHAPE.num_layers)


def _draw_behaviours(
    random: Random, count: int, num_hosters: int, faults: frozenset[Fault]
) -> dict[int, frozenset[Behaviour]]:
    """Fewer than a third of all nodes lie, and fewer than half of those on any block."""
    if count < MIN_NODES_WITH_LIARS:
        return {}
    hosters = list(range(4, num_hosters + 1))
    validators = list(range(num_hosters + 1, count + 1))
    budget = min(2, (count - 1) // 3)
    drawn: dict[int, set[Behaviour]] = {}
    if Fault.BYZANTINE in faults:
        liars = [random.choice(hosters)]
        if budget >= 2:
            rest = [node for node in hosters + validators[1:] if node not in liars]
            liars.append(random.choice(rest))
        for liar in liars:
            drawn[liar] = _draw_lies(random, is_hoster=liar <= num_hosters)
        both_host = len(liars) == 2 and max(liars) <= num_hosters
        if both_host and random.random() < 0.3:
            drawn = {liar: {Behaviour.COLLUDE} for liar in liars}
    if Fault.SPLIT in faults:
        liar = next(iter(drawn), random.choice((hosters[0], validators[-1])))
        drawn[liar] = {_draw_equivocation(random, is_hoster=liar <= num_hosters)}
    for family in (Fault.EDGE, Fault.SELECT):
        if family in faults:
            liar = random.choice(sorted(drawn) or (hosters[0], validators[-1]))
            lie = _draw_family_lie(random, family, is_hoster=liar <= num_hosters)
            drawn.setdefault(liar, set()).add(lie)
    return {node: frozenset(does) for node, does in drawn.items()}


def _draw_family_lie(random: Random, family: Fault, *, is_hoster: bool) -> Behaviour:
    if family is Fault.SELECT:
        return random.choice((Behaviour.SELECT_READERS, Behaviour.SELECT_AUTHOR))
    edges = [Behaviour.EDGE_COMMIT, Behaviour.EDGE_SIGHTING, Behaviour.EDGE_LIST]
    return random.choice([Behaviour.EDGE, *edges] if is_hoster else edges)


def _draw_equivocation(random: Random, *, is_hoster: bool) -> Behaviour:
    if random.random() < 0.2:
        return Behaviour.EQUIVOCATE_SIGHTING
    if not is_hoster:
        return Behaviour.EQUIVOCATE_SCORES
    return random.choice((Behaviour.EQUIVOCATE, Behaviour.EQUIVOCATE_REVEAL))


def _draw_lies(random: Random, *, is_hoster: bool) -> set[Behaviour]:
    does = set()
    if is_hoster:
        does.add(random.choice(_HOSTER_BEHAVIOURS))
    elif random.random() < 0.5:
        does.add(Behaviour.LIE_SCORES)
    if not does or random.random() < 0.4:
        does.add(random.choice(_ANY_BEHAVIOURS))
    return does
