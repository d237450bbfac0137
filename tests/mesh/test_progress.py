"""Progress: what a reporter hears, in which words, and how often."""

from __future__ import annotations

import pytest

from mesh.progress import (
    BYTES,
    LINE_S,
    LineReporter,
    Stage,
    Work,
    describe_bytes,
    report_to,
    track,
)


def test_a_work_has_a_first_and_a_last_line_and_few_between() -> None:
    now_s, told = 0.0, []
    reporter = LineReporter(lambda work: told.append((now_s, work.stage)), clock=lambda: now_s)
    work = Work("loading", BYTES, 100, {})
    reporter.begin(work)
    for number in range(1, 41):
        now_s = number * LINE_S / 10
        reporter.step(work)
    reporter.end(work)
    assert [at_s for at_s, _ in told] == [0, LINE_S, 2 * LINE_S, 3 * LINE_S, 4 * LINE_S, now_s]


def test_a_work_that_raises_has_stopped_and_one_that_ends_is_done() -> None:
    told: list[tuple[str, Stage, int]] = []
    tell = LineReporter(lambda work: told.append((work.name, work.stage, work.done)))
    before = report_to(tell)
    try:
        with pytest.raises(ValueError, match="broken"), track("a", total=3, unit="rows") as step:
            step(2)
            raise ValueError("broken")
        with track("b", total=None, unit="rows") as step:
            step(2)
            step(1)
    finally:
        assert report_to(before) is tell
    assert told == [
        ("a", Stage.BEGUN, 0),
        ("a", Stage.STOPPED, 2),
        ("b", Stage.BEGUN, 0),
        ("b", Stage.DONE, 3),
    ]
    assert not tell._told_s


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (0, 999, "0 of 999 B"),
        (93_000_000, None, "93.0 MB"),
        (120_000_000, 269_000_000, "120 of 269 MB"),
        (100_000_000, 1_400_000_000, "0.1 of 1.4 GB"),
        (0, 2_000_000_000_000_000, "0 of 2000 TB"),
    ],
)
def test_bytes_are_said_in_the_unit_of_the_larger_number(
    done: int, total: int | None, text: str
) -> None:
    assert describe_bytes(done, total) == text
