"""The reasons for which a hoster refuses, as short stable words that travel between peers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from mesh.errors import MeshError, PeerError, PeerRefusal
from mesh.model.config import ModelConfig
from mesh.p2p.rpc_guard import RpcReason


class RefusalReason(StrEnum):
    """Why a hoster refuses. For the first group another hoster or a later time may help; the
    second group is a mistake in the request.
    """

    BUSY = "busy"
    DRAINING = "draining"
    WRONG_RANGE = "wrong_range"
    HOP_LOST = "hop_lost"
    TIMEOUT = "timeout"
    FAILED = "failed"
    CHALLENGE_RELAYED = "challenge_relayed"
    """The hidden states are those of an open challenge; see mesh/inference/challenge_guard.py."""

    CONTEXT_OVERFLOW = "context_overflow"
    TOKEN_OUT_OF_RANGE = "token_out_of_range"
    BAD_PARAMETER = "bad_parameter"
    UNKNOWN_SESSION = "unknown_session"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    WRONG_POSITION = "wrong_position"
    MALFORMED = "malformed"


class Refused(MeshError):
    """A hoster refuses a request or ends a session. It becomes an ERROR frame to the caller.

    ``hop_index`` is the hop of the route to blame; None blames the hop that raises it.
    """

    def __init__(
        self, reason: RefusalReason | str, detail: str = "", *, hop_index: int | None = None
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = str(reason)
        self.detail = detail
        self.hop_index = hop_index


def check_vocabulary(token_ids: Sequence[int], config: ModelConfig) -> None:
    """Raise Refused(TOKEN_OUT_OF_RANGE) unless the model has every one of these tokens."""
    if max(token_ids) >= config.vocab_size:
        raise Refused(
            RefusalReason.TOKEN_OUT_OF_RANGE, f"the vocabulary has {config.vocab_size} tokens"
        )


def read_reason(word: str) -> RefusalReason:
    """Return the reason that a peer's word names; FAILED for a word of another version."""
    try:
        return RefusalReason(word)
    except ValueError:
        return RefusalReason.FAILED


def find_loss_reason(error: PeerError) -> RefusalReason:
    """Return why a session over this peer's stream is lost: the peer is full, or it is gone."""
    is_busy = isinstance(error, PeerRefusal) and error.reason == RpcReason.BUSY
    return RefusalReason.BUSY if is_busy else RefusalReason.HOP_LOST
