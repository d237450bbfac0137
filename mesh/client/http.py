"""Generating text over HTTP, from a gateway (``mesh serve``): needs httpx and nothing else.

    async with HttpMeshClient("http://127.0.0.1:8000", api_key=key) as client:
        async for token in client.generate("Hello", max_new_tokens=50):
            print(token.text, end="")

The calls are those of ``MeshClient``: other transports, the same loop.

GatewayError
├── GatewayUnreachable   nothing answers there, or the answer broke off
├── GatewayMisbehaved    an answer that no gateway gives
└── GatewayRefused       it said no: ``status``, ``code``, ``param``, ``retry_after_s``
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import httpx

from mesh.client.event_stream import MAX_EVENT_BYTES, EventReader, EventTooLong
from mesh.client.receipts import MAX_RECEIPT_BYTES, AnswerReceipt
from mesh.errors import InvalidRequest, MeshError
from mesh.inference.grammar import GrammarKind
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import NOT_TOLD, Alternative, Finish, Token, Trace, TracedHop

MAX_REPLY_BYTES = 1 << 20
MAX_MESSAGE = 500
RECEIPT_HEADER = "X-Mesh-Receipt"
DONE = "[DONE]"

HttpPrompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Plain text, token ids, or chat messages with ``role`` and ``content``."""


class GatewayError(MeshError):
    """Base of what can go wrong with a gateway."""


class GatewayUnreachable(GatewayError):
    """Nothing answers there, or the answer broke off."""


class GatewayMisbehaved(GatewayError):
    """An answer that no gateway gives."""


class GatewayRefused(GatewayError):
    """The gateway said no. ``status`` is None in the middle of a stream."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Seconds. ``silence_s`` is without any byte; a gateway comments on its waiting."""

    connect_s: float = 10.0
    silence_s: float = 60.0


