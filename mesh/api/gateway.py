"""The state that the gateway's endpoints share, and the steps that they have in common."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request

from mesh.api.auth import ANONYMOUS
from mesh.api.backend import Backend, GenerateRequest, Route, ServedModel
from mesh.api.checks import ShownMetrics
from mesh.api.generation import ChoiceJob, Generations, RunningAnswer
from mesh.api.limits import DEFAULT_ANSWER_TOKENS, Limits
from mesh.api.problems import Problem, quote_name
from mesh.api.response_store import ResponseStore
from mesh.api.schemas import SamplingFields
from mesh.api.structured import Wanted
from mesh.errors import InvalidRequest, NoRoute
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Trace

MAX_ROUTE_HEADER = 2048
RECEIPT_HEADER = "X-Mesh-Receipt"
SEED_RANGE = 1 << 64
FRESH_SEED_RANGE = 1 << 53
"""JSON numbers of JavaScript have so many bits, and a receipt tells the seed."""


@dataclass(slots=True)
class Gateway:
    """One running gateway, as its endpoints see it. ``metrics`` None: it shows none."""

    backend: Backend
    limits: Limits
    generations: Generations
    metrics: ShownMetrics | None = None
    responses: ResponseStore = field(default_factory=ResponseStore)


def get_gateway(request: Request) -> Gateway:
    """Return the gateway that the application's lifespan put into the request."""
    gateway = request.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway


def get_caller(request: Request) -> str:
    """Return the name of the key that the request came with."""
    return str(getattr(request.state, "caller", ANONYMOUS))


def wants_receipt(request: Request) -> bool:
    """Return whether hosters are to sign for the answer. Raises Problem 400 for another word."""
    told = request.headers.get(RECEIPT_HEADER, "false").strip().lower()
    if told not in ("true", "false"):
        raise Problem(
            400, f"{RECEIPT_HEADER} is true or false.", param=RECEIPT_HEADER, code="invalid_value"
        )
    return told == "true"


