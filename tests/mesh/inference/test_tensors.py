"""Hidden states between bytes and tensors: same bits, any dtype, any number of rows."""

from __future__ import annotations

import pytest
import torch

from mesh.inference.tensors import HiddenBuffer, view_bytes
from mesh.inference.wire import MAX_STEP_ROWS, HiddenRows
from mesh.model.weights import DTYPES

HIDDEN = 48


def make_rows(count, dtype, *, seed=0):
    values = torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))
    return values.to(DTYPES[dtype])


def make_piece(rows, dtype):
    return HiddenRows(rows.shape[0], dtype, bytes(view_bytes(rows)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_keep_their_bits(dtype):
    buffer = HiddenBuffer(HIDDEN, DTYPES[dtype])
    first, second = make_rows(3, dtype, seed=1), make_rows(1, dtype, seed=2)
    pieces = [make_piece(first, dtype), make_piece(second, dtype)]
    rows = buffer.read(pieces).clone()
    assert torch.equal(rows, torch.cat((first, second)))
    buffer.write(rows)
    assert [buffer.cut(0, 3), buffer.cut(3, 1)] == pieces


@pytest.mark.parametrize("sent", DTYPES)
@pytest.mark.parametrize("own", DTYPES)
def test_rows_of_another_dtype_are_rounded_to_ours(sent, own):
    rows = make_rows(2, sent)
    read = HiddenBuffer(HIDDEN, DTYPES[own]).read([make_piece(rows, sent)])
    assert torch.equal(read, rows.to(DTYPES[own]))


def test_more_rows_than_one_step_has_fit():
    buffer = HiddenBuffer(HIDDEN, torch.float32)
    pieces = [make_rows(MAX_STEP_ROWS, "float32", seed=seed) for seed in range(3)]
    rows = buffer.read([make_piece(piece, "float32") for piece in pieces]).clone()
    assert torch.equal(rows, torch.cat(pieces))
    other = HiddenBuffer(HIDDEN, torch.float32)
    other.write(rows)
    assert other.cut(2 * MAX_STEP_ROWS, MAX_STEP_ROWS) == make_piece(pieces[2], "float32")


def test_what_was_cut_stays_when_the_next_batch_comes():
    buffer = HiddenBuffer(HIDDEN, torch.float32)
    rows = make_rows(1, "float32")
    buffer.write(rows)
    cut = buffer.cut(0, 1)
    buffer.write(rows + 1)
    assert cut == make_piece(rows, "float32")


@pytest.mark.parametrize("rows", [1, 3], ids=["too many bytes", "too few bytes"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"], ids=["own dtype", "another dtype"])
def test_a_piece_whose_bytes_are_not_its_rows_shows_nobody_elses(dtype, rows):
    """Frames are checked where they are decoded; a mistake there must not end in a leak."""
    buffer = HiddenBuffer(HIDDEN, torch.float32)
    buffer.read([make_piece(make_rows(4, "float32"), "float32")])
    wrong = make_piece(make_rows(2, dtype), dtype)._replace(rows=rows)
    with pytest.raises((ValueError, RuntimeError)):
        buffer.read([wrong])


@pytest.mark.parametrize("sent", ["bfloat16", "float16"])
def test_a_float32_hoster_may_send_16_bits_and_still_reads_32(sent):
    buffer = HiddenBuffer(HIDDEN, torch.float32, sent=DTYPES[sent])
    rows = make_rows(5, "float32")
    buffer.write(rows)
    assert buffer.cut(1, 3) == make_piece(rows[1:4].to(DTYPES[sent]), sent)
    assert buffer.sent_row_size == 2 * HIDDEN
    assert torch.equal(buffer.read([make_piece(rows, "float32")]), rows)
