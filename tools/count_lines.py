"""Counts lines of code per top-level package: no blank lines, comments or docstrings.

python tools/count_lines.py [PACKAGE...]: with names, the total is of those alone.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
_NO_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)


def count_code_lines(source: str) -> int:
    """Return how many lines of Python source have code on them."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - _find_docstring_lines(source))


def _find_docstring_lines(source: str) -> set[int]:
    # Every statement that is a string and nothing else, so attribute docstrings too.
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def main(wanted: list[str]) -> None:
    """Print code lines and all lines of each package among the committed files."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code: Counter[str] = Counter()
    everything: Counter[str] = Counter()
    for name in listed.stdout.split():
        package = Path(name).parts[0]
        path = ROOT / name
        if (not wanted or package in wanted) and path.exists():
            source = path.read_text(encoding="utf-8")
            code[package] += count_code_lines(source)
            everything[package] += source.count("\n")
    print(f"{'package':12} {'code':>8} {'all lines':>10}")
    for package in sorted(code):
        print(f"{package:12} {code[package]:8,} {everything[package]:10,}")
    print(f"{'total':12} {code.total():8,} {everything.total():10,}")


if __name__ == "__main__":
    main(sys.argv[1:])
