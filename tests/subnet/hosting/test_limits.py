"""The operator's limits reach the engine; what is not said suits the device."""

from __future__ import annotations

import pytest

from mesh.p2p.rpc_guard import RpcLimits
from subnet.hosting.limits import DEVICE_LIMITS, choose_limits, choose_rpc_limits
from tests.subnet.hosting.test_serving import make_config


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_limits_that_are_not_named_suit_the_device(tmp_path, device):
    limits = choose_limits(make_config(tmp_path, device=device))
    default = DEVICE_LIMITS[device.partition(":")[0]]
    assert limits.max_sessions == default.max_sessions
    assert limits.max_batch_rows == default.max_batch_rows
    assert limits.cache_tokens == 64
    # One gateway is one peer.
    assert limits.max_sessions_per_peer == limits.max_sessions // 2


def test_every_limit_can_be_named(tmp_path):
    named = {
        "max_sessions": 5,
        "max_sessions_per_peer": 2,
        "max_batch_rows": 3,
        "prefill_chunk": 32,
    }
    limits = choose_limits(make_config(tmp_path, **named))
    assert {name: getattr(limits, name) for name in named} == named
    assert limits.cache_tokens == 64


def test_one_peer_may_open_no_more_than_all_may(tmp_path):
    assert choose_limits(make_config(tmp_path, max_sessions=5)).max_sessions_per_peer == 5


def test_there_are_streams_for_all_sessions_of_the_hoster_before(tmp_path):
    few = choose_rpc_limits(make_config(tmp_path, max_sessions=1))
    assert few == RpcLimits()
    many = choose_rpc_limits(make_config(tmp_path, max_sessions=300))
    assert many.max_streams_per_peer >= 600 and many.max_streams > many.max_streams_per_peer
