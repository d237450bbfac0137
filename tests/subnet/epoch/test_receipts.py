"""Running nodes keep of each epoch what its receipts need, and the receipts say what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from consensus.records import RecordKind
from consensus.types import LayerRange, NodeClass
from keys.envelope import decode_envelope
from subnet.epoch import heads
from subnet.errors import ChainUnavailable
from subnet.receipts.encoding import encode_evidence
from subnet.receipts.reasons import Why
from subnet.receipts.receipt import Comparison
from subnet.receipts.recompute import Basis, check_records, recompute
from tests.support.fakes import FakeInference, FakeReader
from tests.support.node import advance, advance_to, make_roster_node, run_nodes
from tests.support.receipts import EVERYBODY, KeepingSubnet, explain, list_reasons


class HoldingStore:
    """A record store that holds its reveals back until they are released."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._held: list[tuple[bytes, bytes, int]] = []

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool:
        if decode_envelope(value).kind == RecordKind.OUTPUT_REVEAL:
            self._held.append((key, value, expires_at))
            return True
        return bool(await self._inner.publish(key, value, expires_at))

    async def release(self) -> None:
        for held in self._held:
            await self._inner.publish(*held)

    async def fetch(self, keys: Any, *, timeout_s: float) -> Mapping[bytes, bytes]:
        found: Mapping[bytes, bytes] = await self._inner.fetch(keys, timeout_s=timeout_s)
        return found


class DeadReader(FakeReader):
    """A chain endpoint that is dead for a while."""

    is_dead = False

    def _check_up(self) -> None:
        super()._check_up()
        if self.is_dead:
            raise ChainUnavailable("ws://dead: no answer")


async def test_every_node_keeps_every_epoch_and_all_of_them_equal_the_chain() -> None:
    subnet = KeepingSubnet()
    await subnet.run_to(4)
    for keeper in EVERYBODY:
        kept = subnet.receipts[keeper].kept
        assert list(kept) == [0, 1, 2, 3]
        assert [evidence.is_settled for evidence in kept.values()] == [True, True, True, False]
        for evidence in kept.values():
            check_records(evidence)
            again = recompute(evidence)
            assert again.basis is Basis.NAMED
            for node_id in EVERYBODY:
                receipt = explain(evidence, node_id)
                assert receipt.comparison is Comparison.EQUAL
                assert receipt.score == receipt.proposed and receipt.score
                assert list_reasons(receipt) in ([], [Why.NO_SCORES_EXPECTED])


async def test_an_epoch_is_kept_once_more_when_it_is_settled_and_not_after() -> None:
    subnet = KeepingSubnet()
    writes = []
    keeper = subnet.receipts[1]
    keeper.write = lambda evidence: writes.append((evidence.epoch, evidence.is_settled))  # type: ignore[method-assign]
    await subnet.run_to(4)
    assert writes == [
        (0, False),
        (0, True),
        (1, False),
        (1, True),
        (2, False),
        (2, True),
        (3, False),
    ]


async def test_a_restart_does_not_replace_what_was_kept_with_less() -> None:
    subnet = KeepingSubnet()
    await subnet.run_to(3)
    before = encode_evidence(subnet.receipts[1].kept[1])
    await subnet.run_to(3, 10)
    assert encode_evidence(subnet.receipts[1].kept[1]) == before
    assert subnet.receipts[1].kept[1].notes.num_heads == 20


async def test_a_planted_cheat_is_refuted_in_its_own_receipt_and_in_those_of_others() -> None:
    subnet = KeepingSubnet()
    subnet.nodes[2].inference = FakeInference(LayerRange(0, 4), seed=9, noise=0.5)
    await subnet.run_to(3)
    for keeper in (1, 2, 6):
        first, second = (explain(subnet.receipts[keeper].kept[epoch], 2) for epoch in (0, 1))
        assert first.comparison is second.comparison is Comparison.EQUAL
        assert list_reasons(first) == [Why.REFUTED, Why.OUTSIDE_TOLERANCE]
        assert list_reasons(second)[0] is Why.ON_PROBATION


async def test_a_late_reveal_is_told_with_the_block_at_which_it_came() -> None:
    subnet, stores = KeepingSubnet(), list[HoldingStore]()

    def hold(inner: Any) -> HoldingStore:
        stores.append(HoldingStore(inner))
        return stores[-1]

    subnet.nodes[2].wrap_store = hold
    async with run_nodes(*subnet.nodes.values()):
        await advance_to(subnet.chain, 0, 14)
        await stores[0].release()
        await advance_to(subnet.chain, 2, 4)
    receipt = explain(subnet.receipts[1].kept[0], 2)
    assert receipt.comparison is Comparison.EQUAL
    assert list_reasons(receipt) == [Why.WITHHELD, Why.RECORD_LATE]
    assert "first saw it at block 15, and it had to be there before block 15" in (
        receipt.causes[1].sentence
    )


async def test_a_wrong_audit_is_told_to_its_author() -> None:
    subnet = KeepingSubnet()
    subnet.nodes[6].auditor = FakeInference(LayerRange(0, 4), seed=9, noise=0.5)
    await subnet.run_to(3)
    receipt = explain(subnet.receipts[6].kept[1], 6)
    assert receipt.comparison is Comparison.EQUAL
    assert Why.AUDIT_WRONG in list_reasons(receipt)


async def test_an_elected_node_that_was_away_is_told_so_by_itself_and_by_others() -> None:
    subnet = KeepingSubnet(elect=lambda epoch: 3 if epoch == 2 else 1)
    subnet.nodes[3].writer = None
    await subnet.run_to(4)
    own, other = (explain(subnet.receipts[keeper].kept[1], keeper) for keeper in (3, 1))
    assert own.comparison is other.comparison is Comparison.NO_PROPOSAL
    assert list_reasons(own) == [Why.ELECTED_AWAY]
    assert "did not propose (no hotkey was given)" in own.causes[0].sentence
    assert list_reasons(other) == [Why.NO_PROPOSAL]


async def test_an_epoch_without_election_is_kept_too() -> None:
    subnet = KeepingSubnet(elect=lambda epoch: None if epoch == 2 else 1)
    await subnet.run_to(4)
    before, within = (subnet.receipts[4].kept[epoch] for epoch in (1, 2))
    assert list_reasons(explain(before, 4)) == [Why.NO_ELECTION]
    assert recompute(within).basis is Basis.NOT_SCORED
    assert list_reasons(explain(within, 4)) == [Why.NOTHING_SCORED]
    assert explain(within, 4).comparison is Comparison.EQUAL


async def test_a_dead_endpoint_is_told_by_the_node_and_silence_by_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "RETRY_BLOCKS", 0)
    subnet = KeepingSubnet()
    reader = subnet.nodes[2].reader = DeadReader(subnet.chain)
    async with run_nodes(*subnet.nodes.values()):
        await advance_to(subnet.chain, 2, 1)
        reader.is_dead = True
        await advance_to(subnet.chain, 3, 1)
        reader.is_dead = False
        await advance(subnet.chain, 40)
    own, other = (explain(subnet.receipts[keeper].kept[2], 2) for keeper in (2, 1))
    assert own.comparison is other.comparison is Comparison.EQUAL
    assert list_reasons(own)[0] is Why.FEW_HEADS
    assert "(ws://dead: no answer)" in own.causes[0].sentence
    assert list_reasons(other) == [Why.SILENT]
    assert other.score is None


async def test_a_node_that_judges_nothing_marks_what_it_does_not_have() -> None:
    subnet = KeepingSubnet()
    subnet.chain.nodes = tuple(
        make_roster_node(n, NodeClass.INCLUDED if n == 4 else NodeClass.VALIDATOR)
        for n in EVERYBODY
    )
    await subnet.run_to(3)
    receipt = explain(subnet.receipts[4].kept[1], 4)
    assert receipt.comparison is Comparison.NOT_COMPARED
    assert receipt.basis is Basis.OWN_VIEW
    assert receipt.unseen[0].startswith("the list of sightings that the proposal names")
    assert receipt.score == explain(subnet.receipts[1].kept[1], 4).score
