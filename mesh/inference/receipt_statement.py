"""What the signatures of a receipt cover, as bytes. No torch here: clients check them too."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from keys.peer import PeerKey
from mesh.inference.receipt_wire import DIGEST_SIZE, HopReceipt
from mesh.inference.sampling import Sampling
from mesh.inference.shaped_wire import encode_shaped
from mesh.inference.wire import SESSION_ID_SIZE, OpenSession, encode_route
from mesh.routing.hop import Route

RECEIPT_VERSION = 1
_TAG = b"mesh/receipt/%d" % RECEIPT_VERSION
NETWORK_ID_SIZE = 32
# network, session, digests of salt, prompt and sampling, first index, hop index, hops, reused
# tokens, Unix time, what came in, what went out; the route follows
_STATEMENT = struct.Struct(
    f"<{NETWORK_ID_SIZE}s{SESSION_ID_SIZE}s{DIGEST_SIZE}s{DIGEST_SIZE}s{DIGEST_SIZE}sIBBIQ"
    f"{DIGEST_SIZE}s{DIGEST_SIZE}s"
)
_FRAME_SIZE = struct.Struct("<I")
_TOKEN_ID = struct.Struct("<I")


class DigestKind(Enum):
    """What a digest is of: bytes of one kind never pass for another's."""

    SALT = b"mesh-rcpt-salt"
    PROMPT = b"mesh-rcpt-prompt"
    SAMPLING = b"mesh-rcpt-sampl"
    TOKENS = b"mesh-rcpt-tokens"
    STEPS = b"mesh-rcpt-steps"


class Digest(Protocol):
    """A running digest."""

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


def start_digest(salt: bytes, kind: DigestKind) -> Digest:
    """Return an empty digest, keyed with a receipt's salt."""
    return hashlib.blake2b(key=salt, person=kind.value, digest_size=DIGEST_SIZE)


def add_frame(digest: Digest, frame: bytes) -> None:
    """Add a frame with its size, so that frames cannot be cut elsewhere."""
    digest.update(_FRAME_SIZE.pack(len(frame)))
    digest.update(frame)


def add_token(digest: Digest, token_id: int) -> None:
    """Add a token's id."""
    digest.update(_TOKEN_ID.pack(token_id))


def hash_salt(salt: bytes) -> bytes:
    """Return what names a salt without telling it."""
    return start_digest(salt, DigestKind.SALT).digest()


def hash_tokens(salt: bytes, kind: DigestKind, token_ids: Sequence[int]) -> bytes:
    """Return the digest of a prompt or of an answer. Raises struct.error for an impossible id."""
    digest = start_digest(salt, kind)
    digest.update(struct.pack(f"<{len(token_ids)}I", *token_ids))
    return digest.digest()


def hash_sampling(salt: bytes, sampling: Sampling, route: Route) -> bytes:
    """Return the digest of how tokens were to be chosen. Raises ValueError for what cannot be."""
    digest = start_digest(salt, DigestKind.SAMPLING)
    digest.update(encode_shaped(OpenSession(bytes(SESSION_ID_SIZE), route, sampling, (0,), 0)))
    return digest.digest()


@dataclass(frozen=True, slots=True)
class SessionStatement:
    """What all ranges of one session sign alike: where and whose it is, and what was asked.

    ``first_index`` is the place in the answer of the session's first token. The prompt of a session
    that goes on with an answer has the tokens before it.
    """

    network_id: bytes
    session_id: bytes
    route: Route
    first_index: int
    salt_digest: bytes
    prompt_digest: bytes
    sampling_digest: bytes

    @classmethod
    def of_request(cls, request: OpenSession, network_id: bytes) -> Self:
        """Return the statement about a request, the same at every hop of its route."""
        salt = request.receipt_salt
        return cls(
            network_id,
            request.session_id,
            request.route,
            request.first_index,
            hash_salt(salt),
            hash_tokens(salt, DigestKind.PROMPT, request.token_ids),
            hash_sampling(salt, request.sampling, request.route),
        )

    def get_message(self, receipt: HopReceipt) -> bytes:
        """Return what the hoster of a hop signs. Raises struct.error for what does not fit."""
        fields = _STATEMENT.pack(
            self.network_id,
            self.session_id,
            self.salt_digest,
            self.prompt_digest,
            self.sampling_digest,
            self.first_index,
            receipt.hop_index,
            len(self.route),
            receipt.reused,
            receipt.signed_s,
            receipt.received,
            receipt.sent,
        )
        return _TAG + fields + encode_route(self.route)

    def sign(self, key: PeerKey, receipt: HopReceipt) -> bytes:
        """Return a hoster's signature."""
        return key.sign(self.get_message(receipt))

    def check_signature(self, receipt: HopReceipt) -> None:
        """Raise BadSignature unless the hoster of the receipt's hop signed it."""
        hop = self.route[receipt.hop_index]
        hop.peer_id.check_signature(self.get_message(receipt), receipt.signature)
