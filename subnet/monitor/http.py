"""The monitor over HTTP: the page, the JSON API and the live events. Everything is read-only.

An answer is encoded once a revision, however many ask for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Path, Query
from fastapi.exceptions import RequestValidationError
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mesh.api.hosts import ALWAYS_ALLOWED_HOSTS, is_trusted_host
from mesh.api.limits import Limits
from mesh.api.middleware import SECURITY_HEADERS
from mesh.api.page_files import FILE_LEVEL, TaggedBody, respond
from subnet.errors import ReceiptNotKept, SubnetError
from subnet.monitor.documents import (
    Delta,
    EpochChanged,
    EpochRecord,
    History,
    Problem,
    Receipt,
    Snapshot,
)
from subnet.monitor.hub import CLOSED, MAX_SUBSCRIBERS, Hub, HubEvent, Subscription
from subnet.monitor.receipts import ReceiptsBusy

LIMITS = Limits(max_connections=256, max_requests=192, head_timeout_s=5.0, drain_s=0.0)
MAX_EPOCH = 2**32 - 1
DEFAULT_EPOCHS = 64
MAX_EPOCHS = 512
COMMENT_S = 15.0
SEND_TIMEOUT_S = 20.0
RETRY_S = 10
METHODS = ["GET", "HEAD"]
MAX_HISTORIES = 4
"""Encoded histories of different lengths that are kept."""
FILES = {
    "app.js": "text/javascript; charset=utf-8",
    "data.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "map.js": "text/javascript; charset=utf-8",
    "nodes.js": "text/javascript; charset=utf-8",
    "receipt.js": "text/javascript; charset=utf-8",
    "scores.js": "text/javascript; charset=utf-8",
    "timeline.js": "text/javascript; charset=utf-8",
    "virtual.js": "text/javascript; charset=utf-8",
    "monitor.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

EpochNumber = Annotated[int, Path(ge=0, le=MAX_EPOCH, description="The number of a subnet epoch.")]
NodeNumber = Annotated[int, Path(ge=1, le=MAX_EPOCH, description="A subnet node id.")]


class MonitorData(Protocol):
    """What is shown. Each reading may raise SubnetError, ReceiptsBusy with it."""

    @property
    def hub(self) -> Hub: ...

    async def read_epoch(self, epoch: int) -> EpochRecord | None:
        """Return the record of an epoch; None if none is kept."""
        ...

    async def read_history(self, count: int) -> History:
        """Return the last ``count`` epochs."""
        ...

    async def read_receipt(self, epoch: int, node_id: int) -> bytes:
        """Return a receipt as JSON. Raises ReceiptNotKept, another SubnetError or ReceiptsBusy."""
        ...


def create_app(data: MonitorData, *, is_public: bool) -> ASGIApp:
    """Return the application. Unless ``is_public``, it answers only under names of this machine."""
    api = FastAPI(
        title="mesh monitor",
        summary="What one process sees of a subnet. Read-only; documented in docs/monitor.md.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_page(api)
    _add_documents(api, data)
    _add_events(api, data.hub)
    api.add_exception_handler(RequestValidationError, _refuse_parameter)
    api.add_exception_handler(HTTPException, _refuse_http)
    return Frame(api, is_public=is_public)


def _add_page(api: FastAPI) -> None:
    @api.api_route("/", methods=METHODS, include_in_schema=False)
    async def show_page(request: Request) -> Response:
        return respond(request, _read_file("index.html"), "text/html; charset=utf-8")

    @api.api_route("/static/{name}", methods=METHODS, include_in_schema=False)
    async def show_file(request: Request, name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return respond(request, _read_file(name), FILES[name])

    @api.api_route("/healthz", methods=METHODS, include_in_schema=False)
    async def get_health() -> Mapping[str, str]:
        return {"status": "ok"}


def _add_documents(api: FastAPI, data: MonitorData) -> None:
    newest = _Newest(data.hub)
    histories: dict[int, tuple[int, TaggedBody]] = {}
    problems: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": Problem, "description": "The request is refused; the body says why."},
        "5XX": {"model": Problem, "description": "It cannot be answered now."},
    }

    @api.get("/api/v1/snapshot", response_model=Snapshot, responses=problems)
    async def get_snapshot(request: Request) -> Response:
        """Return the nodes, the blocks and the chain's clock as this process sees them now."""
        body = newest.get()
        if body is None:
            return _refuse(503, "nothing has been seen yet", "ask again in some seconds")
        return respond(request, body)

    @api.get("/api/v1/history", response_model=History, responses=problems)
    async def get_history(
        request: Request,
        epochs: Annotated[
            int, Query(ge=1, le=MAX_EPOCHS, description="How many of the last epochs.")
        ] = DEFAULT_EPOCHS,
    ) -> Response:
        """Return scores, accuracies, pay and attestations of the last epochs as tables."""
        revision = data.hub.results_revision
        if epochs not in histories or histories[epochs][0] != revision:
            found = await data.read_history(epochs)
            histories[epochs] = revision, TaggedBody(found.model_dump_json().encode())
            while len(histories) > MAX_HISTORIES:
                del histories[next(iter(histories))]
        return respond(request, histories[epochs][1])

    @api.get("/api/v1/epochs/{epoch}", response_model=EpochRecord, responses=problems)
    async def get_epoch(request: Request, epoch: EpochNumber) -> Response:
        """Return who committed, audited, revealed, proposed and attested in one epoch, and when."""
        found = await data.read_epoch(epoch)
        if found is None:
            return _refuse(404, f"nothing is kept of epoch {epoch}", "ask for a later epoch")
        return respond(request, TaggedBody(found.model_dump_json().encode()))

    @api.get("/api/v1/receipts/{epoch}/{node_id}", response_model=Receipt, responses=problems)
    async def get_receipt(request: Request, epoch: EpochNumber, node_id: NodeNumber) -> Response:
        """Return what a node's score comes from, computed again from signed records."""
        try:
            raw = await data.read_receipt(epoch, node_id)
        except ReceiptsBusy:
            return _refuse(503, "too many receipts are being computed", "ask again in some seconds")
        except ReceiptNotKept as error:
            return _refuse(404, str(error), _get_fix(error))
        except SubnetError as error:
            return _refuse(404, str(error), _get_fix(error))
        return respond(request, TaggedBody(raw))


