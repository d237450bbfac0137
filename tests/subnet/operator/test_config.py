"""Impossible configurations are usage errors that name the option."""

from pathlib import Path
from typing import Any

import pytest

from consensus.types import LayerRange, Role
from subnet.cli.mesh_test_command import parse_config
from subnet.errors import UsageError
from subnet.operator.config import NodeConfig, parse_layer_indices


def parse(*, hoster: bool = True, validator: bool = False, **changes: Any) -> NodeConfig:
    values: dict[str, Any] = {"model": "m", "identity_path": Path("peer_id.key"), "new_swarm": True}
    block_indices = changes.pop("block_indices", None)
    return parse_config(
        values | changes, hoster=hoster, validator=validator, block_indices=block_indices
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hoster": True, "validator": True}, "exactly one of --hoster and --validator"),
        ({"hoster": False}, "exactly one of --hoster and --validator"),
        ({"initial_peers": ("/ip4/127.0.0.1/tcp/1",)}, "exclude each other"),
        ({"block_indices": "0:4", "num_layers": 3}, "exclude each other"),
        ({"block_indices": "4:4"}, "half-open"),
        ({"block_indices": "4"}, "START:END"),
        ({"block_indices": "-1:4"}, "START:END"),
        ({"block_indices": "9" * 40 + ":1"}, "START:END"),
        ({"light": True}, "--light is for validators"),
        ({"hoster": False, "validator": True, "block_indices": "0:4"}, "serves no blocks"),
        ({"public_ip": "192.0.2.1"}, "--public-ip needs --port"),
        ({"port": 4000, "host_maddrs": ("/ip4/0.0.0.0/tcp/1",)}, "exclude each other"),
        ({"torch_dtype": "int3"}, "--torch-dtype"),
        ({"speculate": "on"}, "--speculate"),
        ({"subnet": ""}, "--subnet"),
    ],
)
def test_an_impossible_command_line_is_a_usage_error(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(**changes)
    assert sentence in str(caught.value)


def test_layer_indices_are_half_open() -> None:
    assert parse_layer_indices("0:11") == LayerRange(0, 11)
    assert len(parse_layer_indices("3:8")) == 5


def test_a_public_address_is_announced_with_its_port() -> None:
    config = parse(port=31330, public_ip="192.0.2.1")
    assert config.get_host_maddrs() == ("/ip4/0.0.0.0/tcp/31330",)
    assert config.get_announce_maddrs() == ("/ip4/192.0.2.1/tcp/31330",)
    assert config.role is Role.HOSTER
