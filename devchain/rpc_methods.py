"""The JSON-RPC methods that need no subscription and change nothing, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devchain import rpc_answers
from devchain.blocks import Block
from devchain.chain import Chain
from devchain.rpc_errors import bad_params
from devchain.rpc_network_methods import NETWORK_METHODS
from devchain.rpc_parameters import RpcParameters, to_hex

Method = Callable[[Chain, RpcParameters], Any]
MAX_QUERY_KEYS = 1000
NODE_VERSION = "0.1.0"
_ACCOUNT_SIZE = 20


def _always(answer: Any) -> Method:
    """Return a method that gives the same answer for every block."""
    return lambda _chain, _parameters: answer


def _sync_state(chain: Chain, _parameters: RpcParameters) -> dict[str, Any]:
    number = chain.head.number
    return {"startingBlock": 0, "currentBlock": number, "highestBlock": number}


def _head(chain: Chain, _parameters: RpcParameters) -> str:
    return to_hex(chain.head.hash)


def _finalised_head(chain: Chain, _parameters: RpcParameters) -> str:
    return to_hex(chain.finalised.hash)


def _block_hash(chain: Chain, parameters: RpcParameters) -> str | list[str | None] | None:
    """A number, none for the head, or a list of numbers."""
    wanted = parameters.raw[0] if isinstance(parameters.raw, list) and parameters.raw else None
    if isinstance(wanted, list):
        if len(wanted) > MAX_QUERY_KEYS:
            raise bad_params(f"at most {MAX_QUERY_KEYS} block numbers")
        return [_hash_of(chain, RpcParameters([number]).integer(0, "number")) for number in wanted]
    return _hash_of(chain, parameters.integer(0, "number", default=chain.head.number))


def _hash_of(chain: Chain, number: int) -> str | None:
    return to_hex(chain.blocks[number].hash) if number <= chain.head.number else None


def _find_block(chain: Chain, parameters: RpcParameters) -> Block | None:
    block_hash = parameters.block_hash(0)
    return chain.head if block_hash is None else chain.find_block(block_hash)


def _header(chain: Chain, parameters: RpcParameters) -> dict[str, Any] | None:
    block = _find_block(chain, parameters)
    return None if block is None else rpc_answers.describe_header(block)


def _block(chain: Chain, parameters: RpcParameters) -> dict[str, Any] | None:
    block = _find_block(chain, parameters)
    return None if block is None else rpc_answers.describe_block(block)


def _metadata(chain: Chain, parameters: RpcParameters) -> str:
    rpc_answers.require_block(chain, parameters.block_hash(0))
    return to_hex(chain.metadata)


def _runtime_version(chain: Chain, parameters: RpcParameters) -> dict[str, Any]:
    rpc_answers.require_block(chain, parameters.block_hash(0))
    return rpc_answers.describe_runtime()


def _storage(chain: Chain, parameters: RpcParameters) -> str | None:
    state = rpc_answers.reader_at(chain, parameters.block_hash(1))
    return rpc_answers.read_storage(state, parameters.data(0, "key"))


def _storage_size(chain: Chain, parameters: RpcParameters) -> int | None:
    value = _storage(chain, parameters)
    return None if value is None else len(value) // 2 - 1


def _keys_paged(chain: Chain, parameters: RpcParameters) -> list[str]:
    after = parameters.data(2, "start_key") if parameters.is_given(2, "start_key") else None
    return rpc_answers.list_keys(
        rpc_answers.reader_at(chain, parameters.block_hash(3)),
        parameters.data(0, "prefix") if parameters.is_given(0, "prefix") else b"",
        count=parameters.integer(1, "count"),
        after=after,
    )


def _query_storage(chain: Chain, parameters: RpcParameters) -> list[dict[str, Any]]:
    block = rpc_answers.require_block(chain, parameters.block_hash(1))
    state = chain.ledger.state.at(block.number)
    keys = parameters.data_list(0, "keys", limit=MAX_QUERY_KEYS)
    changes = [[to_hex(key), rpc_answers.read_storage(state, key)] for key in keys]
    return [{"block": to_hex(block.hash), "changes": changes}]


def _call(chain: Chain, parameters: RpcParameters) -> str:
    block = rpc_answers.require_block(chain, parameters.block_hash(2))
    name, data = parameters.text(0, "name"), parameters.data(1, "bytes")
    return to_hex(rpc_answers.call_runtime(chain, name, data, block=block))


def _next_index(chain: Chain, parameters: RpcParameters) -> int:
    account = parameters.data(0, "account")
    if len(account) != _ACCOUNT_SIZE:
        raise bad_params("account has 20 bytes")
    return rpc_answers.read_nonce(chain, account, after_waiting=True)


def _query_info(chain: Chain, parameters: RpcParameters) -> dict[str, Any]:
    rpc_answers.require_block(chain, parameters.block_hash(1))
    return rpc_answers.describe_fee(parameters.data(0, "extrinsic"))


def _pending(chain: Chain, _parameters: RpcParameters) -> list[str]:
    return [to_hex(extrinsic.raw) for extrinsic in chain.transaction_pool]


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
    "system_chain": _always(rpc_answers.CHAIN_NAME),
    "system_chainType": _always("Development"),
    "system_health": _always({"peers": 0, "isSyncing": False, "shouldHavePeers": False}),
    "system_name": _always(rpc_answers.NODE_NAME),
    "system_properties": _always(rpc_answers.PROPERTIES),
    "system_syncState": _sync_state,
    "system_version": _always(NODE_VERSION),
}
