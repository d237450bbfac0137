"""The strategies whose pay is measured: who is in the swarm, and who cheats how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from consensus.commitment import compute_tag
from consensus.records import RecordKind, ScoreRow, SeenRecord, Sighting
from consensus.types import SCORE_ONE, Epoch, Role, Score, SubnetNodeId
from subnet.simulation.economics.swarm import Actor, Swarm, nobody

FIRST_CHEAT = 100
"""Cheats have ids from here on."""


@dataclass(frozen=True)
class Strategy:
    """One way to be paid for less than the work, or to keep others from their pay.

    ``honest_share`` is the part of an honest node's work that it does all the same: what it may
    earn. ``saves`` and ``stopped_by`` are for the table.
    """

    name: str
    role: Role
    saves: str
    stopped_by: str
    build: Callable[[], Sequence[Actor]]
    honest_share: float = 0.0
    is_about_numbers: bool = False
    """Whether it depends on a model's weights, so that more than one model is measured."""


def make_honest(hosters: int, validators: int) -> list[Actor]:
    """Return honest nodes of as many coldkeys: hosters of the whole model, then validators."""
    roles = [Role.HOSTER] * hosters + [Role.VALIDATOR] * validators
    return [Actor(node_id, role, coldkey=node_id) for node_id, role in enumerate(roles, start=1)]


def make_cheats(role: Role, count: int = 1, **does: object) -> list[Actor]:
    """Return cheats of as many coldkeys that all do the same."""
    cheat = Actor(0, role, coldkey=0, is_honest=False)
    return [
        replace(cheat, node_id=FIRST_CHEAT + i, coldkey=FIRST_CHEAT + i, **does)  # type: ignore[arg-type]
        for i in range(count)
    ]


def list_strategies() -> tuple[Strategy, ...]:
    """Return every strategy of the table of cheats, in its order."""
    return (*_list_hosters(), *_list_validators(), *_list_proposers())


@cache
def get_strategy(name: str) -> Strategy:
    """Return a strategy of the table by its name."""
    return next(strategy for strategy in list_strategies() if strategy.name == name)


def _make(
    role: Role,
    name: str,
    saves: str,
    stopped_by: str,
    *,
    count: int = 1,
    honest: tuple[int, int] = (5, 4),
    honest_share: float = 0.0,
    is_about_numbers: bool = False,
    **does: object,
) -> Strategy:
    """Return a strategy of ``count`` equal cheats beside ``honest`` hosters and validators."""
    return Strategy(
        name,
        role,
        saves,
        stopped_by,
        lambda: make_honest(*honest) + make_cheats(role, count, **does),
        honest_share,
        is_about_numbers,
    )


