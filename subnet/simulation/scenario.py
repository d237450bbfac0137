"""What one seed decides: who is honest, who serves what, and which kinds of faults occur."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from itertools import combinations
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
SEEDS_PER_ROUND = 100
"""Within so many seeds each pair of families occurs about as often as any other."""
MAX_ABSENT_EPOCHS = 11
"""About so many epochs after a node fell silent the chain has removed it."""
QUIET_EPOCHS = 2
"""Faults stop so many epochs before the end. A node that was down for the whole scored epoch
judges it like the others, so only the sightings of the scored epoch itself must be had."""


class FaultFamily(Enum):
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
    ROSTER = "roster"
    """Nodes that join and become Validators, that leave, and that the chain removes."""
    COLLUSION = "collusion"
    """Dishonest nodes with one plan: up to just under half of all."""


LYING = (
    FaultFamily.BYZANTINE,
    FaultFamily.SPLIT,
    FaultFamily.EDGE,
    FaultFamily.SELECT,
    FaultFamily.COLLUSION,
)
CHAIN_FAULTS = (FaultFamily.FORK, FaultFamily.LATE_BLOCKS, FaultFamily.ROSTER)
"""What the chain does to all alike: every node must still do all that it owes."""
NETWORK_FAULTS = frozenset(FaultFamily) - frozenset(LYING) - frozenset(CHAIN_FAULTS)
"""Where none of these is on, all nodes are connected and none dies."""

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
PLANS = (
    frozenset({Behaviour.COLLUDE}),
    frozenset({Behaviour.COLLUDE, Behaviour.LIE_TOTALS}),
    frozenset({Behaviour.SEE_ALLIES, Behaviour.NAME_ALLIES}),
    frozenset({Behaviour.ACCUSE, Behaviour.NAME_ALLIES}),
    frozenset({Behaviour.BAD_PROPOSAL, Behaviour.ATTEST_ALLIES, Behaviour.REFUSE}),
    frozenset(
        {Behaviour.COLLUDE, Behaviour.LIE_TOTALS, Behaviour.SEE_ALLIES, Behaviour.NAME_ALLIES}
    ),
)
"""What colluders do together: answer with one lie, as hosters and as auditors; vote for each
other's totals; see and name each other only; call all hosters silent; propose and attest each
other's lies and nothing else."""


@dataclass(frozen=True)
class NodeSpec:
    """One node of the scenario; no behaviours means honest."""

    node_id: int
    role: Role
    layers: LayerRange
    behaviours: frozenset[Behaviour] = frozenset()
    owner: int | None = None
    """The node whose coldkey owns this one too; None if its coldkey owns no other node."""
    joins: int | None = None
    """The epoch in which its owner registers it; None for a founder."""
    leaves: int | None = None
    """The epoch in which its owner removes it."""
    stops: int | None = None
    """The epoch in which its process ends for good, and the chain is not told."""

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
        changes = "".join(
            f", {what} in epoch {epoch}"
            for what, epoch in (
                ("joins", self.joins),
                ("leaves", self.leaves),
                ("stops", self.stops),
            )
            if epoch is not None
        )
        return f"node {self.node_id}: {self.role.value}{serves}, {does}{owner}{changes}"


@dataclass(frozen=True)
class Scenario:
    """One run. ``seed`` decides everything else, and the order of events."""

    seed: int
    epochs: int
    nodes: tuple[NodeSpec, ...]
    faults: frozenset[FaultFamily] = field(default_factory=frozenset)
    origin: str | None = None
    """What replays a run whose nodes were not drawn from the seed."""
    epoch_length: int = EPOCH_LENGTH
    """Blocks in an epoch, a key of WINDOWS."""

    @property
    def is_connected(self) -> bool:
        """Whether all honest nodes are up and see the same things in time."""
        return not self.faults & NETWORK_FAULTS

    @property
    def founders(self) -> tuple[NodeSpec, ...]:
        """The nodes that are there from the start, those with the lowest ids."""
        return tuple(node for node in self.nodes if node.joins is None)

    @property
    def is_tolerable(self) -> bool:
        """Whether fewer than a third of the Validator-class nodes are hostile, at every time.

        Nodes that have stopped count as hostile, and nodes that join as not there.
        """
        hostile = sum(not node.is_honest or node.stops is not None for node in self.nodes)
        staying = sum(node.leaves is None for node in self.founders)
        return 3 * hostile < staying

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
            f"--nodes {len(self.founders)} --faults {faults}"
        )


