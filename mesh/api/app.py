"""The gateway as one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mesh.api import (
    anthropic,
    chat,
    completions,
    embeddings,
    health,
    metrics_endpoint,
    models,
    native_input,
    ollama,
    page,
    responses,
    router_hook,
    tokenization,
)
from mesh.api.auth import RATE_HEADERS, KeyRing
from mesh.api.backend import Backend
from mesh.api.checks import ShownMetrics
from mesh.api.disconnect import CallerGone
from mesh.api.error_shapes import make_problem_response
from mesh.api.gate import Gate
from mesh.api.gateway import Gateway
from mesh.api.generation import Generations
from mesh.api.hosts import ALWAYS_ALLOWED_HOSTS
from mesh.api.limits import Limits
from mesh.api.measures import GatewayMeasures
from mesh.api.middleware import BodyGuard, HostGuard, KeyGuard, RefusalFrame, RequestFrame
from mesh.api.problems import Problem, explain, make_not_found
from mesh.api.usage import Allowances, UsageBook
from mesh.errors import MeshError

EXPOSED_HEADERS = ("X-Mesh-Route", "X-Request-Id", "Request-Id", "Retry-After")
"""What scripts of other pages may read, beside the allowance of a key."""


@dataclass(frozen=True, slots=True)
class AppConfig:
    """What the application needs to know. ``ring`` None: no keys, for loopback only.

    ``cors_origins`` are origins such as ``https://example.org`` whose pages may call the API.
    ``measures`` counts what is answered, ``usage`` what each key used; ``metrics`` None: none are
    shown.
    """

    ring: KeyRing | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    measures: GatewayMeasures = field(default_factory=GatewayMeasures)
    usage: UsageBook = field(default_factory=UsageBook)
    metrics: ShownMetrics | None = None


@dataclass(slots=True)
class Application:
    """The application, and the gateway behind it while its lifespan runs."""

    asgi: ASGIApp
    gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.asgi(scope, receive, send)


def create_app(backend: Backend, config: AppConfig) -> Application:
    """Return the application; its lifespan owns every task that it starts."""
    application: Application

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[dict[str, Gateway]]:
        async with asyncio.TaskGroup() as tasks:
            gate = Gate(config.limits)
            allowances = Allowances(config.ring, config.usage)
            generations = Generations(
                backend, config.limits, tasks, gate, config.measures, allowances
            )
            application.gateway = Gateway(backend, config.limits, generations, config.metrics)
            writing = tasks.create_task(config.usage.keep_writing(allowances.clock))
            yield {"gateway": application.gateway}
            generations.cancel_all()
            writing.cancel()

    api = FastAPI(
        title="mesh",
        summary="Text generation by a swarm of hosters, in the shape of OpenAI's API.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    endpoints = (chat, completions, responses, anthropic, ollama, native_input)
    others = (router_hook, embeddings, tokenization, models, health, metrics_endpoint, page)
    for module in (*endpoints, *others):
        api.include_router(module.router)
    # The last is any other error: 500, and the outermost layer logs where it happened.
    for kind in (Problem, MeshError, RequestValidationError, HTTPException, CallerGone, Exception):
        api.add_exception_handler(kind, _handle)
    application = Application(_wrap(api, config))
    return application


async def _handle(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 404:
        problem = make_not_found(request.url.path, _list_paths(request.app))
    else:
        problem = explain(error)
    return make_problem_response(problem, request.url.path)


def _list_paths(api: FastAPI) -> frozenset[str]:
    """Return the addresses without variables."""
    return frozenset(api.openapi()["paths"])


def _wrap(api: ASGIApp, config: AppConfig) -> ASGIApp:
    """Put the layers around the endpoints, innermost first."""
    app: ASGIApp = BodyGuard(api, config.limits)
    # Who has no key has no body kept: the server drops what still comes of it.
    app = RefusalFrame(KeyGuard(app, config.ring))
    if config.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            # Clients send headers of their own, such as x-stainless-os; the origins are listed.
            allow_headers=["*"],
            expose_headers=[*EXPOSED_HEADERS, *RATE_HEADERS],
        )
    app = HostGuard(
        app,
        ALWAYS_ALLOWED_HOSTS | {host.lower() for host in config.allowed_hosts},
        frozenset(origin.lower() for origin in config.cors_origins),
    )
    return RequestFrame(app, config.limits)
