"""The bytes of an epoch are told once it is over, and only of one that was seen whole."""

from consensus.types import Epoch
from mesh.p2p.traffic import Traffic
from subnet.metrics.epoch_traffic import EpochBytes, EpochTraffic


def test_the_bytes_of_an_epoch_are_told_when_the_next_begins():
    traffic = Traffic()
    counted = EpochTraffic(traffic)
    traffic.calls.add_received(7)
    assert counted.note(Epoch(4)) is None
    traffic.calls.add_received(100)
    assert counted.note(Epoch(4)) is None
    # The node started within epoch 4, so that is not known whole.
    assert counted.note(Epoch(5)) is None
    traffic.calls.add_received(20)
    traffic.records.add_received(3)
    traffic.records.add_sent(5)
    assert counted.note(Epoch(5)) is None
    assert counted.note(Epoch(6)) == EpochBytes(Epoch(5), received=23, sent=5)
    assert counted.note(Epoch(7)) == EpochBytes(Epoch(6), received=0, sent=0)


def test_an_epoch_whose_end_was_not_seen_is_not_told():
    traffic = Traffic()
    counted = EpochTraffic(traffic)
    for epoch in (1, 2):
        counted.note(Epoch(epoch))
    traffic.calls.add_sent(9)
    assert counted.note(Epoch(4)) is None
    assert counted.note(Epoch(5)) is None
    assert counted.note(Epoch(6)) == EpochBytes(Epoch(5), received=0, sent=0)


def test_a_head_of_an_earlier_epoch_changes_nothing():
    counted = EpochTraffic(Traffic())
    for epoch in (1, 2, 1):
        assert counted.note(Epoch(epoch)) is None
    assert counted.note(Epoch(3)) == EpochBytes(Epoch(2), received=0, sent=0)
