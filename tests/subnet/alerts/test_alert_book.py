"""Each alert is told once until it clears, also over restarts."""

from __future__ import annotations

import stat

import pytest

from consensus.missed import OwedDuty
from subnet.alerts.book import ALERTS_FILE, MAX_DETAIL, NAMES, AlertBook, AlertKind, AlertName

DISK = AlertName(AlertKind.DISK_LOW)
COMMIT = AlertName(AlertKind.MISSED_DUTY, OwedDuty.OUTPUT_COMMIT)
REVEAL = AlertName(AlertKind.MISSED_DUTY, OwedDuty.OUTPUT_REVEAL)


def test_it_is_told_once_until_it_clears_and_then_again(tmp_path):
    book = AlertBook(tmp_path)
    first = book.set(DISK, "0.5 GiB free")
    assert first is not None and first.is_firing and first.detail == "0.5 GiB free"
    assert book.set(DISK, "0.4 GiB free") is None
    cleared = book.set(DISK, None)
    assert cleared is not None and not cleared.is_firing
    assert book.set(DISK, None) is None
    assert book.set(DISK, "again") is not None


def test_duties_do_not_hide_each_other(tmp_path):
    book = AlertBook(tmp_path)
    assert book.set(COMMIT, "epoch 1") and book.set(REVEAL, "epoch 1")
    assert book.set(COMMIT, None) and book.firing == {REVEAL}


def test_a_restart_tells_nothing_again_and_clears_what_is_over(tmp_path):
    AlertBook(tmp_path).set(DISK, "0.5 GiB free")
    again = AlertBook(tmp_path)
    assert again.set(DISK, "0.5 GiB free") is None
    assert again.set(DISK, None) is not None
    assert stat.S_IMODE((tmp_path / ALERTS_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"[", b"7", b'["no_such_alert"]', b"[[]]", b"[" * 20_000, b"\xff"]
)
def test_a_damaged_file_holds_nothing_and_is_replaced(content, tmp_path):
    (tmp_path / ALERTS_FILE).write_bytes(content)
    book = AlertBook(tmp_path)
    assert book.firing == set() and book.set(DISK, "full") is not None
    assert AlertBook(tmp_path).firing == {DISK}


def test_a_disk_that_takes_nothing_still_tells_once(tmp_path):
    book = AlertBook(tmp_path / "absent")
    assert book.set(DISK, "full") is not None
    assert book.set(DISK, "full") is None


def test_a_long_detail_is_cut_and_every_name_is_its_own_text(tmp_path):
    alert = AlertBook(tmp_path).set(DISK, "x" * 10_000)
    assert alert is not None and len(alert.detail) == MAX_DETAIL
    assert all(str(name) == text for text, name in NAMES.items())
    assert len(NAMES) == len(AlertKind) - 1 + len(OwedDuty)
