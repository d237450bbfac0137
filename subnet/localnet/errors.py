"""The error of a local network of which a part failed."""

from __future__ import annotations

from subnet.errors import ConfigError


class LocalnetFailed(ConfigError):
    """A part of the local network did not do what it should."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "run it again with --keep DIR and look at the logs there")
