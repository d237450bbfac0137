"""Every refusal in the shape that OpenAI's clients understand, with the right status.

Messages name parameters, limits and layers; they never repeat a prompt or a key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mesh.api.disconnect import CallerGone
from mesh.api.errors import BackendBusy, GenerationFailed, KeysFileError
from mesh.errors import (
    InvalidRequest,
    MeshError,
    NoCapableRoute,
    NoRoute,
    PeerRefusal,
    PromptTooLong,
    SessionTooLong,
)
from mesh.p2p.rpc_guard import RpcReason

MAX_NAME_LENGTH = 128
NO_ROUTE_RETRY_S = 15
INVALID = "invalid_request_error"
SERVER_ERROR = "server_error"


class Problem(Exception):
    """One refusal. ``param`` names the field at fault, ``code`` is stable and short."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)

    def to_dict(self) -> dict[str, Any]:
        """Return the body, ready for JSON."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def explain(error: Exception) -> Problem:
    """Return the refusal for an error of the mesh, of HTTP or of validation."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return _explain_validation(error.errors())
        case HTTPException():
            return _explain_http(error)
        case MeshError():
            return _explain_mesh(error)
        case CallerGone():
            return Problem(499, "The caller closed the connection.")
        case _:
            return Problem(500, "The gateway failed on this request.", kind=SERVER_ERROR)


def quote_name(name: object) -> str:
    """Return a caller's word, short enough to repeat to it."""
    text = str(name)
    return text if len(text) <= MAX_NAME_LENGTH else text[:MAX_NAME_LENGTH] + "..."


def _explain_mesh(error: MeshError) -> Problem:
    match error:
        case NoCapableRoute():
            ranges = ", ".join(f"{start}:{end}" for start, end in error.uncovered)
            return Problem(
                503,
                f"No route: no hoster of blocks {ranges} (half-open ranges) {error.what}. "
                "Ask without it, or wait for hosters of a newer version.",
                kind="service_unavailable",
                code="no_capable_route",
                retry_after_s=NO_ROUTE_RETRY_S,
            )
        case NoRoute():
            ranges = ", ".join(f"{start}:{end}" for start, end in error.uncovered)
            return Problem(
                503,
                f"No route: no hoster serves blocks {ranges} (half-open ranges) at the moment.",
                kind="service_unavailable",
                code="no_route",
                retry_after_s=NO_ROUTE_RETRY_S,
            )
        case BackendBusy():
            return _overloaded("The swarm is busy; try again.", error.retry_after_s)
        case PeerRefusal(reason=RpcReason.BUSY):
            return _overloaded("The swarm is busy; try again.", BackendBusy().retry_after_s)
        case PromptTooLong():
            text = str(error).removeprefix(f"{error.field}: ")
            code = "context_length_exceeded"
            return Problem(400, f"The prompt has {text}.", param=error.field, code=code)
        case SessionTooLong():
            text = str(error).removeprefix(f"{error.field}: ")
            return Problem(400, text, param="max_tokens", code="context_length_exceeded")
        case InvalidRequest():
            text = str(error).removeprefix(f"{error.field}: ")
            return Problem(400, text, param=error.field, code="invalid_value")
        case KeysFileError():
            return Problem(503, "The gateway cannot check API keys now.", kind=SERVER_ERROR)
        case GenerationFailed():
            return Problem(
                502, str(error), kind=SERVER_ERROR, code="generation_failed", retry_after_s=1
            )
        case _:
            return Problem(
                502,
                "The swarm failed on this request.",
                kind=SERVER_ERROR,
                code="generation_failed",
                retry_after_s=1,
            )


def _overloaded(message: str, retry_after_s: int) -> Problem:
    return Problem(
        503, message, kind="service_unavailable", code="overloaded", retry_after_s=retry_after_s
    )


def make_overloaded(retry_after_s: int = 1) -> Problem:
    """Return the answer of a gateway that is full."""
    return _overloaded("The gateway is full; try again.", retry_after_s)


def make_not_found(path: str, known: Collection[str]) -> Problem:
    """Return the answer for an address that is none; it names the one that was probably meant.

    Usual mistakes are a base URL without /v1, or with it twice, and a slash at the end.
    """
    bare = path.rstrip("/")
    meant = [bare, f"/v1{bare}", bare.replace("/v1/v1/", "/v1/", 1)]
    found = next((address for address in meant if address in known), None)
    hint = "" if found is None else f" Did you mean {found}?"
    return Problem(404, f"{_HTTP_MESSAGES[404]}{hint}", code="not_found")


_WRONG_TYPES = frozenset(
    {
        "string_type",
        "list_type",
        "dict_type",
        "int_type",
        "bool_type",
        "model_type",
        "none_required",
    }
)


def _choose_error(errors: Sequence[Any]) -> Any:
    """Return the error to tell. Where a field may be of several types, each type has errors: those
    of a type that the value has not say nothing.
    """
    field = _join(errors[0]["loc"])
    same = [error for error in errors if _join(error["loc"]).startswith(field)]
    return next((error for error in same if error["type"] not in _WRONG_TYPES), errors[0])


def _explain_validation(errors: Sequence[Any]) -> Problem:
    first = _choose_error(errors) if errors else {"type": "", "loc": (), "msg": "invalid request"}
    if first["type"] == "json_invalid":
        return Problem(400, "The body is not valid JSON.", code="invalid_json")
    path = [part for part in first["loc"] if part not in ("body", "path", "query")]
    param = quote_name(_join(path)) if path else None
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    where = f"'{param}': " if param else ""
    text = str(first["msg"]).removeprefix("Value error, ")
    return Problem(400, f"{where}{text}.", param=param, code=code)


_UNION_MEMBERS = frozenset({"str", "int", "list", "bool"})


def _join(path: Sequence[object]) -> str:
    """Return ``messages[0].role`` for a validation path, without the union's type names."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif isinstance(part, str) and part.isidentifier() and part not in _UNION_MEMBERS:
            text += f".{part}" if text else part
    return text


_HTTP_MESSAGES = {
    400: "The body cannot be read.",
    404: "There is nothing at this address.",
    405: "This address does not take this method.",
    415: "Send the body as application/json.",
}


def _explain_http(error: HTTPException) -> Problem:
    message = _HTTP_MESSAGES.get(error.status_code, "The request was refused.")
    kind = SERVER_ERROR if error.status_code >= 500 else INVALID
    codes = {404: "not_found", 405: "method_not_allowed", 400: "invalid_body"}
    return Problem(
        error.status_code,
        message,
        kind=kind,
        code=codes.get(error.status_code),
        headers=dict(error.headers or {}),
    )
