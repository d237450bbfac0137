"""Hidden states as raw little-endian bytes and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mesh.inference.wire import StepFrame
from mesh.model.weights import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def get_dtype_name(dtype: torch.dtype) -> str:
    """Return ``float32``, ``bfloat16`` or ``float16``."""
    return _NAMES[dtype]


def view_bytes(hidden: Tensor) -> memoryview:
    """Return the bytes of ``hidden`` [rows, hidden_size] on the CPU."""
    rows: Any = hidden.contiguous().view(torch.uint8).numpy()
    return memoryview(rows).cast("B")


def read_hidden(step: StepFrame, hidden_size: int) -> Tensor:
    """Return the rows of a decoded frame, [rows, hidden_size]; the size was checked there."""
    flat = torch.frombuffer(bytearray(step.data), dtype=DTYPES[step.dtype])
    return flat.view(step.rows, hidden_size)
