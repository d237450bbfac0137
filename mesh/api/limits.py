"""Every limit of the gateway in one place, as an operator may change them."""

from __future__ import annotations

from dataclasses import dataclass

MAX_STOP_SEQUENCES = 8
MAX_STOP_LENGTH = 512
"""Characters of one stop sequence."""
MAX_CHOICES = 8
MAX_GENERATIONS_PER_REQUEST = 32
MAX_EMBEDDED_TEXTS = 256
MAX_EMBEDDED_TOKENS = 1 << 16
"""Of all texts of one request."""
MAX_MESSAGES = 2048
MAX_TEMPERATURE = 2.0
DEFAULT_ANSWER_TOKENS = 1024
"""Longest chat answer where the caller names none: hosters reserve their cache for all of it."""
MAX_HEAD_BYTES = 32 << 10
MAX_KEPT_RESPONSES = 1024
MAX_KEPT_RESPONSES_OF_KEY = 256
MAX_KEPT_RESPONSE_BYTES = 64 << 20
MAX_KEPT_RESPONSE_BYTES_OF_KEY = 16 << 20
KEEP_RESPONSES_S = 24 * 3600.0
"""Of responses that their callers asked to keep: how many, of all and of one key, how much of
memory, and how long.
"""
MAX_KEYS = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are in seconds, sizes in bytes.

    ``max_generations`` run at once, ``max_waiting`` requests wait for a place, the next is told
    to come back. ``max_generations_per_key`` keeps one key from taking every place. A reader who
    takes nothing for ``send_timeout_s`` loses the connection, so that its cache is freed. A stream
    whose first event takes longer than ``stream_start_s`` begins with comments.
    """

    max_connections: int = 1024
    max_requests: int = 512
    max_body_bytes: int = 2 << 20
    max_generations: int = 64
    max_generations_per_key: int = 32
    max_waiting: int = 256
    max_wait_s: float = 30.0
    head_timeout_s: float = 10.0
    body_timeout_s: float = 20.0
    send_timeout_s: float = 30.0
    keep_alive_s: float = 15.0
    generation_timeout_s: float = 900.0
    drain_s: float = 20.0
    sse_comment_s: float = 10.0
    stream_start_s: float = 2.0
