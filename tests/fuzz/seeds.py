"""Valid encodings of everything that strangers send, made by our own encoders."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

from consensus import records
from consensus.errors import InvalidRecord
from consensus.records import RecordKind, decode_body
from consensus.roster import Roster, RosterNode
from consensus.types import BlockNumber, Epoch, NodeClass, SubnetNodeId
from devchain import calls
from devchain.chain_types import PeerInfo, SubnetNodeConsensusData
from devchain.pallets import (
    EVENT_TYPE,
    STORAGE_ITEMS,
    SYSTEM_EVENTS,
    ApplyExtrinsic,
    EventRecord,
)
from devchain.scale import PalletVariants, Reader, ScaleError
from devchain.state import Item
from devchain.storage_keys import hash_key
from keys.account import derive_development_account
from keys.envelope import Envelope, seal
from keys.peer import PeerKey
from mesh.assets import shipped_model_path
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.sampling import Sampling
from mesh.inference.tickets import Ticket
from mesh.inference.tokens import Alternative, Finish, Token
from mesh.inference.wire import OpenSession
from mesh.model.config import LayerSpan
from mesh.p2p.rpc_wire import AnswerStatus, Opening, OpeningKind, RpcAnswer
from mesh.routing.heartbeat import HEARTBEAT_KIND, ServerInfo, ServerRole, ServerState
from mesh.routing.hop import Hop
from mesh.routing.info import NetworkInfo
from subnet.simulation import memory
from tests.fuzz.rigs import make_world
from tests.simulation.test_attacks import make_scenario, run_scenario
from tests.support.ledger_world import FIRST_SUBNET, node_call, subnet_data
from tests.support.local_backend import MODEL
from tests.support.signed_extrinsics import encode_signed

KEY, OTHER_KEY = PeerKey(bytes([1]) * 32), PeerKey(bytes([2]) * 32)
NETWORK_ID = bytes(range(32))
EXPIRES_AT = 1_800_000_000
HIDDEN_SIZE, VOCAB_SIZE = 4, 6
ZEROS = tuple(bytes(size) for size in range(400))
"""Where no node sends a kind yet, an encoding of nothing but zeros is one to begin with."""


def seal_body(kind: int, body: bytes) -> Envelope:
    """Sign ``body`` as the node of the roster below."""
    return seal(
        KEY,
        kind=kind,
        network_id=NETWORK_ID,
        epoch=7,
        expires_at=EXPIRES_AT,
        node_id=1,
        body=body,
    )


ROSTER = Roster(
    Epoch(7),
    BlockNumber(140),
    bytes(32),
    EXPIRES_AT - 360,
    (
        RosterNode(
            SubnetNodeId(1), KEY.peer_id, bytes(20), bytes(20), NodeClass.VALIDATOR, Epoch(0)
        ),
    ),
)


@cache
def collect_bodies() -> dict[RecordKind, tuple[bytes, ...]]:
    """Return the bodies that the nodes of a simulated network publish, by kind."""
    found: dict[RecordKind, dict[bytes, None]] = {}

    def watch(kind: RecordKind, raw: bytes) -> Any:
        found.setdefault(kind, {})[raw] = None
        return decode_body(kind, raw)

    with mock.patch.object(memory, "decode_body", watch):
        run_scenario(dataclasses.replace(make_scenario({}), epochs=2))
    return {kind: tuple(bodies)[:6] for kind, bodies in found.items()}


def list_bodies(kind: RecordKind) -> list[bytes]:
    """Return valid bodies of one kind, and those of zeros that are valid."""
    return [*collect_bodies().get(kind, ()), *list_accepted(lambda raw: decode_body(kind, raw))]


def list_accepted(decode: Callable[[bytes], Any]) -> list[bytes]:
    """Return the first zeros that a record's decoder takes."""
    accepted = []
    for raw in ZEROS:
        try:
            decode(raw)
        except InvalidRecord:
            continue
        accepted.append(raw)
    return accepted[:4]


def encode_body(body: Any) -> bytes:
    """Encode what ``decode_body`` returns, by the encoder that is named after its class."""
    words = re.findall("[A-Z][a-z]*", type(body).__name__)
    return bytes(getattr(records, "_".join(("encode", *words)).lower())(body))


OPENING = Opening(
    kind=OpeningKind.STREAM,
    method="mesh.session",
    network_id=NETWORK_ID,
    client=KEY.peer_id,
    server=OTHER_KEY.peer_id,
    time_ms=1_700_000_000_000,
    nonce=bytes(16),
    binding=bytes(32),
    payload_size=0,
)
ANSWER = RpcAnswer(AnswerStatus.OK, bytes(32), bytes(32), 100)

