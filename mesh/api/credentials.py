"""The key that a request presents."""

from __future__ import annotations

MAX_KEY_LENGTH = 512


def get_presented_key(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Return the key of ``Authorization: Bearer`` or ``X-API-Key``, or None."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer" and 0 < len(credentials) <= MAX_KEY_LENGTH:
                return credentials.strip()
        elif name == b"x-api-key" and 0 < len(value) <= MAX_KEY_LENGTH:
            return value.decode("latin-1").strip()
    return None
