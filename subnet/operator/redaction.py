"""Addresses in logs without the secrets that they may hold."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from mesh.loopback import is_loopback

MAX_PLAIN_SEGMENT = 15
"""Characters of a path's segment; access tokens are longer."""
_SCHEME = r"(?:wss?|https?)://"
# Endpoints are listed with commas between them, so a comma before a scheme ends an address.
_URL = re.compile(rf"\b{_SCHEME}(?:(?!,\s*{_SCHEME})[^\s'\"<>])+", re.IGNORECASE)


def redact_urls(text: str) -> str:
    """Return ``text`` with every address cut to what names its server.

    Providers put access tokens into user names, queries and long segments of paths. Addresses of
    this machine stay whole.
    """
    return _URL.sub(lambda found: redact_url(found[0]), text)


def redact_url(url: str) -> str:
    """Return one address without user name, query and whatever looks like a token."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "<redacted>"
    place = parts.netloc.rpartition("@")[2]
    if is_loopback(host) and place == parts.netloc:
        return url
    segments = parts.path.split("/")
    is_plain = all(len(segment) <= MAX_PLAIN_SEGMENT for segment in segments)
    if is_plain and not (parts.query or parts.fragment):
        return f"{parts.scheme}://{place}{parts.path}"
    return f"{parts.scheme}://{place}/..."
