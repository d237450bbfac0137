"""The chat page: three files, served from the package, nothing from elsewhere."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

FILES = {
    "chat.js": "text/javascript; charset=utf-8",
    "chat.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


def _read(name: str) -> bytes:
    return resources.files("mesh.api").joinpath("static", name).read_bytes()


@router.api_route("/", methods=["GET", "HEAD"])
async def show_page() -> Response:
    """Return the chat page."""
    return _respond("index.html", "text/html; charset=utf-8")


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def show_file(name: str) -> Response:
    """Return one of the page's files, by name and not by path."""
    if name not in FILES:
        raise HTTPException(404)
    return _respond(name, FILES[name])


def _respond(name: str, media_type: str) -> Response:
    return Response(_read(name), media_type=media_type, headers={"Cache-Control": "no-cache"})
