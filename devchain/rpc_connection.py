"""One client's JSON-RPC connection: requests, responses, subscriptions. No sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from devchain import rpc_answers, rpc_errors
from devchain.block_producer import MAX_NEW_BLOCKS, BlockProducer
from devchain.blocks import Block
from devchain.chain import Rejected
from devchain.config import BlockMode
from devchain.errors import InvalidTransaction
from devchain.extrinsics import SignedExtrinsic
from devchain.rpc_errors import RpcError, bad_params, invalid_transaction
from devchain.rpc_methods import MAX_QUERY_KEYS, METHODS
from devchain.rpc_parameters import RpcParameters, to_hex
from devchain.scale import ScaleError
from devchain.transaction_pool import PoolRefusal

MAX_SUBSCRIPTIONS = 256
MAX_OUTBOX = 8192
MAX_BATCH = 64
STEERING = "dev_"
"""Prefix of the methods that build blocks and set the clock."""
MAX_TIMESTAMP_MS = 253_402_300_799_000

logger = logging.getLogger(__name__)


@dataclass
class Subscription:
    """One subscription. ``topic`` is the method name of its notifications."""

    topic: str
    on_block: Callable[[Subscription, Block, list[Rejected]], None] | None = None
    watched: SignedExtrinsic | None = None
    included_in: Block | None = None
    keys: list[bytes] = field(default_factory=list)
    last_values: dict[bytes, str | None] = field(default_factory=dict)
    finalised: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(8))


class RpcConnection:
    """Answers one client. ``outbox`` holds messages to send; a full one closes the connection.

    A client that is not ``may_steer`` reads and submits like any other, and makes no blocks.
    """

    def __init__(self, producer: BlockProducer, *, may_steer: bool = True) -> None:
        self._may_steer = may_steer
        self._producer = producer
        self._chain = producer.chain
        self._subscriptions: dict[str, Subscription] = {}
        self.outbox: asyncio.Queue[str] = asyncio.Queue(MAX_OUTBOX)
        self.is_too_slow = False
        self._methods: dict[str, Callable[[RpcParameters], Any]] = {
            "author_submitExtrinsic": self._submit,
            "author_submitAndWatchExtrinsic": self._submit_and_watch,
            "chain_subscribeAllHeads": self._subscribe_new,
            "chain_subscribeNewHead": self._subscribe_new,
            "chain_subscribeNewHeads": self._subscribe_new,
            "chain_subscribeFinalizedHeads": self._subscribe_finalised,
            "chain_subscribeFinalisedHeads": self._subscribe_finalised,
            "state_subscribeStorage": self._subscribe_storage,
            "state_subscribeRuntimeVersion": self._subscribe_runtime,
            "author_unwatchExtrinsic": self._unsubscribe,
            "dev_newBlock": self._new_block,
            "dev_setBlockMode": self._set_block_mode,
            "dev_timeTravel": self._time_travel,
            "rpc_methods": self._list_methods,
        }
        for name in [name for name in self._methods if "_subscribe" in name]:
            self._methods[name.replace("_subscribe", "_unsubscribe")] = self._unsubscribe

    def receive(self, message: str | bytes) -> None:
        """Answer one message: a request or a batch of them."""
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):
            self._respond(None, error=RpcError(rpc_errors.PARSE_ERROR, "Parse error"))
            return
        if isinstance(request, list) and 0 < len(request) <= MAX_BATCH:
            for part in request:
                self._answer(part)
        else:
            self._answer(request)

    def _answer(self, request: Any) -> None:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            self._respond(None, error=RpcError(rpc_errors.INVALID_REQUEST, "Invalid Request"))
            return
        request_id, parameters = request.get("id"), request.get("params") or []
        notify: list[Subscription] = []
        try:
            if not isinstance(parameters, list | dict):
                raise bad_params("params is a list or an object")
            result = self._call(request["method"], RpcParameters(parameters))
            if isinstance(result, Subscription):
                notify.append(result)
                result = result.id
        except RpcError as error:
            self._respond(request_id, error=error)
        except Exception:
            logger.exception("a request failed", extra={"method": request["method"]})
            self._respond(request_id, error=RpcError(rpc_errors.INTERNAL_ERROR, "Internal error"))
        else:
            self._respond(request_id, result=result)
            # The client must know the subscription's id before its first notification.
            for subscription in notify:
                self._greet(subscription)

    def _call(self, method: str, parameters: RpcParameters) -> Any:
        if method.startswith(STEERING) and not self._may_steer:
            reason = "pages of other hosts make no blocks on this chain"
            raise RpcError(rpc_errors.NOT_FOR_PAGES, "Not for this origin", reason)
        if method in METHODS:
            return METHODS[method](self._chain, parameters)
        if method in self._methods:
            return self._methods[method](parameters)
        raise RpcError(rpc_errors.METHOD_NOT_FOUND, "Method not found")

    def _respond(
        self, request_id: Any, *, result: Any = None, error: RpcError | None = None
    ) -> None:
        body = {"result": result} if error is None else {"error": error.to_json()}
        self._send({"jsonrpc": "2.0", "id": request_id, **body})

    def _notify(self, subscription: Subscription, result: Any) -> None:
        parameters = {"subscription": subscription.id, "result": result}
        self._send({"jsonrpc": "2.0", "method": subscription.topic, "params": parameters})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.outbox.put_nowait(json.dumps(message))
        except asyncio.QueueFull:
            self.is_too_slow = True

    def on_block(self, block: Block, rejected: list[Rejected]) -> None:
        """Tell every subscription about a new block."""
        for subscription in list(self._subscriptions.values()):
            if subscription.on_block is not None:
                subscription.on_block(subscription, block, rejected)

    def _list_methods(self, _parameters: RpcParameters) -> dict[str, list[str]]:
        return {"methods": sorted([*METHODS, *self._methods])}

    def _submit(self, parameters: RpcParameters) -> str:
        return to_hex(self._take(parameters.data(0, "extrinsic")).hash)

    def _submit_and_watch(self, parameters: RpcParameters) -> Subscription:
        self._check_room()
        extrinsic = self._take(parameters.data(0, "extrinsic"))
        return self._subscribe(
            Subscription("author_extrinsicUpdate", self._tell_extrinsic, watched=extrinsic)
        )

    def _take(self, raw: bytes) -> SignedExtrinsic:
        try:
            return self._producer.submit(raw)
        except ScaleError as error:
            reason = f"Extrinsic has invalid format: {error}"
            raise RpcError(rpc_errors.BAD_FORMAT, reason) from error
        except InvalidTransaction as error:
            raise invalid_transaction(error) from error
        except PoolRefusal as error:
            raise RpcError(error.code, error.message, error.data) from error

    def _check_room(self) -> None:
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            reason = f"at most {MAX_SUBSCRIPTIONS} subscriptions on one connection"
            raise RpcError(rpc_errors.TOO_MANY_SUBSCRIPTIONS, "Too many subscriptions", reason)

    def _subscribe(self, subscription: Subscription) -> Subscription:
        self._check_room()
        self._subscriptions[subscription.id] = subscription
        return subscription

    def _subscribe_new(self, _parameters: RpcParameters) -> Subscription:
        return self._subscribe(Subscription("chain_newHead", self._tell_head))

    def _tell_head(
        self, subscription: Subscription, block: Block, _rejected: list[Rejected]
    ) -> None:
        self._notify(subscription, rpc_answers.describe_header(block))

    def _subscribe_finalised(self, _parameters: RpcParameters) -> Subscription:
        number = self._chain.finalised.number
        topic = "chain_finalizedHead"
        return self._subscribe(Subscription(topic, self._tell_finalised, finalised=number))

    def _tell_finalised(
        self, subscription: Subscription, _block: Block, _rejected: list[Rejected]
    ) -> None:
        newest = self._chain.finalised.number
        for number in range(subscription.finalised + 1, newest + 1):
            self._notify(subscription, rpc_answers.describe_header(self._chain.blocks[number]))
        subscription.finalised = newest

    def _subscribe_storage(self, parameters: RpcParameters) -> Subscription:
        keys = parameters.data_list(0, "keys", limit=MAX_QUERY_KEYS)
        return self._subscribe(Subscription("state_storage", self._tell_changes, keys=keys))

    def _tell_changes(
        self, subscription: Subscription, block: Block, _rejected: list[Rejected]
    ) -> None:
        state = self._chain.ledger.state.at(block.number)
        values = {key: rpc_answers.read_storage(state, key) for key in subscription.keys}
        changes = [
            [to_hex(key), value]
            for key, value in values.items()
            if key not in subscription.last_values or subscription.last_values[key] != value
        ]
        subscription.last_values = values
        if changes:
            self._notify(subscription, {"block": to_hex(block.hash), "changes": changes})

    def _subscribe_runtime(self, _parameters: RpcParameters) -> Subscription:
        return self._subscribe(Subscription("state_runtimeVersion"))

    def _unsubscribe(self, parameters: RpcParameters) -> bool:
        return self._subscriptions.pop(parameters.text(0, "subscription"), None) is not None

    def _greet(self, subscription: Subscription) -> None:
        """Send the first notification of a new subscription."""
        match subscription.topic:
            case "chain_newHead":
                self._notify(subscription, rpc_answers.describe_header(self._chain.head))
            case "chain_finalizedHead":
                self._notify(subscription, rpc_answers.describe_header(self._chain.finalised))
            case "state_storage":
                self._tell_changes(subscription, self._chain.head, [])
            case "state_runtimeVersion":
                self._notify(subscription, rpc_answers.describe_runtime())
            case "author_extrinsicUpdate":
                self._notify(subscription, "ready")

    def _tell_extrinsic(
        self, subscription: Subscription, block: Block, rejected: list[Rejected]
    ) -> None:
        """Follow a watched extrinsic: in a block, final, or refused."""
        watched = subscription.watched
        if watched is None:
            return
        if any(item.extrinsic is watched for item in rejected):
            self._notify(subscription, "invalid")
            del self._subscriptions[subscription.id]
        elif subscription.included_in is None and watched.raw in block.extrinsics:
            subscription.included_in = block
            self._notify(subscription, {"inBlock": to_hex(block.hash)})
        included = subscription.included_in
        if included is not None and included.number <= self._chain.finalised.number:
            self._notify(subscription, {"finalized": to_hex(included.hash)})
            del self._subscriptions[subscription.id]

    def _new_block(self, parameters: RpcParameters) -> str:
        """Build blocks at once: ``{"count": n}``, ``[{"count": n}]`` or ``[n]``."""
        raw = parameters.raw
        if isinstance(raw, list) and raw and isinstance(raw[0], dict):
            parameters = RpcParameters(raw[0])
        count = parameters.integer(0, "count", default=1)
        if not 1 <= count <= MAX_NEW_BLOCKS:
            raise bad_params(f"count is 1 to {MAX_NEW_BLOCKS}")
        return to_hex(self._producer.build(count).hash)

    def _set_block_mode(self, parameters: RpcParameters) -> str:
        """Choose ``interval``, ``instant`` or ``manual``, and the seconds of an interval."""
        try:
            mode = BlockMode(parameters.text(0, "mode").lower())
        except ValueError as error:
            raise bad_params("mode is interval, instant or manual") from error
        seconds = parameters.number(1, "seconds", default=self._producer.block_seconds)
        self._producer.set_mode(mode, seconds)
        return mode.value

    def _time_travel(self, parameters: RpcParameters) -> int:
        """Set the chain's clock to milliseconds since 1970 and build a block there."""
        timestamp = parameters.integer(0, "timestamp")
        if timestamp > MAX_TIMESTAMP_MS:
            raise bad_params("the timestamp is milliseconds, at most those of the year 9999")
        self._producer.travel(timestamp)
        self._producer.build()
        return self._producer.read_clock()
