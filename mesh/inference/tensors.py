"""Conversion of hidden states and logits to raw little-endian bytes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mesh.inference.wire import MAX_STEP_ROWS, HiddenRows
from mesh.model.weights import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def view_bytes(rows: Tensor) -> memoryview:
    """Return the bytes of ``rows`` [rows, values] on the CPU."""
    values: Any = rows.contiguous().view(torch.uint8).numpy()
    return memoryview(values).cast("B")


class HiddenBuffer:
    """Converts the hidden states of a batch through one tensor on the CPU and a view of its bytes.

    Making a tensor of bytes, or bytes of a tensor, takes several calls into torch for every
    session. Copying into memory that both share takes one call for the whole batch.

    Rows are read as ``dtype`` and written as ``sent``, which is ``dtype`` if it is None.
    """

    def __init__(
        self, hidden_size: int, dtype: torch.dtype, *, sent: torch.dtype | None = None
    ) -> None:
        self._hidden_size = hidden_size
        self._dtype_name = _NAMES[dtype]
        self._row_size = hidden_size * dtype.itemsize
        self._tensor = torch.empty(0, hidden_size, dtype=dtype)
        self._grow(MAX_STEP_ROWS)
        self._narrow = None
        if sent is not None and sent != dtype:
            self._narrow = HiddenBuffer(hidden_size, sent)

    @property
    def sent_row_size(self) -> int:
        """The bytes of one row that is written."""
        return self._row_size if self._narrow is None else self._narrow.sent_row_size

    def read(self, pieces: Sequence[HiddenRows]) -> Tensor:
        """Return the rows of all pieces, [rows, hidden_size], until the next call of anything.

        A piece of another dtype is rounded. The sizes were checked where the frames were decoded.
        """
        count = sum([piece.rows for piece in pieces])
        self._grow(count)
        first = 0
        for piece in pieces:
            end = first + piece.rows
            if piece.dtype == self._dtype_name:
                self._bytes[first * self._row_size : end * self._row_size] = piece.data
            else:
                values = torch.frombuffer(bytearray(piece.data), dtype=DTYPES[piece.dtype])
                self._tensor[first:end] = values.view(piece.rows, self._hidden_size)
            first = end
        return self._tensor[:count]

    def write(self, hidden: Tensor) -> None:
        """Take the rows of a batch, [rows, hidden_size], from any device; waits for it."""
        if self._narrow is not None:
            return self._narrow.write(hidden)
        self._grow(hidden.shape[0])
        self._tensor[: hidden.shape[0]].copy_(hidden)

    def cut(self, first: int, rows: int) -> HiddenRows:
        """Return a copy of some of the rows that were written."""
        if self._narrow is not None:
            return self._narrow.cut(first, rows)
        start, end = first * self._row_size, (first + rows) * self._row_size
        return HiddenRows(rows, self._dtype_name, bytes(self._bytes[start:end]))

    def _grow(self, rows: int) -> None:
        if rows > self._tensor.shape[0]:
            self._tensor = torch.empty(rows, self._hidden_size, dtype=self._tensor.dtype)
            self._bytes = view_bytes(self._tensor)
