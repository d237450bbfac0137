"""Check that what the documents name exists: links to files and paths of this repository.

    python tools/check_docs.py

Exit code 1 with one line for each link or path that leads nowhere. Web addresses are not asked.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("keys", "consensus", "mesh", "devchain", "subnet", "tests", "tools", "docs", "benchmarks")
HISTORY = frozenset({"CHANGELOG.md"})
"""Documents that name files of the past; their links are checked, their paths are not."""

_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_PATH = re.compile(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*(?:\.(?!key)\w+|/))(?:::\w+)?`")


def list_documents() -> list[Path]:
    """Return the Markdown files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.splitlines()]


def find_broken(document: Path) -> Iterator[str]:
    """Yield a line for each link and path of ``document`` that leads nowhere."""
    name = document.relative_to(ROOT)
    text = document.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        for target, _ in _LINK.findall(line):
            if "://" not in target and not (document.parent / target).exists():
                yield f"{name}:{number}: the link {target} leads nowhere"
        if str(name) in HISTORY:
            continue
        for path in _PATH.findall(line):
            if not (ROOT / path).exists():
                yield f"{name}:{number}: there is no {path}"


def main() -> int:
    """Print what is broken; return the exit code."""
    broken = [line for document in list_documents() for line in find_broken(document)]
    for line in broken:
        sys.stderr.write(f"{line}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
