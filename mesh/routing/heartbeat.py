"""What a server says about itself, again and again, in a signed envelope.

The heartbeat is the one renewable kind of record: its key is (HEARTBEAT, author) with epoch 0,
its expiry is a multiple of 30 s and at most 120 s ahead. A later expiry replaces an earlier one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from keys.envelope import Envelope, decode_envelope, seal
from keys.errors import BadEnvelope, BadSignature
from keys.peer import PeerId, PeerKey
from mesh.errors import RecordRefused
from mesh.model.config import LayerSpan
from mesh.model.fields import MAX_LAYERS
from mesh.routing.features import Feature, split_software
from mesh.routing.load import Load, read_load

HEARTBEAT_KIND = 1
HEARTBEAT_EPOCH = 0
EXPIRY_STEP_S = 30
MAX_AHEAD_S = 120
EXPIRY_AHEAD_S = 80
CLOCK_MARGIN_S = 3
MAX_HEARTBEAT_BODY = 1024
MAX_ADDRESSES = 8
MAX_ADDRESS = 200
MAX_SOFTWARE = 32
PROTOCOL_VERSION = 1

_KEY_PREFIX = b"mesh/rec"
# protocol, role, state, dtype, start, end, throughput, free cache tokens, software, addresses
_BODY = struct.Struct("<HBBBHHIIBB")
_DTYPES = ("", "float32", "bfloat16", "float16", "int8", "int4")


class ServerRole(IntEnum):
    """What a server is there for."""

    HOSTER = 1
    VALIDATOR = 2
    BOOTSTRAP = 3


class ServerState(IntEnum):
    """Whether sessions may start on a server: only on an ONLINE one."""

    JOINING = 1
    ONLINE = 2
    DRAINING = 3
    OFFLINE = 4


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One server in its own words. Untrusted: it helps to plan and decides nothing.

    ``span`` is None for a server without layers. ``throughput`` counts rows through one layer per
    second. ``addresses`` are multiaddresses that end in /p2p/<peer id>. ``software`` also says what
    else the server can do; see mesh/routing/features.py.
    """

    role: ServerRole
    state: ServerState
    span: LayerSpan | None
    throughput: int
    free_cache_tokens: int
    dtype: str
    software: str
    addresses: tuple[str, ...]
    protocol_version: int = PROTOCOL_VERSION

    @property
    def product(self) -> str:
        """The program's name and version."""
        return split_software(self.software)[0]

    @property
    def features(self) -> frozenset[Feature]:
        """What it says that it can do beyond plain sessions; earlier versions say nothing."""
        return split_software(self.software)[1]

    @property
    def load(self) -> Load:
        """How busy it says it is; earlier versions say nothing."""
        return read_load(self.software)

    @property
    def takes_sessions(self) -> bool:
        """It serves layers, is online and speaks our version."""
        return (
            self.span is not None
            and self.state is ServerState.ONLINE
            and self.protocol_version == PROTOCOL_VERSION
        )


def encode_server_info(info: ServerInfo) -> bytes:
    """Encode the body. Raises ValueError when a field does not fit."""
    start, end = (info.span.start, info.span.end) if info.span is not None else (0, 0)
    addresses = [address.encode("ascii") for address in info.addresses[:MAX_ADDRESSES]]
    software = info.software.encode("ascii")
    if len(software) > MAX_SOFTWARE or any(len(a) > MAX_ADDRESS for a in addresses):
        raise ValueError("the software name or an address is too long")
    try:
        header = _BODY.pack(
            info.protocol_version,
            info.role,
            info.state,
            _DTYPES.index(info.dtype),
            start,
            end,
            info.throughput,
            info.free_cache_tokens,
            len(software),
            len(addresses),
        )
    except struct.error as error:
        raise ValueError(f"a heartbeat field does not fit: {error}") from error
    body = header + software + b"".join(bytes([len(a)]) + a for a in addresses)
    if len(body) > MAX_HEARTBEAT_BODY:
        raise ValueError(f"a heartbeat has at most {MAX_HEARTBEAT_BODY} bytes")
    return body


def decode_server_info(body: bytes) -> ServerInfo:
    """Parse a body. Raises RecordRefused('malformed')."""
    try:
        return _parse_server_info(body)
    except (struct.error, ValueError, IndexError) as error:
        raise RecordRefused("malformed", str(error)) from error


def _parse_server_info(body: bytes) -> ServerInfo:
    if len(body) > MAX_HEARTBEAT_BODY:
        raise ValueError("a heartbeat is too long")
    protocol, role, state, dtype, start, end, throughput, free, software_size, count = (
        _BODY.unpack_from(body)
    )
    place = _BODY.size + software_size
    if software_size > MAX_SOFTWARE or count > MAX_ADDRESSES or place > len(body):
        raise ValueError("impossible counts")
    software = body[_BODY.size : place].decode("ascii")
    addresses = []
    for _ in range(count):
        size = body[place]
        raw = body[place + 1 : place + 1 + size]
        if len(raw) != size or size > MAX_ADDRESS:
            raise ValueError("an address is cut off or too long")
        addresses.append(raw.decode("ascii"))
        place += 1 + size
    if place != len(body):
        raise ValueError("trailing bytes")
    if not "".join((software, *addresses)).isprintable():
        raise ValueError("a name or an address is not printable")
    if (start, end) != (0, 0) and not start < end <= MAX_LAYERS:
        raise ValueError("an impossible range of layers")
    return ServerInfo(
        role=ServerRole(role),
        state=ServerState(state),
        span=LayerSpan(start, end) if end else None,
        throughput=throughput,
        free_cache_tokens=free,
        dtype=_DTYPES[dtype],
        software=software,
        addresses=tuple(addresses),
        protocol_version=protocol,
    )


