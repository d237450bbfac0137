"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.backend import (
    Finished,
    Generated,
    GenerateRequest,
    PromptScored,
    Routed,
    ServedModel,
)
from mesh.api.chat_tools import ToolPlan, ToolReader, choose_grammar, make_prompt, plan_tools
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
from mesh.api.openapi import STREAM_OR_JSON
from mesh.api.problems import Problem
from mesh.api.prompt_scores import make_prompt_logprobs, make_score_jobs
from mesh.api.reasoning import OPEN, TAIL_TOKENS, has_thinking_tags, is_left_open
from mesh.api.replies import ChatReply
from mesh.api.schemas import ChatRequest
from mesh.api.sse import respond_with_stream
from mesh.api.structured import check_grammar, find_grammar
from mesh.api.token_sets import TOKEN_SETS
from mesh.inference.tokens import Alternative, Finish, Token, join_texts

router = APIRouter(tags=["chat"], dependencies=[Depends(require_json)])


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """One checked request: what to run and what every part of the answer repeats.

    ``jobs`` are the choices; ``scoring`` is what else runs, to score the prompt. ``echo`` stands
    before every choice's text.
    """

    body: ChatRequest
    head: dict[str, Any]
    jobs: list[ChoiceJob]
    scoring: tuple[ChoiceJob, ...]
    echo: str
    tools: ToolPlan
    prompt_tokens: int
    caller: str
    has_receipt: bool = False


@router.post(
    "/v1/chat/completions",
    response_model=ChatReply,
    responses=STREAM_OR_JSON,
    summary="Answer a conversation",
)
async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
    """Answer in one piece, or as server-sent events with ``stream``."""
    gateway = get_gateway(request)
    has_receipt = wants_receipt(request)
    plan = await plan_chat(gateway, body, caller=get_caller(request), has_receipt=has_receipt)
    if body.stream:
        return await respond_with_stream(gateway, request, _stream(gateway, plan))
    reply = await run_while_connected(request, _collect(gateway, plan))
    return JSONResponse(reply, headers=make_route_header(reply["mesh"]["route"]))


async def plan_chat(
    gateway: Gateway, body: ChatRequest, *, caller: str, has_receipt: bool = False
) -> ChatPlan:
    """Check a request and render its prompt. Raises Problem, InvalidRequest or NoRoute."""
    parameters.check_supported(body.get_extras(), parameters.CHAT)
    if body.top_logprobs and not body.logprobs:
        raise Problem(400, "'top_logprobs' needs 'logprobs'.", param="top_logprobs")
    model = await find_model(gateway.backend, body.model)
    await check_tokens(gateway.backend, body)
    tools = plan_tools(body, model)
    wanted = choose_grammar(tools, find_grammar(body))
    if wanted is not None:
        await check_grammar(gateway.backend, body.model, wanted, asked=body)
    prompt_ids = await gateway.backend.encode_chat(body.model, make_prompt(body, tools))
    is_free = wanted is None or wanted[0] in TOKEN_SETS
    if is_free and has_thinking_tags(model.chat_template):
        tools = replace(tools, thinking=await _find_thinking(gateway, body, prompt_ids))
    request = GenerateRequest(
        model_id=body.model,
        prompt_ids=prompt_ids,
        max_new_tokens=_choose_max_tokens(body, model, prompt_tokens=len(prompt_ids)),
        sampling=make_sampling(body, wanted),
        ignore_eos=bool(body.ignore_eos),
        alternatives=(body.top_logprobs or 0) if body.logprobs else None,
    )
    head = {"id": make_id("chatcmpl"), "created": int(time.time()), "model": body.model}
    jobs = make_jobs(
        request,
        n=body.n or 1,
        stop=body.get_stops(),
        includes_stop=bool(body.include_stop_str_in_output),
    )
    last = body.messages[-1]
    echo = last.get_text() if body.echo and last.role == "assistant" else ""
    scoring = make_score_jobs(body, [request])
    return ChatPlan(body, head, jobs, scoring, echo, tools, len(prompt_ids), caller, has_receipt)


async def _find_thinking(
    gateway: Gateway, body: ChatRequest, prompt_ids: tuple[int, ...]
) -> bool | None:
    """Return whether the prompt ends within a thought; None if thoughts are not told apart."""
    if body.separate_reasoning is False:
        return None
    if body.continue_final_message:
        return is_left_open(body.messages[-1].get_text())
    tail = await gateway.backend.describe(body.model, prompt_ids[-TAIL_TOKENS:])
    # Not any open tag: a user may have written one a few tokens before.
    return join_texts(tail).rstrip().endswith(OPEN)


def _choose_max_tokens(body: ChatRequest, model: ServedModel, *, prompt_tokens: int) -> int:
    is_new = body.max_completion_tokens is not None
    return check_context(
        model,
        prompt_tokens,
        body.max_completion_tokens if is_new else body.max_tokens,
        field="max_completion_tokens" if is_new else "max_tokens",
        param="messages",
    )


