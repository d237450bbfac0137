"""The table of decoders: every place where bytes of a peer, a client, the chain or a file are read.

A new decoder gets a row here. Kinds of records need none: their rows come from ``EPOCH_KINDS``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgpack
import torch
from eth_account import Account
from google.protobuf.message import DecodeError
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.validation import DHTRecord
from hivemind.proto import dht_pb2
from scalecodec.base import ScaleBytes

from consensus.admission import EpochTable, admit
from consensus.challenge import decode_vector, encode_vector
from consensus.errors import InvalidRecord, ProposalMismatch
from consensus.naming import Naming, decode_args, encode_args
from consensus.protocol_params import MINIMAL
from consensus.records import EPOCH_KINDS, MAX_BODY_SIZES, decode_body
from consensus.types import BlockNumber, Epoch, SubnetNodeId
from devchain import addresses as devchain_addresses
from devchain.errors import DispatchError
from devchain.extrinsics import decode_extrinsic, decode_timestamp, encode_timestamp
from devchain.pallets import CALL_TYPE, STORAGE_ITEMS, SYSTEM_EVENTS
from devchain.scale import Reader, ScaleError, decode_all, decode_compact, encode_compact
from devchain.storage_keys import parse_key
from keys import keystore
from keys.account import derive_development_account, format_account_id, parse_account_id
from keys.envelope import HASH_SIZE, decode_envelope
from keys.errors import (
    BadAccountId,
    BadEnvelope,
    BadPeerId,
    IdentityFileError,
    KeystoreError,
)
from keys.identity_file import load_identity_file
from keys.peer import SIGNATURE_SIZE, PeerId
from mesh.api.errors import KeysFileError
from mesh.api.keys_file import MAX_FILE_BYTES, create_key, read_keys
from mesh.client import http
from mesh.client.event_stream import EventReader, EventTooLong
from mesh.client.gguf_tokenizer import load_gguf_tokenizer
from mesh.client.receipt_check import ReceiptRefused, check_receipt, read_receipts
from mesh.errors import MeshError, ModelError, PeerRefusal, RecordRefused
from mesh.inference import (
    drive_wire,
    flight_wire,
    receipt_wire,
    refill_wire,
    shaped_wire,
    window_wire,
    wire,
)
from mesh.inference.refusals import Refused
from mesh.inference.tensors import HiddenBuffer
from mesh.inference.tokens import Trace
from mesh.model import gguf_file
from mesh.model.config import load_config, parse_config
from mesh.model.files import resolve_model_folder
from mesh.model.manifest import decode_manifest, hash_tensor
from mesh.model.tensors import list_range_tensors, locate_tensors, read_header
from mesh.p2p import rpc_wire
from mesh.p2p.addresses import BadAddress, split_peer_address
from mesh.p2p.daemon import _log_text
from mesh.p2p.dht_binding import DhtRefused, DhtRules, compute_node_id
from mesh.p2p.dht_records import PolicyValidator, decode_value
from mesh.p2p.dial_back import decode_dial_answer
from mesh.p2p.read_wire import (
    HeldValue,
    MalformedRead,
    decode_read,
    decode_read_answer,
    encode_read,
    encode_read_answer,
)
from mesh.p2p.record_exchange import NAME_SIZE, decode_names, join_found, split_found
from mesh.p2p.reservations import decode_reservation
from mesh.p2p.rpc_wire import MalformedMessage
from mesh.routing.directory import join_envelopes, split_envelopes
from mesh.routing.heartbeat import (
    decode_server_info,
    encode_server_info,
    open_heartbeat,
    seal_heartbeat,
)
from mesh.routing.info import decode_info, encode_info
from mesh.routing.load import MAX_LOAD
from subnet.account.earnings import EpochEarnings, StakeChange, render_row
from subnet.account.earnings_book import BOOK_FILE, read_book
from subnet.account.metagraph import FORMAT, Metagraph
from subnet.account.rewards import ABSENT, ReputationStep
from subnet.chain.chain_session import ChainSession
from subnet.chain.codec import _decode_runtime
from subnet.chain.failures import read_dispatch_error
from subnet.chain.head_subscription import AnnouncedHead, parse_announced
from subnet.chain.interface import check_interface
from subnet.chain.manifest_hash import format_manifest_hash, parse_manifest_hash
from subnet.chain.multiaddr import decode_multiaddr, encode_multiaddr
from subnet.errors import ChainError, ConfigError, ReceiptDamaged, ReceiptError
from subnet.operator.access import MAX_LIST_BYTES, load_peer_list
from subnet.operator.status import NodeStatus, read_statuses
from subnet.receipts.checking import open_shared
from subnet.receipts.encoding import decode_evidence, encode_evidence
from tests.fuzz import seeds
from tests.fuzz.rigs import (
    ASKS,
    answer_rpc,
    get_chain_rig,
    get_gateway_rig,
    read_as_file,
)
from tests.fuzz.seeds import HIDDEN_SIZE, KEY, NETWORK_ID, OTHER_KEY, VOCAB_SIZE
from tests.fuzz.target import Target
from tests.support import answer_receipts
from tests.support.epoch_records import EPOCH, World, find_draw, make_roster
from tests.support.receipts import make_evidence
from tests.support.small_metadata import make_small_metadata

Seeds = Callable[[], Iterable[bytes]]


def _list(*raws: bytes) -> Seeds:
    return lambda: raws


def _text(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """Return a decoder of bytes for one of text; bytes that are no text stand for themselves."""
    return lambda raw: read(raw.decode("utf-8", "surrogateescape"))


def _json(read: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    """Return a decoder of bytes for one of JSON values; what is not JSON is not its affair."""

    def decode(raw: bytes) -> Any:
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        return read(value)

    return decode


def _list_record_targets() -> list[Target]:
    return [
        Target(
            f"record_{kind.name.lower()}",
            partial(decode_body, kind),
            (InvalidRecord,),
            partial(seeds.list_bodies, kind),
            max_size=min(MAX_BODY_SIZES[kind] + 1, 16 << 10),
            encode=seeds.encode_body,
        )
        for kind in EPOCH_KINDS
    ]


def _admit_body(raw: bytes) -> Any:
    """Admit a record that its author signed: the first byte is its kind, the body follows."""
    envelope = seeds.seal_body(raw[0] if raw else 0, raw[1:])
    table = EpochTable(NETWORK_ID).add(seeds.ROSTER, expires_at=seeds.EXPIRES_AT)
    return admit(envelope.to_bytes(), float(seeds.EXPIRES_AT), table)


def _admit(raw: bytes) -> Any:
    table = EpochTable(NETWORK_ID).add(seeds.ROSTER, expires_at=seeds.EXPIRES_AT)
    return admit(raw, float(seeds.EXPIRES_AT), table)


def _list_admitted() -> list[bytes]:
    return [bytes([kind]) + body for kind in EPOCH_KINDS for body in seeds.list_bodies(kind)[:2]]


_VECTOR_LENGTH = 4
_NODE_1 = frozenset({SubnetNodeId(1)})


def _load_keystore(path: Path) -> Any:
    """Open a keystore whose key derivation is cheap; real ones take a second by design."""
    with (
        mock.patch.object(keystore, "MAX_SCRYPT_MEMORY", 1 << 14),
        mock.patch.object(keystore, "MAX_PBKDF2_ROUNDS", 16),
    ):
        keystore.read_keystore_account(path)
        keystore.check_keystore(path)
        return keystore.load_keystore(path, "password")


def _list_keystores() -> list[bytes]:
    made = []

    def make(path: Path) -> None:
        path.unlink()
        keystore.create_keystore(path, derive_development_account(0), "password", work_factor=2)
        made.append(path.read_bytes())

    read_as_file(make, name="new-keystore")(b"")
    key = derive_development_account(0).private_key()
    rounds = Account.encrypt(key, "password", kdf="pbkdf2", iterations=2)
    return [made[0], json.dumps(rounds).encode()]


def _list_keys_files() -> list[bytes]:
    made = []

    def make(path: Path) -> None:
        create_key(path, "alice", now_s=1)
        create_key(path, "bob", now_s=2)
        made.append(path.read_bytes())

    read_as_file(make, name="new-keys")(b"")
    return [*made, b""]


# Openings, answers and last frames are signed: what is bred is what stands before the signature.
_UNSIGNED_OPENING = rpc_wire.OPENING_SIZE - SIGNATURE_SIZE
_UNSIGNED_ANSWER = rpc_wire.ANSWER_SIZE - SIGNATURE_SIZE


def _decode_opening(raw: bytes) -> tuple[rpc_wire.Opening, bytes]:
    return rpc_wire.decode_opening(raw), raw[_UNSIGNED_OPENING:]


def _decode_answer(raw: bytes) -> rpc_wire.RpcAnswer:
    signed = raw + KEY.sign(rpc_wire._ANSWER_TAG + raw)
    return rpc_wire.decode_answer(signed, server=KEY.peer_id, request_hash=bytes(32))


_STREAM_KEY, _TRANSCRIPT = bytes([3]) * 32, bytes([4]) * 32


def _open_frames(raw: bytes) -> list[bytes | None]:
    """Open frames, one after the other, until the last or a broken one."""
    opener = rpc_wire.FrameOpener(_STREAM_KEY, _TRANSCRIPT, max_total=1 << 20)
    opened: list[bytes | None] = []
    place = 0
    while place < len(raw):
        header = raw[place : place + rpc_wire.FRAME_HEADER_SIZE]
        if len(header) < rpc_wire.FRAME_HEADER_SIZE:
            raise MalformedMessage("a header is cut off")
        end = place + len(header) + opener.read_header(header)
        if end > len(raw):
            raise MalformedMessage("a frame is cut off")
        opened.append(opener.open(header, raw[place + len(header) : end], KEY.peer_id))
        if opened[-1] is None:
            break
        place = end
    return opened


def _open_tagged_frames(raw: bytes) -> list[bytes | None]:
    """Open frames whose tags are right, so that the counters and sizes decide."""
    parts = []
    place = 0
    while place + rpc_wire.FRAME_HEADER_SIZE <= len(raw):
        header = raw[place : place + rpc_wire.FRAME_HEADER_SIZE]
        size = int.from_bytes(header[:4], "little")
        payload = raw[place + len(header) : place + len(header) + size]
        tag = rpc_wire._compute_tag(rpc_wire._make_mac(_STREAM_KEY), header, payload)
        parts += [header, payload, tag]
        place += len(header) + size
    return _open_frames(b"".join(parts))


def _list_frames() -> list[bytes]:
    sealer = rpc_wire.FrameSealer(_STREAM_KEY, _TRANSCRIPT)
    return [sealer.seal(b"first") + sealer.seal(b"") + sealer.seal_finish(KEY)]


def _list_untagged_frames() -> list[bytes]:
    pack = rpc_wire._FRAME.pack
    return [pack(5, 0, 0) + b"first" + pack(0, 1, 0) + pack(3, 2, 0) + b"two"]


def _decode_dht_value(raw: bytes) -> bytes:
    value = decode_value(raw)
    if value is None:
        raise ValueError("not a value")
    return value


class _AnyRecord:
    """A policy that takes every record."""

    def admit(self, value: bytes, expires_at: float) -> bytes:
        return value[:20]


def _validate_dht_record(raw: bytes) -> bool:
    expires_at = float.fromhex("0x1p30") if raw[:1] != b"\xff" else float("nan")
    return PolicyValidator(_AnyRecord()).validate(DHTRecord(raw[:20], b"", raw[20:], expires_at))


def _make_rules() -> DhtRules:
    now = iter(range(1 << 62))
    return DhtRules(is_member=lambda _peer: True, clock=lambda: float(next(now)))


_RULES = _make_rules()


def _check_store(raw: bytes) -> None:
    _RULES.check_request(dht_pb2.StoreRequest.FromString(raw), KEY.peer_id)


def _check_find(raw: bytes) -> None:
    _RULES.check_request(dht_pb2.FindRequest.FromString(raw), KEY.peer_id)


def _clean_answer(raw: bytes) -> None:
    _RULES.clean_answer(dht_pb2.FindResponse.FromString(raw), KEY.peer_id)


_NODE = dht_pb2.NodeInfo(node_id=compute_node_id(KEY.peer_id))


def _list_stores() -> list[bytes]:
    store = dht_pb2.StoreRequest(
        keys=[bytes(20)],
        subkeys=[DHTProtocol.IS_REGULAR_VALUE],
        values=[b"\xc4\x01a"],
        expiration_time=[1e9],
        in_cache=[False],
        peer=_NODE,
    )
    return [store.SerializeToString()]


def _list_finds() -> list[bytes]:
    return [dht_pb2.FindRequest(keys=[bytes(20)], peer=_NODE).SerializeToString()]


def _list_found() -> list[bytes]:
    result = dht_pb2.FindResult(
        type=dht_pb2.FOUND_REGULAR,
        value=b"\xc4\x01a",
        expiration_time=1e9,
        nearest_node_ids=[compute_node_id(OTHER_KEY.peer_id)],
        nearest_peer_ids=[OTHER_KEY.peer_id.to_bytes()],
    )
    return [dht_pb2.FindResponse(results=[result], peer=_NODE).SerializeToString()]


_BUFFER = HiddenBuffer(HIDDEN_SIZE, torch.float32)
_ROWS = wire.HiddenRows(3, "bfloat16", bytes(range(2 * 3 * HIDDEN_SIZE)))
_STEP = wire.StepFrame(10, _ROWS, (100, 200))
_FLOAT_STEP = wire.StepFrame(0, wire.HiddenRows(1, "float32", bytes(4 * HIDDEN_SIZE)))


def _read_step(raw: bytes) -> list[int]:
    """Decode hidden states and put them into the tensor of a batch."""
    step = wire.decode_step(raw, hidden_size=HIDDEN_SIZE)
    return list(_BUFFER.read([step.hidden]).shape)


def _list_step(step: wire.StepFrame) -> tuple[Any, ...]:
    # A memoryview has no text and no comparison of its own.
    return (
        step.position,
        step.hidden.rows,
        step.hidden.dtype,
        bytes(step.hidden.data),
        step.times_us,
    )


def _make_step(fields: tuple[Any, ...]) -> wire.StepFrame:
    position, rows, dtype, data, times = fields
    return wire.StepFrame(position, wire.HiddenRows(rows, dtype, data), times)


def _decode_driven_step(raw: bytes) -> tuple[Any, ...]:
    step, wanted = drive_wire.decode_driven_step(raw, hidden_size=HIDDEN_SIZE)
    return (*_list_step(step), wanted)


def _decode_logits(raw: bytes) -> tuple[int, int, bytes]:
    frame = drive_wire.decode_logits(raw, vocab_size=VOCAB_SIZE)
    return frame.position, frame.rows, bytes(frame.data)


def _encode_logits(fields: tuple[int, int, bytes]) -> bytes:
    position, rows, data = fields
    return drive_wire.encode_logits(
        drive_wire.LogitsFrame(position, rows, memoryview(data)), vocab_size=VOCAB_SIZE
    )


def _open_with(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return what decodes a request as a hoster does, its sampling parameters with it."""

    def open_session(raw: bytes) -> Any:
        request = decode(raw)
        request.sampling.check()
        return request

    return open_session


