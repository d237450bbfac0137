"""How a request to an endpoint fails, beside the errors that the whole node knows."""

from __future__ import annotations

from subnet.errors import ChainError, ChainMismatch, ChainUnavailable

METHOD_NOT_FOUND = -32601
_TOO_MANY_REQUESTS = 429
_ENDPOINT_CODES = range(-32099, -31999)
"""JSON-RPC leaves these to servers; nodes and proxies use them for limits and lacking state."""


class RpcRefused(ChainError):
    """The node answered a request with an error."""

    def __init__(self, code: int, message: str, data: str = "") -> None:
        super().__init__(f"{message} {data}".strip())
        self.code = code
        self.message = message
        self.data = data

    @property
    def is_about_endpoint(self) -> bool:
        """Whether the request was refused by this endpoint only, whatever was in it."""
        return self.code in _ENDPOINT_CODES or self.code in (METHOD_NOT_FOUND, _TOO_MANY_REQUESTS)


class PoolRefused(RpcRefused):
    """The transaction pool would not take an extrinsic, or let it fall."""


class SessionEnded(ChainUnavailable):
    """The session is over, and the same endpoint may well serve a new one."""


class ConnectionBroken(SessionEnded):
    """The connection could not be made or was closed."""


class RuntimeUpgraded(SessionEnded):
    """The chain runs another runtime than this session read; a new session reads the new one."""


class AnotherChain(ChainMismatch):
    """The endpoint's genesis is not the one that was expected."""
