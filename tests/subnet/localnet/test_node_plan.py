"""Who runs in a local network, and which layers everybody serves."""

from __future__ import annotations

import pytest

from consensus.types import Role
from subnet.localnet.node_plan import FIRST_NODE_ACCOUNT, MAX_RUNS, RunNames, plan_nodes


def test_four_hosters_serve_every_layer_at_least_three_times() -> None:
    nodes = plan_nodes(hosters=4, validators=2, num_layers=8)
    spans = [node.layers for node in nodes if node.layers is not None]
    assert [(span.start, span.end) for span in spans] == [(0, 8), (0, 8), (0, 5), (3, 8)]
    for layer in range(8):
        assert sum(span.start <= layer < span.end for span in spans) >= 3


@pytest.mark.parametrize("num_layers", [1, 2, 3, 22, 32])
def test_the_partial_hosters_cover_any_model_together(num_layers: int) -> None:
    spans = [node.layers for node in plan_nodes(hosters=4, validators=0, num_layers=num_layers)]
    covered = {layer for span in spans[2:] if span for layer in range(span.start, span.end)}
    assert covered == set(range(num_layers))


def test_validators_serve_no_layers() -> None:
    nodes = plan_nodes(hosters=1, validators=2, num_layers=8)
    assert [(node.name, node.role, node.layers is None) for node in nodes] == [
        ("hoster-1", Role.HOSTER, False),
        ("validator-1", Role.VALIDATOR, True),
        ("validator-2", Role.VALIDATOR, True),
    ]


def test_no_two_keys_are_the_same_account() -> None:
    nodes = plan_nodes(hosters=32, validators=32, num_layers=8)
    accounts = [node.coldkey_account for node in nodes] + [node.hotkey_account for node in nodes]
    assert len(set(accounts)) == len(accounts)
    assert min(accounts) >= FIRST_NODE_ACCOUNT


def test_runs_on_one_chain_share_no_name_and_no_account() -> None:
    runs = [RunNames(), RunNames.for_run(0), RunNames.for_run(1), RunNames.for_run(MAX_RUNS - 1)]
    assert len({names.subnet for names in runs}) == len(runs)
    accounts = [
        account
        for names in runs
        for node in plan_nodes(
            hosters=32, validators=32, num_layers=8, first_account=names.first_account
        )
        for account in (node.coldkey_account, node.hotkey_account)
    ]
    assert len(set(accounts)) == len(accounts)
    # Beyond lie the hardened indices of BIP-32.
    assert max(accounts) < 1 << 31
