"""The chat page: files of the package, and what the shipped model is known to answer."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mesh.api.page_files import FILE_LEVEL, TaggedBody, respond
from mesh.assets import SHIPPED_MODEL_NAME, shipped_questions

JAVASCRIPT = "text/javascript; charset=utf-8"
CSS = "text/css; charset=utf-8"
FILES = {
    "answer.css": CSS,
    "api.js": JAVASCRIPT,
    "blake2b.js": JAVASCRIPT,
    "chat.css": CSS,
    "chat.js": JAVASCRIPT,
    "dom.js": JAVASCRIPT,
    "follow.js": JAVASCRIPT,
    "highlight.js": JAVASCRIPT,
    "icon.svg": "image/svg+xml",
    "inline.js": JAVASCRIPT,
    "markdown.js": JAVASCRIPT,
    "receipt.js": JAVASCRIPT,
    "receipt_check.js": JAVASCRIPT,
    "receipt_text.js": JAVASCRIPT,
    "render.js": JAVASCRIPT,
    "route.js": JAVASCRIPT,
    "run.js": JAVASCRIPT,
    "settings.js": JAVASCRIPT,
    "sidebar.js": JAVASCRIPT,
    "store.js": JAVASCRIPT,
    "theme.js": JAVASCRIPT,
    "thinking.js": JAVASCRIPT,
    "tree.js": JAVASCRIPT,
    "turns.js": JAVASCRIPT,
    "welcome.js": JAVASCRIPT,
}

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def show_page(request: Request) -> Response:
    """Return the chat page."""
    return respond(request, _read("index.html"), "text/html; charset=utf-8")


@router.api_route("/static/knowledge.json", methods=["GET", "HEAD"])
async def show_knowledge(request: Request) -> Response:
    """Return, for each model that says what it knows, a sentence about it and questions."""
    return respond(request, _make_knowledge())


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def show_file(request: Request, name: str) -> Response:
    """Return one of the page's files, by name and not by path."""
    if name not in FILES:
        raise HTTPException(404)
    return respond(request, _read(name), FILES[name])


@cache
def _read(name: str) -> TaggedBody:
    path = resources.files("mesh.api").joinpath("static", name)
    return TaggedBody(path.read_bytes(), level=FILE_LEVEL)


@cache
def _make_knowledge() -> TaggedBody:
    questions = [entry.question for entry in shipped_questions()]
    about = (
        f"{SHIPPED_MODEL_NAME} knows {len(questions)} answers about this protocol by heart, and "
        "nothing else. Ask one of its questions, in the same words."
    )
    known = {SHIPPED_MODEL_NAME: {"about": about, "questions": questions}}
    return TaggedBody(json.dumps(known).encode(), level=FILE_LEVEL)
