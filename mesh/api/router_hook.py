"""``POST /inference``: what Hypertensor's inference gateway asks of its MESH_ROUTER_URL."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.chat import ChatPlan
from mesh.api.chat_answer import plan_prompt, run_chat
from mesh.api.disconnect import run_while_connected
from mesh.api.gateway import (
    Gateway,
    choose_model,
    get_caller,
    get_gateway,
    make_id,
    make_route_header,
    make_trace,
    require_json,
)
from mesh.api.limits import MAX_TEMPERATURE
from mesh.api.openapi import ERRORS
from mesh.api.replies import MeshTrace
from mesh.api.schemas import Body, ModelName, Seed, Stop, Text, TokenCount

router = APIRouter(tags=["inference"], dependencies=[Depends(require_json)])


class InferenceRequest(Body):
    """A prompt, which becomes a user's turn where the model has a chat template."""

    prompt: Text = Field(min_length=1)
    model: ModelName | None = None
    max_tokens: TokenCount | None = None
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: Seed | None = None
    stop: Stop | None = None


class InferenceUsage(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class InferenceReply(BaseModel):
    id: str
    model: str
    output: str
    usage: InferenceUsage
    mesh: MeshTrace


@router.post(
    "/inference",
    response_model=InferenceReply,
    responses=ERRORS,
    summary="Answer a prompt for Hypertensor's inference gateway",
)
async def infer(body: InferenceRequest, request: Request) -> Response:
    """Answer in one piece; the other gateway settles from ``usage.output_tokens``."""
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.INFERENCE)
    model = await choose_model(gateway.backend, body.model)
    fields = {
        **{name: getattr(body, name) for name in InferenceRequest.model_fields},
        "model": model.model_id,
    }
    plan = await plan_prompt(
        gateway, model, fields, is_raw=not model.has_chat_template, caller=get_caller(request)
    )
    reply = await run_while_connected(request, _collect(gateway, plan))
    return JSONResponse(reply, headers=make_route_header(reply["mesh"]["route"]))


async def _collect(gateway: Gateway, plan: ChatPlan) -> dict[str, Any]:
    output = ""
    async with aclosing(run_chat(gateway, plan)) as steps:
        async for step in steps:
            output += "".join(delta.get("content", "") for delta in step.deltas)
    return {
        "id": make_id("inf"),
        "model": plan.body.model,
        "output": output,
        "usage": {
            "input_tokens": plan.prompt_tokens,
            "output_tokens": step.usage_tokens,
            "total_tokens": plan.prompt_tokens + step.usage_tokens,
        },
        "mesh": make_trace(step.trace),
    }