def _decode_window(raw: bytes) -> tuple[Any, ...]:
    step = window_wire.decode_window(raw, hidden_size=HIDDEN_SIZE, most=8)
    return (*_list_step(step), step.draft)


def _encode_window(fields: tuple[Any, ...]) -> bytes:
    return window_wire.encode_window(_make_step(fields[:-1])._replace(draft=fields[-1]))


def _decode_ahead(raw: bytes) -> tuple[Any, ...]:
    step = flight_wire.decode_ahead(raw, hidden_size=HIDDEN_SIZE, most=8)
    return (*_list_step(step), step.draft, step.lead)


def _encode_ahead(fields: tuple[Any, ...]) -> bytes:
    *step, draft, lead = fields
    return flight_wire.encode_ahead(_make_step(tuple(step))._replace(draft=draft), lead)


def _check_answer_receipts(raw: bytes) -> Any:
    return [check_receipt(found) for found in read_receipts(raw)]


def _decode_server_info(raw: bytes) -> Any:
    info = decode_server_info(raw)
    # What else is read of it never fails.
    assert 0 <= info.load.crowd <= 2 * MAX_LOAD
    return info


def _open_heartbeat(raw: bytes) -> Any:
    return open_heartbeat(raw, network_id=NETWORK_ID, now_s=seeds.EXPIRES_AT - 60)