class HttpMeshClient:
    """Asks a gateway for answers. One client serves many answers at once."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeouts: HttpTimeouts | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``model`` None means the first one that the gateway lists."""
        timeouts = timeouts or HttpTimeouts()
        self._model = model
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeouts.silence_s, connect=timeouts.connect_s),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; idempotent."""
        await self._http.aclose()

    async def list_models(self) -> tuple[str, ...]:
        """Return the names of the models that are complete now. Raises GatewayError."""
        async with self._ask("GET", "/v1/models", None) as response:
            reply = _parse(await _read(response))
        try:
            return tuple(str(model["id"]) for model in reply["data"])
        except (KeyError, TypeError) as error:
            raise GatewayMisbehaved("a list of models without models") from error

    async def generate(
        self,
        prompt: HttpPrompt,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        receipt: AnswerReceipt | None = None,
    ) -> AsyncGenerator[Token, None]:
        """Yield the answer token by token; closing the generator ends it at the gateway too.

        A gateway tells texts instead of token ids, and log probabilities only where
        ``sampling.top_logprobs`` asks for alternatives. The last token may be a mere end.

        With a ``receipt`` the hosters sign what they did; it is complete once the last token has
        come. It stays empty for a reader that leaves before, and at a gateway of an earlier
        version. What it proves is about token ids: that they spell the text is the gateway's word.

        Raises InvalidRequest naming what is wrong, or GatewayError.
        """
        path, body = _make_body(prompt, max_new_tokens, sampling or Sampling(), stop)
        body["model"] = await self._choose_model()
        trace, index = Trace(), 0
        headers = {} if receipt is None else {RECEIPT_HEADER: "true"}
        # A receipt has the ids of all tokens.
        max_bytes = MAX_EVENT_BYTES if receipt is None else MAX_RECEIPT_BYTES
        async with self._ask("POST", path, body, headers) as response:
            async with aclosing(_read_events(response, max_bytes)) as events:
                async for event in events:
                    token = _read_token(event, index, trace)
                    if receipt is not None:
                        _take_receipt(receipt, event)
                    if token is None:
                        continue
                    yield token
                    index += 1
                    if token.finish is not Finish.NOT_YET:
                        return

    async def _choose_model(self) -> str:
        if self._model is None:
            models = await self.list_models()
            if not models:
                raise GatewayRefused("the gateway has no complete model now", status=503)
            self._model = models[0]
        return self._model

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and read the status. Raises GatewayError or InvalidRequest."""
        try:
            async with self._http.stream(method, path, json=body, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise _explain(response, await _read(response))
                yield response
        except httpx.TimeoutException as error:
            raise GatewayUnreachable(f"no answer in time: {type(error).__name__}") from error
        except httpx.RequestError as error:
            raise GatewayUnreachable(f"the connection failed: {error}") from error


def _make_body(
    prompt: HttpPrompt, max_new_tokens: int, sampling: Sampling, stop: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of a request. Raises InvalidRequest."""
    # The gateway knows which tokens end a text by a grammar.
    replace(sampling, grammar=None).check()
    if max_new_tokens < 1:
        raise InvalidRequest("max_new_tokens", "must be at least 1")
    if sampling.stop_token_ids:
        raise InvalidRequest("stop_token_ids", "a gateway stops at texts: use stop")
    if not prompt:
        raise InvalidRequest("prompt", "is empty")
    body: dict[str, Any] = {
        "stream": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        # JSON integers have 64 bits and a sign at the gateway.
        "seed": sampling.seed - (1 << 64) if sampling.seed >= 1 << 63 else sampling.seed,
    }
    body |= _make_shape(sampling)
    if stop:
        body["stop"] = list(stop)
    tops = sampling.top_logprobs
    if not isinstance(prompt, str) and all(isinstance(part, Mapping) for part in prompt):
        body |= {"messages": list(prompt), "max_completion_tokens": max_new_tokens}
        body |= {"logprobs": True, "top_logprobs": tops} if tops else {}
        return "/v1/chat/completions", body
    if not isinstance(prompt, str) and not all(isinstance(part, int) for part in prompt):
        raise InvalidRequest("prompt", "token ids and messages together")
    body |= {"prompt": prompt if isinstance(prompt, str) else list(prompt)}
    body |= {"max_tokens": max_new_tokens} | ({"logprobs": tops} if tops else {})
    return "/v1/completions", body


def _make_shape(sampling: Sampling) -> dict[str, Any]:
    """Return the fields that change logits, where they do. Raises InvalidRequest."""
    names = ("frequency_penalty", "presence_penalty", "min_p", "min_tokens")
    shape = {name: getattr(sampling, name) for name in names if getattr(sampling, name)}
    if sampling.logit_bias:
        shape["logit_bias"] = {str(token_id): bias for token_id, bias in sampling.logit_bias}
    if sampling.grammar is not None:
        sampling.grammar.check()
        fields = {GrammarKind.JSON_SCHEMA: "guided_json", GrammarKind.REGEX: "guided_regex"}
        field = fields.get(sampling.grammar.kind)
        if field is None:
            raise InvalidRequest("grammar", "a gateway takes JSON schemas and regexes")
        shape[field] = sampling.grammar.text
    return shape


async def _read(response: httpx.Response) -> bytes:
    """Read a body that is not a stream. Raises GatewayMisbehaved when it is too long."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise GatewayMisbehaved(f"a reply of more than {MAX_REPLY_BYTES} bytes")
    return body


async def _read_events(
    response: httpx.Response, max_bytes: int
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of a stream until its end. Raises GatewayError."""
    reader = EventReader(max_bytes=max_bytes)
    try:
        async for chunk in response.aiter_bytes():
            for data in reader.feed(chunk):
                if data == DONE:
                    return
                event = _parse(data)
                if "error" in event:
                    raise _make_refusal(event, status=None)
                yield event
    except EventTooLong as error:
        raise GatewayMisbehaved(str(error)) from error
    raise GatewayUnreachable("the stream broke off")


def _parse(raw: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise GatewayMisbehaved("an answer that is not JSON") from error
    if not isinstance(value, dict):
        raise GatewayMisbehaved("an answer that is not a JSON object")
    return value


def _read_token(event: Mapping[str, Any], index: int, trace: Trace) -> Token | None:
    """Return the token in an event, None where it only tells of the way or the usage."""
    try:
        _update(trace, event.get("mesh"))
        choices = event["choices"]
        if not choices:
            return None
        choice = choices[0]
        delta = choice.get("delta")
        content = choice.get("text") if delta is None else delta.get("content")
        reason, logprobs = choice.get("finish_reason"), choice.get("logprobs")
        if not content and not logprobs and reason is None:
            return None
        logprob, tops = _read_logprobs(logprobs)
        return Token(
            NOT_TOLD,
            logprob,
            tops,
            index=index,
            finish=_FINISHES.get(reason, Finish.STOP),
            text=str(content or ""),
            trace=trace,
        )
    # An infinity has no integer, and a huge integer no float.
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GatewayMisbehaved("an event of another shape") from error


_FINISHES = {None: Finish.NOT_YET, "length": Finish.LENGTH}
"""Other servers know other reasons to stop."""


def _read_logprobs(
    logprobs: Mapping[str, Any] | None,
) -> tuple[float | None, tuple[Alternative, ...]]:
    """Read the last token of either shape, chat's or the legacy one."""
    if not logprobs:
        return None, ()
    if "content" in logprobs:
        token = logprobs["content"][-1]
        logprob = token["logprob"]
        tops = [(top["token"], top["logprob"]) for top in token["top_logprobs"]]
    else:
        logprob = logprobs["token_logprobs"][-1]
        tops = list((logprobs["top_logprobs"][-1] or {}).items())
    return float(logprob), tuple(
        Alternative(NOT_TOLD, float(value), str(name).encode()) for name, value in tops
    )


def _update(trace: Trace, mesh: Mapping[str, Any] | None) -> None:
    """Take over what a gateway says of the way; other OpenAI servers say nothing."""
    if mesh is None:
        return
    trace.route = tuple(
        TracedHop(str(hop["peer_id"]), int(hop["blocks"][0]), int(hop["blocks"][1]), hop["step_ms"])
        for hop in mesh.get("route", ())
    )
    trace.reroutes = int(mesh.get("reroutes", trace.reroutes))
    trace.refills = int(mesh.get("refills", trace.refills))
    trace.time_to_first_token_s = mesh.get("first_token_s")
    trace.tokens_per_second = mesh.get("tokens_per_second")


def _take_receipt(receipt: AnswerReceipt, event: Mapping[str, Any]) -> None:
    """Keep the receipt in an event, if it has one. Raises GatewayMisbehaved."""
    mesh = event.get("mesh")
    told = mesh.get("receipts") if isinstance(mesh, Mapping) else None
    if not told:
        return
    if not isinstance(told, list) or not isinstance(told[0], Mapping | None):
        raise GatewayMisbehaved("a receipt of another shape")
    # Null, where no hoster gave a token.
    if told[0] is not None:
        receipt.take(told[0])


def _explain(response: httpx.Response, body: bytes) -> MeshError:
    """Return the error of a refusal; a field at fault is the caller's InvalidRequest."""
    try:
        reply = _parse(body)
    except GatewayMisbehaved:
        reply = {}
    refused = _make_refusal(
        reply, status=response.status_code, retry_after=response.headers.get("Retry-After")
    )
    if refused.status == httpx.codes.BAD_REQUEST and refused.param is not None:
        return InvalidRequest(refused.param, str(refused))
    return refused


def _make_refusal(
    reply: Mapping[str, Any], *, status: int | None, retry_after: str | None = None
) -> GatewayRefused:
    error = reply.get("error")
    fields: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    message = fields.get("message") or f"the gateway answered {status}"
    return GatewayRefused(
        str(message)[:MAX_MESSAGE],
        status=status,
        code=_text(fields.get("code")),
        param=_text(fields.get("param")),
        retry_after_s=float(retry_after) if retry_after and retry_after.isdecimal() else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
