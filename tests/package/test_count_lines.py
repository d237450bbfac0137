"""What counts as a line of code."""

from __future__ import annotations

import pytest

from count_lines import count_code_lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ("# a comment\n\n", 0),
        ('"""A docstring\nof two lines."""\n', 0),
        ("x = 1  # with a comment\n", 1),
        ('x = """text\nof a value"""\n', 2),
        ('def f():\n    """Says what."""\n\n    return (\n        1\n    )\n', 4),
        ('class A:\n    x: int\n    """What x is."""\n', 2),
    ],
)
def test_blank_lines_comments_and_docstrings_do_not_count(source: str, lines: int) -> None:
    assert count_code_lines(source) == lines
