"""The library's JSON-RPC client, held to one runtime, with its errors as this package's.

What substrate-interface, its codec and the socket raise is turned into ChainUnavailable,
ChainMismatch or RpcRefused here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scalecodec.base import RuntimeConfigurationObject
from scalecodec.exceptions import (
    InvalidScaleTypeValueException,
    MetadataCallFunctionNotFound,
    RemainingScaleBytesNotEmptyException,
)
from substrateinterface import SubstrateInterface
from substrateinterface.exceptions import StorageFunctionNotFound, SubstrateRequestException
from websocket import (
    WebSocketBadStatusException,
    WebSocketException,
    WebSocketTimeoutException,
)

from subnet.chain.bounded_socket import BoundedSocket
from subnet.chain.codec import ChainRuntime, load_runtime
from subnet.chain.rpc_errors import AnotherChain, ConnectionBroken, RpcRefused
from subnet.errors import ChainMismatch, ChainUnavailable

logger = logging.getLogger(__name__)

MAX_ERROR_CHARS = 200
"""What is kept of a text that an endpoint sent along with a refusal."""

# The library trips over answers of another shape than it expects. It raises
# NotImplementedError for an unknown type, AssertionError for a storage key of another item,
# RecursionError for a type that holds itself.
_UNREADABLE = (
    InvalidScaleTypeValueException,
    RemainingScaleBytesNotEmptyException,
    NotImplementedError,
    RecursionError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
)

# What a session has until it has read the runtime. Never changed, and slow to make.
_NO_TYPES = RuntimeConfigurationObject()

# The library logs every request, keys and all, on the root logger.
logging.getLogger("substrateinterface").setLevel(logging.WARNING)


class EndpointClient(SubstrateInterface):  # type: ignore[misc]
    """The library's client, held to the runtime that was read when the session began."""

    def init_runtime(self, block_hash: str | None = None, block_id: int | None = None) -> None:
        """The runtime is set by the session; the library would look it up for every block."""

    def reload_type_registry(
        self, use_remote_preset: bool = True, auto_discover: bool = True
    ) -> None:
        """The types come with the runtime; the library would guess them from the chain's name."""

    def rpc_request(self, method: str, params: list[Any], result_handler: Any = None) -> Any:
        try:
            with translate_transport(self.url):
                return super().rpc_request(method, params, result_handler)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            # The library reads an empty message out of a connection that was closed in order.
            if not self.websocket.connected:
                raise ConnectionBroken(f"{self.url} closed the connection") from error
            raise ChainUnavailable(f"{self.url} sent something that is not JSON-RPC") from error

    def close(self) -> None:
        try:
            super().close()
        finally:
            # The library leaves a socket open that the other end has closed.
            self.websocket.shutdown()


@contextmanager
def translate_transport(url: str) -> Iterator[None]:
    """Turn what the socket and the transport raise into ChainUnavailable or RpcRefused."""
    try:
        yield
    except SubstrateRequestException as error:
        raise _read_refusal(error) from error
    except (WebSocketTimeoutException, TimeoutError) as error:
        raise ChainUnavailable(f"{url} does not answer in time") from error
    except WebSocketBadStatusException as error:
        # The library's own text holds the whole page.
        raise ChainUnavailable(
            f"{url} answers like a web server (HTTP {error.status_code}), not like a chain"
        ) from error
    except (WebSocketException, OSError) as error:
        detail = _shorten(str(error) or type(error).__name__)
        raise ConnectionBroken(f"{url} does not answer: {detail}") from error


@contextmanager
def translate_decoding(url: str) -> Iterator[None]:
    """Turn what the library raises over an answer into ChainMismatch or ChainUnavailable."""
    try:
        yield
    except (StorageFunctionNotFound, MetadataCallFunctionNotFound) as error:
        raise ChainMismatch(f"the chain's runtime lacks what is asked: {error}") from error
    except _UNREADABLE as error:
        logger.debug("an answer of %s cannot be read", url, exc_info=True)
        detail = _shorten(f"{type(error).__name__}: {error}")
        raise ChainUnavailable(f"{url} sent what cannot be read: {detail}") from error


def _read_refusal(error: SubstrateRequestException) -> RpcRefused:
    detail = error.args[0] if error.args else ""
    if not isinstance(detail, dict):
        return RpcRefused(0, _shorten(str(detail)))
    code = detail.get("code")
    data = detail.get("data")
    return RpcRefused(
        code if isinstance(code, int) else 0,
        _shorten(str(detail.get("message", ""))),
        "" if data is None else _shorten(str(data)),
    )


def _shorten(text: str) -> str:
    """Return the text in one line of bounded length."""
    line = " ".join(text[: 4 * MAX_ERROR_CHARS].split())
    return line if len(line) <= MAX_ERROR_CHARS else f"{line[:MAX_ERROR_CHARS]}..."


def open_client(url: str, *, timeout_s: float) -> EndpointClient:
    """Connect; no answer may take longer than ``timeout_s``.

    Raises ChainUnavailable, RpcRefused.
    """
    with translate_transport(url):
        return EndpointClient(
            url=url,
            runtime_config=_NO_TYPES,
            auto_discover=False,
            auto_reconnect=False,
            ws_options={
                "timeout": timeout_s,
                "enable_multithread": True,
                # The text is decoded strictly all the same; the library would first look at
                # each of the metadata's bytes in Python.
                "skip_utf8_validation": True,
                "class_": BoundedSocket,
            },
        )


def read_runtime(client: EndpointClient, url: str, expected_genesis: bytes | None) -> ChainRuntime:
    """Read the runtime of the head, and hold the client to it.

    Raises AnotherChain, ChainMismatch, and what a request raises.
    """

    def ask(method: str, *params: object) -> Any:
        return client.rpc_request(method, list(params)).get("result")

    genesis = ask("chain_getBlockHash", 0)
    if not isinstance(genesis, str):
        raise ChainMismatch(f"{url} does not describe its chain")
    genesis_hash = bytes.fromhex(genesis[2:])
    if expected_genesis is not None and genesis_hash != expected_genesis:
        raise AnotherChain(
            f"{url} serves another chain: its genesis is 0x{genesis_hash.hex()},"
            f" not 0x{expected_genesis.hex()}"
        )
    metadata = ask("state_getMetadata")
    version = ask("state_getRuntimeVersion")
    if not isinstance(metadata, str):
        raise ChainMismatch(f"{url} does not describe its chain")
    runtime = load_runtime(genesis_hash, bytes.fromhex(metadata[2:]))
    client.metadata = runtime.metadata
    client.runtime_config = runtime.types
    client.runtime_version = version["specVersion"]
    client.transaction_version = version["transactionVersion"]
    return runtime
