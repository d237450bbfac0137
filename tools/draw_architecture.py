"""Draw the rooms of the house and who imports whom, as docs/images/architecture.svg.

    python tools/draw_architecture.py           write the picture
    python tools/draw_architecture.py --check   exit code 1 if the picture is not today's

A room is a top-level package, or a part of one of the two large packages. An arrow points to
what is imported; an arrow that follows from others (A to B to C implies A to C) is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

import grimp
import networkx

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = ("keys", "consensus", "mesh", "devchain", "subnet")
SPLIT = ("mesh", "subnet")
"""Packages whose parts are rooms of their own."""
LEAVES = frozenset({"subnet.errors", "subnet.version", "subnet.thread_runner", "mesh.errors"})
"""Small modules that everything in their package imports: boxes of these would say nothing."""

COLOURS = {
    "keys": "#8a6d3b",
    "consensus": "#1b6e4a",
    "mesh": "#1f5aa6",
    "devchain": "#8a3b6d",
    "subnet": "#5a3ba6",
}
BOX_WIDTH, BOX_HEIGHT = 150, 36
GAP_X, GAP_Y = 26, 58
MARGIN = 24


def find_room(module: str) -> str | None:
    """Return the room that a module belongs to; None for a package's own ``__init__``."""
    package, _, rest = module.partition(".")
    if package not in SPLIT:
        return package
    return f"{package}.{rest.split('.')[0]}" if rest else None


def read_arrows() -> networkx.DiGraph:
    """Return the rooms and their imports. Raises ValueError if rooms import in a circle."""
    imports = grimp.build_graph(*PACKAGES, cache_dir=None)
    rooms = networkx.DiGraph()
    for module in imports.modules:
        room = find_room(module)
        if room is None or room in LEAVES:
            continue
        rooms.add_node(room)
        for imported in imports.find_modules_directly_imported_by(module):
            other = find_room(imported)
            if other is not None and other != room and other not in LEAVES:
                rooms.add_edge(room, other)
    if not networkx.is_directed_acyclic_graph(rooms):
        circle = " -> ".join(source for source, _ in networkx.find_cycle(rooms))
        raise ValueError(f"rooms import in a circle: {circle}")
    return rooms


def arrange(rooms: networkx.DiGraph) -> list[list[str]]:
    """Return the floors from the top down: a room stands above everything that it imports."""
    height: dict[str, int] = {}
    for room in reversed(list(networkx.topological_sort(rooms))):
        height[room] = 1 + max((height[below] for below in rooms.successors(room)), default=-1)
    floors: list[list[str]] = [[] for _ in range(1 + max(height.values()))]
    for room in sorted(rooms):
        floors[-1 - height[room]].append(room)
    return floors


def place(floors: list[list[str]]) -> Mapping[str, tuple[float, float]]:
    """Return the upper left corner of every box; each floor is centred."""
    width = max(map(len, floors)) * (BOX_WIDTH + GAP_X) - GAP_X
    corners = {}
    for floor, names in enumerate(floors):
        left = MARGIN + (width - len(names) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for index, name in enumerate(names):
            x = left + index * (BOX_WIDTH + GAP_X)
            corners[name] = (x, MARGIN + floor * (BOX_HEIGHT + GAP_Y))
    return corners


def draw() -> str:
    """Return the picture as SVG text. The same imports give the same bytes."""
    rooms = read_arrows()
    floors = arrange(rooms)
    corners = place(floors)
    width = 2 * MARGIN + max(map(len, floors)) * (BOX_WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + len(floors) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    arrows = sorted(networkx.transitive_reduction(rooms).edges)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="13" '
        'role="img" aria-label="The rooms of the project and their imports">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_draw_arrows(arrows, corners),
        *(_draw_box(name, *corners[name]) for name in sorted(corners)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _draw_arrows(
    arrows: Iterable[tuple[str, str]], corners: Mapping[str, tuple[float, float]]
) -> Iterable[str]:
    for source, target in arrows:
        start_x, start_y = corners[source][0] + BOX_WIDTH / 2, corners[source][1] + BOX_HEIGHT
        end_x, end_y = corners[target][0] + BOX_WIDTH / 2, corners[target][1] - 2
        bend = (end_y - start_y) / 2
        yield (
            f'<path d="M{start_x:g} {start_y:g}C{start_x:g} {start_y + bend:g} '
            f'{end_x:g} {end_y - bend:g} {end_x:g} {end_y:g}" fill="none" stroke="#667" '
            'stroke-opacity="0.55" marker-end="url(#head)"/>'
        )


def _draw_box(name: str, x: float, y: float) -> str:
    colour = COLOURS[name.partition(".")[0]]
    label = escape(name.replace(".", "/"))
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
        f'fill="{colour}"/><text x="{x + BOX_WIDTH / 2:g}" y="{y + 23:g}" fill="#fff" '
        f'text-anchor="middle">{label}</text>'
    )


def main() -> int:
    """Write or check the picture; return the exit code."""
    parser = argparse.ArgumentParser(description="Draw docs/images/architecture.svg from imports.")
    parser.add_argument("--check", action="store_true", help="only say whether it is today's")
    picture = draw()
    if not parser.parse_args().check:
        PICTURE.write_text(picture, encoding="utf-8")
        return 0
    if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == picture:
        return 0
    sys.stderr.write(
        "error: docs/images/architecture.svg does not show today's imports\n"
        "hint: run `python tools/draw_architecture.py` and commit the picture\n"
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
