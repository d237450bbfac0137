"""What every refusal of the gateway has in common."""

from __future__ import annotations

from typing import Any

import httpx

SECRET = "correct-horse-battery-staple"


def check_error(
    response: httpx.Response, status: int, *, param: str | None = None
) -> dict[str, Any]:
    """Check the shape that OpenAI's clients parse, and that nothing of the request is in it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and isinstance(error["type"], str)
    assert SECRET not in response.text
    if param is not None:
        assert error["param"] == param
    return error