def draw_scenario(
    seed: int, *, epochs: int = 20, nodes: int = 7, faults: Collection[FaultFamily] | None = None
) -> Scenario:
    """Return the scenario of a seed; ``faults`` overrides the drawn families."""
    chosen = draw_faults(seed) if faults is None else frozenset(faults)
    specs = _draw_nodes(Random(f"scenario/{seed}"), nodes, chosen)
    # A generator of its own: the lies of a seed do not depend on these draws.
    random = Random(f"chain/{seed}")
    length = draw_epoch_length(random)
    specs = draw_owners(random, specs)
    if FaultFamily.ROSTER in chosen:
        specs = draw_changes(random, specs, epochs=epochs)
    return Scenario(seed, epochs, specs, chosen, epoch_length=length)


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


def draw_changes(
    random: Random, specs: tuple[NodeSpec, ...], *, epochs: int
) -> tuple[NodeSpec, ...]:
    """Let one or two honest nodes join, and where few lie, others leave or stop.

    Hostile are fewer than a third all the time if they are at the start: a node that leaves makes
    the others fewer, and one that stops is as good as hostile.
    """
    changed = list(specs)
    num_liars = sum(not spec.is_honest for spec in specs)
    # One auditor stays, and those that serve everything: each layer keeps its honest majority.
    honest = [spec for spec in specs if spec.is_honest]
    auditor = next((spec for spec in honest if spec.role is Role.VALIDATOR), None)
    movable = [spec for spec in honest if spec.node_id > 3 and spec is not auditor]
    random.shuffle(movable)
    if movable and 3 * num_liars < len(specs) - 1 and random.random() < 0.8:
        spec = movable.pop()
        epoch = random.randrange(2, max(3, epochs - 1))
        changed[spec.node_id - 1] = replace(spec, leaves=epoch)
    if movable and 3 * (num_liars + 1) < len(specs) - 1 and random.random() < 0.8:
        spec = movable.pop()
        # Early: the chain removes a silent node only after MAX_ABSENT_EPOCHS.
        epoch = random.randrange(2, max(3, epochs - MAX_ABSENT_EPOCHS))
        changed[spec.node_id - 1] = replace(spec, stops=epoch)
    epoch = 1
    for number in range(random.choice((1, 1, 2))):
        role = random.choice((Role.HOSTER, Role.VALIDATOR))
        owner = random.choice((None, 1, 2, 3)) if role is Role.VALIDATOR else None
        epoch += random.randrange(1, 4)
        node_id = len(specs) + 1 + number
        layers = LayerRange(0, SHAPE.num_layers)
        changed.append(NodeSpec(node_id, role, layers, owner=owner, joins=epoch))
    return tuple(changed)