def _list_hosters() -> tuple[Strategy, ...]:
    host = partial(_make, Role.HOSTER, honest=(5, 3))

    def answer(name: str, saves: str, stopped_by: str = "tau, audits") -> Strategy:
        return host(
            name, saves, stopped_by, kinds=lambda _epoch, _layer: name, is_about_numbers=True
        )

    def only_layer_0(_epoch: int, layer: int) -> str:
        return "garbage" if layer == 0 else "honest"

    return (
        host("silent", "all work", "no commit, no pay", kinds=lambda _epoch, _layer: None),
        host("late", "nothing", "no witness lists it", commit_seen=nobody),
        host(
            "edge",
            "nothing",
            "its own risk: half of the witnesses list it, or not",
            reveal_seen=lambda epoch, witness: (epoch * 7 + witness) % 3 != 0,
            honest_share=1.0,
        ),
        host(
            "selective",
            "nothing",
            "the majority of the named sightings decides for all",
            reveal_seen=lambda _epoch, witness: witness % 2 == 0,
            honest_share=1.0,
        ),
        host("copied digest", "all work", "commitments bind their author", copies=1),
        host(
            "copied reveal",
            "all work",
            "commitments bind their author",
            copies=2,
            count=2,
        ),
        answer("relay", "all work", "relay guard"),
        answer("perturbed relay", "all work", "relay guard, tau, audits"),
        host("garbage alone", "all work", "tau, audits", kinds=lambda _e, _l: "garbage"),
        host(
            "garbage majority on one layer",
            "one layer",
            "audits: refuted when the layer is drawn",
            count=4,
            honest=(3, 6),
            kinds=only_layer_0,
            honest_share=8 / 9,
        ),
        host(
            "garbage on all layers, 4 beside 3",
            "all work",
            "audits: refuted at the first draw",
            count=4,
            honest=(3, 6),
            kinds=lambda _epoch, _layer: "garbage",
        ),
        answer("int8", "half of the memory"),
        answer("int4", "three quarters of the memory"),
        answer("bf16", "the wide products of the challenge"),
        answer("skipped layer", "every other layer"),
        answer("wrong weights", "keeping the model"),
        host("challenge-only", "serving clients", "probes", is_serving=False),
        host("serves garbage", "serving clients", "probes", is_serving=False),
        host(
            "withheld reveal after the draw",
            "one layer in nine",
            "withheld: unpaid for three epochs",
            kinds=lambda _epoch, layer: "garbage" if layer == 0 else "honest",
            is_reveal_withheld=lambda _epoch, drawn: 0 in drawn,
            honest_share=8 / 9,
        ),
        host(
            "sybil hosters against one honest",
            "all work",
            "audits",
            count=4,
            honest=(1, 8),
            kinds=lambda _epoch, _layer: "garbage",
        ),
        host(
            "equivocator",
            "nothing",
            "the version that the majority lists counts",
            reveal_seen=lambda _epoch, witness: witness % 3 != 0,
            shows_second=True,
            honest_share=1.0,
        ),
        host(
            "spammer",
            "all work",
            "what does not open a commitment counts for nothing",
            kinds=lambda _epoch, _layer: "garbage",
            reveal_seen=nobody,
            shows_second=True,
        ),
    )


def _list_validators() -> tuple[Strategy, ...]:
    validate = partial(_make, Role.VALIDATOR)
    lazy = "reading and scoring reveals, audits"
    return (
        validate("lazy: last rows", lazy, "tags", audit_kind=None, bend_rows=_copy_last_rows),
        validate("lazy: all perfect", lazy, "tags", audit_kind=None, bend_rows=_say_perfect),
        validate(
            "lazy: copied sighting", lazy, "tags", audit_kind=None, bend_rows=_copy_sighting_names
        ),
        validate(
            "lazy: copy of the proposal", lazy, "tags", audit_kind=None, bend_rows=_copy_proposal
        ),
        validate(
            "lazy attestor",
            "checking proposals",
            "it gains nothing: pay is for scores and audits",
            is_attesting_all=True,
            honest_share=1.0,
        ),
        validate(
            "lying prober, two of ten",
            "probing",
            "a majority of the named sightings",
            count=2,
            honest=(5, 3),
            accuses=(1, 2, 3, 4, 5),
            honest_share=1.0,
        ),
        validate(
            "lying prober, just under a third",
            "probing",
            "a majority of the named sightings",
            count=3,
            honest=(5, 3),
            accuses=(1, 2, 3, 4, 5),
            honest_share=1.0,
        ),
        validate(
            "sybil validators against two",
            "audits",
            "audits: both majorities",
            count=3,
            honest=(6, 2),
            audit_kind="garbage",
            bend_rows=_say_perfect,
        ),
        validate(
            "double-signing sighter",
            "nothing",
            "the proposal names one version by its hash",
            bend_sighting=_forget_half,
            honest_share=1.0,
        ),
        validate(
            "wrong references",
            "audits",
            "a majority of all votes on the layer",
            audit_kind="int8",
            honest_share=0.5,
        ),
    )


