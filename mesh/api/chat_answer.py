"""One answer to a chat request, step by step, for the endpoints of another shape than chat.

An endpoint translates its request into a :class:`ChatRequest`, plans it as chat does, and writes
these steps in its own shape.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from mesh.api.backend import Finished, Generated, ServedModel
from mesh.api.chat import ChatPlan, plan_chat
from mesh.api.chat_tools import ToolReader, plan_tools
from mesh.api.completions import plan_completion
from mesh.api.gateway import Gateway
from mesh.api.problems import Problem
from mesh.api.schemas import ChatRequest, CompletionRequest, SamplingFields
from mesh.inference.tokens import Token, Trace, join_texts

Request = TypeVar("Request", bound=SamplingFields)


@dataclass(frozen=True, slots=True)
class AnswerStep:
    """What one piece of the swarm adds: ``deltas`` as a chat stream tells them.

    ``reason`` is OpenAI's reason for the end, None before it; ``stop`` the stop sequence that ended
    the text. ``trace`` is the answer's so far, ``usage_tokens`` what was generated, and
    ``cached_tokens`` what of the prompt was kept, None where no hoster told. ``tokens`` are new;
    their text may still be held back.
    """

    deltas: list[dict[str, Any]]
    trace: Trace
    usage_tokens: int
    reason: str | None = None
    stop: str | None = None
    cached_tokens: int | None = None
    tokens: tuple[Token, ...] = ()


async def run_chat(gateway: Gateway, plan: ChatPlan) -> AsyncGenerator[AnswerStep, None]:
    """Yield the steps of a plan's only choice; the first one when a route is there."""
    reader = ToolReader(plan.tools)
    async with gateway.generations.start(
        plan.jobs, caller=plan.caller, has_receipt=plan.has_receipt
    ) as running:
        async with aclosing(running.pieces()) as pieces:
            async for _, piece in pieces:
                deltas: list[dict[str, Any]] = []
                tokens: tuple[Token, ...] = ()
                reason = stop = None
                if isinstance(piece, Generated):
                    tokens = piece.tokens
                    deltas = reader.feed(join_texts(piece.tokens))
                elif isinstance(piece, Finished):
                    deltas = reader.flush()
                    reason, stop = reader.finish(piece.reason), piece.stop
                yield AnswerStep(
                    deltas,
                    running.trace,
                    sum(running.usage_tokens),
                    reason,
                    stop,
                    running.cached_tokens,
                    tokens,
                )


def make_chat_request(fields: Mapping[str, Any]) -> ChatRequest:
    """Return the chat request of these fields. Raises RequestValidationError."""
    return make_request(ChatRequest, fields)


def make_request(kind: type[Request], fields: Mapping[str, Any]) -> Request:
    """Return a request of these fields, those that are None or empty left out.

    Raises RequestValidationError.
    """
    given = {name: value for name, value in fields.items() if value is not None and value != []}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


async def plan_prompt(
    gateway: Gateway,
    model: ServedModel,
    fields: Mapping[str, Any],
    *,
    system: str | None = None,
    is_raw: bool = False,
    caller: str,
) -> ChatPlan:
    """Plan an answer to the field ``prompt``: as a user's turn, or ``is_raw`` without a template.

    Raises what planning a chat raises.
    """
    if not is_raw:
        rest = {name: value for name, value in fields.items() if name != "prompt"}
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": fields["prompt"]})
        return await plan_chat(
            gateway, make_chat_request({**rest, "messages": turns}), caller=caller
        )
    raw = make_request(CompletionRequest, fields)
    plan = await plan_completion(gateway, raw, caller=caller, default_tokens=None)
    chat = ChatRequest.model_construct(model=model.model_id, messages=[])
    return ChatPlan(
        body=chat,
        head={},
        jobs=plan.jobs,
        scoring=(),
        echo="",
        tools=plan_tools(chat, model),
        prompt_tokens=plan.prompt_tokens,
        caller=caller,
    )


@contextmanager
def renamed_params(names: Mapping[str, str]) -> Iterator[None]:
    """Let refusals within the block name the fields of the endpoint, not those of chat."""
    try:
        yield
    except Problem as problem:
        name, dot, rest = (problem.param or "").partition(".")
        if name in names:
            problem.param = f"{names[name]}{dot}{rest}"
        raise
