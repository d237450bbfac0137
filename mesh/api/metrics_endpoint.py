"""``GET /metrics`` on the API's own port: the exposition of the monitoring port.

The API's keys guard it as every other path. Without keys only this machine reaches the API, and
then a token that is asked for on the monitoring port is asked for here too.
"""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Request
from starlette.responses import Response

from mesh.api.auth import ANONYMOUS
from mesh.api.credentials import get_presented_key
from mesh.api.gateway import get_caller, get_gateway
from mesh.api.monitoring import CONTENT_TYPE
from mesh.api.openapi import ERRORS
from mesh.api.problems import Problem

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        **ERRORS,
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
    },
    summary="Show the gateway's metrics",
)
async def show_metrics(request: Request) -> Response:
    """Return what the monitoring port shows. Raises Problem 401, or 404 where none are shown."""
    shown = get_gateway(request).metrics
    if shown is None:
        raise Problem(404, "This gateway shows no metrics.", code="no_metrics")
    if shown.token is not None and get_caller(request) == ANONYMOUS:
        presented = get_presented_key(request.scope["headers"]) or ""
        if not hmac.compare_digest(presented.encode(), shown.token.encode()):
            raise Problem(
                401,
                "Send the token of the metrics as 'Authorization: Bearer TOKEN'.",
                kind="authentication_error",
                code="invalid_metrics_token",
                headers={"WWW-Authenticate": "Bearer"},
            )
    return Response(shown.render(), headers={"Content-Type": CONTENT_TYPE})
