"""``/livez``: the process answers. ``/readyz`` and ``/health``: it can answer prompts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mesh.api.backend import ServedModel
from mesh.api.checks import HealthCheck
from mesh.api.gateway import Gateway, get_gateway
from mesh.api.openapi import ERRORS
from mesh.api.replies import HealthReply
from mesh.errors import MeshError

router = APIRouter(tags=["health"])

_RESPONSES: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    503: {"model": HealthReply, "description": "Not ready; the checks say why."},
}


@router.get("/livez", response_model=HealthReply, responses=ERRORS, summary="Is it alive?")
async def check_alive() -> Response:
    """Answer as long as the process can."""
    return JSONResponse({"status": "ok", "checks": []})


@router.get("/readyz", response_model=HealthReply, responses=_RESPONSES, summary="Is it ready?")
@router.get("/health", response_model=HealthReply, responses=_RESPONSES, summary="As /readyz")
async def check_ready(request: Request) -> Response:
    """Answer 200 while at least one model is complete and the gateway is not stopping."""
    gateway = get_gateway(request)
    is_accepting = not gateway.generations.is_draining
    of_models = await _check_models(gateway)
    is_ready = is_accepting and any(check.ok for check in of_models)
    checks = [_check("accepting", is_accepting, "stopping", "accepts requests"), *of_models]
    status = {
        "status": "ok" if is_ready else "not ready",
        "checks": [asdict(check) for check in checks],
    }
    return JSONResponse(status, status_code=200 if is_ready else 503)


async def _check_models(gateway: Gateway) -> list[HealthCheck]:
    try:
        models = await gateway.backend.list_models()
    except MeshError:
        return [_check("swarm", False, "cannot be reached", "")]
    return [_check_model(model) for model in models] or [
        _check("models", False, "no model is known", "")
    ]


def _check_model(model: ServedModel) -> HealthCheck:
    missing = ", ".join(f"{start}:{end}" for start, end in model.uncovered)
    return _check(
        f"model {model.model_id}",
        model.is_complete,
        f"no hoster serves blocks {missing}",
        "every block is served",
    )


def _check(name: str, ok: bool, bad: str, good: str) -> HealthCheck:
    return HealthCheck(name, ok, good if ok else bad)