ROUTE = (Hop(KEY.peer_id, LayerSpan(0, 3)), Hop(OTHER_KEY.peer_id, LayerSpan(3, 6)))
OPEN_SESSION = OpenSession(
    session_id=bytes(16),
    route=ROUTE,
    sampling=Sampling(temperature=0.7, top_p=0.9, seed=5, stop_token_ids=(1, 2), top_logprobs=3),
    token_ids=(1, 2, 3),
    max_new_tokens=9,
)
SHAPED_SESSION = dataclasses.replace(
    OPEN_SESSION,
    sampling=dataclasses.replace(
        OPEN_SESSION.sampling,
        frequency_penalty=0.5,
        min_p=0.25,
        logit_bias=((7, -100.0),),
        grammar=Grammar(GrammarKind.REGEX, "[a-z]+"),
    ),
)
TICKET = Ticket(bytes(range(16)), 1, bytes(range(32)))
TOKEN = Token(
    5,
    -0.5,
    (Alternative(5, -0.5), Alternative(6, -1.25)),
    index=3,
    finish=Finish.LENGTH,
    times_us=(100, 200, 350),
)

SERVER = ServerInfo(
    role=ServerRole.HOSTER,
    state=ServerState.ONLINE,
    span=LayerSpan(0, 6),
    throughput=100,
    free_cache_tokens=4096,
    dtype="float32",
    software="mesh/0.1.0",
    addresses=("/ip4/127.0.0.1/tcp/31330/p2p/" + str(KEY.peer_id),),
)
ABLE_SERVER = dataclasses.replace(SERVER, software="mesh/0.1.0;gs")


def seal_heartbeat_body(body: bytes) -> bytes:
    """Sign a heartbeat's body."""
    envelope = seal(
        KEY,
        kind=HEARTBEAT_KIND,
        network_id=NETWORK_ID,
        epoch=0,
        expires_at=EXPIRES_AT,
        node_id=1,
        body=body,
    )
    return envelope.to_bytes()


NETWORK = NetworkInfo(NETWORK_ID, bytes(32), "mesh-tiny", 6, 512, 512, "mesh/0.1.0")


def list_model_json(name: str) -> list[bytes]:
    """Return a file of the shipped model."""
    return [(shipped_model_path() / name).read_bytes()]


def list_manifests() -> list[bytes]:
    """Return the shipped model's manifest."""
    return list_model_json("mesh-manifest.json")


def list_configs() -> list[bytes]:
    """Return the shipped model's config.json, and one of each family with every field."""
    (raw,) = list_model_json("config.json")
    shipped = json.loads(raw)
    scaling = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5, "low_freq_factor": 1.0}
    more: dict[str, Any] = {"rope_parameters": None, "rope_scaling": scaling, "eos_token_id": [1]}
    more |= {"sliding_window": 128, "use_sliding_window": True, "head_dim": 16}
    families = ("MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
    yarn = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "mscale": 1.0, "mscale_all_dim": 1}
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    longrope = {"type": "su", "short_factor": [1.5] * 8, "attention_factor": 1.2}
    changes = [
        *(more | {"architectures": [name]} for name in families),
        more | experts | {"architectures": ["Qwen3MoeForCausalLM"], "rope_scaling": yarn},
        more | {"architectures": ["Phi3ForCausalLM"], "rope_scaling": longrope},
    ]
    return [raw, *(json.dumps(shipped | change).encode() for change in changes)]


def list_safetensors() -> list[bytes]:
    """Return small files of safetensors."""
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "weight": entry}).encode()
    return [len(header).to_bytes(8, "little") + header + bytes(16)]


def list_gguf() -> list[bytes]:
    """Return small GGUF files, one for each architecture and kind of tokenizer."""
    names = ("llama", "qwen3", "qwen3moe", "phi3")
    return [_make_gguf(name, kind) for name in names for kind in ("gpt2", "llama")]


