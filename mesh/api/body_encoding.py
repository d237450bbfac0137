"""Bodies that come compressed: gzip is unpacked within the limit of a body, the rest refused."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from mesh.api.problems import Problem

_GZIP_WINDOW = zlib.MAX_WBITS | 16
_NAMES = {"gzip": True, "x-gzip": True, "identity": False, "": False}


def is_packed(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a body is gzip. Raises Problem 415 for another encoding, or several."""
    named = [value for name, value in headers if name == b"content-encoding"]
    encoding = b", ".join(named).decode("latin-1").strip().lower()
    if encoding not in _NAMES:
        raise Problem(
            415,
            "Send the body as it is, or with Content-Encoding: gzip.",
            code="unsupported_encoding",
            headers={"Accept-Encoding": "gzip"},
        )
    return _NAMES[encoding]


def unpack(body: bytes, *, max_bytes: int) -> bytes:
    """Return a gzip body unpacked. Raises Problem 413, before more is unpacked, or 400."""
    reader = zlib.decompressobj(_GZIP_WINDOW)
    try:
        text = reader.decompress(body, max_bytes + 1)
    except zlib.error:
        text = b""
    if len(text) > max_bytes:
        raise make_too_large(max_bytes)
    if not reader.eof or reader.unused_data:
        raise Problem(400, "The body is not one gzip member.", code="invalid_body")
    return text


def make_too_large(max_bytes: int) -> Problem:
    """Return the refusal of a body that is too large."""
    return Problem(
        413,
        f"The body may have {max_bytes} bytes.",
        code="body_too_large",
        headers={"Connection": "close"},
    )
