"""Checks the receipt of an answer: a file that may come from a stranger.

What can be named is compared first, so that an edited receipt is refused by the field; then the
signatures are required. A signature that holds beside a digest that does not fit its neighbour's
means that a hoster signed something else, and the two hosters are named.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keys.errors import BadPeerId, BadSignature
from keys.peer import PeerId
from mesh.client.receipts import MAX_RECEIPT_BYTES
from mesh.errors import MeshError
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.receipt_statement import (
    RECEIPT_VERSION,
    DigestKind,
    SessionStatement,
    hash_salt,
    hash_sampling,
    hash_tokens,
)
from mesh.inference.receipt_wire import HopReceipt
from mesh.inference.refusals import Refused
from mesh.inference.sampling import Sampling
from mesh.inference.wire import MAX_HOPS, MAX_PROMPT_TOKENS, decode_route, encode_route
from mesh.model.config import LayerSpan
from mesh.model.fields import MAX_LAYERS
from mesh.routing.hop import Hop, Route

MAX_PARTS = 256
MAX_RECEIPTS = 64
DISCLOSED = ("salt", "prompt_token_ids", "token_ids", "sampling")
"""What the owner of a receipt may set to null, all together, before others get it."""


class ReceiptRefused(MeshError):
    """A receipt that does not hold. ``field`` is the path to what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