async def require_json(request: Request) -> None:
    """Raise Problem 415 for a body of another type, which a foreign page can send unasked."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "Send the body as application/json.", code="unsupported_media_type")


def make_id(prefix: str) -> str:
    """Return an id such as ``chatcmpl-6f...``."""
    return f"{prefix}-{secrets.token_hex(12)}"


async def find_model(backend: Backend, model_id: str) -> ServedModel:
    """Return a model that can answer now. Raises Problem 404 or NoRoute."""
    for model in await backend.list_models():
        if model.model_id == model_id:
            if not model.is_complete:
                raise NoRoute(model.uncovered)
            return model
    raise Problem(
        404,
        f"The model '{quote_name(model_id)}' does not exist here.",
        param="model",
        code="model_not_found",
    )


async def choose_model(backend: Backend, model_id: str | None) -> ServedModel:
    """Return the named model, or the only one. Raises Problem 400 or 404, or NoRoute."""
    if model_id is not None:
        return await find_model(backend, model_id)
    models = await backend.list_models()
    if len(models) != 1:
        raise Problem(400, "Several models are served: name one.", param="model")
    return await find_model(backend, models[0].model_id)


def make_sampling(body: SamplingFields, wanted: Wanted | None = None) -> Sampling:
    """Return the sampling that a request asks for; OpenAI's defaults where it is silent.

    Raises Problem 400 for what contradicts the grammar that is wanted.
    """
    if wanted is not None:
        for name in ("ignore_eos", "min_tokens"):
            if getattr(body, name):
                raise Problem(400, f"'{wanted[0]}' says where the answer ends.", param=name)
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        seed=choose_seed(body.seed),
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        min_p=body.min_p or 0.0,
        min_tokens=body.min_tokens or 0,
        logit_bias=tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        grammar=None if wanted is None else wanted[1],
    )


async def check_tokens(backend: Backend, body: SamplingFields) -> None:
    """Raise InvalidRequest for a token that a field names and that is none."""
    named = {
        "logit_bias": [int(token) for token in body.logit_bias or {}],
        "stop_token_ids": body.stop_token_ids or [],
        "allowed_token_ids": body.allowed_token_ids or [],
        "suppress_tokens": body.suppress_tokens or [],
    }
    for name, token_ids in named.items():
        try:
            await backend.describe(body.model, token_ids)
        except InvalidRequest as error:
            text = str(error).removeprefix(f"{error.field}: ")
            raise InvalidRequest(name, text) from error


def choose_seed(wanted: int | None) -> int:
    """Return the seed that a request names, or a fresh one."""
    return secrets.randbelow(FRESH_SEED_RANGE) if wanted is None else wanted % SEED_RANGE


def check_context(
    model: ServedModel, prompt_tokens: int, max_new_tokens: int | None, *, field: str, param: str
) -> int:
    """Return how many tokens may be generated: DEFAULT_ANSWER_TOKENS at most if none are named.

    Raises Problem 400 ``context_length_exceeded``; ``field`` names the limit of new tokens and
    ``param`` the prompt, whichever is at fault.
    """
    room = model.max_context - prompt_tokens
    if room < 0 or (room == 0 and max_new_tokens != 0):
        raise Problem(
            400,
            f"The prompt has {prompt_tokens} tokens and the model's context {model.max_context}.",
            param=param,
            code="context_length_exceeded",
        )
    if max_new_tokens is None:
        return min(room, DEFAULT_ANSWER_TOKENS)
    if max_new_tokens > room:
        raise Problem(
            400,
            f"The model's context has {model.max_context} tokens: {prompt_tokens} of the prompt "
            f"and {max_new_tokens} of the answer do not fit.",
            param=field,
            code="context_length_exceeded",
        )
    return max_new_tokens


def make_jobs(
    request: GenerateRequest, *, n: int, stop: tuple[str, ...], includes_stop: bool = False
) -> list[ChoiceJob]:
    """Return ``n`` choices of one prompt, each with a seed of its own."""
    jobs = []
    for index in range(n):
        seed = (request.sampling.seed + index) % SEED_RANGE
        sampling = replace(request.sampling, seed=seed)
        jobs.append(ChoiceJob(replace(request, sampling=sampling), stop, includes_stop))
    return jobs


def make_usage(prompt_tokens: int, answer: RunningAnswer) -> dict[str, Any]:
    """Return OpenAI's usage object; without details where no hoster told any."""
    completion_tokens, cached = sum(answer.usage_tokens), answer.cached_tokens
    told = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        **told,
    }


def make_route(route: Route) -> list[dict[str, Any]]:
    """Return a route for JSON; ``blocks`` are half-open."""
    return [
        {
            "peer_id": hop.peer_id,
            "blocks": [hop.start, hop.end],
            "step_ms": None if hop.step_ms is None else round(hop.step_ms, 3),
        }
        for hop in route
    ]


def make_trace(trace: Trace) -> dict[str, Any]:
    """Return the ``mesh`` object of an answer: the way it went and how fast."""
    first_s, speed = trace.time_to_first_token_s, trace.tokens_per_second
    told = {"receipts": list(trace.receipts)} if trace.receipts else {}
    per_step = trace.tokens_per_step
    return {
        "route": make_route(trace.route),
        "reroutes": trace.reroutes,
        "refills": trace.refills,
        "first_token_s": None if first_s is None else round(first_s, 4),
        "tokens_per_second": None if speed is None else round(speed, 2),
        "tokens_per_step": None if per_step is None else round(per_step, 2),
        "dropped_windows": trace.dropped_windows,
        **told,
    }


def make_route_header(route: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return ``X-Mesh-Route: peer:0-4,peer:4-8`` for make_route's list, empty without a route."""
    text = ",".join(f"{hop['peer_id']}:{hop['blocks'][0]}-{hop['blocks'][1]}" for hop in route)
    return {"X-Mesh-Route": text[:MAX_ROUTE_HEADER]} if text else {}
