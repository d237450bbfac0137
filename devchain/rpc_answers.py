"""The answers of JSON-RPC methods, made from a chain. No sockets, no clock."""

from __future__ import annotations

from typing import Any

from devchain import runtime_api, storage
from devchain.blocks import Block
from devchain.chain import Chain
from devchain.events import Weight
from devchain.execution import compute_fee, compute_weight
from devchain.extrinsics import decode_extrinsic
from devchain.pallets import (
    SPEC_NAME,
    SPEC_VERSION,
    SS58_PREFIX,
    TRANSACTION_VERSION,
)
from devchain.rpc_errors import UNKNOWN_BLOCK, RpcError, bad_params
from devchain.rpc_parameters import to_hex
from devchain.scale import ByteVec, OptionOf, ScaleError, UInt, encode_compact, type_of
from devchain.state import StateReader
from devchain.storage_keys import hash_key, items_below, parse_key

CHAIN_NAME = "mesh development chain"
NODE_NAME = "mesh devchain"
MAX_KEYS_PAGE = 1000

CORE_API = "0xdf6acb689907609b"
METADATA_API = "0x37e397fc7c91f5e4"
NONCE_API = "0xbc9d89904f5b923f"
PAYMENT_API = "0x37c8bb1350a9a2a8"
PROPERTIES = {
    "isEthereum": True,
    "ss58Format": SS58_PREFIX,
    "tokenDecimals": 18,
    "tokenSymbol": "TENSOR",
}
"""What system_properties answers."""
API_VERSIONS = (
    (CORE_API, 5),
    (METADATA_API, 2),
    (NONCE_API, 1),
    (PAYMENT_API, 4),
    (runtime_api.API_ID, runtime_api.API_VERSION),
)


def describe_runtime() -> dict[str, Any]:
    """Return what state_getRuntimeVersion answers."""
    return {
        "specName": SPEC_NAME,
        "implName": SPEC_NAME,
        "authoringVersion": 1,
        "specVersion": SPEC_VERSION,
        "implVersion": 1,
        "apis": [list(api) for api in API_VERSIONS],
        "transactionVersion": TRANSACTION_VERSION,
        "stateVersion": 1,
        "systemVersion": 1,
    }


def describe_header(block: Block) -> dict[str, Any]:
    """Return a header as JSON-RPC writes it."""
    return {
        "parentHash": to_hex(block.parent_hash),
        "number": hex(block.number),
        "stateRoot": to_hex(block.state_root),
        "extrinsicsRoot": to_hex(block.extrinsics_root),
        "digest": {"logs": []},
    }


def describe_block(block: Block) -> dict[str, Any]:
    """Return a block as chain_getBlock answers it."""
    body = {
        "header": describe_header(block),
        "extrinsics": [to_hex(raw) for raw in block.extrinsics],
    }
    return {"block": body, "justifications": None}


def require_block(chain: Chain, block_hash: bytes | None) -> Block:
    """Return the block with this hash, the head by default. Raises RpcError."""
    block = chain.head if block_hash is None else chain.find_block(block_hash)
    if block is None:
        reason = f"Header was not found in the database: {to_hex(block_hash or b'')}"
        raise RpcError(UNKNOWN_BLOCK, f"Client error: UnknownBlock: {reason}")
    return block


def reader_at(chain: Chain, block_hash: bytes | None) -> StateReader:
    """Return the state after the block with this hash."""
    return chain.ledger.state.at(require_block(chain, block_hash).number)


def read_storage(state: StateReader, raw_key: bytes) -> str | None:
    """Return the value under a storage key; None where there is none."""
    parsed = parse_key(raw_key)
    if parsed is None:
        return None
    item, key = parsed
    value = state.find(item, *key)
    return None if value is None else to_hex(item.kind.encode(value))


def list_keys(state: StateReader, prefix: bytes, *, count: int, after: bytes | None) -> list[str]:
    """Return up to ``count`` sorted keys below ``prefix``, behind ``after``."""
    keys = (hash_key(item, key) for item in items_below(prefix) for key, _ in state.items(item))
    wanted = sorted(
        raw for raw in keys if raw.startswith(prefix) and (after is None or raw > after)
    )
    return [to_hex(raw) for raw in wanted[: min(count, MAX_KEYS_PAGE)]]


def read_nonce(chain: Chain, account: bytes, *, after_waiting: bool) -> int:
    """Return the account's next nonce, behind waiting extrinsics if ``after_waiting``."""
    nonce = chain.ledger.state.get(storage.ACCOUNT, account).nonce
    return chain.transaction_pool.next_nonce(account, nonce) if after_waiting else nonce


def describe_fee(raw: bytes) -> dict[str, Any]:
    """Return what payment_queryInfo answers. Raises RpcError."""
    weight, fee = _price(raw)
    return {
        "weight": {"ref_time": weight.ref_time, "proof_size": weight.proof_size},
        "class": "normal",
        "partialFee": str(fee),
    }


def _price(raw: bytes) -> tuple[Weight, int]:
    try:
        extrinsic = decode_extrinsic(raw)
    except ScaleError as error:
        raise bad_params(f"not an extrinsic: {error}") from error
    return compute_weight(extrinsic.call), compute_fee(extrinsic.call, len(raw))


def call_runtime(chain: Chain, function: str, data: bytes, *, block: Block) -> bytes:
    """Answer state_call for the runtime functions that clients use. Raises RpcError."""
    if function.startswith(runtime_api.API_PREFIX):
        name = function.removeprefix(runtime_api.API_PREFIX)
        return query_network(chain, name, data, block=block)
    match function:
        case "AccountNonceApi_account_nonce" if len(data) == 20:
            return UInt(32).encode(read_nonce(chain, data, after_waiting=False))
        case "Metadata_metadata":
            return ByteVec().encode(chain.metadata)
        case "Metadata_metadata_versions":
            return encode_compact(1) + UInt(32).encode(14)
        case "Metadata_metadata_at_version":
            wanted = chain.metadata if data == UInt(32).encode(14) else None
            return OptionOf(ByteVec()).encode(wanted)
        case "TransactionPaymentApi_query_info" if len(data) > 4:
            weight, fee = _price(data[:-4])
            return type_of(Weight).encode(weight) + b"\x00" + UInt(128).encode(fee)
    raise RpcError(
        UNKNOWN_BLOCK, f"Client error: Execution failed: function {function} is not exported"
    )


def query_network(chain: Chain, name: str, data: bytes, *, block: Block) -> bytes:
    """Run one function of the Network pallet's API on the state after ``block``."""
    state, length = chain.ledger.state.at(block.number), chain.ledger.config.epoch_length
    try:
        view = runtime_api.View(state, block.number, length)
        return runtime_api.call_function(view, name, data)
    except KeyError as error:
        raise RpcError(
            UNKNOWN_BLOCK, f"Client error: Execution failed: function {name} is not exported"
        ) from error
    except ScaleError as error:
        raise bad_params(f"the arguments of {name} cannot be decoded: {error}") from error