def _make_readers(plan: ChatPlan) -> list[ToolReader]:
    return [ToolReader(plan.tools, echo=plan.echo) for _ in plan.jobs]


def start_jobs(gateway: Gateway, plan: ChatPlan) -> AbstractAsyncContextManager[RunningAnswer]:
    """Run what was planned while the block runs: the choices, then what scores the prompt."""
    jobs = [*plan.jobs, *plan.scoring]
    return gateway.generations.start(jobs, caller=plan.caller, has_receipt=plan.has_receipt)


async def _collect(gateway: Gateway, plan: ChatPlan) -> dict[str, Any]:
    tokens: list[list[Token]] = [[] for _ in plan.jobs]
    readers = _make_readers(plan)
    reasons: list[str] = ["" for _ in plan.jobs]
    scores: tuple[Token, ...] = ()
    async with start_jobs(gateway, plan) as answer:
        async with aclosing(answer.pieces()) as pieces:
            async for index, piece in pieces:
                if index >= len(plan.jobs):
                    scores = piece.tokens if isinstance(piece, PromptScored) else scores
                elif isinstance(piece, Generated):
                    tokens[index] += piece.tokens
                    readers[index].feed(join_texts(piece.tokens))
                elif isinstance(piece, Finished):
                    readers[index].flush()
                    reasons[index] = readers[index].finish(piece.reason)
    told = {"prompt_logprobs": make_prompt_logprobs(scores)} if plan.scoring else {}
    return {
        **plan.head,
        **told,
        "object": "chat.completion",
        "choices": [
            {
                "index": index,
                "message": readers[index].make_message(),
                "logprobs": _make_logprobs(tokens[index]) if plan.body.logprobs else None,
                "finish_reason": reasons[index],
            }
            for index in range(len(plan.jobs))
        ],
        "usage": make_usage(plan.prompt_tokens, answer),
        "mesh": make_trace(answer.trace),
    }


async def _stream(gateway: Gateway, plan: ChatPlan) -> AsyncGenerator[dict[str, Any], None]:
    async with start_jobs(gateway, plan) as answer:
        async with aclosing(answer.pieces()) as pieces:
            started: set[int] = set()
            readers = _make_readers(plan)
            async for index, piece in pieces:
                if index not in started:
                    started.add(index)
                    role = {"role": "assistant", "content": ""}
                    yield _chunk(plan, index, role, mesh={"route": make_route(answer.trace.route)})
                    if plan.echo:
                        yield _chunk(plan, index, {"content": plan.echo})
                    if isinstance(piece, Routed):
                        continue
                if isinstance(piece, Routed):
                    yield _chunk(plan, index, {}, mesh=make_trace(answer.trace))
                elif isinstance(piece, Generated):
                    text = join_texts(piece.tokens)
                    if not text and all(token.finish is Finish.STOP for token in piece.tokens):
                        continue
                    told = readers[index].feed(text)
                    # The first delta has the tokens: their log probabilities are told once.
                    if not told and plan.body.logprobs:
                        told = [{}]
                    for place, delta in enumerate(told):
                        yield _chunk(plan, index, delta, tokens=() if place else piece.tokens)
                elif isinstance(piece, Finished):
                    for delta in readers[index].flush():
                        yield _chunk(plan, index, delta)
                    trace = make_trace(answer.trace)
                    reason = readers[index].finish(piece.reason)
                    yield _chunk(plan, index, {}, finish_reason=reason, mesh=trace)
    if plan.body.wants_usage:
        yield {
            **plan.head,
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": make_usage(plan.prompt_tokens, answer),
        }


def _chunk(
    plan: ChatPlan,
    index: int,
    delta: dict[str, Any],
    *,
    tokens: Sequence[Token] = (),
    finish_reason: str | None = None,
    mesh: dict[str, Any] | None = None,
) -> dict[str, Any]:
    logprobs = _make_logprobs(tokens) if tokens and plan.body.logprobs else None
    chunk: dict[str, Any] = {
        **plan.head,
        "object": "chat.completion.chunk",
        "choices": [
            {
                "index": index,
                "delta": delta,
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }
        ],
    }
    if plan.body.wants_usage:
        chunk["usage"] = None
    if mesh is not None:
        chunk["mesh"] = mesh
    return chunk


def _make_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    return {"content": list_logprobs(tokens), "refusal": None}


def list_logprobs(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Return the tokens with their log probabilities, the end of the text left out."""
    return [
        {
            **_describe(token),
            "top_logprobs": [_describe(alternative) for alternative in token.top_logprobs],
        }
        for token in tokens
        if token.finish is not Finish.STOP
    ]


def _describe(token: Token | Alternative) -> dict[str, Any]:
    return {"token": token.name, "logprob": token.logprob, "bytes": list(token.raw)}
