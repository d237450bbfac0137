"""Work on weights ends when nobody wants it any more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mesh.model.abandon import Abandoned, run_abandonable
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.manifest import build_manifest
from mesh.model.weights import load_shard
from tests.support.calibrations import make_calibration


class Patience:
    """Wanted a few times, then not."""

    def __init__(self, times):
        self.left = times

    def __call__(self):
        self.left -= 1
        if self.left < 0:
            raise Abandoned("enough")


@pytest.mark.parametrize("quant_type", ["none", "int8", "int4"])
def test_loading_is_given_up_between_two_tensors(make_checkpoint, quant_type):
    folder = make_checkpoint()
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    patience = Patience(3)
    with pytest.raises(Abandoned):
        load_shard(located, config, start=0, end=6, quant_type=quant_type, check_wanted=patience)
    assert patience.left == -1


def test_hashing_is_given_up_between_two_pieces(make_checkpoint):
    folder = make_checkpoint()
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    patience = Patience(3)
    with pytest.raises(Abandoned):
        build_manifest(
            located,
            config,
            model_name="tiny",
            revision="1",
            constants={},
            calibration=make_calibration(6),
            check_wanted=patience,
        )
    assert patience.left == -1


async def test_cancelled_work_ends_in_its_thread():
    has_begun, has_ended = threading.Event(), threading.Event()

    def work(check_wanted):
        has_begun.set()
        try:
            while True:
                check_wanted()
                threading.Event().wait(0.001)
        finally:
            has_ended.set()

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(run_abandonable(work))
        await asyncio.to_thread(has_begun.wait)
        waiting.cancel()
    assert waiting.cancelled()
    assert has_ended.is_set()


async def test_work_that_is_wanted_returns_or_raises_as_it_does():
    assert await run_abandonable(lambda check_wanted: check_wanted() or 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_abandonable(lambda check_wanted: 1 / 0)
