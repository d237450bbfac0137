"""Decodes the runtime that an endpoint serves: types, calls, storage, errors.

Built on scalecodec with four cures: byte strings always decode to hexadecimal text
(the library's guess between text and hexadecimal cannot be undone), maps can be
encoded, a value takes work in proportion to its bytes, and decoded metadata is shared
under genesis hash and metadata hash, because this chain changes its interface without
changing its spec version.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.exceptions import (
    InvalidScaleTypeValueException,
    RemainingScaleBytesNotEmptyException,
)
from scalecodec.type_registry import load_type_registry_preset
from scalecodec.types import U8, BoundedVec, BTreeMap, ScaleInfoPalletMetadata, Vec

from subnet.errors import ChainMismatch

MAX_CACHED_RUNTIMES = 4
METADATA_VERSION = 14
EXTRINSIC_VERSION = 4
MAX_STEPS_PER_BYTE = 16
"""Values that a decoder may begin for each byte it is given: metadata has one for two bytes."""
MAX_FREE_STEPS = 4096
"""What it may begin besides, of types without bytes."""
MAX_KEPT_CLASSES = 4096


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


class Pallet(ScaleInfoPalletMetadata):  # type: ignore[misc]
    """A pallet that finds its storage items by name; the library looks through all of them."""

    @cached_property
    def _items(self) -> dict[str, Any]:
        return {str(item.value["name"]): item for item in reversed(self.storage or ())}

    def get_storage_function(self, name: str) -> Any:
        """Return what the metadata says of a storage item, None if it has no such item."""
        return self._items.get(name)


_CURES = {
    "vec": ExactVec,
    "boundedvec": ExactBoundedVec,
    "bounded_collections::bounded_vec::boundedvec": ExactBoundedVec,
    "btreemap": EncodableMap,
}


class _Types(RuntimeConfigurationObject):  # type: ignore[misc]
    """The library's table of types, which an endpoint's metadata fills.

    Bounds what one value may cost: a vector of a type without bytes may claim any length, and
    tuples of tuples of nothing double with each level.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        super().__init__(implements_scale_info=True)

    def clear_type_registry(self) -> None:
        # The library walks through all classes there are, those of other runtimes included.
        self.type_registry = {part: copy(held) for part, held in _CORE_REGISTRY.items()}

    def get_decoder_class(self, type_string: Any) -> Any:
        """Return the class of a type: the library would make one anew for each ``Vec<T>``."""
        if not isinstance(type_string, str) or type_string[-1:] not in _ENDS_OF_MADE:
            return super().get_decoder_class(type_string)
        made = self._made.get(type_string)
        if made is None:
            made = super().get_decoder_class(type_string)
            if len(self._made) < MAX_KEPT_CLASSES:
                self._made[type_string] = made
        return made

    def forget_classes(self) -> None:
        """Make the classes of ``Vec<T>`` and its like anew: what they build on has changed."""
        self._made.clear()

    def create_scale_object(self, type_string: Any, data: Any = None, **options: Any) -> Any:
        """Begin a value. Raises ValueError where the bytes are worth no more of them."""
        made = super().create_scale_object(type_string, data, **options)
        if data is not None:
            data.steps = getattr(data, "steps", 0) + 1
            if data.steps > MAX_FREE_STEPS + MAX_STEPS_PER_BYTE * data.length:
                raise ValueError(f"{data.length} bytes stand for more than {data.steps - 1} values")
            # The library takes other bytes, and another count, where there are none.
            made.data = data
        # The class has the table that looked it up last, which may be another thread's.
        made.runtime_config = self
        return made


_ENDS_OF_MADE = frozenset(">)]")


def _make_core_registry() -> dict[str, Any]:
    """Return what every table begins with; its parts are copied and never changed."""
    core = RuntimeConfigurationObject(implements_scale_info=True)
    core.type_registry["types"][ScaleInfoPalletMetadata.__name__.lower()] = Pallet
    core.update_type_registry(load_type_registry_preset(name="core"))
    registry: dict[str, Any] = core.type_registry
    return registry


_CORE_REGISTRY = _make_core_registry()


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
    types = _Types()
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
        types.forget_classes()
        types.add_portable_registry(metadata)
        types.forget_classes()
    except (
        InvalidScaleTypeValueException,
        RemainingScaleBytesNotEmptyException,
        NotImplementedError,  # Raised by scalecodec for an unknown type.
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        RecursionError,
    ) as error:
        raise ChainMismatch(f"the chain's metadata cannot be read: {error}") from error
    except AttributeError as error:
        # scalecodec finds no class for it, and uses it all the same.
        raise ChainMismatch("the chain's metadata has a type of an unknown kind") from error
    return ChainRuntime(genesis_hash, metadata_hash, metadata, types)
