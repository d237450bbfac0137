"""What fuzzing found and no vector can say: inputs that were answered with a defect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devchain.chain_types import AttestEntry
from devchain.scale import U32, MapOf, ScaleError, Text, decode_all, type_of
from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import InvalidRequest
from mesh.model.files import resolve_known_model
from mesh.p2p.daemon import _log_text
from subnet.errors import ConfigError
from tests.fuzz import seeds
from tests.fuzz.rigs import answer_rpc, get_gateway_rig
from tests.fuzz.targets import TARGETS
from tests.support.local_backend import MODEL

HALF_A_CHARACTER = "\ud800"
NESTED = "[" * 5000


@pytest.mark.parametrize(
    "content",
    [HALF_A_CHARACTER, [{"type": "text", "text": HALF_A_CHARACTER}]],
    ids=["text", "part"],
)
def test_a_chat_with_half_a_character_is_the_callers_mistake(content: Any) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    assert get_gateway_rig().post("/v1/chat/completions", json.dumps(body).encode()) == 400


def test_a_prompt_with_half_a_character_is_refused_by_name() -> None:
    tokenizer = ChatTokenizer.load(resolve_known_model("mesh-tiny").path)
    with pytest.raises(InvalidRequest, match="prompt"):
        tokenizer.encode(HALF_A_CHARACTER)


def test_bytes_that_are_half_a_character_are_bad_parameters() -> None:
    request = {"id": 1, "method": "network_proofOfStake", "params": [1, HALF_A_CHARACTER, 1, None]}
    (answer,) = answer_rpc(json.dumps(request).encode())
    assert json.loads(answer)["error"]["code"] == -32602


def test_a_text_that_is_not_utf8_is_a_scale_error() -> None:
    with pytest.raises(ScaleError, match="UTF-8"):
        decode_all(Text(), b"\x04\xff")


def test_a_key_that_comes_twice_in_a_map_needs_no_order_of_its_values() -> None:
    kind = MapOf(type_of(U32), type_of(AttestEntry))
    entry = AttestEntry(1, 2, 3, None)
    once = kind.encode({7: entry})
    twice = b"\x08" + once[1:] + kind.encode({7: AttestEntry(4, 5, 6, b"x")})[1:]
    assert list(decode_all(kind, twice)) == [7]


def test_a_line_of_the_daemon_that_nests_too_deeply_is_shown_as_it_is() -> None:
    assert _log_text(NESTED) == NESTED


@pytest.mark.parametrize("name", ["status_file", "metagraph_file", "model_config"])
def test_files_that_nest_too_deeply_break_nothing(name: str) -> None:
    TARGETS[name].check(NESTED.encode())


def test_a_metagraph_whose_peer_id_is_an_object_is_refused() -> None:
    (raw,) = TARGETS["metagraph_file"].seeds
    document = json.loads(raw)
    document["nodes"][0]["peer_id"] = {}
    refusal = TARGETS["metagraph_file"].find_refusal(json.dumps(document).encode())
    assert isinstance(refusal, ConfigError)


def test_a_configuration_of_every_family_is_taken_with_all_its_fields() -> None:
    for raw in seeds.list_configs():
        assert TARGETS["model_config"].check(raw)