def make_heartbeat_key(network_id: bytes, author: PeerId) -> bytes:
    """Return the record key of a server's heartbeat."""
    place = struct.pack("<BI", HEARTBEAT_KIND, HEARTBEAT_EPOCH)
    return _KEY_PREFIX + network_id + place + author.public_key


def seal_heartbeat(
    key: PeerKey, info: ServerInfo, *, network_id: bytes, node_id: int, expires_at: int
) -> Envelope:
    """Sign a heartbeat."""
    return seal(
        key,
        kind=HEARTBEAT_KIND,
        network_id=network_id,
        epoch=HEARTBEAT_EPOCH,
        expires_at=expires_at,
        node_id=node_id,
        body=encode_server_info(info),
    )


def compute_heartbeat_expiry(
    now_s: float, last_expires_at: int, *, is_urgent: bool = False, is_joining: bool = False
) -> int | None:
    """Return the expiry of a heartbeat sent now, or None when none is due or possible.

    A replica keeps the first value of an expiry, so a changed state (``is_urgent``) needs a later
    one than last time; 3 s are left for a receiver whose clock is behind. Usually an expiry is 50
    to 80 s ahead, so that one step further is always free. The first one of a node that
    ``is_joining`` (``last_expires_at`` is 0) is 20 to 50 s ahead: it has soon more to say, and may
    say it twice.
    """
    usual = int(now_s + EXPIRY_AHEAD_S) // EXPIRY_STEP_S * EXPIRY_STEP_S
    if is_joining and not last_expires_at:
        return usual - EXPIRY_STEP_S
    if usual > last_expires_at:
        return usual
    may_go_ahead = is_urgent and compute_urgent_wait(now_s, last_expires_at) == 0
    return last_expires_at + EXPIRY_STEP_S if may_go_ahead else None


def compute_urgent_wait(now_s: float, last_expires_at: int) -> float:
    """Return the seconds until there is a free expiry for a changed state."""
    next_step = last_expires_at + EXPIRY_STEP_S
    return max(0.0, next_step - (now_s + MAX_AHEAD_S - CLOCK_MARGIN_S))


def check_heartbeat(envelope: Envelope, *, network_id: bytes, now_s: float) -> ServerInfo:
    """Return what the server says. Raises RecordRefused with a reason.

    Monotone in time: the expiry may be at most 120 s ahead, and that only gets truer.
    The signature is the caller's to check, after this, since it costs more.
    """
    if envelope.kind != HEARTBEAT_KIND or envelope.epoch != HEARTBEAT_EPOCH:
        raise RecordRefused("wrong_slot", "not a heartbeat")
    if envelope.network_id != network_id:
        raise RecordRefused("wrong_network")
    if envelope.expires_at % EXPIRY_STEP_S or envelope.expires_at > now_s + MAX_AHEAD_S:
        raise RecordRefused("wrong_expiry", f"a heartbeat does not expire at {envelope.expires_at}")
    return decode_server_info(envelope.body)


def open_heartbeat(raw: bytes, *, network_id: bytes, now_s: float) -> tuple[Envelope, ServerInfo]:
    """Parse and verify a heartbeat from the wire. Raises RecordRefused."""
    try:
        envelope = decode_envelope(raw, max_body_size=MAX_HEARTBEAT_BODY)
        info = check_heartbeat(envelope, network_id=network_id, now_s=now_s)
        envelope.check_signature()
    except BadEnvelope as error:
        raise RecordRefused("malformed", str(error)) from error
    except BadSignature as error:
        raise RecordRefused("bad_signature") from error
    return envelope, info


def make_heartbeat_policy(
    network_id: bytes, *, is_member: Callable[[PeerId], bool], clock: Callable[[], float]
) -> Callable[[bytes, float], bytes]:
    """Return the rule for heartbeats in the record store: (value, expires_at) -> key.

    It raises RecordRefused with a reason. ``is_member`` should not forget a peer within a
    heartbeat's life, because the rule filters reads as well.
    """

    def admit(value: bytes, expires_at: float) -> bytes:
        envelope, _ = open_heartbeat(value, network_id=network_id, now_s=clock())
        if expires_at != envelope.expires_at:
            raise RecordRefused("wrong_expiry", "the record's expiry is not the envelope's")
        if not is_member(envelope.author):
            raise RecordRefused("not_a_member", str(envelope.author))
        return make_heartbeat_key(network_id, envelope.author)

    return admit
