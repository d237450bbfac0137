"""Broken links are found, in Markdown and in the built site; the references are today's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import build_docs
import check_docs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[gone](gone.md)", "the link gone.md leads nowhere"),
        ("[there](other.md#nowhere)", "other.md has no heading #nowhere"),
        ("[here](#nowhere)", "page.md has no heading #nowhere"),
        ("`mesh/gone.py`", "there is no mesh/gone.py"),
        ("`test_some.py::test_gone`", "there is no test_gone in test_some.py"),
        ("`test_some.py::test_it`, `...::test_gone`", "there is no test_gone in test_some.py"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, complaint: str
) -> None:
    monkeypatch.setattr(check_docs, "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# Title\n\n## 8. It's a `name`: *here*\n")
    (tmp_path / "test_some.py").write_text("async def test_it(): ...\n")
    page = tmp_path / "page.md"
    page.write_text(f"{line}\n")
    assert list(check_docs.find_broken(page)) == [f"page.md:1: {complaint}"]


def test_links_that_lead_somewhere_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_docs, "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# Title\n\n## 8. It's a `name`: *here*\n")
    page = tmp_path / "page.md"
    page.write_text("# Up\n[a](other.md#8-its-a-name-here) [b](#up) [c](https://example.org/x#y)\n")
    assert list(check_docs.find_broken(page)) == []


@pytest.mark.parametrize(
    ("page", "before", "after"),
    [
        ("a.md", "[rules](../consensus/epoch.py)", "rules (`consensus/epoch.py`)"),
        ("a.md", "[`tests/x`](../tests/x)", "`tests/x`"),
        ("decisions/a.md", "[b](../b.md)", "[b](../b.md)"),
        ("decisions/a.md", "[b](../../README.md#run)", "b (`README.md#run`)"),
        ("a.md", "[b](https://example.org/../x)", "[b](https://example.org/../x)"),
        ("a.md", "![b](images/b.svg)", "![b](images/b.svg)"),
    ],
)
def test_a_link_out_of_the_documents_becomes_a_name(page: str, before: str, after: str) -> None:
    assert build_docs.name_outer_links(before, Path(page)) == after


def test_a_page_that_does_not_exist_is_left_out_of_the_navigation(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    nav: list[object] = ["a.md", "gone.md", {"Room": ["gone.md"]}, {"Other": ["a.md", {"X": "no"}]}]
    assert list(build_docs.keep_existing(nav, tmp_path)) == ["a.md", {"Other": ["a.md"]}]


@pytest.mark.parametrize(
    ("html", "complaint"),
    [
        ('<a href="gone.html">x</a>', "the link gone.html leads nowhere"),
        ('<a href="#gone">x</a>', "the link #gone leads nowhere"),
        ('<a href="../outside.html">x</a>', "the link ../outside.html leads nowhere"),
        ('<script src="https://cdn.example.org/x.js"></script>', "is of another host"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "is of another host"),
        ('<img src="https://example.org/x.png">', "is of another host"),
    ],
)
def test_what_is_wrong_with_a_built_page_is_named(
    tmp_path: Path, html: str, complaint: str
) -> None:
    (tmp_path / "index.html").write_text(f'<h1 id="top">x</h1>{html}')
    (found,) = build_docs.find_broken(tmp_path)
    assert found.startswith("index.html: ") and complaint in found


def test_a_built_page_whose_links_lead_somewhere_is_right(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">x</h1><a href="#top">a</a><a href="in/">b</a><a href="https://example.org">c'
        '</a><link rel="canonical" href="https://example.org">'
    )
    (tmp_path / "in" / "index.html").write_text('<a href="../index.html#top">a</a>')
    assert list(build_docs.find_broken(tmp_path)) == []


def test_the_references_are_those_that_the_code_gives() -> None:
    checked = subprocess.run(
        [sys.executable, "tools/write_reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_every_room_of_the_node_is_named_on_the_page_of_the_architecture() -> None:
    page = (check_docs.ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = {file.parent.name for file in (check_docs.ROOT / "subnet").glob("*/__init__.py")}
    assert {room for room in rooms if f"| `subnet/{room}/`" not in page} == set()
