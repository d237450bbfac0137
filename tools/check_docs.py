"""Check that what the documents name exists: links, headings, paths in the text, and tests.

    python tools/check_docs.py

Exit code 1 with one line for each link, heading, path or test that leads nowhere. Web addresses
are not asked. ``make docs`` checks the built site too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("keys", "consensus", "mesh", "devchain", "subnet", "tests", "tools", "docs", "benchmarks")
HISTORY = frozenset({"CHANGELOG.md"})
"""Documents that name files of the past; their links are checked, their paths are not."""

_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"#{1,6} +(.+?) *")
_PATH = re.compile(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*(?:\.(?!key)\w+|/))(?:::\w+)?`")
_TEST = re.compile(r"`([\w./-]+\.py|\.\.\.)::(\w+)`")
"""A test by its file, or by ``...`` for the file named before it in the same document."""


def list_documents() -> list[Path]:
    """Return the Markdown files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.splitlines()]


def find_broken(document: Path) -> Iterator[str]:
    """Yield a line for each link and path of ``document`` that leads nowhere."""
    name = document.relative_to(ROOT)
    text, file = document.read_text(encoding="utf-8"), ""
    for number, line in enumerate(text.splitlines(), start=1):
        for target, heading in _LINK.findall(line):
            if "://" in target:
                continue
            place = document.parent / target if target else document
            if not place.exists():
                yield f"{name}:{number}: the link {target} leads nowhere"
            elif heading and place.suffix == ".md" and heading not in list_headings(place):
                yield f"{name}:{number}: {target or name} has no heading #{heading}"
        if str(name) in HISTORY:
            continue
        for path in _PATH.findall(line):
            if not (ROOT / path).exists():
                yield f"{name}:{number}: there is no {path}"
        for place, test in _TEST.findall(line):
            file = file if place == "..." else place
            if test not in list_functions(ROOT / file):
                yield f"{name}:{number}: there is no {test} in {file}"


@cache
def list_functions(file: Path) -> frozenset[str]:
    """Return the names of a file's functions; none if there is no such file."""
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


@cache
def list_headings(document: Path) -> frozenset[str]:
    """Return the headings of a document as links name them; a second of one name gets no other."""
    headings, is_code = set(), False
    for line in document.read_text(encoding="utf-8").splitlines():
        is_code ^= line.startswith("```")
        found = None if is_code else _HEADING.fullmatch(line)
        if found is not None:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found[1]).lower()
            headings.add(re.sub(r"[^\w -]", "", text).strip().replace(" ", "-"))
    return frozenset(headings)


def main() -> int:
    """Print what is broken; return the exit code."""
    broken = [line for document in list_documents() for line in find_broken(document)]
    for line in broken:
        sys.stderr.write(f"{line}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
