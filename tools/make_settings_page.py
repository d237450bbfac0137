"""Write the tables of docs/configuration.md from the commands, or check that they are up to date.

    python tools/make_settings_page.py [--check]

What stands above the marker is written by hand; the table itself is subnet/cli/settings.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from subnet.cli.configuration import list_all_settings
from subnet.cli.settings import ACCOUNT, SHARED, Setting

PAGE = Path(__file__).resolve().parent.parent / "docs/configuration.md"
MARKER = "<!-- Below: tools/make_settings_page.py -->\n"


def list_lines(settings: Iterable[Setting]) -> Iterator[str]:
    """Yield the lines of all tables."""
    own = [setting for setting in settings if not setting.table or setting.key not in SHARED]
    for table, rows in groupby(own, key=lambda setting: setting.table):
        yield f"\n### {_make_title(table)}\n"
        yield "| key | variable | takes | default | |"
        yield "|---|---|---|---|---|"
        yield from map(_make_row, rows)


def _make_title(table: str) -> str:
    if not table:
        return "At the top: all commands"
    if table == ACCOUNT:
        return f"`[{table}]`: `mesh chain` commands that sign"
    return f"`[{table}]`: `mesh {table}`" + (" and `mesh-test`" if table == "node" else "")


def _make_row(setting: Setting) -> str:
    default = "" if setting.default is None else f"`{json.dumps(setting.default)}`"
    text = setting.help.replace("|", "\\|")
    takes = setting.kind.describe()
    return f"| `{setting.key}` | `{setting.variable}` | {takes} | {default} | {text} |"


def build_page(text: str) -> str:
    """Return the page with the tables as they are now. Raises ValueError without the marker."""
    head, marker, _ = text.partition(MARKER)
    if not marker:
        raise ValueError(f"{PAGE} has no line {MARKER!r}")
    return head + marker + "\n".join(list_lines(list_all_settings())) + "\n"


def main() -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if outdated")
    is_check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    new = build_page(old)
    if is_check and new != old:
        sys.stderr.write(f"{PAGE} is outdated: run python tools/make_settings_page.py\n")
        return 1
    if not is_check:
        PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
