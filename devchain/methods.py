"""The JSON-RPC methods that answer at once, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devchain import views
from devchain.blocks import Block
from devchain.chain import Chain
from devchain.network_rpc import NETWORK_METHODS
from devchain.rpc_errors import bad_params
from devchain.rpc_params import Params, to_hex

Method = Callable[[Chain, Params], Any]
MAX_QUERY_KEYS = 1000
NODE_VERSION = "0.1.0"
_ACCOUNT_SIZE = 20


def _always(answer: Any) -> Method:
    """Return a method that gives the same answer for every block."""
    return lambda _chain, _params: answer


def _sync_state(chain: Chain, _params: Params) -> dict[str, Any]:
    number = chain.head.number
    return {"startingBlock": 0, "currentBlock": number, "highestBlock": number}


def _head(chain: Chain, _params: Params) -> str:
    return to_hex(chain.head.hash)


def _finalised_head(chain: Chain, _params: Params) -> str:
    return to_hex(chain.finalised.hash)


def _block_hash(chain: Chain, params: Params) -> str | list[str | None] | None:
    """A number, none for the head, or a list of numbers."""
    wanted = params.raw[0] if isinstance(params.raw, list) and params.raw else None
    if isinstance(wanted, list):
        if len(wanted) > MAX_QUERY_KEYS:
            raise bad_params(f"at most {MAX_QUERY_KEYS} block numbers")
        return [_hash_of(chain, Params([number]).integer(0, "number")) for number in wanted]
    return _hash_of(chain, params.integer(0, "number", default=chain.head.number))


def _hash_of(chain: Chain, number: int) -> str | None:
    return to_hex(chain.blocks[number].hash) if number <= chain.head.number else None


def _find_block(chain: Chain, params: Params) -> Block | None:
    block_hash = params.block_hash(0)
    return chain.head if block_hash is None else chain.find_block(block_hash)


def _header(chain: Chain, params: Params) -> dict[str, Any] | None:
    block = _find_block(chain, params)
    return None if block is None else views.describe_header(block)


def _block(chain: Chain, params: Params) -> dict[str, Any] | None:
    block = _find_block(chain, params)
    return None if block is None else views.describe_block(block)


def _metadata(chain: Chain, params: Params) -> str:
    views.require_block(chain, params.block_hash(0))
    return to_hex(chain.metadata)


def _runtime_version(chain: Chain, params: Params) -> dict[str, Any]:
    views.require_block(chain, params.block_hash(0))
    return views.describe_runtime()


def _storage(chain: Chain, params: Params) -> str | None:
    state = views.reader_at(chain, params.block_hash(1))
    return views.read_storage(state, params.data(0, "key"))


def _storage_size(chain: Chain, params: Params) -> int | None:
    value = _storage(chain, params)
    return None if value is None else len(value) // 2 - 1


def _keys_paged(chain: Chain, params: Params) -> list[str]:
    after = params.data(2, "start_key") if params.is_given(2, "start_key") else None
    return views.list_keys(
        views.reader_at(chain, params.block_hash(3)),
        params.data(0, "prefix") if params.is_given(0, "prefix") else b"",
        count=params.integer(1, "count"),
        after=after,
    )


def _query_storage(chain: Chain, params: Params) -> list[dict[str, Any]]:
    block = views.require_block(chain, params.block_hash(1))
    state = chain.ledger.state.at(block.number)
    keys = params.data_list(0, "keys", limit=MAX_QUERY_KEYS)
    changes = [[to_hex(key), views.read_storage(state, key)] for key in keys]
    return [{"block": to_hex(block.hash), "changes": changes}]


def _call(chain: Chain, params: Params) -> str:
    block = views.require_block(chain, params.block_hash(2))
    name, data = params.text(0, "name"), params.data(1, "bytes")
    return to_hex(views.call_runtime(chain, name, data, block=block))


def _next_index(chain: Chain, params: Params) -> int:
    account = params.data(0, "account")
    if len(account) != _ACCOUNT_SIZE:
        raise bad_params("account has 20 bytes")
    return views.read_nonce(chain, account, with_pool=True)


def _query_info(chain: Chain, params: Params) -> dict[str, Any]:
    views.require_block(chain, params.block_hash(1))
    return views.describe_fee(params.data(0, "extrinsic"))


def _pending(chain: Chain, _params: Params) -> list[str]:
    return [to_hex(extrinsic.raw) for extrinsic in chain.pool]


METHODS: dict[str, Method] = {
    "author_pendingExtrinsics": _pending,
    "chain_getBlock": _block,
    "chain_getBlockHash": _block_hash,
    "chain_getFinalizedHead": _finalised_head,
    "chain_getFinalisedHead": _finalised_head,
    "chain_getHead": _head,
    "chain_getHeader": _header,
    "chain_getRuntimeVersion": _runtime_version,
    **NETWORK_METHODS,
    "payment_queryInfo": _query_info,
    "state_call": _call,
    "state_getKeysPaged": _keys_paged,
    "state_getMetadata": _metadata,
    "state_getRuntimeVersion": _runtime_version,
    "state_getStorage": _storage,
    "state_getStorageAt": _storage,
    "state_getStorageSize": _storage_size,
    "state_queryStorageAt": _query_storage,
    "system_accountNextIndex": _next_index,
    "system_chain": _always(views.CHAIN_NAME),
    "system_chainType": _always("Development"),
    "system_health": _always({"peers": 0, "isSyncing": False, "shouldHavePeers": False}),
    "system_name": _always(views.NODE_NAME),
    "system_properties": _always(views.PROPERTIES),
    "system_syncState": _sync_state,
    "system_version": _always(NODE_VERSION),
}
