"""Signed RPC on the wire: bytes in, values out. No sockets, no clock.

A call opens with one fixed-size **opening**, so a reader knows how much to read before it
allocates anything: who asks whom for what, when, with which nonce, signed by the client. Its
``binding`` is SHA-256 of the payload (unary) or the client's X25519 key (stream). The server
replies with one fixed-size **answer**, signed over the opening's hash, whose binding is SHA-256
of the reply (or of the refusal), or the server's X25519 key.

The client of an **early stream** does not wait for the answer: the tags of its frames are keyed by
its X25519 key and the server's identity key. The server's frames are keyed as in any stream.

A stream then carries **frames**: a header (payload size, counter, kind), the payload, and a
BLAKE2b tag keyed for the direction. The last frame of a direction is an Ed25519 signature over
the running hash of all tags: signing every frame would cost more than the hop.

Integers are little-endian and of fixed width.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from keys.errors import BadSignature
from keys.peer import SIGNATURE_SIZE, PeerId, PeerKey
from mesh.errors import MeshError
from mesh.p2p.interface import MAX_FRAME_SIZE, MAX_UNARY_SIZE

VERSION = 1
NETWORK_ID_SIZE = 32
NO_NETWORK = bytes(NETWORK_ID_SIZE)
"""The network id of a client that does not know its network yet."""
NONCE_SIZE = 16
MAX_METHOD_SIZE = 41
MAX_REASON_SIZE = 32
MAX_DETAIL_SIZE = 512
MAX_REFUSAL_SIZE = 1 + MAX_REASON_SIZE + MAX_DETAIL_SIZE
TAG_SIZE = 32

_OPENING_MAGIC = b"MRPC"
_ANSWER_MAGIC = b"MANS"
# magic, version, kind, method size, method, network_id, client, server, time_ms, nonce, binding,
# payload size
_OPENING = struct.Struct("<4sBBB41s32s32s32sQ16s32sI")
# magic, version, status, request hash, binding, payload size
_ANSWER = struct.Struct("<4sBB32s32sI")
# payload size, counter, kind
_FRAME = struct.Struct("<IQB")
OPENING_SIZE = _OPENING.size + SIGNATURE_SIZE
ANSWER_SIZE = _ANSWER.size + SIGNATURE_SIZE
FRAME_HEADER_SIZE = _FRAME.size

_OPENING_TAG = b"mesh/rpc/opening/1"
_REQUEST_HASH_TAG = b"mesh/rpc/request/1"
_ANSWER_TAG = b"mesh/rpc/answer/1"
_TRANSCRIPT_TAG = b"mesh/stream/transcript/1"
_CLIENT_TO_SERVER_TAG = b"mesh/stream/client/1"
_SERVER_TO_CLIENT_TAG = b"mesh/stream/server/1"
_EARLY_TRANSCRIPT_TAG = b"mesh/stream/early-transcript/1"
_EARLY_TAG = b"mesh/stream/early/1"
_FINISH_TAG = b"mesh/stream/finish/1"

E = TypeVar("E", bound=IntEnum)
RandomBytes = Callable[[int], bytes]
"""Returns that many random bytes: ``secrets.token_bytes``, or a seeded generator in tests."""


class MalformedMessage(MeshError):
    """Bytes that no honest peer sends."""


class OpeningKind(IntEnum):
    """What an opening asks for."""

    UNARY = 1
    STREAM = 2
    EARLY_STREAM = 3


class AnswerStatus(IntEnum):
    """How the server takes an opening."""

    OK = 0
    REFUSED = 1


class FrameKind(IntEnum):
    """What a frame carries."""

    DATA = 0
    FINISH = 1


@dataclass(frozen=True, slots=True)
class Opening:
    """One signed request: everything but its payload."""

    kind: OpeningKind
    method: str
    network_id: bytes
    client: PeerId
    server: PeerId
    time_ms: int
    nonce: bytes
    binding: bytes
    payload_size: int


@dataclass(frozen=True, slots=True)
class RpcAnswer:
    """One signed reply: everything but its payload."""

    status: AnswerStatus
    request_hash: bytes
    binding: bytes
    payload_size: int


def seal_opening(key: PeerKey, opening: Opening) -> bytes:
    """Return the ``OPENING_SIZE`` signed bytes. Raises ValueError for an impossible method."""
    method = opening.method.encode()
    if not 0 < len(method) <= MAX_METHOD_SIZE:
        raise ValueError(f"a method name has 1 to {MAX_METHOD_SIZE} bytes")
    unsigned = _OPENING.pack(
        _OPENING_MAGIC,
        VERSION,
        opening.kind,
        len(method),
        method,
        opening.network_id,
        opening.client.public_key,
        opening.server.public_key,
        opening.time_ms,
        opening.nonce,
        opening.binding,
        opening.payload_size,
    )
    return unsigned + key.sign(_OPENING_TAG + unsigned)


def decode_opening(raw: bytes) -> Opening:
    """Parse an opening; its signature is checked by ``check_opening``. Raises MalformedMessage."""
    if len(raw) != OPENING_SIZE:
        raise MalformedMessage(f"an opening has {OPENING_SIZE} bytes")
    magic, version, kind, method_size, method, network_id, *rest = _OPENING.unpack_from(raw)
    client, server, time_ms, nonce, binding, payload_size = rest
    if magic != _OPENING_MAGIC or version != VERSION:
        raise MalformedMessage("not an opening of this version")
    return Opening(
        kind=_enum(OpeningKind, kind),
        method=_decode_method(method, method_size),
        network_id=network_id,
        client=PeerId(client),
        server=PeerId(server),
        time_ms=time_ms,
        nonce=nonce,
        binding=binding,
        payload_size=payload_size,
    )


def check_opening(opening: Opening, raw: bytes) -> None:
    """Raise BadSignature unless the opening's client signed ``raw``."""
    opening.client.check_signature(_OPENING_TAG + raw[:-SIGNATURE_SIZE], raw[-SIGNATURE_SIZE:])


