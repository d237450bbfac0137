"""``/metrics``, ``/healthz`` and ``/readyz`` of a process, on a port of their own.

``/healthz`` says that the event loop turns, to every caller. The other two name what the
process does, so a token guards them where one is given. Without a token only this machine reaches
them, and pages of other sites are turned away as the gateway does it.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mesh.api.checks import Monitored
from mesh.api.credentials import get_presented_key
from mesh.api.hosts import ALWAYS_ALLOWED_HOSTS, is_trusted_host
from mesh.api.limits import Limits
from mesh.api.listening import run_app

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LIMITS = Limits(max_connections=32, head_timeout_s=5.0, keep_alive_s=65.0, drain_s=0.0)
"""A scraper comes every few seconds over one connection; uvicorn closes what idles longer."""
HEALTH_PATH = "/healthz"


@asynccontextmanager
async def open_monitoring(
    monitored: Monitored, *, host: str, port: int, token: str | None
) -> AsyncIterator[str]:
    """Answer while the block runs; gives the URL. Port 0 takes a free one.

    Raises ApiError or AddressInUse.
    """
    app = _Guard(_make_app(monitored), token)
    async with run_app(app, host=host, port=port, limits=LIMITS) as url:
        yield url


def _make_app(monitored: Monitored) -> ASGIApp:
    async def get_metrics(_request: Request) -> Response:
        return Response(monitored.render(), headers={"Content-Type": CONTENT_TYPE})

    async def get_health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def get_readiness(_request: Request) -> Response:
        checks = monitored.list_checks()
        is_ready = all(check.ok for check in checks)
        body = {
            "status": "ok" if is_ready else "not ready",
            "missing": [check.name for check in checks if not check.ok],
            "checks": [asdict(check) for check in checks],
        }
        return JSONResponse(body, status_code=200 if is_ready else 503)

    return Starlette(
        routes=[
            Route("/metrics", get_metrics),
            Route(HEALTH_PATH, get_health),
            Route("/readyz", get_readiness),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Guard:
    """Lets a request through with the token; without one, under a name of this machine."""

    app: ASGIApp
    token: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refuse(scope)
        await (self.app if refusal is None else refusal)(scope, receive, send)

    def _refuse(self, scope: Scope) -> Response | None:
        if self.token is None:
            host = dict(scope["headers"]).get(b"host", b"")
            if is_trusted_host(host, ALWAYS_ALLOWED_HOSTS):
                return None
            return JSONResponse({"error": "unknown host name"}, status_code=421)
        presented = get_presented_key(scope["headers"]) or ""
        if scope["path"] == HEALTH_PATH or hmac.compare_digest(
            presented.encode(), self.token.encode()
        ):
            return None
        return JSONResponse(
            {"error": "send the token as 'Authorization: Bearer TOKEN'"},
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )
