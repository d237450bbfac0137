"""Build the site in build/site from docs/, with zensical.

    python tools/build_docs.py [--zensical PATH]

Pages are staged first: a link to a file outside docs/ becomes the file's name, because the site has
no such page, and pages of the navigation that do not exist are left out of it. The build is strict.
Afterwards every page is read: exit code 1 with a line for each link within the site that leads
nowhere, and for each script, style, font or picture that another host would have to send.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "build" / "docs"
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_FETCHED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src")}
# A link that says where something is, and fetches nothing.
_NAMING = frozenset({"canonical", "alternate", "prev", "next", "license"})


class Page(HTMLParser):
    """Collects the links, anchors and fetched files of one built page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        is_naming = tag == "link" and bool(_NAMING & set(found.get("rel", "").split()))
        for of_tag, name in _FETCHED:
            if tag == of_tag and name in found and not is_naming:
                self.fetched.append(found[name])


def stage(stage_root: Path) -> None:
    """Copy docs/ and the configuration there, as the generator wants them."""
    shutil.rmtree(stage_root, ignore_errors=True)
    pages = stage_root / "docs"
    shutil.copytree(ROOT / "docs", pages)
    for page in pages.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(name_outer_links(text, page.relative_to(pages)), encoding="utf-8")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config["nav"] = list(keep_existing(config["nav"], pages))
    config["site_dir"] = "site"
    (stage_root / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")


def name_outer_links(text: str, page: Path) -> str:
    """Return Markdown in which a link that leaves docs/ is its text and the file's name."""

    def name(found: re.Match[str]) -> str:
        label, target = found.groups()
        if "://" in target or target.startswith("#"):
            return found[0]
        depth = 0
        for part in (page.parent / target.partition("#")[0]).parts:
            depth += -1 if part == ".." else 1
            if depth < 0:
                inner = str(target).replace("../", "")
                return label if label.strip("`") == inner else f"{label} (`{inner}`)"
        return found[0]

    return _LINK.sub(name, text)


def keep_existing(nav: list[object], pages: Path) -> Iterator[object]:
    """Yield the entries of the navigation whose pages exist."""
    for entry in nav:
        if isinstance(entry, str):
            if (pages / entry).is_file():
                yield entry
        elif isinstance(entry, dict):
            for title, inner in entry.items():
                if isinstance(inner, list):
                    kept: object = list(keep_existing(inner, pages))
                else:
                    kept = inner if (pages / str(inner)).is_file() else None
                if kept:
                    yield {title: kept}


def find_broken(site: Path) -> Iterator[str]:
    """Yield a line for each link that leads nowhere, and each file of another host."""
    pages: dict[Path, Page] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    for path, page in pages.items():
        name = path.relative_to(site)
        for fetched in page.fetched:
            if urlsplit(fetched).netloc:
                yield f"{name}: {fetched} is of another host"
        # The page of errors is served under any address, so its links are absolute.
        for link in page.links if name != Path("404.html") else ():
            if not is_there(link, path, pages, site):
                yield f"{name}: the link {link} leads nowhere"


def is_there(link: str, page: Path, pages: dict[Path, Page], site: Path) -> bool:
    """Whether a link within the site leads to a page, and its anchor to a place on it."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(site.resolve()) or not target.is_file():
        return False
    found = pages.get(target)
    return found is None or unquote(parts.fragment) in found.anchors


def main() -> int:
    """Build and check the site; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zensical", default="zensical", help="the generator's command")
    options = parser.parse_args()
    stage(STAGE)
    command = [*options.zensical.split(), "build", "--clean", "--strict"]
    built = subprocess.run(command, cwd=STAGE, check=False)
    if built.returncode:
        return built.returncode
    site = ROOT / "build" / "site"
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(STAGE / "site", site)
    broken = list(find_broken(site.resolve()))
    for line in broken:
        sys.stderr.write(f"{line}\n")
    if not broken:
        sys.stdout.write(f"open {site.relative_to(ROOT)}/index.html\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
