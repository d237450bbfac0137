"""Callers: which key a request comes with, and whether it may make another one now."""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass, field
from pathlib import Path

from mesh.api.credentials import get_presented_key
from mesh.api.key_terms import NO_TERMS, KeyTerms, write_moment
from mesh.api.keys_file import ApiKey, compute_digest, read_keys
from mesh.api.problems import Problem
from mesh.token_bucket import TokenBucket

ANONYMOUS = "anonymous"
FILE_CHECK_SECONDS = 1.0
RATE_HEADERS = (
    "X-RateLimit-Limit-Requests",
    "X-RateLimit-Remaining-Requests",
    "X-RateLimit-Reset-Requests",
)


@dataclass(slots=True)
class KeyRing:
    """The active keys of one file, read again when the file changes."""

    path: Path
    _active: dict[str, ApiKey] = field(default_factory=dict, repr=False)
    _buckets: dict[str, TokenBucket] = field(default_factory=dict, repr=False)
    _version: tuple[int, int, int] | None = None
    _checked_s: float = float("-inf")

    @classmethod
    def open(cls, path: Path) -> KeyRing:
        """Read the file. Raises KeysFileError."""
        ring = cls(path)
        ring._reload()
        return ring

    @property
    def has_keys(self) -> bool:
        """Whether any key is valid now."""
        return bool(self._active)

    def refresh(self, *, now_s: float) -> None:
        """Notice created and revoked keys. Raises KeysFileError: better closed than stale."""
        if now_s - self._checked_s < FILE_CHECK_SECONDS:
            return
        if self._version is None or self._read_version() != self._version:
            self._reload()
        self._checked_s = now_s

    def identify(self, presented: str) -> str | None:
        """Return the name of a key that is not revoked, or None. It may have expired.

        Every digest is compared, each in constant time, so the answer's delay tells nothing.
        """
        digest = compute_digest(presented)
        found = None
        for key in self._active.values():
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found

    def get_terms(self, name: str) -> KeyTerms:
        """Return what a key may do; a key that has just been revoked may finish its request."""
        key = self._active.get(name)
        return NO_TERMS if key is None else key.terms

    def check_expiry(self, name: str, *, unix_s: float) -> None:
        """Raise Problem 401 for a key whose time is over."""
        terms = self.get_terms(name)
        if terms.expires_s is not None and terms.is_expired(now_s=unix_s):
            raise _refuse_key(
                f"This API key expired at {write_moment(terms.expires_s)}; "
                "ask the gateway's operator for another.",
                code="expired_api_key",
            )

    def check_rate(self, name: str, *, now_s: float) -> None:
        """Draw one request from the key's allowance. Raises Problem 429."""
        rate = self._active[name].rate
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = rate.make_bucket(now_s=now_s)
        wait_s = bucket.take(now_s=now_s)
        if wait_s:
            raise Problem(
                429,
                f"Rate limit reached: {rate.per_minute} requests a minute for this key.",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=math.ceil(wait_s),
                headers=make_rate_headers(bucket),
            )

    def describe_rate(self, name: str) -> dict[str, str]:
        """Return headers that tell what is left of the key's allowance."""
        bucket = self._buckets.get(name)
        return {} if bucket is None else make_rate_headers(bucket)

    def _reload(self) -> None:
        # Forgotten first: if the file cannot be read, no key is valid.
        self._active, self._version = {}, None
        version = self._read_version()
        keys = read_keys(self.path)
        self._active = {key.name: key for key in keys if key.revoked_s is None}
        self._buckets = {
            name: bucket for name, bucket in self._buckets.items() if name in self._active
        }
        self._version = version

    def _read_version(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def make_rate_headers(bucket: TokenBucket) -> dict[str, str]:
    """Return an allowance under OpenAI's names."""
    values = (bucket.burst, bucket.remaining, f"{math.ceil(bucket.full_after_s)}s")
    return dict(zip(RATE_HEADERS, map(str, values), strict=True))


def identify_caller(
    ring: KeyRing | None, headers: list[tuple[bytes, bytes]], *, now_s: float, unix_s: float
) -> str:
    """Return the caller's key name. Raises Problem 401 or KeysFileError.

    ``now_s`` is a monotonic time, ``unix_s`` the time of day.
    """
    if ring is None:
        return ANONYMOUS
    ring.refresh(now_s=now_s)
    presented = get_presented_key(headers)
    if presented is None:
        raise _refuse_key("Missing API key: send it as 'Authorization: Bearer KEY'.")
    name = ring.identify(presented)
    if name is None:
        raise _refuse_key("Incorrect API key provided.")
    ring.check_expiry(name, unix_s=unix_s)
    return name


def check_rate(ring: KeyRing | None, caller: str, *, now_s: float) -> None:
    """Draw one request from the caller's allowance. Raises Problem 429."""
    if ring is not None:
        ring.check_rate(caller, now_s=now_s)


def _refuse_key(message: str, *, code: str = "invalid_api_key") -> Problem:
    return Problem(
        401,
        message,
        kind="authentication_error",
        code=code,
        headers={"WWW-Authenticate": "Bearer"},
    )
