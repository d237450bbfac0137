"""``POST /v1/completions``, in the legacy shape that evaluation harnesses depend on."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.backend import (
    Finished,
    Generated,
    GenerateRequest,
    Piece,
    PromptScored,
    ServedModel,
)
from mesh.api.disconnect import run_while_connected
from mesh.api.gateway import (
    Gateway,
    check_context,
    check_tokens,
    find_model,
    get_caller,
    get_gateway,
    make_id,
    make_jobs,
    make_route,
    make_route_header,
    make_sampling,
    make_trace,
    make_usage,
    require_json,
    wants_receipt,
)
from mesh.api.generation import ChoiceJob, RunningAnswer
from mesh.api.limits import MAX_GENERATIONS_PER_REQUEST
from mesh.api.openapi import STREAM_OR_JSON
from mesh.api.problems import Problem
from mesh.api.prompt_scores import make_prompt_logprobs, make_score_jobs
from mesh.api.replies import CompletionReply
from mesh.api.schemas import CompletionRequest
from mesh.api.sse import respond_with_stream
from mesh.api.structured import Wanted, check_grammar, find_grammar
from mesh.inference.tokens import Finish, Token, join_texts

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for the legacy endpoint."""

router = APIRouter(tags=["completions"], dependencies=[Depends(require_json)])


@dataclass(frozen=True, slots=True)
class CompletionPlan:
    """One checked request. ``echoes[i]`` is the prompt's text if choice i repeats it.

    ``scoring`` has a job for each prompt, if its scores are wanted.
    """

    body: CompletionRequest
    head: dict[str, Any]
    jobs: list[ChoiceJob]
    scoring: tuple[ChoiceJob, ...]
    echoes: list[str]
    prompt_tokens: int
    caller: str
    has_receipt: bool


@dataclass(slots=True)
class _Choice:
    """What one choice has so far; ``offset`` counts the characters that were sent."""

    tokens: list[Token] = field(default_factory=list)
    offset: int = 0
    reason: Finish | None = None


