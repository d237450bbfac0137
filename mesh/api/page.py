"""The chat page: files of the package, and what the shipped model is known to answer."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from mesh.assets import SHIPPED_MODEL_NAME, shipped_questions

JAVASCRIPT = "text/javascript; charset=utf-8"
CSS = "text/css; charset=utf-8"
FILES = {
    "answer.css": CSS,
    "api.js": JAVASCRIPT,
    "chat.css": CSS,
    "chat.js": JAVASCRIPT,
    "dom.js": JAVASCRIPT,
    "highlight.js": JAVASCRIPT,
    "icon.svg": "image/svg+xml",
    "inline.js": JAVASCRIPT,
    "markdown.js": JAVASCRIPT,
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


def _read(name: str) -> bytes:
    return resources.files("mesh.api").joinpath("static", name).read_bytes()


@router.api_route("/", methods=["GET", "HEAD"])
async def show_page() -> Response:
    """Return the chat page."""
    return _respond("index.html", "text/html; charset=utf-8")


@router.api_route("/static/knowledge.json", methods=["GET", "HEAD"])
async def show_knowledge() -> Response:
    """Return, for each model that says what it knows, a sentence about it and questions."""
    questions = [entry.question for entry in shipped_questions()]
    about = (
        f"{SHIPPED_MODEL_NAME} knows {len(questions)} answers about this protocol by heart, and "
        "nothing else. Ask one of its questions, in the same words."
    )
    known = {SHIPPED_MODEL_NAME: {"about": about, "questions": questions}}
    return JSONResponse(known, headers={"Cache-Control": "no-cache"})


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def show_file(name: str) -> Response:
    """Return one of the page's files, by name and not by path."""
    if name not in FILES:
        raise HTTPException(404)
    return _respond(name, FILES[name])


def _respond(name: str, media_type: str) -> Response:
    return Response(_read(name), media_type=media_type, headers={"Cache-Control": "no-cache"})
