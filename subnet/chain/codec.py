"""Decodes the runtime that an endpoint serves: types, calls, storage, errors.

Built on scalecodec with three cures: byte strings always decode to hexadecimal text
(the library's guess between text and hexadecimal cannot be undone), maps can be
encoded, and decoded metadata is shared under genesis hash and metadata hash, because
this chain changes its interface without changing its spec version.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.exceptions import (
    InvalidScaleTypeValueException,
    RemainingScaleBytesNotEmptyException,
)
from scalecodec.type_registry import load_type_registry_preset
from scalecodec.types import U8, BoundedVec, BTreeMap, Vec

from subnet.errors import ChainMismatch

MAX_CACHED_RUNTIMES = 4
METADATA_VERSION = 14
EXTRINSIC_VERSION = 4


class ExactVec(Vec):  # type: ignore[misc]
    """A vector whose bytes decode to hexadecimal text, whatever they spell."""

    def process(self) -> Any:
        value = super().process()
        if self.runtime_config.get_decoder_class(self.sub_type) is U8:
            return f"0x{self.value_object.hex()}"
        return value


class ExactBoundedVec(ExactVec, BoundedVec):  # type: ignore[misc]
    """The same for ``BoundedVec``."""


class EncodableMap(BTreeMap):  # type: ignore[misc]
    """A map that can be encoded from a list of pairs when its types come from metadata."""

    def process_encode(self, value: Any) -> Any:
        if self.map_key is not None:
            return super().process_encode(value)
        pairs = self.runtime_config.create_scale_object(
            type_string=self.type_mapping[0], metadata=self.metadata
        )
        return pairs.encode(value)


_CURES = {
    "vec": ExactVec,
    "boundedvec": ExactBoundedVec,
    "bounded_collections::bounded_vec::boundedvec": ExactBoundedVec,
    "btreemap": EncodableMap,
}


@dataclass(frozen=True, slots=True)
class ChainRuntime:
    """One decoded runtime interface.

    ``metadata`` and ``types`` are the library's objects and are never changed.
    """

    genesis_hash: bytes
    metadata_hash: bytes
    metadata: Any
    types: Any

    def has_call(self, pallet: str, name: str) -> bool:
        """Whether the metadata declares this call."""
        return self._find_call(pallet, name) is not None

    def has_storage(self, pallet: str, item: str) -> bool:
        """Whether the metadata declares this storage item."""
        found = self.metadata.get_metadata_pallet(pallet)
        return found is not None and found.get_storage_function(item) is not None

    def get_call_arguments(self, pallet: str, name: str) -> tuple[str, ...]:
        """Return the call's argument names in order. Raises ChainMismatch if it is missing."""
        call = self._find_call(pallet, name)
        if call is None:
            raise ChainMismatch(f"the chain's runtime has no call {pallet}.{name}")
        return tuple(str(argument.name) for argument in call.args)

    def list_calls(self, pallet: str) -> tuple[str, ...]:
        """Return the names of the pallet's calls; empty if it has none."""
        found = self.metadata.get_metadata_pallet(pallet)
        return () if found is None else tuple(str(call.name) for call in found.calls or ())

    def list_errors(self, pallet: str) -> tuple[str, ...]:
        """Return the names of the pallet's errors; empty if it has none."""
        found = self.metadata.get_metadata_pallet(pallet)
        errors = () if found is None else found.errors or ()
        return tuple(str(error.value["name"]) for error in errors)

    def find_error_name(self, pallet_index: int, error_index: int) -> str:
        """Return the name of a module error, or its numbers if the metadata lacks it."""
        for pallet in self.metadata.pallets:
            if pallet.value["index"] == pallet_index and pallet.errors:
                for position, error in enumerate(pallet.errors):
                    if error.value.get("index", position) == error_index:
                        return str(error.value["name"])
        return f"Module{pallet_index}Error{error_index}"

    def _find_call(self, pallet: str, name: str) -> Any | None:
        found = self.metadata.get_metadata_pallet(pallet)
        if found is None or not found.calls:
            return None
        return next((call for call in found.calls if call.name == name), None)


_cache: OrderedDict[tuple[bytes, bytes], ChainRuntime] = OrderedDict()
_cache_lock = threading.Lock()


def load_runtime(genesis_hash: bytes, metadata: bytes) -> ChainRuntime:
    """Decode ``metadata``, or take it from the cache. Raises ChainMismatch."""
    key = (genesis_hash, hashlib.blake2b(metadata, digest_size=32).digest())
    with _cache_lock:
        if key not in _cache:
            _cache[key] = _decode_runtime(genesis_hash, key[1], metadata)
            while len(_cache) > MAX_CACHED_RUNTIMES:
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        return _cache[key]


def _decode_runtime(genesis_hash: bytes, metadata_hash: bytes, raw: bytes) -> ChainRuntime:
    types = RuntimeConfigurationObject(implements_scale_info=True)
    types.update_type_registry(load_type_registry_preset(name="core"))
    try:
        metadata = types.create_scale_object("MetadataVersioned", data=ScaleBytes(bytearray(raw)))
        metadata.decode()
        version = next(iter(metadata.value[1]))
        if version != f"V{METADATA_VERSION}":
            raise ChainMismatch(
                f"the chain's metadata is {version}; this client reads V{METADATA_VERSION}"
            )
        if metadata[1][1]["extrinsic"]["version"].value != EXTRINSIC_VERSION:
            raise ChainMismatch(f"the chain does not take version {EXTRINSIC_VERSION} extrinsics")
        types.type_registry["types"].update(_CURES)
        types.add_portable_registry(metadata)
    except (
        InvalidScaleTypeValueException,
        RemainingScaleBytesNotEmptyException,
        NotImplementedError,  # Raised by scalecodec for an unknown type.
        ValueError,
        KeyError,
        TypeError,
        IndexError,
    ) as error:
        raise ChainMismatch(f"the chain's metadata cannot be read: {error}") from error
    return ChainRuntime(genesis_hash, metadata_hash, metadata, types)
