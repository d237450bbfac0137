"""JSON-RPC errors with the codes and messages of a Substrate node."""

from __future__ import annotations

from devchain.errors import DevchainError, InvalidTransaction

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
BAD_FORMAT = 1001
INVALID_TRANSACTION = 1010
UNKNOWN_BLOCK = 4003
TOO_MANY_SUBSCRIPTIONS = -32006
NOT_FOR_PAGES = -32005


class RpcError(DevchainError):
    """The answer to a request that cannot be served."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def to_json(self) -> dict[str, object]:
        """Return the response's error member."""
        body: dict[str, object] = {"code": self.code, "message": self.message}
        return body if self.data is None else {**body, "data": self.data}


def bad_params(reason: str) -> RpcError:
    """The parameters are not what the method takes."""
    return RpcError(INVALID_PARAMS, "Invalid params", reason)


def invalid_transaction(error: InvalidTransaction) -> RpcError:
    """The pool or the runtime refuses the extrinsic."""
    return RpcError(INVALID_TRANSACTION, "Invalid Transaction", error.reason.value)
