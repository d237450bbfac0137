"""OPEN frames with what changes logits: penalties, biases, a grammar.

A frame of its own under a method of its own, in front of an ordinary OPEN frame: hosters of earlier
versions do not serve the method, so that a client learns which hop to leave out, and a request
without such fields is the same bytes as before.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from mesh.errors import InvalidRequest
from mesh.inference.grammar import MAX_GRAMMAR_BYTES, Grammar, GrammarKind
from mesh.inference.sampling import MAX_BIASES
from mesh.inference.wire import (
    VERSION,
    FrameType,
    OpenSession,
    check_size,
    check_version,
    decode_open,
    encode_open,
    make_malformed,
    read_header,
)

SHAPED_METHOD = "mesh.shaped"

# type, version, frequency penalty, presence penalty, min_p, min tokens, biases, grammar kind and
# size, size of the OPEN frame
_SHAPED = struct.Struct("<BBdddIHBII")
_BIAS = struct.Struct("<If")
_NO_GRAMMAR = 0


def encode_shaped(request: OpenSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    sampling = request.sampling
    plain = encode_open(request)
    text = b"" if sampling.grammar is None else sampling.grammar.text.encode()
    try:
        header = _SHAPED.pack(
            FrameType.SHAPED,
            VERSION,
            sampling.frequency_penalty,
            sampling.presence_penalty,
            sampling.min_p,
            sampling.min_tokens,
            len(sampling.logit_bias),
            _NO_GRAMMAR if sampling.grammar is None else sampling.grammar.kind,
            len(text),
            len(plain),
        )
        biases = b"".join(_BIAS.pack(*pair) for pair in sampling.logit_bias)
    except struct.error as error:
        raise ValueError(f"a field of the request does not fit: {error}") from error
    return b"".join((header, biases, text, plain))


def decode_shaped(frame: bytes) -> OpenSession:
    """Parse a request: sizes first. Raises Refused."""
    version, frequency, presence, min_p, min_tokens, biases, kind, text, plain = read_header(
        frame, _SHAPED, FrameType.SHAPED
    )
    check_version(version)
    text_at = _SHAPED.size + biases * _BIAS.size
    plain_at = text_at + text
    if biases > MAX_BIASES or text > MAX_GRAMMAR_BYTES:
        raise make_malformed("too many biases, or too long a grammar")
    check_size(frame, plain_at + plain)
    request = decode_open(frame[plain_at:])
    sampling = replace(
        request.sampling,
        frequency_penalty=frequency,
        presence_penalty=presence,
        min_p=min_p,
        min_tokens=min_tokens,
        logit_bias=tuple(_BIAS.iter_unpack(frame[_SHAPED.size : text_at])),
        grammar=_read_grammar(kind, frame[text_at:plain_at]),
    )
    return replace(request, sampling=sampling)


def _read_grammar(kind: int, text: bytes) -> Grammar | None:
    if kind == _NO_GRAMMAR:
        check_size(text, 0)
        return None
    try:
        grammar = Grammar(GrammarKind(kind), text.decode())
        grammar.check()
    except (ValueError, InvalidRequest) as error:
        raise make_malformed(f"no grammar: {error}") from error
    return grammar
