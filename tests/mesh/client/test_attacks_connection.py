"""A peer names the network's model; it must not name what lies on the client's disk."""

from __future__ import annotations

import pytest

from mesh.assets import SHIPPED_MODEL_NAME
from mesh.client.connection import check_named_model
from mesh.errors import InvalidRequest


@pytest.mark.parametrize("name", [SHIPPED_MODEL_NAME, "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "gpt2"])
def test_name_of_a_model_is_taken(name):
    assert check_named_model(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/etc", "~root", "~/models/x", "./x", "../x", "a/../../etc", "a/b/c", "a b"]
    + ["a\n", "C:\\x", "x" * 200, "file:///etc", "-rf", "a/.ssh"],
)
def test_place_on_this_machine_is_no_model_that_a_peer_may_name(name):
    with pytest.raises(InvalidRequest):
        check_named_model(name)