@router.post(
    "/v1/completions",
    response_model=CompletionReply,
    responses=STREAM_OR_JSON,
    summary="Continue a text",
)
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several prompts, given as text or as token ids."""
    gateway = get_gateway(request)
    plan = await plan_completion(
        gateway, body, caller=get_caller(request), has_receipt=wants_receipt(request)
    )
    if body.stream:
        return await respond_with_stream(gateway, request, _stream(gateway, plan))
    reply = await run_while_connected(request, _collect(gateway, plan))
    return JSONResponse(reply, headers=make_route_header(reply["mesh"]["route"]))


async def plan_completion(
    gateway: Gateway,
    body: CompletionRequest,
    *,
    caller: str,
    default_tokens: int | None = DEFAULT_MAX_TOKENS,
    has_receipt: bool = False,
) -> CompletionPlan:
    """Check a request and read its prompts. Raises Problem, InvalidRequest or NoRoute.

    ``default_tokens`` None: an answer without a length is as long as one of chat may be.
    """
    parameters.check_supported(body.get_extras(), parameters.COMPLETION)
    prompts = body.get_prompts()
    n = body.n or 1
    if len(prompts) * n > MAX_GENERATIONS_PER_REQUEST:
        raise Problem(
            400, f"At most {MAX_GENERATIONS_PER_REQUEST} answers in one request.", param="n"
        )
    model = await find_model(gateway.backend, body.model)
    await check_tokens(gateway.backend, body)
    wanted = find_grammar(body)
    if wanted is not None:
        await check_grammar(gateway.backend, body.model, wanted, asked=body)
    jobs: list[ChoiceJob] = []
    requests: list[GenerateRequest] = []
    echoes: list[str] = []
    prompt_tokens = 0
    for prompt in prompts:
        request = await _make_request(gateway, body, model, prompt, wanted, default_tokens)
        prompt_tokens += len(request.prompt_ids)
        requests.append(request)
        jobs += make_jobs(
            request,
            n=n,
            stop=body.get_stops(),
            includes_stop=bool(body.include_stop_str_in_output),
        )
        echoes += [await _read_echo(gateway, body, prompt)] * n
    head = {
        "id": make_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }
    scoring = make_score_jobs(body, requests)
    return CompletionPlan(body, head, jobs, scoring, echoes, prompt_tokens, caller, has_receipt)


async def _make_request(
    gateway: Gateway,
    body: CompletionRequest,
    model: ServedModel,
    prompt: str | list[int],
    wanted: Wanted | None,
    default_tokens: int | None,
) -> GenerateRequest:
    if isinstance(prompt, str):
        prompt_ids = await gateway.backend.encode(
            body.model, prompt, split_special_tokens=bool(body.split_special_tokens)
        )
    else:
        prompt_ids = tuple(prompt)
        # Refused here, before anything is sent to a hoster.
        await gateway.backend.describe(body.model, prompt_ids)
    max_tokens = default_tokens if body.max_tokens is None else body.max_tokens
    return GenerateRequest(
        model_id=body.model,
        prompt_ids=prompt_ids,
        max_new_tokens=check_context(
            model, len(prompt_ids), max_tokens, field="max_tokens", param="prompt"
        ),
        sampling=make_sampling(body, wanted),
        ignore_eos=bool(body.ignore_eos),
        alternatives=body.logprobs,
        score_prompt=bool(body.echo) and body.logprobs is not None,
    )


async def _read_echo(gateway: Gateway, body: CompletionRequest, prompt: str | list[int]) -> str:
    if not body.echo:
        return ""
    if isinstance(prompt, str):
        return prompt
    return join_texts(await gateway.backend.describe(body.model, prompt))


def _needs_backend(plan: CompletionPlan) -> bool:
    return any(job.request.max_new_tokens or job.request.score_prompt for job in plan.jobs)


async def _collect(gateway: Gateway, plan: CompletionPlan) -> dict[str, Any]:
    # Scores of prompts are behind the choices, if there are any to run.
    jobs = _list_runnable(plan)
    choices = [_Choice() for _ in [*plan.jobs, *plan.scoring]]
    async with _start(gateway, plan) as answer:
        async with aclosing(answer.pieces()) as pieces:
            async for index, piece in pieces:
                _take(choices[index if jobs else index + len(plan.jobs)], piece)
    return {
        **plan.head,
        "choices": [
            _make_choice(plan, index, choice.tokens, reason=choice.reason or Finish.LENGTH)
            | _tell_scores(plan, index, choices)
            for index, choice in enumerate(choices[: len(plan.jobs)])
        ],
        "usage": make_usage(plan.prompt_tokens, answer),
        "mesh": make_trace(answer.trace),
    }


def _tell_scores(plan: CompletionPlan, index: int, choices: Sequence[_Choice]) -> dict[str, Any]:
    if not plan.scoring:
        return {}
    # Choices of one prompt stand side by side.
    prompt = index * len(plan.scoring) // len(plan.jobs)
    scores = choices[len(plan.jobs) + prompt].tokens
    return {"prompt_logprobs": make_prompt_logprobs(scores)}


def _list_runnable(plan: CompletionPlan) -> list[ChoiceJob]:
    # max_tokens 0 without scores asks for nothing that the swarm could add.
    return plan.jobs if _needs_backend(plan) else []


def _start(gateway: Gateway, plan: CompletionPlan) -> AbstractAsyncContextManager[RunningAnswer]:
    jobs = [*_list_runnable(plan), *plan.scoring]
    return gateway.generations.start(jobs, caller=plan.caller, has_receipt=plan.has_receipt)


def _take(choice: _Choice, piece: Piece) -> None:
    match piece:
        case PromptScored() | Generated():
            choice.tokens += piece.tokens
        case Finished():
            choice.reason = piece.reason


def _make_choice(
    plan: CompletionPlan, index: int, tokens: Sequence[Token], *, reason: Finish | None
) -> dict[str, Any]:
    scored = plan.jobs[index].request.score_prompt
    text = join_texts(tokens)
    return {
        "index": index,
        # Scored prompts are among the tokens; otherwise the echo is the prompt as it was sent.
        "text": text if scored else plan.echoes[index] + text,
        "logprobs": None
        if plan.body.logprobs is None
        else _make_logprobs(tokens, offset=0 if scored else len(plan.echoes[index])),
        "finish_reason": reason,
    }


async def _stream(gateway: Gateway, plan: CompletionPlan) -> AsyncGenerator[dict[str, Any], None]:
    choices = [_Choice() for _ in plan.jobs]
    async with _start(gateway, plan) as answer:
        for index in range(len(plan.jobs)):
            if not answer.jobs:
                yield _chunk(plan, answer, index, plan.echoes[index], reason=Finish.LENGTH)
        started: set[int] = set()
        async with aclosing(answer.pieces()) as pieces:
            async for index, piece in pieces:
                if index not in started:
                    started.add(index)
                    echo = "" if plan.jobs[index].request.score_prompt else plan.echoes[index]
                    choices[index].offset = len(echo)
                    yield _chunk(plan, answer, index, echo)
                if isinstance(piece, PromptScored | Generated):
                    yield _chunk_tokens(plan, index, choices[index], piece.tokens)
                elif isinstance(piece, Finished):
                    yield _chunk(plan, answer, index, "", reason=piece.reason)
    if plan.body.wants_usage:
        usage = make_usage(plan.prompt_tokens, answer)
        yield {**plan.head, "choices": [], "usage": usage}


def _chunk(
    plan: CompletionPlan,
    answer: RunningAnswer,
    index: int,
    text: str,
    *,
    reason: Finish | None = None,
) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
    trace = (
        {"route": make_route(answer.trace.route)} if reason is None else make_trace(answer.trace)
    )
    chunk: dict[str, Any] = {**plan.head, "choices": [choice], "mesh": trace}
    return {**chunk, "usage": None} if plan.body.wants_usage else chunk


def _chunk_tokens(
    plan: CompletionPlan, index: int, choice: _Choice, tokens: Sequence[Token]
) -> dict[str, Any]:
    text = join_texts(tokens)
    logprobs = None
    if plan.body.logprobs is not None:
        logprobs = _make_logprobs(tokens, offset=choice.offset)
    choice.offset += len(text)
    entry = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}
    chunk: dict[str, Any] = {**plan.head, "choices": [entry]}
    return {**chunk, "usage": None} if plan.body.wants_usage else chunk


def _make_logprobs(tokens: Sequence[Token], *, offset: int) -> dict[str, Any]:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.name for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_make_top(token) for token in tokens],
        "text_offset": offsets,
    }


def _make_top(token: Token) -> dict[str, float] | None:
    """Return the alternatives and the token itself; None where nothing was computed."""
    if token.logprob is None:
        return None
    top = {alternative.name: alternative.logprob for alternative in token.top_logprobs}
    top.setdefault(token.name, token.logprob)
    return top