_U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
_Layer = Annotated[int, Field(ge=0, le=MAX_LAYERS)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Signature = Annotated[str, Field(pattern="^[0-9a-f]{128}$")]
_SessionId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class _Signed(_Strict):
    reused: _U32
    signed_s: int = Field(ge=0, lt=1 << 64)
    received: _Digest
    sent: _Digest
    signature: _Signature


class _Hop(_Strict):
    peer_id: str = Field(max_length=64)
    blocks: tuple[_Layer, _Layer]
    receipt: _Signed | None


class _Part(_Strict):
    session_id: _SessionId
    first_index: _U32
    salt_digest: _Digest
    prompt_digest: _Digest
    sampling_digest: _Digest
    hops: tuple[_Hop, ...] = Field(min_length=1, max_length=MAX_HOPS)


class _Grammar(_Strict):
    kind: int
    text: str


class _Sampling(_Strict):
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int
    stop_token_ids: tuple[int, ...]
    top_logprobs: int
    frequency_penalty: float
    presence_penalty: float
    min_p: float
    min_tokens: int
    logit_bias: tuple[tuple[int, float], ...]
    grammar: _Grammar | None


class _Receipt(_Strict):
    version: int
    network_id: _Digest
    salt: _Digest | None
    prompt_token_ids: Annotated[tuple[_U32, ...], Field(max_length=MAX_PROMPT_TOKENS)] | None
    token_ids: Annotated[tuple[_U32, ...], Field(max_length=MAX_PROMPT_TOKENS)] | None
    sampling: _Sampling | None
    parts: tuple[_Part, ...] = Field(min_length=1, max_length=MAX_PARTS)


@dataclass(frozen=True, slots=True)
class CheckedPart:
    """One session: tokens from ``start`` on; ``end`` None where the receipt does not tell it.

    ``unsigned`` are the hops that signed nothing, by their place in the route.
    """

    start: int
    end: int | None
    route: Route
    signed_s: tuple[int | None, ...]

    @property
    def unsigned(self) -> tuple[int, ...]:
        return tuple(place for place, signed_s in enumerate(self.signed_s) if signed_s is None)


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """A receipt that holds, as far as it goes.

    ``is_disclosed``: prompt, tokens and sampling are in it and were checked too.
    """

    is_disclosed: bool
    parts: tuple[CheckedPart, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every hop signed, for every token."""
        return not any(part.unsigned for part in self.parts)


def read_receipts(raw: bytes) -> tuple[Any, ...]:
    """Return the receipts in a file: one alone, or those of a gateway's answer.

    Raises ReceiptRefused. They are not checked.
    """
    if len(raw) > MAX_RECEIPT_BYTES:
        raise ReceiptRefused("", f"a receipt has at most {MAX_RECEIPT_BYTES} bytes")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise ReceiptRefused("", "a receipt is a JSON object") from None
    answer = found.get("response", found) if isinstance(found, dict) else found
    for holder in (found, answer):
        trace = holder.get("mesh") if isinstance(holder, dict) else None
        if isinstance(trace, dict):
            receipts = trace.get("receipts")
            if not isinstance(receipts, list) or not 0 < len(receipts) <= MAX_RECEIPTS:
                raise ReceiptRefused(
                    "mesh.receipts", "the answer has no receipt; ask with X-Mesh-Receipt: true"
                )
            return tuple(receipts)
    return (found,)


def check_receipt(found: Any) -> CheckedReceipt:
    """Check one receipt, as JSON gives it. Raises ReceiptRefused that names the field."""
    receipt = _parse(found)
    disclosed = [name for name in DISCLOSED if getattr(receipt, name) is not None]
    if disclosed and len(disclosed) != len(DISCLOSED):
        missing = next(name for name in DISCLOSED if name not in disclosed)
        raise ReceiptRefused(missing, "is missing, although the rest is told")
    opened = _Opened(receipt) if disclosed else None
    parts = []
    told = None if opened is None else len(opened.token_ids)
    ends = [*[part.first_index for part in receipt.parts[1:]], told]
    for place, end in enumerate(ends):
        _check_place(receipt.parts, place, end)
        parts.append(_PartCheck(receipt, place, end, opened).check())
    return CheckedReceipt(opened is not None, tuple(parts))


def _parse(found: Any) -> _Receipt:
    try:
        # Again as JSON: there, lists are tuples and numbers are strict.
        receipt = _Receipt.model_validate_json(json.dumps(found))
    except RecursionError:
        raise ReceiptRefused("", "a receipt is a JSON object") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ReceiptRefused(_join(first["loc"]) or "receipt", first["msg"]) from None
    if receipt.version != RECEIPT_VERSION:
        raise ReceiptRefused("version", f"this is {receipt.version}, not {RECEIPT_VERSION}")
    return receipt


def _join(path: Sequence[int | str]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _check_place(parts: Sequence[_Part], place: int, end: int | None) -> None:
    start = parts[place].first_index
    if place == 0 and start != 0:
        raise ReceiptRefused("parts[0].first_index", "the tokens before it are missing")
    if end is not None and end <= start:
        at = f"parts[{place + 1}].first_index" if place + 1 < len(parts) else "token_ids"
        raise ReceiptRefused(at, f"part {place} has no token")


class _Opened:
    """What the owner knows beside the signatures."""

    def __init__(self, receipt: _Receipt) -> None:
        assert receipt.salt is not None and receipt.sampling is not None
        self.salt: bytes = bytes.fromhex(receipt.salt)
        self.prompt: tuple[int, ...] = receipt.prompt_token_ids or ()
        self.token_ids: tuple[int, ...] = receipt.token_ids or ()
        self.sampling: Sampling = _make_sampling(receipt.sampling)


def _make_sampling(told: _Sampling) -> Sampling:
    fields = told.model_dump()
    if told.grammar is not None:
        try:
            fields["grammar"] = Grammar(GrammarKind(told.grammar.kind), told.grammar.text)
        except ValueError:
            raise ReceiptRefused("sampling.grammar.kind", "there is no such kind") from None
    return Sampling(**fields)


class _PartCheck:
    """The check of one part."""

    def __init__(
        self, receipt: _Receipt, place: int, end: int | None, opened: _Opened | None
    ) -> None:
        self._part = receipt.parts[place]
        self._at = f"parts[{place}]"
        self._end = end
        self._opened = opened
        self._route = self._read_route()
        self._statement = SessionStatement(
            bytes.fromhex(receipt.network_id),
            bytes.fromhex(self._part.session_id),
            self._route,
            self._part.first_index,
            bytes.fromhex(self._part.salt_digest),
            bytes.fromhex(self._part.prompt_digest),
            bytes.fromhex(self._part.sampling_digest),
        )
        self._signed = tuple(self._list_signed())

    def check(self) -> CheckedPart:
        """Raise ReceiptRefused unless the part holds."""
        if self._opened is not None:
            self._check_asked(self._opened)
        forged = {receipt.hop_index for receipt in self._signed if not self._is_signed(receipt)}
        self._check_ring(forged)
        for place in sorted(forged):
            raise ReceiptRefused(
                f"{self._at}.hops[{place}].receipt.signature",
                f"{self._name(place)} did not sign this network, session, route, prompt, sampling, "
                "place, time or these digests",
            )
        if self._opened is not None:
            self._check_tokens(self._opened)
        times = {receipt.hop_index: receipt.signed_s for receipt in self._signed}
        signed_s = tuple(times.get(place) for place in range(len(self._route)))
        return CheckedPart(self._part.first_index, self._end, self._route, signed_s)

    def _read_route(self) -> Route:
        try:
            route = tuple(
                Hop(PeerId.from_base58(hop.peer_id), LayerSpan(*hop.blocks))
                for hop in self._part.hops
            )
            return decode_route(encode_route(route))
        except (BadPeerId, Refused, ValueError, struct.error) as error:
            raise ReceiptRefused(f"{self._at}.hops", str(error)) from None

    def _list_signed(self) -> Iterator[HopReceipt]:
        for place, hop in enumerate(self._part.hops):
            told = hop.receipt
            if told is not None:
                yield HopReceipt(
                    place,
                    told.reused,
                    told.signed_s,
                    bytes.fromhex(told.received),
                    bytes.fromhex(told.sent),
                    bytes.fromhex(told.signature),
                )

    def _is_signed(self, receipt: HopReceipt) -> bool:
        try:
            self._statement.check_signature(receipt)
        except BadSignature:
            return False
        return True

    def _check_asked(self, opened: _Opened) -> None:
        """Check what was asked against the digests that all hops signed."""
        text = (*opened.prompt, *opened.token_ids[: self._part.first_index])
        asked = (
            ("salt", hash_salt(opened.salt), self._statement.salt_digest),
            (
                "prompt_token_ids",
                hash_tokens(opened.salt, DigestKind.PROMPT, text),
                self._statement.prompt_digest,
            ),
            ("sampling", self._hash_sampling(opened), self._statement.sampling_digest),
        )
        for field, ours, theirs in asked:
            if ours != theirs:
                raise ReceiptRefused(field, f"it is not what {self._at} was asked")

    def _hash_sampling(self, opened: _Opened) -> bytes:
        try:
            return hash_sampling(opened.salt, opened.sampling, self._route)
        except (ValueError, OverflowError) as error:
            raise ReceiptRefused("sampling", str(error)) from None

    def _check_ring(self, forged: set[int]) -> None:
        """What one range sent is what the next received; the last one's tokens the first's."""
        hops = len(self._route)
        by_place = {receipt.hop_index: receipt for receipt in self._signed}
        pairs = [*pairwise(range(hops)), (hops - 1, 0)]
        for before, after in pairs:
            if before not in by_place or after not in by_place:
                continue
            if by_place[before].sent != by_place[after].received:
                self._refuse_pair(before, after, forged)
        for receipt in self._signed[1:]:
            if receipt.reused != self._signed[0].reused:
                raise ReceiptRefused(
                    f"{self._at}.hops[{receipt.hop_index}].receipt.reused",
                    "the hops did not keep equally much of the prompt",
                )

    def _refuse_pair(self, before: int, after: int, forged: set[int]) -> None:
        for place, field in ((after, "received"), (before, "sent")):
            if place in forged:
                raise ReceiptRefused(
                    f"{self._at}.hops[{place}].receipt.{field}",
                    f"{self._name(place)} did not sign this",
                )
        raise ReceiptRefused(
            f"{self._at}.hops[{after}].receipt.received",
            f"{self._name(after)} signed that it received something else than "
            f"{self._name(before)} signed that it sent",
        )

    def _check_tokens(self, opened: _Opened) -> None:
        token_ids = opened.token_ids[self._part.first_index : self._end]
        digest = hash_tokens(opened.salt, DigestKind.TOKENS, token_ids)
        for receipt in self._signed:
            is_first = receipt.hop_index == 0
            is_last = receipt.hop_index == len(self._route) - 1
            told = [receipt.received] * is_first + [receipt.sent] * is_last
            if any(theirs != digest for theirs in told):
                raise ReceiptRefused(
                    "token_ids",
                    f"those from {self._part.first_index} on are not what "
                    f"{self._name(receipt.hop_index)} signed",
                )

    def _name(self, place: int) -> str:
        return str(self._route[place].peer_id)
