"""Write the reference pages from the code: commands, HTTP API, Python API, events.

    python tools/write_reference.py            write docs/reference/*.md
    python tools/write_reference.py --check    exit 1, naming the page, if one is not today's

Lint runs the second.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by tools/write_reference.py: edit the code, then `make reference`. -->\n\n"
MODULES = {
    "mesh.client": "What applications import. Names are imported when they are first used.",
    "mesh.plugins": "Plug-ins and their stamps.",
    "consensus.epoch": "Scoring an epoch.",
    "consensus.scorer": "What a subnet's own scorer is told and may give.",
    "mesh.model.family": "What a model family says of itself.",
    "subnet.probing.verdict": "What probes prove.",
}


def describe_commands() -> str:
    """Return the page of every command and option."""
    from typer.main import get_command

    from subnet.cli.mesh import app

    lines = [
        "# Commands\n",
        "`mesh-test` is `mesh node`. Options may be written with underscores, and those that take",
        "several values take them one after the other: `--host_maddrs A B`.",
    ]
    lines += _describe_command(get_command(app), ("mesh",))
    return "\n".join(lines) + "\n"


def _describe_command(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    children = getattr(command, "commands", None)
    if children is None:
        yield f"\n## {' '.join(path)}\n"
        yield _to_paragraphs(command.help or "") + "\n"
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        named = " ".join(_name_argument(argument) for argument in arguments)
        yield f"```\n{' '.join(path)} [OPTIONS] {named}".rstrip() + "\n```\n"
        rows = [_describe_parameter(one) for one in (*arguments, *options) if not _is_hidden(one)]
        if rows:
            yield "| option | what it says | default |\n|---|---|---|"
            yield from rows
        return
    for name, child in sorted(children.items()):
        if not child.hidden:
            yield from _describe_command(child, (*path, name))


def _name_argument(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return str(name) if argument.required else f"[{name}]"


def _is_hidden(parameter: Any) -> bool:
    return getattr(parameter, "hidden", False) or parameter.name in ("help", "version")


def _describe_parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = f"`{_name_argument(parameter)}`"
    else:
        spelled = [*parameter.opts, *parameter.secondary_opts]
        names = ", ".join(f"`{name}`" for name in spelled if name.startswith("-"))
    variable = parameter.envvar
    if variable:
        names += f" (`{variable if isinstance(variable, str) else variable[0]}`)"
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif isinstance(default, (str, int, float, Path)) and not isinstance(default, bool):
        shown = f"`{default}`"
    else:
        shown = "on" if default is True else ""
    return f"| {names} | {_to_cell(parameter.help or '')} | {shown} |"


def describe_http() -> str:
    """Return the page of the HTTP API, from its OpenAPI document."""
    schema = _load_openapi()
    lines = [
        "# HTTP API\n",
        "What `mesh serve` answers. A running gateway serves the same as JSON at `/openapi.json`.",
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            lines.append(f"\n## {method.upper()} {path}\n")
            lines.append(_to_paragraphs(operation.get("description") or operation["summary"]))
            lines += _describe_body(operation, schema)
            codes = ", ".join(sorted(operation.get("responses", {})))
            lines.append(f"\nAnswers: {codes}.")
    return "\n".join(lines) + "\n"


def _load_openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the gateway, which is looked at and not run."""
    from mesh.api.app import AppConfig, create_app

    app: Any = create_app(None, AppConfig()).asgi  # type: ignore[arg-type]
    while not hasattr(app, "openapi"):
        # The layers around the endpoints, from the outermost in.
        app = next(getattr(app, name) for name in ("app", "_app") if hasattr(app, name))
    return dict(app.openapi())