def _make_gguf(architecture: str, tokenizer: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mesh-fuzz-") as folder:
        path = Path(folder) / "x.gguf"
        writer = GGUFWriter(path, architecture)
        writer.add_block_count(1)
        writer.add_context_length(8)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(32)
        writer.add_head_count(1)
        writer.add_head_count_kv([1])
        writer.add_key_length(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model(tokenizer)
        writer.add_tokenizer_pre("smollm")
        tokens = ["<s>", "▁" if tokenizer == "llama" else "Ġ", "a", "b", "ab", "<0x00>"]
        writer.add_token_list(tokens)
        writer.add_token_types([3, 1, 1, 1, 4, 6])
        writer.add_token_scores([0.0, -1.0, -2.0, -3.0, -4.0, 0.0])
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(0)
        writer.add_add_bos_token(True)
        writer.add_chat_template("{{ messages }}")
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("attn_q", "attn_k", "attn_v"), (2, 32))
        shapes |= {"attn_output": (32, 2)}
        mlp: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("ffn_gate", "ffn_up", "ffn_down"), (32, 32)
        )
        vectors = {"attn_norm": 32, "ffn_norm": 32}
        if architecture in ("qwen3", "qwen3moe"):
            vectors |= {"attn_q_norm": 2, "attn_k_norm": 2}
        if architecture == "qwen3moe":
            writer.add_expert_count(2)
            writer.add_expert_used_count(1)
            writer.add_expert_feed_forward_length(32)
            mlp = {f"{name}_exps": (2, 32, 32) for name in mlp} | {"ffn_gate_inp": (2, 32)}
        if architecture == "phi3":
            writer.add_rope_scaling_orig_ctx_len(8)
            writer.add_tensor("rope_factors_short.weight", np.ones(1, np.float32))
            shapes, mlp = {"attn_qkv": (6, 32), "attn_output": (32, 2)}, {"ffn_up": (64, 32)}
            mlp["ffn_down"] = (32, 32)
        shapes |= mlp
        for name, shape in shapes.items():
            kind = GGMLQuantizationType.F16 if shape[-1] == 2 else GGMLQuantizationType.Q4_0
            values = quantize(np.ones(shape, np.float32), kind)
            writer.add_tensor(f"blk.0.{name}.weight", values, raw_dtype=kind)
        for name, length in vectors.items():
            writer.add_tensor(f"blk.0.{name}.weight", np.ones(length, np.float32))
        writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
        writer.add_tensor("token_embd.weight", np.ones((6, 32), np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def list_calls() -> list[calls.Call]:
    """Return calls with every kind of argument."""
    return [
        node_call(0),
        node_call(1, bootnode_peer_info=PeerInfo(b"Qm" + b"x" * 40, b"\x04" + bytes(4))),
        calls.RegisterSubnet(5, subnet_data()),
        calls.ProposeAttestation(7, (SubnetNodeConsensusData(1, 10**18),), args=bytes(40)),
        calls.TransferKeepAlive(bytes(20), 10**18),
        calls.Remark(b"hello"),
        calls.UpdateDelegateAccount(7, 1, bytes(20), 5),
        calls.OwnerRemoveInitialColdkeys(7, frozenset({bytes(20), bytes([1]) * 20})),
        calls.OwnerSetEmergencyValidatorSet(7, (1, 2, 3)),
    ]


def list_extrinsics() -> list[bytes]:
    signer = derive_development_account(0)
    return [
        encode_signed(call, signer=signer, nonce=nonce, genesis_hash=bytes(32))
        for nonce, call in enumerate(list_calls())
    ]


def list_storage() -> list[tuple[int, Item[Any], Any, Any]]:
    """Return (place in STORAGE_ITEMS, item, key, value) of what a small chain holds."""
    state = make_world().chain.ledger.state
    found = []
    for place, item in enumerate(STORAGE_ITEMS):
        for key, value in list(state.items(item))[:2]:
            found.append((place, item, key, value))
    return found


def list_storage_values() -> list[bytes]:
    """Return encoded values, each behind two bytes that say of which item."""
    return [
        place.to_bytes(2, "little") + item.kind.encode(value)
        for place, item, _, value in list_storage()
    ]


def list_storage_keys() -> list[bytes]:
    return [hash_key(item, key) for _, item, key, _ in list_storage()]


def list_events() -> list[bytes]:
    """Return the events of a small chain's block, and one of each kind, a few at a time."""
    events = make_world().chain.ledger.state.get(SYSTEM_EVENTS)
    every = [EventRecord(ApplyExtrinsic(1), event) for event in _list_variants(EVENT_TYPE)]
    blocks = [events, *(tuple(every[start : start + 8]) for start in range(0, len(every), 8))]
    return [SYSTEM_EVENTS.kind.encode(block) for block in blocks]


def _list_variants(kind: PalletVariants) -> list[Any]:
    """Return a value of each variant of each pallet whose fields may be zeros."""
    found = []
    for number, _, variants in kind.pallets:
        for cls in variants.classes:
            with suppress(ScaleError):
                found.append(kind.decode(Reader(bytes([number, cls.variant_index]) + bytes(1000))))
    return found


def list_requests() -> list[bytes]:
    """Return JSON-RPC requests, one of each kind of argument."""
    head = f"0x{make_world().chain.head.hash.hex()}"
    key = f"0x{list_storage_keys()[0].hex()}"
    extrinsic = f"0x{list_extrinsics()[4].hex()}"
    asked: list[tuple[str, Any]] = [
        ("chain_getBlock", [head]),
        ("chain_getBlockHash", [[0, 1]]),
        ("chain_getHeader", {"hash": head}),
        ("state_getStorage", [key, head]),
        ("state_getKeysPaged", ["0x", 100, key, head]),
        ("state_queryStorageAt", [[key, key], head]),
        ("state_call", ["NetworkRuntimeApi_get_subnet_info", "0x01f40100", head]),
        ("state_call", ["AccountNonceApi_account_nonce", "0x" + "00" * 20]),
        ("state_call", ["TransactionPaymentApi_query_info", extrinsic + "00000000"]),
        ("state_call", ["Metadata_metadata_at_version", "0x0e000000"]),
        ("system_accountNextIndex", ["0x" + "00" * 20]),
        ("payment_queryInfo", [extrinsic, head]),
        ("author_submitExtrinsic", [extrinsic]),
        ("author_submitAndWatchExtrinsic", [extrinsic]),
        ("state_subscribeStorage", [[key]]),
        ("chain_subscribeNewHeads", []),
        ("author_unwatchExtrinsic", ["00"]),
        ("network_getSubnetInfo", [FIRST_SUBNET]),
        ("network_proofOfStake", [FIRST_SUBNET, [1, 2, 3], 1, None, head]),
        ("network_proofOfStake", [FIRST_SUBNET, "0x0102", 1, 5]),
        ("network_getColdkeyStakes", ["0x" + "00" * 20]),
        ("rpc_methods", None),
    ]
    requests: list[Any] = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
        for number, (method, parameters) in enumerate(asked)
    ]
    return [json.dumps(request).encode() for request in [*requests, requests[:3]]]


def list_chats() -> list[bytes]:
    """Return bodies of POST /v1/chat/completions."""
    message = {"role": "user", "content": "Hi"}
    parts = [{"type": "text", "text": "Hi"}]
    full: dict[str, Any] = {
        "messages": [{"role": "developer", "content": parts}, message],
        "max_completion_tokens": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "stop": ["a", "b"],
        "seed": -1,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 5,
        "n": 2,
        "user": "someone",
        "tools": [],
        "response_format": {"type": "text"},
    }
    streamed = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2}
    bodies = ({"messages": [message], "max_tokens": 1}, full, {"messages": [message]} | streamed)
    return [json.dumps({"model": MODEL} | body).encode() for body in bodies]