def compute_request_hash(raw_opening: bytes) -> bytes:
    """Return what the answer names the request by."""
    return hashlib.sha256(_REQUEST_HASH_TAG + raw_opening).digest()


def seal_answer(key: PeerKey, answer: RpcAnswer) -> bytes:
    """Return the ``ANSWER_SIZE`` signed bytes."""
    unsigned = _ANSWER.pack(
        _ANSWER_MAGIC,
        VERSION,
        answer.status,
        answer.request_hash,
        answer.binding,
        answer.payload_size,
    )
    return unsigned + key.sign(_ANSWER_TAG + unsigned)


def decode_answer(raw: bytes, *, server: PeerId, request_hash: bytes) -> RpcAnswer:
    """Parse an answer of ``server`` to that request and verify it.

    Raises MalformedMessage: another peer's signature, another request's answer, or a size
    beyond the limit.
    """
    if len(raw) != ANSWER_SIZE:
        raise MalformedMessage(f"an answer has {ANSWER_SIZE} bytes")
    magic, version, status, answered_hash, binding, payload_size = _ANSWER.unpack_from(raw)
    if magic != _ANSWER_MAGIC or version != VERSION:
        raise MalformedMessage("not an answer of this version")
    if answered_hash != request_hash:
        raise MalformedMessage("the answer is to another request")
    try:
        server.check_signature(_ANSWER_TAG + raw[:-SIGNATURE_SIZE], raw[-SIGNATURE_SIZE:])
    except BadSignature as error:
        raise MalformedMessage("the answer is not signed by the peer that was asked") from error
    answer = RpcAnswer(_enum(AnswerStatus, status), answered_hash, binding, payload_size)
    limit = MAX_UNARY_SIZE if answer.status is AnswerStatus.OK else MAX_REFUSAL_SIZE
    if payload_size > limit:
        raise MalformedMessage(f"an answer of {payload_size} bytes is over {limit}")
    return answer


def hash_payload(payload: bytes) -> bytes:
    """Return the binding of a payload."""
    return hashlib.sha256(payload).digest()


def check_payload(payload: bytes, binding: bytes) -> None:
    """Raise MalformedMessage unless ``payload`` is the one that was signed."""
    if hash_payload(payload) != binding:
        raise MalformedMessage("the payload is not the one that was signed")


