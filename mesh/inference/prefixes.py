"""How the ranges of a session agree on the beginning of a prompt that none of them computes again.

Theory of operation
===================

Each range keeps pages of prompts that it has computed (mesh/inference/engine.py). A range can leave
out the first tokens of a prompt only if every later range leaves out the same ones, since it then
sends no hidden states of them.

1. Each range opens the next one and says in OPEN how many tokens it has (``reused``). A later range
   counts at most so many of its own.
2. A range that was told of some answers READY with its own number, once it has had the answer of
   the range after it. So the smallest number reaches the first range. If that has nothing to leave
   out, OPEN says 0, and no READY is sent or waited for.
3. The first range begins there, or earlier. Its first STEP says where, and the later ranges give up
   what they hold beyond that.
4. A client sends no hidden states, so its ``reused`` limits nothing: where it is not 0 it asks for
   the number, and the first range answers READY before the first token. First ranges of earlier
   versions read no ``reused`` of a client and send no READY.

**Salt.** Whether a prompt was computed before can be told by time. So pages are shared only between
sessions of one client. Each range mixes the peer that opened the session into the salt that came
with it, and passes on the result. A client gives a salt for each of its own users, if it has any. A
hoster that sends hidden states of another text than it says spoils pages of its own sessions and of
no one else's: what a range keeps of a session is salted with every peer that the session came
through.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from functools import partial

from keys.peer import PeerId
from mesh.inference.engine import Engine, Prefix
from mesh.inference.hops import NextHop, SessionTimeouts
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.steps import EngineSession
from mesh.inference.wire import SALT_SIZE, OpenSession, RouteRequest, decode_ready


def mix_salt(salt: bytes, caller: PeerId) -> bytes:
    """Return the salt of a session that ``caller`` opened with ``salt``."""
    return hashlib.blake2b(salt + caller.public_key, digest_size=SALT_SIZE).digest()


def make_prefix(
    request: RouteRequest, caller: PeerId, *, is_deterministic: bool = False
) -> Prefix | None:
    """Return what a range may reuse; nothing of a text that is scored or driven.

    A deterministic engine cuts the tokens of an answer that goes on otherwise than a prompt's.
    """
    if not isinstance(request, OpenSession) or request.wants_scores:
        return None
    limit = len(request.token_ids) if request.is_first else request.reused
    text = request.token_ids[: request.answer_start if is_deterministic else None]
    return Prefix(mix_salt(request.salt, caller), text, limit)


async def agree(
    engine: Engine, session: EngineSession, next_hop: NextHop, *, timeouts: SessionTimeouts
) -> None:
    """Wait until the later ranges say how much they have, and reuse no more than that.

    Raises Refused that blames the next hop.
    """
    if session.reused:
        await receive_ready(
            next_hop, partial(engine.reuse_less, session), timeout_s=timeouts.open_s
        )


async def receive_ready(
    next_hop: NextHop, take: Callable[[int], None], *, timeout_s: float
) -> None:
    """Wait until the next range says how many tokens it has; ``take`` gets the number.

    ``take`` raises Refused for a number that cannot be. Raises Refused that blames the next hop.
    """
    try:
        async with asyncio.timeout(timeout_s):
            frame = await next_hop.receive()
        take(decode_ready(frame or b""))
    except TimeoutError as error:
        raise Refused(
            RefusalReason.TIMEOUT, "it did not say what it has", hop_index=next_hop.hop_index
        ) from error
    except Refused as refused:
        if refused.hop_index is not None:
            raise
        raise Refused(
            RefusalReason.HOP_LOST, str(refused), hop_index=next_hop.hop_index
        ) from refused
