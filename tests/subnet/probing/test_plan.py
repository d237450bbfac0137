"""Who is probed and when: drawn from a secret, those that failed first, nobody starved."""

from __future__ import annotations

from collections import Counter

import pytest

from consensus.protocol_params import MAINNET
from keys.peer import PeerKey
from subnet.probing.plan import LAST_MOMENT_PERCENT, derive_probe_secret, plan_probes

NETWORK = b"n" * 32
HOSTERS = range(1, 51)


def plan(epoch=7, *, key=1, hosters=HOSTERS, failed=(), length=20):
    secret = derive_probe_secret(PeerKey(bytes([key]) * 32), network_id=NETWORK, epoch=epoch)
    return plan_probes(secret, hosters, failed, params=MAINNET, epoch_length=length)


def test_a_node_draws_the_same_plan_again_after_a_restart():
    assert plan() == plan(hosters=[*reversed(HOSTERS)])


@pytest.mark.parametrize("changes", [{"epoch": 8}, {"key": 2}])
def test_another_epoch_and_another_node_draw_other_hosters_and_moments(changes):
    assert {p.node_id for p in plan()} != {p.node_id for p in plan(**changes)}
    (one,), (other,) = plan(hosters=[3]), plan(hosters=[3], **changes)
    assert one.moments != other.moments


def test_secrets_of_two_networks_differ():
    key = PeerKey(b"\1" * 32)
    secrets = {derive_probe_secret(key, network_id=n * 32, epoch=1) for n in (b"a", b"b")}
    assert len(secrets) == 2
    with pytest.raises(ValueError, match="32 bytes"):
        derive_probe_secret(key, network_id=b"short", epoch=1)


def test_at_most_four_hosters_are_probed_each_three_times_within_the_epoch():
    for epoch in range(50):
        planned = plan(epoch)
        assert len(planned) == MAINNET.probes == len({p.node_id for p in planned})
        for probe in planned:
            assert len(probe.moments) == MAINNET.probe_attempts
            assert list(probe.moments) == sorted(probe.moments)
            assert 0 <= probe.moments[0] <= probe.moments[-1] < 20 * LAST_MOMENT_PERCENT / 100


def test_a_small_subnet_is_probed_whole_and_an_empty_one_not_at_all():
    assert {p.node_id for p in plan(hosters=[1, 2])} == {1, 2}
    assert {p.node_id for p in plan(hosters=[1, 2], failed=[1, 2])} == {1, 2}
    assert plan(hosters=[]) == ()


def test_those_that_failed_last_come_first():
    for epoch in range(20):
        chosen = {p.node_id for p in plan(epoch, failed=[5, 6])}
        assert {5, 6} < chosen


def test_dead_nodes_do_not_keep_the_others_from_being_probed():
    """Four dead sybils would otherwise shield every hoster that serves nobody."""
    dead = [*range(1, 11)]
    seen = Counter(p.node_id for epoch in range(400) for p in plan(epoch, failed=dead))
    assert all(seen[node_id] for node_id in HOSTERS)
    assert sum(seen[node_id] for node_id in HOSTERS if node_id not in dead) == 400


def test_every_hoster_is_drawn_equally_often_and_all_moments_occur():
    epochs = 2000
    planned = [probe for epoch in range(epochs) for probe in plan(epoch)]
    counts = Counter(probe.node_id for probe in planned)
    expected = epochs * MAINNET.probes / len(HOSTERS)
    assert all(abs(counts[node_id] - expected) < 5 * expected**0.5 for node_id in HOSTERS)
    tenths = Counter(int(10 * moment / 17) for probe in planned for moment in probe.moments)
    assert all(0.9 < count / (len(planned) * 3 / 10) < 1.1 for count in tenths.values())
