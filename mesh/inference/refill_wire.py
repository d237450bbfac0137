"""The frames that open a session which can lose a hop, as fixed-width little-endian bytes.

RESUMABLE        client -> first -> ... -> last   a ticket, and an OPEN, SHAPED, WINDOWED or
                                                  PIPELINED frame
RESUMABLE_DRIVE  client -> first -> ... -> last   a ticket, how many tokens may be kept, and a DRIVE
                                                  frame

A method for each, as for SHAPED; a heartbeat announces it (``Feature.REFILL``,
``Feature.DRIVEN_REFILL``). A ticket with an index above 0 asks the hosters to go on with what they
keep of the text: every range but the first then answers READY, with the position from which it
needs hidden states (mesh/inference/refills.py). In a driven session the first range answers too:
from there on it needs token ids. No torch here: clients use these frames too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

from mesh.inference.drive_wire import (
    DriveSession,
    decode_drive,
    encode_drive,
)
from mesh.inference.flight_wire import decode_pipelined, encode_pipelined
from mesh.inference.shaped_wire import decode_shaped, encode_shaped
from mesh.inference.tickets import ANSWER_ID_SIZE, LINK_SIZE, MAX_REFILLS, Ticket
from mesh.inference.window_wire import decode_windowed, encode_windowed
from mesh.inference.wire import (
    VERSION,
    FrameType,
    OpenSession,
    RouteRequest,
    check_size,
    check_version,
    decode_open,
    encode_open,
    make_malformed,
    read_header,
)

RESUMABLE_METHOD = "mesh.resumable"
RESUMABLE_DRIVE_METHOD = "mesh.resumable_drive"

# type, version, index, answer, link, size of the frame that follows
_RESUMABLE = struct.Struct(f"<BBB{ANSWER_ID_SIZE}s{LINK_SIZE}sI")
# type, version, index, answer, link, kept tokens, size of the frame that follows
_RESUMABLE_DRIVE = struct.Struct(f"<BBB{ANSWER_ID_SIZE}s{LINK_SIZE}sII")
_DECODERS: dict[int, Callable[[bytes], OpenSession]] = {
    FrameType.OPEN: decode_open,
    FrameType.SHAPED: decode_shaped,
    FrameType.WINDOWED: decode_windowed,
    FrameType.PIPELINED: decode_pipelined,
}


def encode_resumable(request: OpenSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    ticket = _get_ticket(request)
    plain = _encode_plain(request)
    header = _RESUMABLE.pack(
        FrameType.RESUMABLE, VERSION, ticket.index, ticket.answer_id, ticket.link, len(plain)
    )
    return header + plain


def _get_ticket(request: RouteRequest) -> Ticket:
    """Return the ticket. Raises ValueError for none, or for one that does not fit."""
    ticket = request.ticket
    if ticket is None:
        raise ValueError("a session without a ticket cannot go on")
    if (len(ticket.answer_id), len(ticket.link)) != (ANSWER_ID_SIZE, LINK_SIZE):
        raise ValueError("a ticket of another size")
    return ticket


def _encode_plain(request: OpenSession) -> bytes:
    if request.in_flight:
        return encode_pipelined(request)
    if request.window:
        return encode_windowed(request)
    return encode_shaped(request) if request.sampling.is_shaped else encode_open(request)


def decode_resumable(frame: bytes) -> OpenSession:
    """Parse a request: sizes first. Raises Refused."""
    version, index, answer_id, link, size = read_header(frame, _RESUMABLE, FrameType.RESUMABLE)
    check_version(version)
    check_size(frame, _RESUMABLE.size + size)
    _check_index(index)
    plain = frame[_RESUMABLE.size :]
    decode = _DECODERS.get(plain[0]) if plain else None
    if decode is None:
        raise make_malformed("no frame that opens a session")
    return replace(decode(plain), ticket=Ticket(answer_id, index, link))


def _check_index(index: int) -> None:
    if index > MAX_REFILLS:
        raise make_malformed(f"opening {index} of an answer that may have {MAX_REFILLS} after one")


def encode_resumable_drive(request: DriveSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    ticket = _get_ticket(request)
    plain = encode_drive(request)
    header = _RESUMABLE_DRIVE.pack(
        FrameType.RESUMABLE_DRIVE,
        VERSION,
        ticket.index,
        ticket.answer_id,
        ticket.link,
        request.kept,
        len(plain),
    )
    return header + plain


def decode_resumable_drive(frame: bytes) -> DriveSession:
    """Parse a request: sizes first. Raises Refused."""
    version, index, answer_id, link, kept, size = read_header(
        frame, _RESUMABLE_DRIVE, FrameType.RESUMABLE_DRIVE
    )
    check_version(version)
    check_size(frame, _RESUMABLE_DRIVE.size + size)
    _check_index(index)
    request = decode_drive(frame[_RESUMABLE_DRIVE.size :])
    # The first opening finds nothing to keep, and one that keeps nothing is a first one.
    if (kept > 0) != (index > 0) or kept > request.capacity:
        raise make_malformed(f"{kept} kept tokens of {request.capacity} at opening {index}")
    return replace(request, kept=kept, ticket=Ticket(answer_id, index, link))
