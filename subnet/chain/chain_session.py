"""One blocking WebSocket session with a Substrate endpoint. It belongs to one thread.

What goes wrong leaves as one of three errors: ChainUnavailable for anything about the
connection or an answer that cannot be decoded, ChainMismatch for a runtime that lacks what is
asked, RpcRefused for a request that the node answered with an error. The translation is in
endpoint_client.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from substrateinterface import Keypair, KeypairType
from websocket import WebSocketException

from keys.account import AccountKey
from subnet.chain.block_time import DEFAULT_BLOCK_TIME_MS
from subnet.chain.codec import ChainRuntime
from subnet.chain.endpoint_client import (
    EndpointClient,
    open_client,
    read_runtime,
    translate_decoding,
)
from subnet.chain.events import ChainEvent, parse_event
from subnet.chain.extrinsics import Call, SignedExtrinsic, choose_era
from subnet.chain.interface import check_interface
from subnet.chain.items import Item
from subnet.chain.rpc_errors import (
    PoolRefused,
    RpcRefused,
    RuntimeUpgraded,
)
from subnet.errors import ChainMismatch, ChainUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

MAX_MAP_PAGES = 64
MAP_PAGE_SIZE = 256
SILENT_BLOCKS = 4
"""Blocks without a word about a sent extrinsic after which the connection counts as broken."""
DEVELOPMENT_CHAIN_TYPE = "Development"
RUNTIME_UPDATED = "0x08"
"""DigestItem::RuntimeEnvironmentUpdated (sp-runtime, generic::digest)."""

MAX_KNOWN_BLOCKS = 64
MAX_KNOWN_ITEMS = 64
MAX_KNOWN_MAPS = 4
"""Whole maps that are kept: readers of one epoch ask for the same ones at the same block."""


class Recent(dict[K, V]):
    """The last ``limit`` values that were put in: what a block's hash names never changes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        while len(self) > self._limit:
            del self[next(iter(self))]


@dataclass(frozen=True, slots=True)
class Header:
    """The parts of a block header that the client uses.

    ``has_new_runtime`` tells that the block changed the runtime.
    """

    number: int
    parent_hash: str
    has_new_runtime: bool = False


def make_header(number: int, parent_hash: str, logs: Iterable[object]) -> Header:
    """Return a header; ``logs`` are the digest's items, 0x and hexadecimal."""
    is_new = any(str(log).startswith(RUNTIME_UPDATED) for log in logs)
    return Header(number, parent_hash, has_new_runtime=is_new)


