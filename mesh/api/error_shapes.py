"""Refusals in the shape of the endpoint that was asked."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from mesh.api.problems import Problem

ANTHROPIC_PREFIX = "/v1/messages"
OLLAMA_PREFIX = "/api/"
_ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def make_problem_response(problem: Problem, path: str) -> Response:
    """Return the HTTP answer for a refusal at ``path``; ASCII JSON, so it can quote any name."""
    if path.startswith(ANTHROPIC_PREFIX):
        body = make_anthropic_error(problem)
    elif path.startswith(OLLAMA_PREFIX):
        body = make_ollama_error(problem)
    else:
        body = problem.to_dict()
    return Response(
        json.dumps(body),
        status_code=problem.status,
        headers=problem.headers,
        media_type="application/json",
    )


def get_request_id_names(path: str) -> tuple[bytes, ...]:
    """Return the headers under which clients of a path look for the request's id."""
    is_anthropic = path.startswith(ANTHROPIC_PREFIX)
    return (b"x-request-id", b"request-id") if is_anthropic else (b"x-request-id",)


def make_anthropic_error(problem: Problem) -> dict[str, Any]:
    """Return the body that Anthropic's clients parse."""
    is_ours = problem.status >= 500
    kind = _ANTHROPIC_KINDS.get(problem.status, "api_error" if is_ours else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": _make_sentence(problem)}}


def make_ollama_error(problem: Problem) -> dict[str, Any]:
    """Return the body that Ollama's clients parse."""
    return {"error": _make_sentence(problem)}


def _make_sentence(problem: Problem) -> str:
    """Return the message with the field at fault, for which these shapes have no place."""
    is_named = problem.param is None or f"'{problem.param}'" in problem.message
    if is_named or problem.status != 400:
        return problem.message
    return f"'{problem.param}': {problem.message}"
