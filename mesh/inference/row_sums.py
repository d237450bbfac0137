"""Sums along rows whose bits depend neither on other rows nor on the number of threads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def reduce_rows(reduce: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Return ``reduce`` of ``rows`` [rows, values], which has a result for each of them.

    On a CPU torch divides a row of 32,768 values or more between its threads if it is the only one,
    and of several rows none. So a row alone is taken twice.
    """
    is_divided = rows.shape[0] == 1 and rows.device.type == "cpu" and torch.get_num_threads() > 1
    return reduce(rows.expand(2, -1))[:1] if is_divided else reduce(rows)
