"""The summary on mesh-test's terminal is of this process and leaves the cursor alone."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from subnet.cli import live_summary
from subnet.cli.live_summary import show_summary
from subnet.operator.status import NodeStatus, write_status


def keep(place: Path, *, written_at: float) -> None:
    status = NodeStatus(
        peer_id="12D3KooWLaunchPeer",
        subnet_id=128001,
        subnet_node_id=3,
        role="hoster",
        blocks=(0, 8),
        written_at=written_at,
        head=41,
        head_moved_at=written_at,
        block_time_s=6.0,
        epoch=2,
        phase="commit",
        taking_part="active",
        addresses=(),
    )
    write_status(place, status)


def render(place: Path, *, started_s: float) -> str:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(live_summary._render(place, started_s=started_s))
    return capture.get()


def test_what_an_earlier_process_left_is_not_shown(tmp_path: Path) -> None:
    now_s = time.time()
    assert render(tmp_path, started_s=now_s).strip() == ""
    keep(tmp_path, written_at=now_s - 1)
    assert render(tmp_path, started_s=now_s).strip() == ""
    keep(tmp_path, written_at=now_s + 1)
    assert "node 3 of subnet 128001: hoster blocks 0:8" in render(tmp_path, started_s=now_s)


async def test_an_error_of_the_node_comes_through_and_the_cursor_is_never_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(ExceptionGroup) as raised:
        async with show_summary(tmp_path):
            raise ValueError("the node broke")
    assert raised.group_contains(ValueError, match="the node broke")
    assert "\x1b[?25l" not in capsys.readouterr().err
