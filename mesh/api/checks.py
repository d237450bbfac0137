"""The checks that a process reports to its monitors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One thing that a process needs before it can do its work; ``detail`` says what is missing.

    It is shown to monitors as JSON with these fields.
    """

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Monitored:
    """Its metrics as text, and its checks. Both are instant."""

    render: Callable[[], bytes]
    list_checks: Callable[[], Sequence[HealthCheck]]


@dataclass(frozen=True, slots=True)
class ShownMetrics:
    """Metrics on the API's port; ``token`` is what readers send where the API has no keys."""

    render: Callable[[], bytes]
    token: str | None = field(default=None, repr=False)