def draw_faults(seed: int) -> frozenset[FaultFamily]:
    """Return a set of families: swarms of different ones find more than all at once.

    Consecutive seeds share out every pair of families evenly, which draws that do not know of each
    other would not: some pairs would be missing among hundreds of seeds.
    """
    return _draw_fault_sets(seed // SEEDS_PER_ROUND)[seed % SEEDS_PER_ROUND]


@lru_cache(4)
def _draw_fault_sets(number: int) -> tuple[frozenset[FaultFamily], ...]:
    """Return the sets of one round of seeds: each takes the families that have met least so far."""
    random = Random(f"faults/{number}")
    met: Counter[frozenset[FaultFamily]] = Counter()
    sets = []
    for _ in range(SEEDS_PER_ROUND):
        chosen = _draw_fault_set(random, met)
        met.update(frozenset(pair) for pair in combinations(sorted(chosen, key=str), 2))
        sets.append(frozenset(chosen))
    # The first sets of a round would otherwise be those without choice.
    random.shuffle(sets)
    return tuple(sets)


def _draw_fault_set(random: Random, met: Mapping[frozenset[FaultFamily], int]) -> list[FaultFamily]:
    if random.random() < 0.1:
        return []
    # Where all are connected, the invariants ask for more.
    families = [*LYING, *CHAIN_FAULTS] if random.random() < 0.4 else list(FaultFamily)
    chosen: list[FaultFamily] = []
    for _ in range(random.randrange(1, 1 + min(MAX_FAMILIES, len(families)))):
        random.shuffle(families)
        rest = [family for family in families if family not in chosen]
        chosen.append(min(rest, key=lambda new: _count_meetings(new, chosen, families, met)))
    return chosen


def _count_meetings(
    new: FaultFamily,
    chosen: Sequence[FaultFamily],
    families: Sequence[FaultFamily],
    met: Mapping[frozenset[FaultFamily], int],
) -> int:
    """Return how often a family has met those that are chosen; all, while none is."""
    return sum(met.get(frozenset((new, other)), 0) for other in chosen or families)


def _draw_nodes(random: Random, count: int, faults: frozenset[FaultFamily]) -> tuple[NodeSpec, ...]:
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
    random: Random, count: int, num_hosters: int, faults: frozenset[FaultFamily]
) -> dict[int, frozenset[Behaviour]]:
    """Fewer than a third of all nodes lie, and fewer than half of those on any block."""
    if count < MIN_NODES_WITH_LIARS:
        return {}
    hosters = list(range(4, num_hosters + 1))
    validators = list(range(num_hosters + 1, count + 1))
    budget = min(2, (count - 1) // 3)
    drawn: dict[int, set[Behaviour]] = {}
    if FaultFamily.COLLUSION in faults:
        drawn = _draw_collusion(random, num_hosters, len(validators))
        if FaultFamily.BYZANTINE in faults:
            drawn[random.choice(sorted(drawn))].add(random.choice(_ANY_BEHAVIOURS))
    elif FaultFamily.BYZANTINE in faults:
        liars = [random.choice(hosters)]
        if budget >= 2:
            rest = [node for node in hosters + validators[1:] if node not in liars]
            liars.append(random.choice(rest))
        for liar in liars:
            drawn[liar] = _draw_lies(random, is_hoster=liar <= num_hosters)
        both_host = len(liars) == 2 and max(liars) <= num_hosters
        if both_host and random.random() < 0.3:
            drawn = {liar: {Behaviour.COLLUDE} for liar in liars}
    if FaultFamily.SPLIT in faults:
        liar = next(iter(drawn), random.choice((hosters[0], validators[-1])))
        lie = _draw_equivocation(random, is_hoster=liar <= num_hosters)
        drawn[liar] = {lie} if FaultFamily.COLLUSION not in faults else drawn[liar] | {lie}
    for family in (FaultFamily.EDGE, FaultFamily.SELECT):
        if family in faults:
            liar = random.choice(sorted(drawn) or (hosters[0], validators[-1]))
            lie = _draw_family_lie(random, family, is_hoster=liar <= num_hosters)
            drawn.setdefault(liar, set()).add(lie)
    return {node: frozenset(does) for node, does in drawn.items()}


def _draw_collusion(
    random: Random, num_hosters: int, num_validators: int
) -> dict[int, set[Behaviour]]:
    """Return what colluders do: fewer than half of all nodes, and of the hosters.

    At most half of two validators collude, and fewer than half of more: a majority of them decides
    which totals are right (docs/protocol.md, 11).
    """
    most_hosters = min((num_hosters - 1) // 2, num_hosters - 3)
    most_validators = max((num_validators - 1) // 2, num_validators == 2)
    shares = [
        (hosters, validators)
        for hosters in range(most_hosters + 1)
        for validators in range(most_validators + 1)
        if 0 < 2 * (hosters + validators) < num_hosters + num_validators
    ]
    # Alone there is no one to collude with. Each share is as likely as any other.
    shares = [share for share in shares if sum(share) > 1] or shares
    total = random.choice(sorted({sum(share) for share in shares}))
    hosters, validators = random.choice([share for share in shares if sum(share) == total])
    count, plan = num_hosters + num_validators, random.choice(PLANS)
    liars = [*range(num_hosters + 1 - hosters, num_hosters + 1)]
    liars += range(count + 1 - validators, count + 1)
    return {liar: set(plan) for liar in liars}


def _draw_family_lie(random: Random, family: FaultFamily, *, is_hoster: bool) -> Behaviour:
    if family is FaultFamily.SELECT:
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