def _list_heartbeats() -> list[bytes]:
    envelope = seal_heartbeat(
        KEY, seeds.SERVER, network_id=NETWORK_ID, node_id=1, expires_at=seeds.EXPIRES_AT
    )
    return [envelope.to_bytes()]


def _read_config(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ModelError("config.json is not a JSON object")
    return parse_config(value, generation=value)


def _read_gguf(path: Path) -> list[str]:
    """Read a whole model from a file: its numbers, then every tensor."""
    # A file that was written a moment ago may have the time of the one before.
    gguf_file._read_once.cache_clear()
    config = load_config(path)
    names = list_range_tensors(config, 0, config.num_layers)
    located = locate_tensors(resolve_model_folder(str(path)), config, names)
    return [hash_tensor(entry) for entry in located.values()]


def _read_stream(raw: bytes) -> list[Any]:
    """Read server-sent events as the client over HTTP does, in pieces of seven bytes."""
    reader, trace, tokens = EventReader(), Trace(), []
    for start in range(0, len(raw), 7):
        for data in reader.feed(raw[start : start + 7]):
            event = http._parse(data)
            if "error" in event:
                raise http._make_refusal(event, status=None)
            tokens.append(http._read_token(event, len(tokens), trace))
    return tokens


def _list_streams() -> list[bytes]:
    lines = [b"data: " + event + b"\n\n" for event in seeds.list_stream_events()[:3]]
    return [b"".join(lines), *lines, b": waiting\r\n\r\n" + lines[0]]


def _read_event(value: Any) -> Any:
    if not isinstance(value, dict):
        raise http.GatewayMisbehaved("an answer that is not a JSON object")
    if "error" in value:
        return http._make_refusal(value, status=400, retry_after="5")
    return http._read_token(value, 0, Trace())


def _post(path: str) -> Callable[[bytes], int]:
    return lambda raw: get_gateway_rig().post(path, raw)


def _parse_announced(raw: bytes) -> AnnouncedHead | None:
    """Read what an endpoint announces; what is no JSON never comes so far."""
    try:
        return parse_announced(json.loads(raw))
    except (ValueError, RecursionError):
        return None


def _post_headers(raw: bytes) -> int:
    """Send headers, one a line; a server has taken them for headers before we see them."""
    lines = [line.partition(b":") for line in raw.split(b"\n")]
    headers = [(name.strip().lower(), value.strip()) for name, _, value in lines]
    return get_gateway_rig().post("/v1/completions", b"{}", headers)


def _decode_storage(raw: bytes) -> Any:
    item = STORAGE_ITEMS[int.from_bytes(raw[:2], "little") % len(STORAGE_ITEMS)]
    return item.kind, decode_all(item.kind, raw[2:])


def _decode_compact(raw: bytes) -> int:
    reader = Reader(raw)
    value = decode_compact(reader)
    if reader.remaining:
        raise ScaleError("bytes are left over")
    return value


def _read_dispatch_error(value: Any) -> str:
    rig = get_chain_rig()
    return str(rig.run(lambda session, _at: read_dispatch_error(value, session)))


def _list_answers(ask: str) -> list[bytes]:
    """Return what our own chain answers to what a node asks."""
    answer = get_chain_rig().record(ask)
    if ask != "events":
        return [answer]
    said = json.loads(answer)
    return [json.dumps(said | {"result": f"0x{raw.hex()}"}).encode() for raw in seeds.list_events()]


_MAX_TYPES = 16
_VALUES = (b"", bytes(40), b"\xfe" * 40)
"""Read as a value of every type: nothing, nothing but zeros, and the greatest lengths."""


def _load_metadata(raw: bytes) -> Any:
    """Read an endpoint's metadata, then values of the types that it declares."""
    runtime = _decode_runtime(bytes(32), bytes(32), raw)
    session = get_chain_rig().open(runtime)
    for number in range(_MAX_TYPES):
        for value in _VALUES:
            with suppress(ChainError):
                session.run(partial(_read_value, number=number, raw=value))
    with suppress(ChainError):
        session.run(lambda session: check_interface(session.runtime, url=session.url))
    return runtime


def _read_value(session: ChainSession, *, number: int, raw: bytes) -> Any:
    kind, data = f"scale_info::{number}", ScaleBytes(bytearray(raw))
    return session.runtime.types.create_scale_object(kind, data).decode()


def _read_status(path: Path) -> Any:
    return read_statuses(path.parent.parent)


def _list_statuses() -> list[bytes]:
    status = NodeStatus(
        peer_id=str(KEY.peer_id),
        subnet_id=7,
        subnet_node_id=1,
        role="hoster",
        blocks=(0, 6),
        written_at=1.0,
        head=5,
        head_moved_at=1.0,
        block_time_s=6.0,
        epoch=0,
        phase="commit",
        taking_part="active",
        addresses=(),
    )
    return [status.model_dump_json().encode()]


def _list_books() -> list[bytes]:
    row = EpochEarnings(
        epoch=Epoch(4),
        node_id=SubnetNodeId(1),
        block=BlockNumber(123),
        is_agreed=True,
        paid=5,
        shared=1,
        proposing=7,
        slashed=0,
        reputation=(ReputationStep(10**18, 9 * 10**17, ABSENT),),
        unpaid=None,
        shortfall=None,
        promoted="Validator",
        is_removed=False,
        stake=StakeChange(1, 13, 0),
    )
    return [json.dumps({"version": 1, "rows": [render_row(row)]}).encode()]


def _list_metagraphs() -> list[bytes]:
    row = {"subnet_node_id": 1, "class": 3, "is_queued": False, "start_epoch": 0, "stake": "5"}
    row |= {"reputation": "5", "score": "1", "attested": True, "hotkey": "00" * 20}
    row |= {"coldkey": "00" * 20, "peer_id": str(KEY.peer_id)}
    document = {
        "format": FORMAT,
        "subnet_id": 7,
        "name": "mesh",
        "block": 5,
        "block_hash": "00" * 32,
    }
    return [json.dumps(document | {"scores_epoch": 3, "nodes": [row, row]}).encode()]


_CONSENSUS = (
    *_list_record_targets(),
    Target(
        "admission",
        _admit,
        (InvalidRecord,),
        lambda: [seeds.seal_body(raw[0], raw[1:]).to_bytes() for raw in _list_admitted()],
    ),
    Target("admission_signed", _admit_body, (InvalidRecord,), _list_admitted),
    Target(
        "vector",
        lambda raw: decode_vector(raw, _VECTOR_LENGTH, MINIMAL),
        (InvalidRecord,),
        _list(bytes(16), bytes(range(16))),
        encode=encode_vector,
    ),
)

_PROPOSAL = (
    Target(
        "args",
        lambda raw: decode_args(raw, seeds.ROSTER),
        (ProposalMismatch,),
        lambda: [
            encode_args(naming, seeds.ROSTER)
            for naming in (Naming(), Naming(bytes([1]) * 32, bytes([2]) * 32, _NODE_1, {1: 8}))
        ],
        max_size=256,
        encode=lambda naming: encode_args(naming, seeds.ROSTER),
    ),
)

_KEYS = (
    Target(
        "envelope",
        decode_envelope,
        (BadEnvelope,),
        lambda: [seeds.seal_body(3, b"body").to_bytes(), seeds.seal_body(255, b"").to_bytes()],
        encode=lambda envelope: envelope.to_bytes(),
    ),
    Target(
        "peer_id",
        PeerId.from_bytes,
        (BadPeerId,),
        _list(KEY.peer_id.to_bytes()),
        max_size=64,
        encode=lambda peer: peer.to_bytes(),
    ),
    Target(
        "peer_id_text",
        _text(PeerId.from_base58),
        (BadPeerId,),
        _list(str(KEY.peer_id).encode()),
        max_size=128,
        encode=lambda peer: str(peer).encode(),
    ),
    Target(
        "account_id",
        _text(parse_account_id),
        (BadAccountId,),
        _list(b"0x" + b"0" * 40, format_account_id(bytes([171]) * 20).encode()),
        max_size=64,
    ),
    Target(
        "identity_file",
        read_as_file(load_identity_file),
        (IdentityFileError,),
        _list(KEY.to_libp2p()),
        max_size=128,
        encode=lambda key: key.to_libp2p(),
    ),
    Target(
        "keystore",
        read_as_file(_load_keystore),
        (KeystoreError,),
        _list_keystores,
        memory_factor=256,
    ),
)

_RPC = (
    Target(
        "rpc_opening",
        _decode_opening,
        (MalformedMessage,),
        lambda: [
            rpc_wire.seal_opening(KEY, replace(seeds.OPENING, kind=kind))
            for kind in rpc_wire.OpeningKind
        ],
        max_size=rpc_wire.OPENING_SIZE + 1,
        encode=lambda found: rpc_wire.seal_opening(KEY, found[0])[:_UNSIGNED_OPENING] + found[1],
    ),
    Target(
        "rpc_answer",
        _decode_answer,
        (MalformedMessage,),
        lambda: [rpc_wire.seal_answer(KEY, seeds.ANSWER)[:_UNSIGNED_ANSWER]],
        max_size=rpc_wire.ANSWER_SIZE + 1,
        encode=lambda answer: rpc_wire.seal_answer(KEY, answer)[:_UNSIGNED_ANSWER],
    ),
    Target(
        "rpc_refusal",
        rpc_wire.decode_refusal,
        (MalformedMessage,),
        lambda: [rpc_wire.encode_refusal("busy", "later"), rpc_wire.encode_refusal("x", "")],
        max_size=rpc_wire.MAX_REFUSAL_SIZE + 1,
    ),
    Target(
        "dial_answer",
        decode_dial_answer,
        (ValueError,),
        _list(bytes.fromhex("08011a0608641202" + "6e6f"), bytes.fromhex("08011a020800")),
    ),
    Target(
        "relay_reservation",
        decode_reservation,
        (ValueError,),
        _list(bytes.fromhex("0802220508d8041000" + "2864"), bytes.fromhex("08022864")),
    ),
    Target(
        "record_names",
        decode_names,
        (ValueError,),
        _list(bytes(NAME_SIZE), bytes(range(2 * NAME_SIZE))),
        encode=b"".join,
    ),
    Target(
        "records_found",
        lambda raw: split_found(raw, asked=3),
        (ValueError,),
        lambda: [join_found([seeds.seal_body(3, b"body").to_bytes(), None])],
        encode=join_found,
    ),
    Target(
        "read_request",
        decode_read,
        (MalformedRead,),
        lambda: [encode_read([(bytes(20), 5), (bytes(20), 1 << 40)])],
        encode=encode_read,
    ),
    Target(
        "read_answer",
        lambda raw: decode_read_answer(raw, asked=2),
        (MalformedRead,),
        lambda: [encode_read_answer([HeldValue(b"value", 5), None])],
        encode=encode_read_answer,
    ),
    Target("rpc_frames", _open_frames, (MalformedMessage,), _list_frames),
    Target("rpc_frames_tagged", _open_tagged_frames, (MalformedMessage,), _list_untagged_frames),
    Target(
        "dht_value",
        _decode_dht_value,
        (ValueError,),
        lambda: [msgpack.packb(b"abc"), msgpack.packb(bytes(300))],
        encode=msgpack.packb,
    ),
    Target("dht_record", _validate_dht_record, (), lambda: [bytes(20) + msgpack.packb(bytes(40))]),
    Target("dht_store", _check_store, (DecodeError, DhtRefused, PeerRefusal), _list_stores),
    Target("dht_find", _check_find, (DecodeError, DhtRefused, PeerRefusal), _list_finds),
    Target("dht_found", _clean_answer, (DecodeError, DhtRefused), _list_found),
    Target(
        "address",
        _text(split_peer_address),
        (BadAddress,),
        _list(*(address.encode() for address in seeds.SERVER.addresses)),
        max_size=3000,
    ),
    Target(
        "daemon_log",
        _text(_log_text),
        (),
        _list(b'{"level":"info","logger":"p2p","msg":"hello","error":"none"}'),
    ),
)

_WIRE = (
    Target(
        "wire_open",
        _open_with(wire.decode_open),
        (MeshError,),
        lambda: [wire.encode_open(seeds.OPEN_SESSION)],
        encode=wire.encode_open,
    ),
    Target(
        "wire_shaped",
        _open_with(shaped_wire.decode_shaped),
        (MeshError,),
        lambda: [shaped_wire.encode_shaped(seeds.SHAPED_SESSION)],
        encode=shaped_wire.encode_shaped,
    ),
    Target(
        "wire_windowed",
        _open_with(window_wire.decode_windowed),
        (MeshError,),
        lambda: [
            window_wire.encode_windowed(replace(request, window=8))
            for request in (seeds.OPEN_SESSION, seeds.SHAPED_SESSION)
        ],
        encode=window_wire.encode_windowed,
        is_canonical=False,
    ),
    Target(
        "wire_resumable",
        _open_with(refill_wire.decode_resumable),
        (MeshError,),
        lambda: [
            refill_wire.encode_resumable(replace(request, ticket=seeds.TICKET))
            for request in (
                seeds.OPEN_SESSION,
                seeds.SHAPED_SESSION,
                replace(seeds.OPEN_SESSION, window=8),
            )
        ],
        encode=refill_wire.encode_resumable,
        is_canonical=False,
    ),
    Target(
        "wire_window",
        _decode_window,
        (Refused,),
        lambda: [window_wire.encode_window(_STEP._replace(draft=(4, 5)))],
        encode=_encode_window,
    ),
    Target(
        "wire_tokens",
        window_wire.decode_tokens,
        (Refused,),
        lambda: [window_wire.encode_tokens((seeds.TOKEN, seeds.TOKEN))],
        encode=window_wire.encode_tokens,
        is_canonical=False,
    ),
    Target(
        "wire_pipelined",
        _open_with(flight_wire.decode_pipelined),
        (MeshError,),
        lambda: [
            flight_wire.encode_pipelined(replace(request, window=8, in_flight=3))
            for request in (seeds.OPEN_SESSION, seeds.SHAPED_SESSION)
        ],
        encode=flight_wire.encode_pipelined,
        is_canonical=False,
    ),
    Target(
        "wire_ahead",
        _decode_ahead,
        (Refused,),
        lambda: [flight_wire.encode_ahead(_STEP._replace(draft=(4, 5)), wire.Lead(1, 3, 2))],
        encode=_encode_ahead,
    ),
    Target(
        "wire_verified",
        flight_wire.decode_verified,
        (Refused,),
        lambda: [flight_wire.encode_verified(1, (seeds.TOKEN, seeds.TOKEN))],
        encode=lambda found: flight_wire.encode_verified(*found),
        is_canonical=False,
    ),
    Target(
        "wire_receipted",
        _open_with(receipt_wire.decode_receipted),
        (MeshError,),
        lambda: [
            receipt_wire.encode_receipted(answer_receipts.make_request()),
            receipt_wire.encode_receipted(
                answer_receipts.make_request(sampling=seeds.SHAPED_SESSION.sampling)
            ),
        ],
        encode=receipt_wire.encode_receipted,
    ),
    Target(
        "wire_receipt",
        receipt_wire.decode_receipt,
        (Refused,),
        lambda: [
            receipt_wire.encode_receipt(
                answer_receipts.run_hops(answer_receipts.make_request(), (8, 9))[1].sign(64)
            )
        ],
        encode=receipt_wire.encode_receipt,
    ),
    Target(
        "answer_receipt",
        _check_answer_receipts,
        (ReceiptRefused,),
        lambda: [json.dumps(answer_receipts.make_receipt()).encode()],
    ),
    Target(
        "wire_step",
        lambda raw: _list_step(wire.decode_step(raw, hidden_size=HIDDEN_SIZE)),
        (Refused,),
        lambda: [wire.encode_step(_STEP), wire.encode_step(_FLOAT_STEP)],
        encode=lambda fields: wire.encode_step(_make_step(fields)),
    ),
    Target(
        "hidden_states",
        _read_step,
        (Refused,),
        lambda: [wire.encode_step(_STEP), wire.encode_step(_FLOAT_STEP)],
    ),
    Target(
        "wire_token",
        wire.decode_token,
        (Refused,),
        lambda: [wire.encode_token(seeds.TOKEN)],
        encode=wire.encode_token,
        is_canonical=False,
    ),
    Target(
        "wire_scores",
        wire.decode_scores,
        (Refused,),
        lambda: [wire.encode_scores(wire.ScoresFrame(1, (seeds.TOKEN, seeds.TOKEN)))],
        encode=wire.encode_scores,
        is_canonical=False,
    ),
    Target(
        "wire_resumable_drive",
        refill_wire.decode_resumable_drive,
        (Refused,),
        lambda: [
            refill_wire.encode_resumable_drive(
                drive_wire.DriveSession(bytes(16), seeds.ROUTE, 100, kept=40, ticket=seeds.TICKET)
            )
        ],
        encode=refill_wire.encode_resumable_drive,
    ),
    Target(
        "wire_drive",
        drive_wire.decode_drive,
        (Refused,),
        lambda: [drive_wire.encode_drive(drive_wire.DriveSession(bytes(16), seeds.ROUTE, 100))],
        encode=drive_wire.encode_drive,
    ),
    Target(
        "wire_feed",
        drive_wire.decode_feed,
        (Refused,),
        lambda: [drive_wire.encode_feed(drive_wire.FeedFrame(3, (1, 2, 3), 2))],
        encode=drive_wire.encode_feed,
    ),
    Target(
        "wire_driven_step",
        _decode_driven_step,
        (Refused,),
        lambda: [drive_wire.encode_driven_step(_STEP, 2)],
        encode=lambda fields: drive_wire.encode_driven_step(_make_step(fields[:-1]), fields[-1]),
    ),
    Target(
        "wire_logits",
        _decode_logits,
        (Refused,),
        lambda: [_encode_logits((1, 2, bytes(8 * VOCAB_SIZE)))],
        encode=_encode_logits,
    ),
    Target(
        "wire_error",
        wire.decode_error,
        (Refused,),
        lambda: [wire.encode_error(wire.ErrorFrame("busy", "later", 1))],
    ),
    Target(
        "wire_ready",
        wire.decode_ready,
        (Refused,),
        lambda: [wire.encode_ready(48)],
        max_size=64,
        encode=wire.encode_ready,
    ),
    Target(
        "wire_bind",
        wire.decode_bind,
        (Refused,),
        lambda: [wire.encode_bind(bytes(16))],
        max_size=64,
        encode=wire.encode_bind,
    ),
)

_ROUTING = (
    Target(
        "heartbeat_body",
        _decode_server_info,
        (RecordRefused,),
        lambda: [
            *(encode_server_info(server) for server in (seeds.SERVER, seeds.ABLE_SERVER)),
            encode_server_info(replace(seeds.SERVER, software="mesh/0.2.0;gs;12.3")),
        ],
        encode=encode_server_info,
    ),
    Target(
        "heartbeat_signed",
        lambda raw: _open_heartbeat(seeds.seal_heartbeat_body(raw)),
        (RecordRefused,),
        lambda: [encode_server_info(seeds.SERVER)],
    ),
    Target("heartbeat", _open_heartbeat, (RecordRefused,), _list_heartbeats),
    Target(
        "directory",
        split_envelopes,
        (ValueError,),
        lambda: [join_envelopes([b"one", b"", b"three"]), b""],
        encode=join_envelopes,
    ),
    Target(
        "network_info",
        decode_info,
        (ValueError,),
        lambda: [encode_info(seeds.NETWORK)],
        encode=encode_info,
    ),
)

_MODEL = (
    Target(
        "manifest",
        decode_manifest,
        (ModelError,),
        seeds.list_manifests,
        max_size=16 << 10,
        encode=lambda manifest: manifest.body,
    ),
    Target("model_config", _json(_read_config), (ModelError,), seeds.list_configs),
    Target("safetensors", read_as_file(read_header), (ModelError,), seeds.list_safetensors),
    Target(
        "gguf",
        read_as_file(_read_gguf, name="input.gguf"),
        (ModelError,),
        seeds.list_gguf,
        max_size=16 << 10,
        memory_floor=8 << 20,
    ),
    Target(
        "gguf_tokenizer",
        read_as_file(load_gguf_tokenizer, name="input.gguf"),
        (ModelError,),
        seeds.list_gguf,
        max_size=16 << 10,
    ),
)

_HTTP = (
    Target("http_chat", _post("/v1/chat/completions"), (), seeds.list_chats, memory_factor=256),
    Target(
        "http_completions", _post("/v1/completions"), (), seeds.list_completions, memory_factor=256
    ),
    Target("http_input", _post("/input"), (), seeds.list_inputs, memory_factor=256),
    Target("http_headers", _post_headers, (), _list(b"origin: http://localhost\nx-api-key: 1")),
    Target(
        "stream", _read_stream, (http.GatewayError, EventTooLong), _list_streams, memory_factor=128
    ),
    Target("stream_event", _json(_read_event), (http.GatewayError,), seeds.list_stream_events),
    Target(
        "api_keys_file",
        read_as_file(read_keys),
        (KeysFileError,),
        _list_keys_files,
        memory_floor=2 * MAX_FILE_BYTES,
    ),
)

_DEVCHAIN = (
    Target(
        "scale_compact",
        _decode_compact,
        (ScaleError,),
        lambda: map(encode_compact, (0, 64, 1 << 20, 1 << 99)),
        max_size=80,
        encode=encode_compact,
    ),
    Target(
        "scale_call",
        lambda raw: decode_all(CALL_TYPE, raw),
        (ScaleError,),
        lambda: map(CALL_TYPE.encode, seeds.list_calls()),
        encode=CALL_TYPE.encode,
        # A map's pairs may come in any order, as the real runtime takes them.
        is_canonical=False,
    ),
    Target(
        "scale_storage",
        lambda raw: _decode_storage(raw)[1],
        (ScaleError,),
        seeds.list_storage_values,
    ),
    Target(
        "scale_events",
        lambda raw: decode_all(SYSTEM_EVENTS.kind, raw),
        (ScaleError,),
        seeds.list_events,
        encode=SYSTEM_EVENTS.kind.encode,
        is_canonical=False,
    ),
    Target(
        "extrinsic",
        decode_extrinsic,
        (ScaleError,),
        seeds.list_extrinsics,
        encode=lambda extrinsic: extrinsic.raw,
    ),
    Target(
        "timestamp",
        decode_timestamp,
        (ScaleError,),
        lambda: [encode_timestamp(1 << 40)],
        max_size=64,
        encode=encode_timestamp,
    ),
    Target("storage_key", parse_key, (), seeds.list_storage_keys, max_size=256),
    Target("announced_head", _parse_announced, (), seeds.list_announcements),
    Target("devchain_rpc", answer_rpc, (), seeds.list_requests, memory_factor=256),
    Target(
        "devchain_multiaddr",
        devchain_addresses.check_multiaddr,
        (DispatchError,),
        lambda: [encode_multiaddr("/ip4/127.0.0.1/tcp/1", peer_id=KEY.peer_id)],
        max_size=512,
    ),
)

_CHAIN = (
    *(
        Target(
            f"chain_{name}",
            partial(get_chain_rig().decode, name),
            (ChainError,),
            partial(_list_answers, name),
            max_size=8 << 10,
            memory_factor=512,
        )
        for name in ASKS
    ),
    Target(
        "multiaddr",
        decode_multiaddr,
        (ValueError,),
        lambda: [
            encode_multiaddr(text, peer_id=KEY.peer_id)
            for text in ("/ip4/127.0.0.1/tcp/1/ws", "/ip6/::1/udp/2", "/dns4/example.org/tcp/3/wss")
        ],
        max_size=512,
    ),
    Target(
        "dispatch_error",
        _json(_read_dispatch_error),
        (ChainError,),
        _list(b'{"Module":{"index":23,"error":"0x05000000"}}', b'{"Token":"Frozen"}', b'"Other"'),
    ),
    Target(
        "manifest_mark",
        _text(lambda text: parse_manifest_hash(text, subnet_id=1)),
        (ConfigError,),
        _list(b"hello " + format_manifest_hash(bytes(32)).encode()),
    ),
    Target(
        "metadata",
        _load_metadata,
        (ChainError,),
        lambda: [make_small_metadata()],
        memory_factor=2048,
        # MAX_FREE_STEPS values of types without bytes.
        memory_floor=16 << 20,
    ),
)


def _seal_receipt(raw: bytes) -> bytes:
    """Return a receipt file whose checksum fits, so that what it covers is reached."""
    return raw + hashlib.sha256(raw).digest()


def _list_receipts() -> list[bytes]:
    """Return the contents of a receipt file with every kind of record, and of a bare one."""
    world = World(previous=make_roster(epoch=EPOCH - 1), draw=find_draw(1))
    world.host(1, 2, age=1)
    world.host(1, 2)
    world.audit(3, 4)
    world.score_before(3, 4)
    whole = make_evidence(world)
    bare = replace(whole, submission=None, previous=None, records=(), seen=())
    return [encode_evidence(evidence)[:-HASH_SIZE] for evidence in (whole, bare)]


_FILES = (
    Target(
        "status_file",
        read_as_file(
            lambda path: read_statuses(path.parent.parent), name="status.json", inside="n"
        ),
        (ConfigError,),
        _list_statuses,
    ),
    Target(
        "earnings_book",
        read_as_file(lambda path: read_book(path.parent), name=BOOK_FILE, inside="n"),
        (ConfigError,),
        _list_books,
    ),
    Target(
        "receipt_file",
        lambda raw: decode_evidence(_seal_receipt(raw)),
        (ReceiptDamaged,),
        _list_receipts,
        max_size=64 << 10,
        encode=lambda evidence: encode_evidence(evidence)[:-HASH_SIZE],
    ),
    Target(
        "receipt_checked",
        lambda raw: open_shared(_seal_receipt(raw)),
        (ReceiptError,),
        _list_receipts,
        max_size=64 << 10,
        memory_factor=256,
    ),
    Target("metagraph_file", read_as_file(Metagraph.load), (ConfigError,), _list_metagraphs),
    Target(
        "peer_list",
        read_as_file(load_peer_list),
        (ConfigError,),
        _list(b"# friends\n" + str(KEY.peer_id).encode() + b" # one\n"),
        # A file is read into one buffer of the size that it may have.
        memory_floor=2 * MAX_LIST_BYTES,
    ),
)

TARGETS: dict[str, Target] = {
    target.name: target
    for group in (
        *(
            _CONSENSUS,
            _PROPOSAL,
            _KEYS,
            _RPC,
            _WIRE,
            _ROUTING,
            _MODEL,
            _HTTP,
            _DEVCHAIN,
            _CHAIN,
            _FILES,
        ),
    )
    for target in group
}