def _add_events(api: FastAPI, hub: Hub) -> None:
    schemas = {"delta": Delta, "epoch": EpochChanged}
    description = (
        "Server-sent events. `delta` changes the snapshot, `epoch` says that an epoch has news, "
        "`resync` that the snapshot is to be read again, `closed` that the server stops. "
        + " ".join(f"`{name}` holds a {model.__name__}." for name, model in schemas.items())
    )

    @api.get(
        "/api/v1/events",
        response_class=Response,
        responses={
            200: {"description": description, "content": {"text/event-stream": {}}},
            503: {"model": Problem, "description": f"{MAX_SUBSCRIBERS} readers follow already."},
        },
    )
    async def follow() -> Response:
        """Follow what changes; the page uses it."""
        if hub.is_full:
            refused = _refuse(
                503, f"{MAX_SUBSCRIBERS} readers follow already", "poll /api/v1/snapshot"
            )
            refused.headers["Retry-After"] = str(RETRY_S)
            return refused
        return _EventStream(hub)


class _EventStream(EventSourceResponse):
    """Sends events until the reader leaves, takes nothing, or the server stops."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._subscription = Subscription()
        super().__init__(
            _encode_events(self._subscription),
            headers={"Cache-Control": "no-cache"},
            ping=round(COMMENT_S),
            ping_message_factory=lambda: ServerSentEvent(comment="keepalive", sep="\n"),
            sep="\n",
            send_timeout=SEND_TIMEOUT_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hub.attach(self._subscription):
            try:
                await super().__call__(scope, receive, send)
            except SendTimeoutError:
                # The connection is left unfinished, so the server closes it.
                return


async def _encode_events(subscription: Subscription) -> AsyncIterator[ServerSentEvent]:
    yield _to_sse(HubEvent("hello", "{}"))
    while True:
        event = await subscription.get()
        yield _to_sse(event)
        if event is CLOSED:
            return


def _to_sse(event: HubEvent) -> ServerSentEvent:
    return ServerSentEvent(event=event.name, data=event.data, sep="\n")


class _Newest:
    """The newest snapshot, encoded once."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._revision = -1
        self._body: TaggedBody | None = None

    def get(self) -> TaggedBody | None:
        snapshot = self._hub.snapshot
        if snapshot is None:
            return None
        if self._body is None or self._revision != snapshot.revision:
            self._body = TaggedBody(snapshot.model_dump_json().encode())
            self._revision = snapshot.revision
        return self._body


@cache
def _read_file(name: str) -> TaggedBody:
    path = resources.files("subnet.monitor").joinpath("static", name)
    return TaggedBody(path.read_bytes(), level=FILE_LEVEL)


def _get_fix(error: SubnetError) -> str:
    return str(getattr(error, "hint", "") or "look at the log of the node")


def _refuse(status: int, error: str, fix: str) -> Response:
    body = Problem(error=error, fix=fix).model_dump_json().encode()
    return Response(body, status_code=status, media_type="application/json")


async def _refuse_parameter(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return _refuse(422, f"{name}: {first['msg'].lower()}", "see /openapi.json")


async def _refuse_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refuse(error.status_code, error.detail.lower(), "see /openapi.json")


@dataclass(slots=True)
class Frame:
    """Adds the security headers, bounds what runs at once, and turns foreign names away."""

    app: ASGIApp
    is_public: bool
    _running: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *SECURITY_HEADERS]
                message = {**message, "headers": headers}
            await send(message)

        app = self._refuse(scope) or self.app
        self._running += 1
        try:
            await app(scope, receive, send_framed)
        finally:
            self._running -= 1

    def _refuse(self, scope: Scope) -> Callable[[Scope, Receive, Send], Awaitable[None]] | None:
        if self._running >= LIMITS.max_requests:
            return _refuse(503, "too many requests run at once", "ask again in some seconds")
        host = dict(scope["headers"]).get(b"host", b"")
        if not self.is_public and not is_trusted_host(host, ALWAYS_ALLOWED_HOSTS):
            return _refuse(421, "this page is not served under that name", "use its address")
        return None