def encode_refusal(reason: str, detail: str) -> bytes:
    """Return a refusal's payload; a long detail is cut."""
    raw_reason = reason.encode("ascii")
    if not 0 < len(raw_reason) <= MAX_REASON_SIZE:
        raise ValueError(f"a reason has 1 to {MAX_REASON_SIZE} ASCII characters")
    raw_detail = detail.encode()[:MAX_DETAIL_SIZE].decode(errors="ignore").encode()
    return bytes((len(raw_reason),)) + raw_reason + raw_detail


def decode_refusal(raw: bytes) -> tuple[str, str]:
    """Return reason and detail. Raises MalformedMessage."""
    if not 2 <= len(raw) <= MAX_REFUSAL_SIZE or not 0 < raw[0] <= MAX_REASON_SIZE:
        raise MalformedMessage("not a refusal")
    try:
        reason = raw[1 : 1 + raw[0]].decode("ascii")
        detail = raw[1 + raw[0] :].decode()
    except UnicodeDecodeError as error:
        raise MalformedMessage("a refusal is text") from error
    if len(reason) != raw[0] or not (reason + detail).isprintable():
        raise MalformedMessage("a refusal is printable text")
    return reason, detail


class EphemeralKey:
    """An X25519 key that lives for one handshake. It has no repr of its secret."""

    __slots__ = ("_secret", "public")

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._secret = random_bytes(32)
        self.public: bytes = crypto_scalarmult_base(self._secret)

    def agree(self, other: bytes) -> bytes:
        """Return the shared secret. Raises MalformedMessage for a key of small order."""
        try:
            shared: bytes = crypto_scalarmult(self._secret, other)
        except CryptoError as error:
            raise MalformedMessage("the ephemeral key is of small order") from error
        return shared


@dataclass(frozen=True, slots=True, repr=False)
class DirectionKey:
    """The key of the tags of one direction, and what its last signature names the stream by."""

    key: bytes
    transcript: bytes


@dataclass(frozen=True, slots=True, repr=False)
class StreamKeys:
    """What both ends of a stream derive from its handshake."""

    transcript: bytes
    client_to_server: bytes
    server_to_client: bytes

    @property
    def upward(self) -> DirectionKey:
        """The client's direction."""
        return DirectionKey(self.client_to_server, self.transcript)

    @property
    def downward(self) -> DirectionKey:
        """The server's direction."""
        return DirectionKey(self.server_to_client, self.transcript)


def derive_stream_keys(shared: bytes, *, opening: bytes, answer: bytes) -> StreamKeys:
    """Derive one key per direction from the X25519 secret and the signed handshake."""
    transcript = hashlib.sha256(_TRANSCRIPT_TAG + opening + answer).digest()

    def derive(tag: bytes) -> bytes:
        return hashlib.blake2b(tag + transcript, key=shared, digest_size=32).digest()

    return StreamKeys(transcript, derive(_CLIENT_TO_SERVER_TAG), derive(_SERVER_TO_CLIENT_TAG))


def derive_early_key(shared: bytes, *, opening: bytes) -> DirectionKey:
    """Derive the key of the client's direction of an early stream.

    ``shared`` is the X25519 secret of the client's key of this stream and the server's identity.
    The opening is signed, fresh and taken once, so it can carry frames as a call carries a payload.
    """
    transcript = hashlib.sha256(_EARLY_TRANSCRIPT_TAG + opening).digest()
    key = hashlib.blake2b(_EARLY_TAG + transcript, key=shared, digest_size=32).digest()
    return DirectionKey(key, transcript)


