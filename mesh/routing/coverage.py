"""How many servers each layer of the model has."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from mesh.model.config import LayerSpan


def count_servers(spans: Iterable[LayerSpan], *, num_layers: int) -> tuple[int, ...]:
    """Return for each layer how many of the half-open ``spans`` hold it.

    What a server announces beyond the model's layers does not count.
    """
    changes = [0] * (num_layers + 1)
    for span in spans:
        changes[min(span.start, num_layers)] += 1
        changes[min(span.end, num_layers)] -= 1
    return tuple(accumulate(changes[:num_layers]))
