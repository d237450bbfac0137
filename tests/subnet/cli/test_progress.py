"""Long work has bars on a terminal and lines elsewhere, and neither spoils what stands beside."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator

import pytest

from mesh.assets import shipped_model_path
from tests.support.commands import MESH
from tests.support.hub import open_hub
from tests.support.terminals import Said, run_in_pipe, run_on_terminal

NAME = "someone/tiny"
BAR = "━━━━━"
ESCAPE = "\x1b"
COLOUR = "\x1b[3"
FIRST_AND_LAST = [
    "downloading model.safetensors: 3.7 MB",
    "downloading model.safetensors: done, 3.7 MB in # s",
    "checking the weights 0:8: 3.7 MB",
    "checking the weights 0:8: done, 3.7 MB in # s",
]
LOGS_BESIDE = """
import logging, sys, time
from pathlib import Path
from mesh.progress import track
from subnet.cli.logs import start_logs
from subnet.operator.logs import LogOptions

start_logs(LogOptions(as_json=sys.argv[1] == "json", file=Path(sys.argv[2])))
logger = logging.getLogger("subnet.test")
with track("loading the weights", total=100, unit="layers", blocks="0:8") as step:
    for number in range(100):
        step(1)
        if number % 10 == 0:
            logger.info("seen", extra={"place": "abcdefghij"[number // 10] * 9})
        # The bar is drawn by a thread of its own.
        time.sleep(0.01)
"""
UNDER_SUMMARY = """
import asyncio, sys
from pathlib import Path
from mesh.progress import track
from subnet.cli import live_summary
from subnet.cli.logs import start_logs
from subnet.operator.logs import LogOptions

bars = start_logs(LogOptions(as_json=False))
live_summary.REFRESH_S = 0.05
live_summary._render = lambda *_, **__: "THE SUMMARY"

async def run():
    async with live_summary.show_summary(Path(sys.argv[1]), bars):
        with track("loading the weights", total=40, unit="layers", blocks="0:8") as step:
            for _ in range(40):
                step(1)
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)

asyncio.run(run())
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A hub that has the shipped model, with its manifest."""
    with open_hub(NAME, shipped_model_path()) as url:
        yield {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1"}


def run_script(script: str, *arguments: str, **variables: str) -> Said:
    said = run_on_terminal([sys.executable, "-c", script, *arguments], variables)
    assert said.code == 0, said.err
    return said


def mask_times(lines: list[str]) -> list[str]:
    return [re.sub(r"\d+\.\d s", "# s", line) for line in lines]


def find_hash(out: str) -> str:
    assert re.fullmatch(r"[0-9a-f]{64}\n", out)
    return out


def test_in_a_pipe_each_work_has_a_first_and_a_last_line(environment, tmp_path) -> None:
    said = run_in_pipe([*MESH, "manifest", NAME], {**environment, "HF_HOME": str(tmp_path)})
    assert said.code == 0, said.err
    assert mask_times(said.lines) == FIRST_AND_LAST
    assert ESCAPE not in said.err and find_hash(said.out)


def test_on_a_terminal_each_work_has_a_bar(environment, tmp_path) -> None:
    """With NO_COLOR the bars have none; results stay on stdout, where no bar is."""
    line = [*MESH, "manifest", NAME, "--again"]
    said = run_on_terminal(line, {**environment, "HF_HOME": str(tmp_path), "NO_COLOR": "1"})
    assert said.code == 0, said.err
    for name in ("downloading model.safetensors", "calibrating", "hashing the weights"):
        assert any(re.match(rf"{name} +0% 0", each) for each in said.lines), name
    bar = rf"calibrating {BAR}.* [1-9] of 1\d layers"
    assert any(re.match(bar, each) for each in said.lines)
    assert COLOUR not in said.err and find_hash(said.out)


@pytest.mark.parametrize(
    ("options", "variables"), [(["--json"], {}), ([], {"TERM": "dumb"})], ids=["json", "dumb"]
)
def test_without_a_place_for_bars_there_are_lines_on_a_terminal_too(
    environment, tmp_path, options, variables
) -> None:
    line = [*MESH, "manifest", NAME, *options]
    said = run_on_terminal(line, {**environment, "HF_HOME": str(tmp_path), **variables})
    assert said.code == 0, said.err
    assert mask_times(said.lines) == FIRST_AND_LAST
    assert ESCAPE not in said.err and BAR not in said.err
    assert not options or json.loads(said.out)["manifest_hash"]


def test_a_download_that_breaks_off_is_said_to_have_stopped(tmp_path) -> None:
    place = tmp_path / "model"
    shutil.copytree(shipped_model_path(), place)
    (place / "model.safetensors").write_bytes(bytes(4000))
    with open_hub(NAME, place, cut={"model.safetensors": 1000}) as url:
        variables = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        said = run_in_pipe([*MESH, "manifest", NAME], variables)
    lines = mask_times(said.lines)
    assert said.code == 1
    assert "downloading model.safetensors: 4.0 kB" in lines
    assert any(re.match(r"downloading .*: stopped at .* of 4\.0 kB after # s", x) for x in lines)
    assert not any(": done" in line for line in lines)


def test_log_lines_stay_whole_beside_a_bar_and_the_file_has_the_work(tmp_path) -> None:
    said = run_script(LOGS_BESIDE, "pretty", str(tmp_path / "log"), NO_COLOR="1")
    assert any(line.startswith("loading the weights 0:8 ") and BAR in line for line in said.lines)
    logged = [line for line in said.lines if " [info " in line]
    assert len(logged) == 12 and not any(BAR in line for line in logged)
    for letter in "abcdefghij":
        assert sum(line.rstrip().endswith(f"place={letter * 9}") for line in logged) == 1
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    first, last = events[0], events[-1]
    assert (first["event"], first["stage"], first["amount"]) == (
        "loading the weights",
        "begun",
        "100 layers",
    )
    assert (last["stage"], last["blocks"]) == ("done", "0:8") and last["seconds"] >= 1


def test_json_logs_have_no_bar_beside_them(tmp_path) -> None:
    said = run_script(LOGS_BESIDE, "json", str(tmp_path / "log"))
    assert ESCAPE not in said.err
    assert [json.loads(line)["event"] for line in said.lines].count("seen") == 10


def test_below_log_lines_the_bar_stands_above_the_summary_on_one_display(tmp_path) -> None:
    said = run_script(UNDER_SUMMARY, str(tmp_path), NO_COLOR="1")
    drawn = [index for index, line in enumerate(said.lines) if BAR in line]
    assert drawn and all(said.lines[index + 1] == "THE SUMMARY" for index in drawn)
    assert said.lines[-1] == "THE SUMMARY"