class ChainSession:
    """An open connection and the runtime behind it. Every method blocks."""

    def __init__(self, client: EndpointClient, *, url: str, runtime: ChainRuntime) -> None:
        self._client = client
        self._opened_at = 0
        self._head: tuple[Header, str] | None = None
        self._final = -1
        self._numbers = Recent[str, int](MAX_KNOWN_BLOCKS)
        self._final_hashes = Recent[int, str](MAX_KNOWN_BLOCKS)
        self._timestamps = Recent[str, int](MAX_KNOWN_BLOCKS)
        self._items = Recent[tuple[Item, str], Any](MAX_KNOWN_ITEMS)
        self._maps = Recent[tuple[Any, ...], list[tuple[Any, Any]]](MAX_KNOWN_MAPS)
        self.url = url
        self.runtime = runtime

    @classmethod
    def open(cls, url: str, *, timeout_s: float, expected_genesis: bytes | None) -> ChainSession:
        """Connect and read the runtime. No answer may take longer than ``timeout_s``.

        Raises ChainUnavailable, ChainMismatch, RpcRefused.
        """
        client = open_client(url, timeout_s=timeout_s)
        try:
            with translate_decoding(url):
                runtime = read_runtime(client, url, expected_genesis)
                check_interface(runtime, url=url)
                session = cls(client, url=url, runtime=runtime)
                session._opened_at = session.read_header(session.read_head_hash()).number
        except BaseException:
            client.close()
            raise
        return session

    def run(self, work: Callable[[ChainSession], T]) -> T:
        """Return what ``work`` returns, called with this session.

        Raises ChainMismatch for a call or storage item that the runtime lacks, ChainUnavailable
        for an answer that cannot be read, and what the methods of the session raise.
        """
        with translate_decoding(self.url):
            return work(self)

    @property
    def block_time_ms(self) -> int:
        """The target time between blocks: twice Timestamp.MinimumPeriod."""
        minimum = self.read_constant("Timestamp.MinimumPeriod")
        return 2 * int(minimum) if minimum else DEFAULT_BLOCK_TIME_MS

    def close(self) -> None:
        """Close the socket. Never raises."""
        try:
            self._client.close()
        except (WebSocketException, OSError) as error:
            logger.debug("closing %s: %s", self.url, error)

    def abort(self) -> None:
        """Wake the thread that waits for an answer; callable from another thread."""
        self._client.websocket.abort()

    def rpc(self, method: str, *params: object) -> Any:
        """Send one request and return its result. Raises RpcRefused."""
        return self._client.rpc_request(method, list(params)).get("result")

    def read_head_hash(self) -> str:
        return str(self.rpc("chain_getBlockHash"))

    def read_head(self) -> tuple[Header, str]:
        """Return the best block. Raises RuntimeUpgraded once it runs on another runtime.

        A block tells that it changed the runtime, so the version is asked for only where blocks
        between this head and the one before were not read: two requests for each block in order.
        """
        block_hash = self.read_head_hash()
        if self._head is not None and self._head[1] == block_hash:
            return self._head
        return self.take_head(self.read_header(block_hash), block_hash)

    def take_head(self, header: Header, block_hash: str) -> tuple[Header, str]:
        """Make this block the newest that is known. Raises RuntimeUpgraded as ``read_head``."""
        if header.has_new_runtime and header.number > self._opened_at:
            raise RuntimeUpgraded(f"block {header.number} of {self.url} brought another runtime")
        if self._head is None or self._head[1] != header.parent_hash:
            self.check_version()
        self._head = header, block_hash
        self._numbers[block_hash] = header.number
        return self._head

    def check_version(self) -> None:
        """Raise RuntimeUpgraded if the head's runtime is not the one that this session read."""
        version = self.rpc("state_getRuntimeVersion")
        known = self._client.runtime_version
        if version["specVersion"] != known:
            raise RuntimeUpgraded(
                f"{self.url} went from runtime {known} to {version['specVersion']}"
            )

    def read_finalised_number(self) -> int:
        """Return the number of the newest final block; one request if it was a head before."""
        block_hash = str(self.rpc("chain_getFinalizedHead"))
        number = self._numbers.get(block_hash)
        if number is None:
            number = self._numbers[block_hash] = self.read_header(block_hash).number
        self._final = max(self._final, number)
        return number

    def read_block_hash(self, number: int) -> str:
        """Return the hash of a block: of the newest head that was taken, or as the chain has it.

        Raises ChainUnavailable while the endpoint does not know the block.
        """
        if number > self._final and self._head is not None and self._head[0].number == number:
            return self._head[1]
        known = self._final_hashes.get(number)
        if known is not None:
            return known
        block_hash = self.rpc("chain_getBlockHash", number)
        if not isinstance(block_hash, str):
            raise ChainUnavailable(f"{self.url} does not know block {number}")
        if number <= self._final:
            self._final_hashes[number] = block_hash
        return block_hash

    def read_timestamp_ms(self, block_hash: str) -> int:
        """Return the timestamp in the state of a block."""
        now_ms = self._timestamps.get(block_hash)
        if now_ms is None:
            now_ms = int(self.read("Timestamp.Now", at=block_hash, default=True))
            self._timestamps[block_hash] = now_ms
        return now_ms

    def read_header(self, block_hash: str) -> Header:
        """Raises ChainUnavailable while the endpoint does not know the block."""
        header = self.rpc("chain_getHeader", block_hash)
        if not header:
            raise ChainUnavailable(f"{self.url} does not know block {block_hash}")
        logs = header.get("digest", {}).get("logs", [])
        return make_header(int(header["number"], 16), str(header["parentHash"]), logs)

    def read_extrinsics(self, block_hash: str) -> list[bytes]:
        """Return the encoded extrinsics of a block, in order."""
        block = self.rpc("chain_getBlock", block_hash)
        if not block:
            raise ChainUnavailable(f"{self.url} does not know block {block_hash}")
        return [bytes.fromhex(item[2:]) for item in block["block"]["extrinsics"]]

    def read_chain_type(self) -> str:
        """``Development``, ``Local`` or ``Live``; empty if the endpoint does not say."""
        try:
            answer = self.rpc("system_chainType")
        except RpcRefused:
            return ""
        return str(answer)

    def read(self, item: str, *params: object, at: str | None, default: bool = False) -> Any:
        """Return the value of the storage item ``Pallet.Item``.

        None when the chain holds no value, unless ``default`` asks for the one in the metadata.
        """
        pallet, name = item.split(".")
        found = self._client.query(pallet, name, list(params), block_hash=at)
        if found is None:
            return None
        if not default and not found.meta_info["result_found"]:
            return None
        return found.value

    def read_map(self, item: str, *params: object, at: str) -> list[tuple[Any, Any]]:
        """Return every (last key, value) under the given first keys, at the block hash ``at``."""
        known = self._maps.get((item, params, at))
        if known is None:
            known = self._maps[item, params, at] = self._read_pages(item, params, at)
        return known

    def _read_pages(self, item: str, params: Sequence[object], at: str) -> list[tuple[Any, Any]]:
        pallet, name = item.split(".")
        rows = self._client.query_map(
            pallet,
            name,
            list(params),
            block_hash=at,
            page_size=MAP_PAGE_SIZE,
            max_results=MAP_PAGE_SIZE * MAX_MAP_PAGES,
            ignore_decoding_errors=False,
        )
        return [(key.value, value.value) for key, value in rows]

    def read_items(self, items: Sequence[Item], *, at: str) -> list[Any]:
        """Return the value of each item, in order, as ``read`` does, with one request for all.

        What was read lately at the same block is not asked for again. At most MAX_KNOWN_ITEMS.
        """
        missing = [item for item in items if (item, at) not in self._items]
        values = {item: self._items[item, at] for item in items if item not in missing}
        if missing:
            keys = {self._make_key(item).to_hex(): item for item in missing}
            storage_keys = [self._make_key(item) for item in missing]
            for key, found in self._client.query_multi(storage_keys, at):
                item = keys[key.to_hex()]
                is_there = item.default or found.meta_info["result_found"]
                values[item] = self._items[item, at] = found.value if is_there else None
        return [values[item] for item in items]

    def _make_key(self, item: Item) -> Any:
        pallet, name = item.name.split(".")
        return self._client.create_storage_key(pallet, name, list(item.keys))

    def read_many(self, item: str, keys: Sequence[object], *, at: str) -> list[Any]:
        """Return one value per key, in order; None where the chain holds none."""
        pallet, name = item.split(".")
        storage_keys = [self._client.create_storage_key(pallet, name, [key]) for key in keys]
        if not storage_keys:
            return []
        found = {
            key.to_hex(): None if value is None else value.value
            for key, value in self._client.query_multi(storage_keys, at)
        }
        return [found.get(key.to_hex()) for key in storage_keys]

    def read_constant(self, name: str) -> Any:
        """Return the constant ``Pallet.Name``; None if the runtime has none by that name."""
        pallet, constant = name.split(".")
        found = self._client.get_constant(pallet, constant)
        return None if found is None else found.value

    def read_events(self, block_hash: str) -> list[tuple[int | None, ChainEvent]]:
        """Return (extrinsic index, event) for every event of a block, in order."""
        records = self.read("System.Events", at=block_hash) or []
        return [parse_event(record) for record in records]

    def read_nonce(self, account_id: bytes) -> int:
        """Return the next nonce of an account in the head's state."""
        raw = self.rpc("state_call", "AccountNonceApi_account_nonce", f"0x{account_id.hex()}")
        return int.from_bytes(bytes.fromhex(raw[2:]), "little")

    def encode_call(self, call: Call) -> bytes:
        """Return the SCALE bytes of a call. Raises ChainMismatch if the runtime has none such."""
        return bytes(self._compose(call).data.data)

    def sign(
        self, call: Call, key: AccountKey, *, end: int | None = None, tip: int = 0
    ) -> SignedExtrinsic:
        """Encode and sign ``call`` with the account's next nonce; ``tip`` in 10^-18 TENSOR.

        It may land in the 63 blocks after the newest final one, or, before block ``end``, in as
        many as ``choose_era`` says. Raises RuntimeUpgraded, ChainMismatch.
        """
        header, _ = self.read_head()
        final = self.read_finalised_number()
        since, lifetime = choose_era(header.number, final=final, end=end)
        nonce = self.read_nonce(key.account_id)
        era = {"period": lifetime, "current": since}
        composed = self._compose(call)
        pair = Keypair.create_from_private_key(key.private_key(), crypto_type=KeypairType.ECDSA)
        extrinsic = self._client.create_signed_extrinsic(
            composed, pair, nonce=nonce, era=era, tip=tip
        )
        return SignedExtrinsic(
            call=str(call),
            sender=key.account_id,
            nonce=nonce,
            data=bytes(extrinsic.data.data),
            since=since,
            until=since + lifetime,
        )

    def watch(self, extrinsic: SignedExtrinsic) -> str:
        """Send and wait until a block holds it; return the block's hash.

        Raises PoolRefused if the pool refuses it or lets it fall, RpcRefused if the endpoint takes
        none, ChainUnavailable when the connection breaks: then it may or may not land.
        """

        def on_update(message: dict[str, Any], number: int, subscription: str) -> str | None:
            block_hash = _read_status(message["params"]["result"])
            if block_hash is not None:
                self._client.rpc_request("author_unwatchExtrinsic", [subscription])
            return block_hash

        try:
            with self._patience(SILENT_BLOCKS * self.block_time_ms / 1000):
                return str(
                    self._client.rpc_request(
                        "author_submitAndWatchExtrinsic",
                        [f"0x{extrinsic.data.hex()}"],
                        result_handler=on_update,
                    )
                )
        except RpcRefused as error:
            if error.is_about_endpoint:
                raise
            raise PoolRefused(error.code, error.message, error.data) from error

    @contextmanager
    def _patience(self, silence_s: float) -> Iterator[None]:
        """Let the endpoint be silent for so long, instead of the time for an answer."""
        socket = self._client.websocket
        usual_s = socket.gettimeout()
        socket.settimeout(silence_s)
        try:
            yield
        finally:
            socket.settimeout(usual_s)

    def _compose(self, call: Call) -> Any:
        wanted = self.runtime.get_call_arguments(call.pallet, call.name)
        missing = [name for name in wanted if name not in call.arguments]
        if missing:
            raise ChainMismatch(
                f"the runtime's {call} wants {', '.join(missing)}, which this client does not know"
            )
        arguments = {name: call.arguments[name] for name in wanted}
        return self._client.compose_call(call.pallet, call.name, arguments)


_LOST_STATUSES = ("dropped", "invalid", "usurped", "finalitytimeout")


def _read_status(status: object) -> str | None:
    """Return the block's hash once the extrinsic is in one; None to go on waiting."""
    names = {status.lower(): None} if isinstance(status, str) else {}
    if isinstance(status, dict):
        names = {str(name).lower(): value for name, value in status.items()}
    for included in ("inblock", "finalized"):
        if included in names:
            return str(names[included])
    for lost in _LOST_STATUSES:
        if lost in names:
            raise RpcRefused(0, lost, "" if names[lost] is None else str(names[lost]))
    return None
