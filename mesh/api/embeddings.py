"""``POST /v1/embeddings``, and ``/api/embed`` in Ollama's shape.

A text's vector is the mean of the model's last hidden states, after the final norm, over the text's
tokens; it is not scaled to length 1.
"""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.backend import Embeddings, ServedModel
from mesh.api.disconnect import run_while_connected
from mesh.api.gateway import (
    Gateway,
    find_model,
    get_caller,
    get_gateway,
    make_route,
    make_route_header,
    require_json,
)
from mesh.api.limits import MAX_EMBEDDED_TOKENS
from mesh.api.ollama_requests import get_model_id
from mesh.api.ollama_schemas import OllamaEmbedReply, OllamaEmbedRequest, OllamaErrorReply
from mesh.api.openapi import ERRORS, describe_errors
from mesh.api.problems import Problem, quote_name
from mesh.api.replies import EmbeddingsReply
from mesh.api.schemas import EmbeddingsRequest, list_texts
from mesh.errors import InvalidRequest

NANOSECONDS = 1_000_000_000

router = APIRouter(tags=["embeddings"], dependencies=[Depends(require_json)])


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingsReply,
    responses=ERRORS,
    summary="Describe texts by vectors",
)
async def create_embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Return a vector for each text, as numbers or as base64 of little-endian float32."""
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.EMBEDDINGS)
    model = await _find_model(gateway, body.model, body.dimensions)
    texts = await _encode(gateway, model, body.get_texts())
    found = await _embed(request, model, texts)
    is_packed = body.encoding_format == "base64"
    tokens = sum(map(len, texts))
    route = make_route(found.route)
    return JSONResponse(
        {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _pack(vector) if is_packed else vector,
                }
                for index, vector in enumerate(found.vectors)
            ],
            "model": body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "mesh": {"route": route},
        },
        headers=make_route_header(route),
    )


@router.post(
    "/api/embed",
    response_model=OllamaEmbedReply,
    responses=describe_errors(OllamaErrorReply),
    summary="Describe texts by vectors, in Ollama's shape",
)
async def embed(body: OllamaEmbedRequest, request: Request) -> Response:
    """Return a vector for each text; what is beyond the context is cut unless told otherwise."""
    started_s = time.monotonic()
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.EMBEDDINGS)
    model = await _find_model(gateway, get_model_id(body.model), body.dimensions)
    texts = await _encode(gateway, model, list_texts(body.input), is_cut=body.truncate is not False)
    found = await _embed(request, model, texts)
    return JSONResponse(
        {
            "model": body.model,
            "embeddings": found.vectors,
            "total_duration": round((time.monotonic() - started_s) * NANOSECONDS),
            "load_duration": 0,
            "prompt_eval_count": sum(map(len, texts)),
        },
        headers=make_route_header(make_route(found.route)),
    )


async def _find_model(gateway: Gateway, model_id: str, dimensions: int | None) -> ServedModel:
    model = await find_model(gateway.backend, model_id)
    if not model.embedding_size:
        name = quote_name(model_id)
        raise Problem(400, f"The model '{name}' gives no embeddings.", param="model")
    if dimensions not in (None, model.embedding_size):
        raise Problem(
            400,
            f"The model's embeddings have {model.embedding_size} dimensions, and cannot be cut.",
            param="dimensions",
        )
    return model


async def _encode(
    gateway: Gateway,
    model: ServedModel,
    given: Sequence[str | list[int]],
    *,
    is_cut: bool = False,
) -> list[Sequence[int]]:
    """Return the tokens of each text. Raises Problem 400 or InvalidRequest."""
    texts: list[Sequence[int]] = []
    total = 0
    for place, text in enumerate(given):
        where = f"input[{place}]" if len(given) > 1 else "input"
        token_ids: Sequence[int] = text if isinstance(text, list) else ()
        if isinstance(text, str):
            token_ids = await gateway.backend.encode(model.model_id, text)
        else:
            await _check_vocabulary(gateway, model, text, where)
        if is_cut:
            token_ids = token_ids[: model.max_context]
        if not 0 < len(token_ids) <= model.max_context:
            raise Problem(
                400,
                f"The text has {len(token_ids)} tokens, and may have 1 to {model.max_context}.",
                param=where,
                code="context_length_exceeded",
            )
        total += len(token_ids)
        if total > MAX_EMBEDDED_TOKENS:
            raise Problem(
                400, f"A request may have {MAX_EMBEDDED_TOKENS} tokens in all.", param="input"
            )
        texts.append(token_ids)
    return texts


async def _check_vocabulary(
    gateway: Gateway, model: ServedModel, token_ids: list[int], where: str
) -> None:
    try:
        await gateway.backend.decode(model.model_id, token_ids)
    except InvalidRequest as error:
        raise InvalidRequest(where, str(error).removeprefix(f"{error.field}: ")) from error


async def _embed(
    request: Request, model: ServedModel, texts: Sequence[Sequence[int]]
) -> Embeddings:
    generations = get_gateway(request).generations
    work = generations.embed(model.model_id, texts, caller=get_caller(request))
    return await run_while_connected(request, work)


def _pack(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
