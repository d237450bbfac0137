"""Ollama's requests as chat requests, so that both endpoints honour and refuse alike."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from mesh.api import parameters
from mesh.api.backend import ServedModel
from mesh.api.chat import ChatPlan, plan_chat
from mesh.api.chat_answer import make_chat_request, plan_prompt, renamed_params
from mesh.api.gateway import Gateway, find_model
from mesh.api.ollama_schemas import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaMessage,
    OllamaOptions,
    OllamaRequest,
)
from mesh.api.problems import Problem
from mesh.api.reasoning import has_thinking_tags

DEFAULT_TEMPERATURE = 0.8
DEFAULT_TOP_K = 40
DEFAULT_TOP_P = 0.9
"""Ollama's own defaults."""
TAG = ":latest"
"""Ollama's clients add it to a name without a tag."""
THINKING_SWITCH = "enable_thinking"
"""The variable by which templates of Qwen and others turn thoughts on and off."""
_RENAMED = {
    "guided_json": "format",
    "max_tokens": "options.num_predict",
    "stop": "options.stop",
}


def get_model_id(name: str) -> str:
    """Return the model's own name."""
    return name.removesuffix(TAG)


async def plan_ollama_chat(
    gateway: Gateway, body: OllamaChatRequest, *, caller: str
) -> ChatPlan | None:
    """Return what is to be run; None for a request that only loads the model.

    Raises Problem, InvalidRequest, NoRoute or RequestValidationError.
    """
    _check(body, parameters.OLLAMA)
    model = await find_model(gateway.backend, get_model_id(body.model))
    if not body.messages:
        return None
    fields = {
        **_make_fields(body),
        **_make_thinking(body, model),
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
        "messages": [*_make_messages(body.messages)],
        "tools": [tool.model_dump(exclude_none=True) for tool in body.tools or ()],
    }
    with renamed_params(_RENAMED):
        return await plan_chat(gateway, make_chat_request(fields), caller=caller)


async def plan_ollama_text(
    gateway: Gateway, body: OllamaGenerateRequest, *, caller: str
) -> ChatPlan | None:
    """Return what is to be run, as plan_ollama_chat does. A model without a template, or ``raw``,
    gets the prompt as it is.
    """
    model = await find_model(gateway.backend, get_model_id(body.model))
    is_raw = bool(body.raw) or not model.has_chat_template
    _check(body, parameters.OLLAMA_RAW if is_raw else parameters.OLLAMA)
    if not body.prompt:
        return None
    if is_raw and body.system:
        raise Problem(400, "Without a chat template there is none.", param="system")
    fields = {**_make_fields(body), "prompt": body.prompt}
    if is_raw:
        if body.think:
            raise Problem(400, "Without a chat template a model does not think.", param="think")
        # Completions have one number for both.
        fields["logprobs"] = body.top_logprobs or 0 if body.logprobs else None
    else:
        fields |= {
            **_make_thinking(body, model),
            "logprobs": body.logprobs,
            "top_logprobs": body.top_logprobs,
        }
    with renamed_params(_RENAMED):
        return await plan_prompt(
            gateway,
            model,
            fields,
            system=body.system,
            is_raw=is_raw,
            caller=caller,
        )


def _check(body: OllamaRequest, known: parameters.Known) -> None:
    misplaced = {
        name: value
        for name, value in body.get_extras().items()
        if name in OllamaOptions.model_fields
    }
    parameters.check_supported(misplaced, known, hint=" here; send it within 'options'")
    parameters.check_supported(body.get_extras(), known)
    if body.options is not None:
        parameters.check_supported(
            body.options.get_extras(), parameters.OLLAMA_OPTIONS, within="options."
        )
        if body.options.num_predict == 0:
            raise Problem(400, "No token is no answer.", param="options.num_predict")
    if body.top_logprobs and not body.logprobs:
        raise Problem(400, "'top_logprobs' needs 'logprobs'.", param="top_logprobs")


def _make_fields(body: OllamaRequest) -> dict[str, Any]:
    """Return the fields that chat and completions share."""
    options = body.options or OllamaOptions()
    length = options.num_predict or -1
    return {
        "model": get_model_id(body.model),
        "max_tokens": length if length > 0 else None,
        "temperature": _default(options.temperature, DEFAULT_TEMPERATURE),
        "top_k": _default(options.top_k, DEFAULT_TOP_K),
        "top_p": _default(options.top_p, DEFAULT_TOP_P),
        "min_p": options.min_p,
        "seed": options.seed,
        "stop": options.stop,
        "repetition_penalty": options.repeat_penalty,
        "frequency_penalty": options.frequency_penalty,
        "presence_penalty": options.presence_penalty,
        "guided_json": {"type": "object"} if body.format == "json" else body.format or None,
    }


def _make_thinking(body: OllamaRequest, model: ServedModel) -> dict[str, Any]:
    """Return chat's fields for ``think``. Raises Problem for what the model's template has not."""
    think, template = body.think, model.chat_template or ""
    if isinstance(think, str):
        text = "Levels of thinking are not supported; send true or false."
        raise Problem(400, text, param="think", code="unsupported_parameter")
    can_think, has_switch = has_thinking_tags(template), THINKING_SWITCH in template
    if think and not can_think:
        text = "This model does not think; leave 'think' out or send false."
        raise Problem(400, text, param="think", code="unsupported_parameter")
    if think is False and can_think and not has_switch:
        text = "This model always thinks; leave 'think' out or send true."
        raise Problem(400, text, param="think", code="unsupported_parameter")
    if think is None or not can_think:
        return {}
    switched = {"chat_template_kwargs": {THINKING_SWITCH: think}} if has_switch else {}
    return {**switched, "separate_reasoning": think}


def _default(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _make_messages(messages: Sequence[OllamaMessage]) -> Iterator[dict[str, Any]]:
    """Yield the turns. Calls get ids, and a result goes to the first open call of its tool."""
    open_calls: deque[tuple[str, str]] = deque()
    count = 0
    for place, message in enumerate(messages):
        turn: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        calls = []
        for call in message.tool_calls or ():
            call_id, count = f"call_{count}", count + 1
            open_calls.append((call_id, call.function.name))
            arguments = json.dumps(call.function.arguments, ensure_ascii=False)
            called = {"name": call.function.name, "arguments": arguments}
            calls.append({"id": call_id, "type": "function", "function": called})
        if calls:
            turn["tool_calls"] = calls
        if message.thinking:
            turn["reasoning_content"] = message.thinking
        if message.role == "tool":
            turn["tool_call_id"] = _take_call(open_calls, message.tool_name, place)
        yield turn


def _take_call(open_calls: deque[tuple[str, str]], name: str | None, place: int) -> str:
    for call in open_calls:
        if name in (None, call[1]):
            open_calls.remove(call)
            return call[0]
    raise Problem(
        400,
        "This is the result of no call before it.",
        param=f"messages[{place}].tool_name",
        code="invalid_value",
    )