class FrameSealer:
    """Seals the frames of one direction, in order."""

    __slots__ = ("_count", "_key", "_mac", "_running", "_transcript")

    def __init__(self, key: bytes, transcript: bytes) -> None:
        self._key = key
        self._mac = _make_mac(key)
        self._transcript = transcript
        self._count = 0
        self._running = hashlib.sha256()

    def seal(self, payload: bytes) -> bytes:
        """Return one data frame. Raises ValueError when it is too long."""
        if len(payload) > MAX_FRAME_SIZE:
            raise ValueError(f"a frame has at most {MAX_FRAME_SIZE} bytes, not {len(payload)}")
        return self._seal(payload, FrameKind.DATA)

    def seal_finish(self, key: PeerKey) -> bytes:
        """Return the signed last frame."""
        signed = _finish_message(self._key, self._transcript, self._count, self._running.digest())
        return self._seal(key.sign(signed), FrameKind.FINISH)

    def _seal(self, payload: bytes, kind: FrameKind) -> bytes:
        header = _FRAME.pack(len(payload), self._count, kind)
        tag = _compute_tag(self._mac, header, payload)
        self._running.update(tag)
        self._count += 1
        return b"".join((header, payload, tag))


class FrameOpener:
    """Verifies the frames of one direction, in order. Every failure is final."""

    __slots__ = ("_count", "_key", "_mac", "_max_total", "_running", "_total", "_transcript")

    def __init__(self, key: bytes, transcript: bytes, *, max_total: int) -> None:
        self._key = key
        self._mac = _make_mac(key)
        self._transcript = transcript
        self._max_total = max_total
        self._count = 0
        self._total = 0
        self._running = hashlib.sha256()

    def read_header(self, header: bytes) -> int:
        """Return how many bytes follow the header, tag included. Raises MalformedMessage.

        The announced size is judged here, before anything is allocated for it.
        """
        size, counter, kind = _FRAME.unpack(header)
        if counter != self._count:
            raise MalformedMessage(f"frame {counter} arrived where {self._count} was due")
        limit = SIGNATURE_SIZE if kind == FrameKind.FINISH else MAX_FRAME_SIZE
        if kind > FrameKind.FINISH or size > limit:
            raise MalformedMessage(f"a frame announces {size} bytes; the limit is {limit}")
        if self._total + size > self._max_total:
            raise MalformedMessage(f"the stream carries more than {self._max_total} bytes")
        return int(size) + TAG_SIZE

    def open(self, header: bytes, body: bytes, signer: PeerId) -> bytes | None:
        """Return the payload, or None for a valid last frame. Raises MalformedMessage."""
        payload = body[:-TAG_SIZE]
        tag = _compute_tag(self._mac, header, payload)
        if not hmac.compare_digest(tag, body[-TAG_SIZE:]):
            raise MalformedMessage("a frame was tampered with")
        if header[-1] == FrameKind.FINISH:
            self._check_finish(payload, signer)
            return None
        self._running.update(tag)
        self._count += 1
        self._total += len(payload)
        return payload

    def _check_finish(self, signature: bytes, signer: PeerId) -> None:
        signed = _finish_message(self._key, self._transcript, self._count, self._running.digest())
        try:
            signer.check_signature(signed, signature)
        except BadSignature as error:
            raise MalformedMessage("the stream's last signature is wrong") from error


def _make_mac(key: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(key=key, digest_size=TAG_SIZE)


def _compute_tag(mac: hashlib.blake2b, header: bytes, payload: bytes) -> bytes:
    # The key is hashed once for a stream, not for every frame.
    mac = mac.copy()
    mac.update(header)
    mac.update(payload)
    return mac.digest()


def _finish_message(key: bytes, transcript: bytes, count: int, running: bytes) -> bytes:
    # The direction's key is hashed in, so that a last frame cannot be reflected at its sender.
    direction = hashlib.sha256(key).digest()
    return _FINISH_TAG + transcript + direction + count.to_bytes(8, "little") + running


def _decode_method(padded: bytes, size: int) -> str:
    if not 0 < size <= MAX_METHOD_SIZE or any(padded[size:]):
        raise MalformedMessage("a method name is padded with zeros")
    try:
        method = padded[:size].decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedMessage("a method name is ASCII") from error
    if not method.isprintable():
        raise MalformedMessage("a method name is printable")
    return method


def _enum(kind: type[E], value: int) -> E:
    try:
        return kind(value)
    except ValueError as error:
        raise MalformedMessage(f"{value} is not a {kind.__name__}") from error
