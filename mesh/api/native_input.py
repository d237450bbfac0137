"""``POST /input``: a prompt with transformers' generation arguments, as older swarms took it."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.backend import Finished, Generated, GenerateRequest, ServedModel
from mesh.api.disconnect import run_while_connected
from mesh.api.gateway import (
    Gateway,
    check_context,
    choose_model,
    choose_seed,
    get_caller,
    get_gateway,
    make_jobs,
    make_route_header,
    make_trace,
    make_usage,
    require_json,
    wants_receipt,
)
from mesh.api.openapi import ERRORS
from mesh.api.problems import Problem
from mesh.api.replies import InputReply
from mesh.api.schemas import InputRequest
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import join_texts

DEFAULT_MAX_NEW_TOKENS = 20
"""Transformers' own default."""
DEFAULT_TOP_K = 50
"""Transformers' own default when it samples."""

router = APIRouter(tags=["input"], dependencies=[Depends(require_json)])


@router.post(
    "/input",
    response_model=InputReply,
    responses=ERRORS,
    summary="Continue a prompt with arguments of generate",
)
async def create_input(body: InputRequest, request: Request) -> Response:
    """Continue ``prompt``; every argument of ``generate`` is honoured or refused by name."""
    gateway = get_gateway(request)
    parameters.check_all_known(body.get_extras(), parameters.TRANSFORMERS)
    model = await choose_model(gateway.backend, body.model)
    prompt_ids = await gateway.backend.encode(model.model_id, body.prompt)
    generate = GenerateRequest(
        model_id=model.model_id,
        prompt_ids=prompt_ids,
        max_new_tokens=_choose_max_new_tokens(body, model, prompt_tokens=len(prompt_ids)),
        sampling=_make_sampling(body),
    )
    has_receipt = wants_receipt(request)
    reply = await run_while_connected(
        request,
        _collect(gateway, body, generate, caller=get_caller(request), has_receipt=has_receipt),
    )
    return JSONResponse(reply, headers=make_route_header(reply["mesh"]["route"]))


def _choose_max_new_tokens(body: InputRequest, model: ServedModel, *, prompt_tokens: int) -> int:
    if body.max_new_tokens is None and body.max_length is not None:
        if body.max_length <= prompt_tokens:
            raise Problem(
                400,
                f"The prompt alone has {prompt_tokens} tokens; set max_new_tokens.",
                param="max_length",
            )
        return check_context(
            model,
            prompt_tokens,
            body.max_length - prompt_tokens,
            field="max_length",
            param="prompt",
        )
    wanted = DEFAULT_MAX_NEW_TOKENS if body.max_new_tokens is None else body.max_new_tokens
    return check_context(model, prompt_tokens, wanted, field="max_new_tokens", param="prompt")


def _make_sampling(body: InputRequest) -> Sampling:
    penalty = 1.0 if body.repetition_penalty is None else body.repetition_penalty
    seed = choose_seed(body.seed)
    if not body.do_sample:
        # Greedy, as generate does without do_sample, whatever the temperature says.
        return Sampling(temperature=0.0, repetition_penalty=penalty, seed=seed)
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=DEFAULT_TOP_K if body.top_k is None else body.top_k,
        repetition_penalty=penalty,
        seed=seed,
    )


async def _collect(
    gateway: Gateway,
    body: InputRequest,
    generate: GenerateRequest,
    *,
    caller: str,
    has_receipt: bool,
) -> dict[str, Any]:
    stop = body.stop_strings
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    jobs = make_jobs(generate, n=body.num_return_sequences or 1, stop=stops)
    texts = ["" for _ in jobs]
    reasons = ["" for _ in jobs]
    async with gateway.generations.start(jobs, caller=caller, has_receipt=has_receipt) as answer:
        async with aclosing(answer.pieces()) as pieces:
            async for index, piece in pieces:
                if isinstance(piece, Generated):
                    texts[index] += join_texts(piece.tokens)
                elif isinstance(piece, Finished):
                    reasons[index] = piece.reason
    return {
        "model": generate.model_id,
        "response": texts[0],
        "outputs": [
            {"generated_text": text, "finish_reason": reason}
            for text, reason in zip(texts, reasons, strict=True)
        ],
        "usage": make_usage(len(generate.prompt_ids), answer),
        "mesh": make_trace(answer.trace),
    }
