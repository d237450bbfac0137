"""What every request passes before an endpoint sees it, outermost first.

RequestFrame gives it an id, safe headers and a log line without content; HostGuard turns away
other sites' pages; RefusalFrame answers what the next two refuse; KeyGuard asks who it is;
BodyGuard bounds the body in size and time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mesh.api.auth import KeyRing, check_rate, identify_caller
from mesh.api.body_encoding import is_packed, make_too_large, unpack
from mesh.api.disconnect import CallerGone
from mesh.api.error_shapes import get_request_id_names, make_problem_response
from mesh.api.hosts import is_trusted_host
from mesh.api.limits import Limits
from mesh.api.problems import SERVER_ERROR, Problem, explain, make_overloaded
from mesh.errors import MeshError

PUBLIC_PATHS = frozenset({"/", "/livez", "/readyz", "/health"})
PUBLIC_PREFIX = "/static/"
MAX_DISCARDED_BYTES = 8 << 20
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RequestFrame:
    """The outermost layer: nothing escapes it, and nothing of a request is logged but its frame."""

    app: ASGIApp
    limits: Limits
    _running: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_s = time.monotonic()
        sender = _FramedSend(send, request_id=secrets.token_hex(8), path=scope["path"])
        self._running += 1
        try:
            await self._answer(scope, receive, sender)
        finally:
            self._running -= 1
            log.info(
                "request",
                request_id=sender.request_id,
                method=scope["method"],
                path=scope["path"][:128],
                status=sender.status,
                caller=scope.get("state", {}).get("caller"),
                seconds=round(time.monotonic() - started_s, 4),
            )

    async def _answer(self, scope: Scope, receive: Receive, send: _FramedSend) -> None:
        try:
            if self._running > self.limits.max_requests:
                raise make_overloaded()
            await self.app(scope, receive, send)
        except CallerGone:
            return
        except (Problem, MeshError) as error:
            await _refuse(explain(error), scope, receive, send)
        except Exception as error:  # noqa: BLE001
            # Neither the caller nor the log gets the message: it may quote a prompt.
            _log_defect(error, request_id=send.request_id)
            problem = Problem(500, "The gateway failed on this request.", kind=SERVER_ERROR)
            await _refuse(problem, scope, receive, send)


class _FramedSend:
    """An ASGI ``send`` that adds the headers and remembers the status."""

    def __init__(self, send: Send, *, request_id: str, path: str) -> None:
        self._send = send
        self.request_id = request_id
        names = get_request_id_names(path)
        self._own = (*((name, request_id.encode()) for name in names), *SECURITY_HEADERS)
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._own]}
        await self._send(message)


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: _FramedSend) -> None:
    if send.status is None:
        await make_problem_response(problem, scope["path"])(scope, receive, send)


def _log_defect(error: Exception, *, request_id: str) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    log.error("request failed", request_id=request_id, kind=type(error).__name__, where=where)


@dataclass(frozen=True, slots=True)
class HostGuard:
    """Refuses names that are not ours, and other sites' pages."""

    app: ASGIApp
    allowed_hosts: frozenset[str]
    allowed_origins: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"")
            self._check_host(host)
            if scope["method"] not in SAFE_METHODS:
                origin = headers.get(b"origin", b"").decode("latin-1").lower()
                self._check_origin(origin, host.decode("latin-1").lower())
        await self.app(scope, receive, send)

    def _check_host(self, host: bytes) -> None:
        if not is_trusted_host(host, self.allowed_hosts):
            raise Problem(
                421,
                "This gateway does not answer under this host name; add it with --allowed-host.",
                code="unknown_host",
            )

    def _check_origin(self, origin: str, host: str) -> None:
        if not origin or origin in self.allowed_origins:
            return
        if _get_place(origin) != host:
            raise Problem(403, "Pages of other sites may not call this.", code="cross_site")


def _get_place(origin: str) -> str | None:
    """Return host and port of an origin; None if it is no URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class RefusalFrame:
    """Answers what the layers within refuse, so that the answer gets the headers of those around.

    A HEAD request is answered as a GET; the server leaves the body out.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        is_started = False

        async def noting_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self.app(scope, receive, noting_send)
        except (Problem, MeshError) as error:
            if is_started:
                raise
            await make_problem_response(explain(error), scope["path"])(scope, receive, send)


@dataclass(frozen=True, slots=True)
class BodyGuard:
    """Reads the body, within its limits, before anything else runs."""

    app: ASGIApp
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                body = await self._read(receive)
        except TimeoutError:
            raise Problem(408, "The body did not arrive in time.", code="body_timeout") from None
        if is_packed(scope["headers"]):
            body = unpack(body, max_bytes=self.limits.max_body_bytes)
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes:
        """Return the body. Raises Problem 413, or CallerGone."""
        body = bytearray()
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerGone
            chunk = message.get("body", b"")
            size += len(chunk)
            # What is too much is read for a while and dropped: a caller who is still sending
            # when the connection closes never sees why.
            if size <= self.limits.max_body_bytes:
                body += chunk
            elif size > self.limits.max_body_bytes + MAX_DISCARDED_BYTES:
                raise self._too_large()
            if not message.get("more_body", False):
                break
        if size > self.limits.max_body_bytes:
            raise self._too_large()
        return bytes(body)

    def _too_large(self) -> Problem:
        return make_too_large(self.limits.max_body_bytes)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the whole body once and then waits for the disconnect."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if not is_given:
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


@dataclass(frozen=True, slots=True)
class KeyGuard:
    """Lets nothing but the page and the health checks pass without a key, if keys are used."""

    app: ASGIApp
    ring: KeyRing | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_public(scope["path"]):
            now_s = time.monotonic()
            caller = identify_caller(self.ring, scope["headers"], now_s=now_s, unix_s=time.time())
            # Known before its rate is checked, so that the log names whom it refuses.
            scope.setdefault("state", {})["caller"] = caller
            check_rate(self.ring, caller, now_s=now_s)
            if self.ring is not None:
                send = _add_headers(send, self.ring.describe_rate(caller))
        await self.app(scope, receive, send)


def _add_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Return a ``send`` that adds headers to the answer."""
    added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def adding_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return adding_send


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIX)