def _list_proposers() -> tuple[Strategy, ...]:
    propose = partial(_make, Role.VALIDATOR, count=3, honest_share=1.0)

    def leave_out(sighters: Sequence[int]) -> Sequence[int]:
        """Name no more than must be, the own ones first."""
        count = -(-2 * len(sighters) // 3)
        return sorted(sighters, key=lambda node: node < FIRST_CHEAT)[:count]

    return (
        propose(
            "censoring proposer",
            "nothing",
            "half of two thirds of the sightings list a record all the same",
            choose_named=leave_out,
            bend_sighting=_forget_node_1,
        ),
        propose(
            "late-inserting proposer",
            "nothing",
            "half of the named sightings must list it",
            choose_named=leave_out,
            bend_sighting=_invent_record,
        ),
        propose(
            "selectively serving proposer",
            "nothing",
            "who cannot have the list does not attest: the proposer loses the epoch",
            shows_list_to=lambda node: node >= FIRST_CHEAT,
            is_attesting_all=True,
        ),
        propose(
            "bent proposal",
            "nothing",
            "honest nodes recompute it: the proposer loses the epoch",
            bend_proposal=_pay_cheats,
            is_attesting_all=True,
        ),
        propose("queue thief", "nothing", "queue arguments are refused", queue_removes=True),
    )


def _copy_last_rows(swarm: Swarm, epoch: int, _rows: tuple[ScoreRow, ...]) -> tuple[ScoreRow, ...]:
    """Commit to what the others revealed last, under the tags that stood there."""
    seen = [
        rows
        for (of_epoch, node), rows in swarm.rows.items()
        if of_epoch == epoch - 1 and node < FIRST_CHEAT
    ]
    return seen[0] if seen else ()


def _say_perfect(swarm: Swarm, epoch: int, _rows: tuple[ScoreRow, ...]) -> tuple[ScoreRow, ...]:
    """Commit to full marks for everybody, without having read a reveal."""
    return _mark_all(swarm, lambda node: bytes([epoch % 256]) * 8)


def _copy_sighting_names(
    swarm: Swarm, epoch: int, _rows: tuple[ScoreRow, ...]
) -> tuple[ScoreRow, ...]:
    """Commit to full marks, with tags from the names that another's sighting shows."""

    def guess(node: int) -> bytes:
        slot = (RecordKind.OUTPUT_REVEAL, Epoch(epoch), SubnetNodeId(node))
        envelope = swarm.get_seen(FIRST_CHEAT).get(slot)
        name = bytes(16) if envelope is None else envelope.record_hash[:16]
        return compute_tag(SubnetNodeId(FIRST_CHEAT), name + bytes(16))

    return _mark_all(swarm, guess)


def _copy_proposal(swarm: Swarm, epoch: int, _rows: tuple[ScoreRow, ...]) -> tuple[ScoreRow, ...]:
    """Commit to the totals of the last proposal, without having read a reveal."""
    report = swarm.last_reports.get(epoch - 1)
    if report is None:
        return ()
    return tuple(ScoreRow(hoster.node_id, hoster.total, bytes(8)) for hoster in report.hosters)


def _mark_all(swarm: Swarm, tag: Callable[[int], bytes]) -> tuple[ScoreRow, ...]:
    total = Score(len(swarm.shape.challenged_layers) * SCORE_ONE)
    return tuple(
        ScoreRow(SubnetNodeId(actor.node_id), total, tag(actor.node_id))
        for actor in swarm.actors.values()
        if actor.role is Role.HOSTER
    )


def _forget_half(sighting: Sighting) -> Sighting:
    return replace(sighting, seen=sighting.seen[::2])


def _forget_node_1(sighting: Sighting) -> Sighting:
    return replace(sighting, seen=tuple(row for row in sighting.seen if row.position != 0))


def _invent_record(sighting: Sighting) -> Sighting:
    """List a reveal of one's own that no node has seen."""
    own = SeenRecord(RecordKind.OUTPUT_REVEAL, 0, sighting.num_nodes - 1, bytes(16))
    others = tuple(row for row in sighting.seen if row[:3] != own[:3])
    first = [row for row in others if (row.kind, row.age) == (RecordKind.OUTPUT_COMMIT, 0)]
    reveals = [row for row in others if (row.kind, row.age) == (RecordKind.OUTPUT_REVEAL, 0)]
    rest = others[len(first) + len(reveals) :]
    return replace(sighting, seen=(*first, *reveals, own, *rest))


def _pay_cheats(rows: dict[int, int]) -> dict[int, int]:
    return {node: score if node >= FIRST_CHEAT else 0 for node, score in rows.items()}
