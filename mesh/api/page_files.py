"""Bodies that browsers keep: a strong ETag, 304 for what has not changed, gzip where accepted.

A browser asks each time whether its copy is still right (``no-cache``), so a page and its modules
are of one version after an upgrade.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

MIN_GZIP_SIZE = 1024
"""Smaller ones become hardly shorter."""
MAX_COMPRESSED = 64
"""Compressed bodies that are kept."""
QUICK_LEVEL = 1
FILE_LEVEL = 9
_QUALITY = re.compile(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class TaggedBody:
    """One encoded answer, with what a browser compares it by. ``level`` is gzip's."""

    raw: bytes
    level: int = QUICK_LEVEL
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.raw).hexdigest()[:24])


def respond(request: Request, body: TaggedBody, media_type: str = "application/json") -> Response:
    """Return the body in a coding that the reader accepts, or 304 for the one that it has.

    Each coding has an ETag of its own, because a strong one names bytes.
    """
    is_packed = len(body.raw) >= MIN_GZIP_SIZE and accepts_gzip(_join(request, "accept-encoding"))
    etag = f'"{body.digest}-gzip"' if is_packed else f'"{body.digest}"'
    headers = {"Cache-Control": "no-cache", "ETag": etag, "Vary": "Accept-Encoding"}
    if is_known(etag, _join(request, "if-none-match")):
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return Response(
        _compress(body) if is_packed else body.raw, headers=headers, media_type=media_type
    )


def _join(request: Request, name: str) -> str:
    """Return a header that lists values; it may stand in a request several times."""
    return ",".join(request.headers.getlist(name))


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding takes gzip (RFC 9110, section 12.5.3)."""
    accepted: dict[str, bool] = {}
    for part in header.split(","):
        name, _, parameter = part.partition(";")
        quality = _QUALITY.fullmatch(parameter)
        is_accepted = not parameter if quality is None else float(quality[1]) > 0
        accepted[name.strip().lower()] = is_accepted
    return accepted.get("gzip", accepted.get("*", False))


def is_known(etag: str, header: str) -> bool:
    """Whether an If-None-Match names ``etag``; a proxy may have marked it as weak."""
    return header.strip() == "*" or etag in _TAG.findall(header)


_compressed: dict[tuple[str, int], bytes] = {}


def _compress(body: TaggedBody) -> bytes:
    """Return the body compressed; the last ones are kept."""
    key = body.digest, body.level
    found = _compressed.get(key)
    if found is None:
        # Without the time, so that the same bytes have the same tag on every gateway.
        found = _compressed[key] = gzip.compress(body.raw, body.level, mtime=0)
        while len(_compressed) > MAX_COMPRESSED:
            del _compressed[next(iter(_compressed))]
    return found
