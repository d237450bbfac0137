"""``GET /v1/models``: the models that can answer now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mesh.api.backend import ServedModel
from mesh.api.gateway import find_model, get_caller, get_gateway
from mesh.api.openapi import ERRORS
from mesh.api.replies import ModelList, ModelReply

OWNER = "mesh"

router = APIRouter(tags=["models"])


@router.get("/v1/models/", include_in_schema=False)
@router.get(
    "/v1/models", response_model=ModelList, responses=ERRORS, summary="List the served models"
)
async def list_models(request: Request) -> Response:
    """Return the models that the key may use and of which every layer has a server."""
    gateway, caller = get_gateway(request), get_caller(request)
    data = [
        _make_model(model)
        for model in await gateway.backend.list_models()
        if model.is_complete and gateway.generations.allowances.allows_model(caller, model.model_id)
    ]
    return JSONResponse({"object": "list", "data": data})


# A path, because model names contain slashes.
@router.get(
    "/v1/models/{model_id:path}",
    response_model=ModelReply,
    responses=ERRORS,
    summary="Describe one model",
)
async def get_model(model_id: str, request: Request) -> Response:
    """Return one model, 404 if it is unknown, 503 if some of its layers have no server."""
    model = await find_model(get_gateway(request).backend, model_id)
    return JSONResponse(_make_model(model))


def _make_model(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.model_id,
        "object": "model",
        "created": model.created_s,
        "owned_by": OWNER,
        "max_context": model.max_context,
    }