def _describe_body(operation: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref")
    if reference is None:
        return
    body = schema["components"]["schemas"][reference.rsplit("/", 1)[1]]
    required = set(body.get("required", ()))
    yield "\n| field | type | what it says |\n|---|---|---|"
    for name, field in body.get("properties", {}).items():
        must = ", required" if name in required else ""
        yield f"| `{name}` | {_name_type(field)}{must} | {_to_cell(field.get('description', ''))} |"


def _name_type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[1]
    if "anyOf" in field:
        names = [_name_type(one) for one in field["anyOf"]]
        return " or ".join(name for name in dict.fromkeys(names) if name != "null")
    if field.get("type") == "array":
        return f"list of {_name_type(field.get('items', {}))}"
    return str(field.get("type", "any"))


def describe_python() -> str:
    """Return the page of what is imported by applications and plug-ins."""
    from importlib import import_module

    lines = ["# Python API\n", "Signatures and docstrings, as the code has them."]
    for name, what in MODULES.items():
        module = import_module(name)
        lines.append(f"\n## {name}\n\n{what}\n")
        for public in _list_public(module):
            lines += _describe_object(public, getattr(module, public))
    return "\n".join(lines) + "\n"


def _list_public(module: Any) -> list[str]:
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def _describe_object(name: str, value: Any) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"```python\n{_format_signature(name, value)}\n```\n"
    yield _to_paragraphs(_get_own_doc(value)) + "\n"
    for method, function in vars(value).items() if inspect.isclass(value) else ():
        function = getattr(function, "__func__", function)
        if method.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        doc = _to_cell(inspect.getdoc(function) or "")
        yield f"**`{_format_signature(method, function)}`**: {doc}\n"


def _format_signature(name: str, value: Any) -> str:
    if inspect.isclass(value) and issubclass(value, Enum):
        # Its signature is another one in each Python.
        return f"{name}: " + ", ".join(member.name for member in value)
    try:
        signature = str(inspect.signature(value))
    except (TypeError, ValueError):
        return name
    # A function as a default has an address, which is another one on each run.
    return name + re.sub(r"<function ([\w.<>]+) at 0x[0-9a-f]+>", r"\1", signature)


def _get_own_doc(value: Any) -> str:
    doc = inspect.getdoc(value) or ""
    # The docstring that a dataclass gets by itself is its signature again.
    return "" if doc.startswith(f"{getattr(value, '__name__', '')}(") else doc


def describe_events() -> str:
    """Return the page of the node's events, and of what is logged for each."""
    from subnet.epoch import observer

    source = inspect.getsource(observer.log_event)
    cases = re.findall(
        r"case (\w+)\((.*?)\):\s(.*?)(?=\n        case |\Z)", source, flags=re.DOTALL
    )
    lines = [
        "# Events\n",
        "What a node's epoch loop tells: each is a log line, and what the status file, metrics and",
        "alerts are made from. Metrics have [a page of their own](../metrics.md).\n",
        "| event | log line | level | fields | what happened |\n|---|---|---|---|---|",
    ]
    for name, _, body in cases:
        call = re.search(r"logger\.(\w+)\(\s*f?\"(.*?)\"(.*)\)", body, flags=re.DOTALL)
        if call is None:
            continue
        level, text, rest = call.groups()
        fields = ", ".join(f"`{field}`" for field in re.findall(r"(\w+)=", rest))
        text = re.sub(r"\{.*?\}", "…", text)
        doc = _to_cell(_get_own_doc(getattr(observer, name)))
        lines.append(f"| {name} | `{text}` | {level} | {fields} | {doc} |")
    return "\n".join(lines) + "\n"


def _to_paragraphs(text: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(text)).replace("<", "&lt;")


def _to_cell(text: str) -> str:
    return _to_paragraphs(" ".join(text.split())).replace("|", "\\|")


PAGES = {
    "cli.md": describe_commands,
    "http.md": describe_http,
    "python.md": describe_python,
    "events.md": describe_events,
}


def main() -> int:
    """Write or check the pages; return the exit code."""
    # Widths of a terminal must not decide what is written.
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}
    sys.path.insert(0, str(ROOT))
    stale = 0
    FOLDER.mkdir(exist_ok=True)
    for name, describe in PAGES.items():
        path, text = FOLDER / name, NOTE + describe()
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale += 1
            sys.stderr.write(f"docs/reference/{name} is not today's. Fix: make reference\n")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