def list_completions() -> list[bytes]:
    """Return bodies of POST /v1/completions, one for each shape of prompt."""
    fields = {"model": MODEL, "max_tokens": 1, "logprobs": 1, "echo": True, "stop": "x"}
    prompts: Iterable[Any] = ("Hi", ["Hi", "Ho"], [1, 2, 3], [[1, 2], [3]])
    return [json.dumps(fields | {"prompt": prompt}).encode() for prompt in prompts]


def list_inputs() -> list[bytes]:
    """Return bodies of POST /input."""
    fields = {"max_new_tokens": 1, "do_sample": True, "num_return_sequences": 2, "top_k": 5}
    more = {"stop_strings": ["a"], "repetition_penalty": 1.1, "use_cache": True, "num_beams": 1}
    bodies = ({"prompt": "Hi", "max_length": 9}, {"prompt": "Hi"} | fields | more)
    return [json.dumps(body).encode() for body in bodies]


def list_stream_events() -> list[bytes]:
    """Return what a gateway streams, of each kind of answer."""
    mesh = {"route": [{"peer_id": "12D3", "blocks": [0, 6], "step_ms": 1.5}], "reroutes": 0}
    mesh |= {"first_token_s": 0.1, "tokens_per_second": 2.5}
    top = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}
    chat = {"delta": {"content": "a"}, "logprobs": {"content": [top]}, "finish_reason": None}
    legacy_logprobs = {"token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]}
    legacy = {"text": "a", "logprobs": legacy_logprobs, "finish_reason": "length"}
    events: tuple[dict[str, Any], ...] = (
        {"choices": [chat], "mesh": mesh},
        {"choices": [legacy], "mesh": mesh},
        {"choices": [], "usage": {"total_tokens": 3}},
        {"error": {"message": "no", "code": "busy", "param": "model"}},
    )
    return [json.dumps(event).encode() for event in events]


def list_announcements() -> list[bytes]:
    """Return announcements of a head, as JSON."""
    root = f"0x{bytes(32).hex()}"
    header = {
        "number": "0x4d2",
        "parentHash": root,
        "stateRoot": root,
        "extrinsicsRoot": root,
        "digest": {"logs": ["0x066261626500", "0x08"]},
    }
    return [json.dumps({"subscription": "1", "result": header}).encode()]
