"""Encoder and decoder of SCALE, the chain's encoding, driven by type declarations.

A type is a small frozen object that encodes, decodes and can be listed in
metadata. Python annotations name them (``U32 = Annotated[int, UInt(32)]``), so a
dataclass is at once the value in memory, its bytes and its metadata entry.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

_MAX_COMPACT_BYTES = 67


class ScaleError(ValueError):
    """The bytes are not the canonical encoding of the expected type."""


class Reader:
    """A bounds-checked cursor over encoded bytes."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self._position

    @property
    def position(self) -> int:
        return self._position

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes. Raises ScaleError at the end of the data."""
        if size > self.remaining:
            raise ScaleError(f"{size} bytes wanted, {self.remaining} left")
        start = self._position
        self._position += size
        return self._data[start : self._position]


class ScaleType:
    """One encodable type."""

    def encode(self, value: Any) -> bytes:
        raise TypeError(f"{type(self).__name__} cannot be encoded")

    def decode(self, reader: Reader) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be decoded")


@dataclass(frozen=True)
class UInt(ScaleType):
    """Fixed-width little-endian unsigned integer."""

    bits: int

    def encode(self, value: int) -> bytes:
        return value.to_bytes(self.bits // 8, "little")

    def decode(self, reader: Reader) -> int:
        return int.from_bytes(reader.take(self.bits // 8), "little")


@dataclass(frozen=True)
class SInt(ScaleType):
    """Fixed-width little-endian two's complement integer."""

    bits: int

    def encode(self, value: int) -> bytes:
        return value.to_bytes(self.bits // 8, "little", signed=True)

    def decode(self, reader: Reader) -> int:
        return int.from_bytes(reader.take(self.bits // 8), "little", signed=True)


@dataclass(frozen=True)
class Bool(ScaleType):
    def encode(self, value: bool) -> bytes:
        return b"\x01" if value else b"\x00"

    def decode(self, reader: Reader) -> bool:
        raw = reader.take(1)
        if raw not in (b"\x00", b"\x01"):
            raise ScaleError("a boolean is 0 or 1")
        return raw == b"\x01"


@dataclass(frozen=True)
class Compact(ScaleType):
    """Variable-length unsigned integer of at most ``bits`` bits."""

    bits: int = 32

    def encode(self, value: int) -> bytes:
        return encode_compact(value)

    def decode(self, reader: Reader) -> int:
        value = decode_compact(reader)
        if value >> self.bits:
            raise ScaleError(f"a compact integer exceeds {self.bits} bits")
        return value


@dataclass(frozen=True)
class ByteVec(ScaleType):
    """``Vec<u8>``."""

    def encode(self, value: bytes) -> bytes:
        return encode_compact(len(value)) + value

    def decode(self, reader: Reader) -> bytes:
        return reader.take(decode_compact(reader))


@dataclass(frozen=True)
class Text(ScaleType):
    """``str``: UTF-8 with its length."""

    def encode(self, value: str) -> bytes:
        return ByteVec().encode(value.encode())

    def decode(self, reader: Reader) -> str:
        try:
            return ByteVec().decode(reader).decode()
        except UnicodeDecodeError as error:
            raise ScaleError("a text is UTF-8") from error


@dataclass(frozen=True)
class ByteArray(ScaleType):
    """``[u8; size]``."""

    size: int

    def encode(self, value: bytes) -> bytes:
        if len(value) != self.size:
            raise ScaleError(f"{self.size} bytes wanted, not {len(value)}")
        return value

    def decode(self, reader: Reader) -> bytes:
        return reader.take(self.size)


@dataclass(frozen=True)
class BoundedBytes(ScaleType):
    """``BoundedVec<u8, limit>``."""

    limit: int

    def encode(self, value: bytes) -> bytes:
        return ByteVec().encode(value)

    def decode(self, reader: Reader) -> bytes:
        size = decode_compact(reader)
        if size > self.limit:
            raise ScaleError(f"at most {self.limit} bytes, not {size}")
        return reader.take(size)


@dataclass(frozen=True)
class VecOf(ScaleType):
    """``Vec<T>``; a tuple in memory."""

    item: ScaleType

    def encode(self, value: tuple[Any, ...]) -> bytes:
        return encode_compact(len(value)) + b"".join(self.item.encode(item) for item in value)

    def decode(self, reader: Reader) -> tuple[Any, ...]:
        return tuple(self.item.decode(reader) for _ in range(_decode_count(reader)))


@dataclass(frozen=True)
class SetOf(ScaleType):
    """``BTreeSet<T>``; a frozenset in memory, sorted when encoded."""

    item: ScaleType

    def encode(self, value: frozenset[Any]) -> bytes:
        return VecOf(self.item).encode(tuple(sorted(value)))

    def decode(self, reader: Reader) -> frozenset[Any]:
        return frozenset(VecOf(self.item).decode(reader))


@dataclass(frozen=True)
class MapOf(ScaleType):
    """``BTreeMap<K, V>``; a mapping in memory, sorted by key when encoded."""

    key: ScaleType
    value: ScaleType

    def encode(self, value: Mapping[Any, Any]) -> bytes:
        pairs = (
            self.key.encode(key) + self.value.encode(item) for key, item in sorted(value.items())
        )
        return encode_compact(len(value)) + b"".join(pairs)

    def decode(self, reader: Reader) -> dict[Any, Any]:
        pairs = [
            (self.key.decode(reader), self.value.decode(reader))
            for _ in range(_decode_count(reader))
        ]
        # By key alone: the values of a key that comes twice need not have an order.
        return dict(sorted(pairs, key=lambda pair: pair[0]))


@dataclass(frozen=True)
class OptionOf(ScaleType):
    item: ScaleType

    def encode(self, value: Any) -> bytes:
        return b"\x00" if value is None else b"\x01" + self.item.encode(value)

    def decode(self, reader: Reader) -> Any:
        return self.item.decode(reader) if Bool().decode(reader) else None


@dataclass(frozen=True)
class TupleOf(ScaleType):
    items: tuple[ScaleType, ...] = ()

    def encode(self, value: tuple[Any, ...]) -> bytes:
        return b"".join(item.encode(part) for item, part in zip(self.items, value, strict=True))

    def decode(self, reader: Reader) -> tuple[Any, ...]:
        return tuple(item.decode(reader) for item in self.items)


@dataclass(frozen=True)
class Newtype(ScaleType):
    """A named wrapper of one unnamed field; in memory just the inner value."""

    path: tuple[str, ...]
    item: ScaleType

    def encode(self, value: Any) -> bytes:
        return self.item.encode(value)

    def decode(self, reader: Reader) -> Any:
        return self.item.decode(reader)


@dataclass(frozen=True)
class PlainEnum(ScaleType):
    """An enum without fields; an IntEnum in memory."""

    cls: type[IntEnum]

    def encode(self, value: IntEnum) -> bytes:
        return bytes([value])

    def decode(self, reader: Reader) -> IntEnum:
        index = reader.take(1)[0]
        try:
            return self.cls(index)
        except ValueError as error:
            raise ScaleError(f"{self.cls.__name__} has no variant {index}") from error


@dataclass(frozen=True)
class Record(ScaleType):
    """A dataclass whose annotated fields are encoded in order."""

    cls: type[Any]

    def encode(self, value: Any) -> bytes:
        return b"".join(kind.encode(getattr(value, name)) for name, kind in fields_of(self.cls))

    def decode(self, reader: Reader) -> Any:
        return self.cls(*[kind.decode(reader) for _, kind in fields_of(self.cls)])


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Variant:
    """Base of an enum's variants: calls, events, errors. Every subclass is a frozen dataclass.

    A subclass with an index is one variant; one without is a base of several. The metadata
    name defaults to the class name.
    """

    variant_index: ClassVar[int]
    variant_name: ClassVar[str]
    has_named_fields: ClassVar[bool] = True

    def __init_subclass__(
        cls, *, index: int | None = None, name: str | None = None, named: bool = True
    ) -> None:
        super().__init_subclass__()
        dataclass(frozen=True)(cls)
        if index is not None:
            cls.variant_index = index
            cls.variant_name = name or cls.__name__
            cls.has_named_fields = named


@dataclass(frozen=True)
class Variants(ScaleType):
    """An enum with fields; in memory an instance of one of ``classes``."""

    path: tuple[str, ...]
    classes: tuple[type[Variant], ...]

    def encode(self, value: Variant) -> bytes:
        return bytes([value.variant_index]) + Record(type(value)).encode(value)

    def decode(self, reader: Reader) -> Any:
        index = reader.take(1)[0]
        cls = _variant_table(self.classes).get(index)
        if cls is None:
            raise ScaleError(f"{self.path[-1]} has no variant {index}")
        return Record(cls).decode(reader)


@dataclass(frozen=True)
class PalletVariants(ScaleType):
    """The outer enum of calls or events: pallet index, then the pallet's own enum."""

    path: tuple[str, ...]
    pallets: tuple[tuple[int, str, Variants], ...]

    def encode(self, value: Variant) -> bytes:
        for index, _, variants in self.pallets:
            if type(value) in variants.classes:
                return bytes([index]) + variants.encode(value)
        raise ScaleError(f"{type(value).__name__} belongs to no pallet")

    def decode(self, reader: Reader) -> Any:
        wanted = reader.take(1)[0]
        for index, _, variants in self.pallets:
            if index == wanted:
                return variants.decode(reader)
        raise ScaleError(f"there is no pallet {wanted}")


U8 = Annotated[int, UInt(8)]
U16 = Annotated[int, UInt(16)]
U32 = Annotated[int, UInt(32)]
U64 = Annotated[int, UInt(64)]
U128 = Annotated[int, UInt(128)]
I128 = Annotated[int, SInt(128)]
CompactU32 = Annotated[int, Compact(32)]
CompactU64 = Annotated[int, Compact(64)]
CompactU128 = Annotated[int, Compact(128)]
Hash = Annotated[bytes, Newtype(("primitive_types", "H256"), ByteArray(32))]


_FIELDS: dict[type[Any], tuple[tuple[str, ScaleType], ...]] = {}


def fields_of(cls: type[Any]) -> tuple[tuple[str, ScaleType], ...]:
    """Return a dataclass's fields and their types, in encoding order."""
    if cls not in _FIELDS:
        hints = get_type_hints(cls, include_extras=True)
        _FIELDS[cls] = tuple(
            (field.name, type_of(hints[field.name])) for field in dataclasses.fields(cls)
        )
    return _FIELDS[cls]


def type_of(annotation: Any) -> ScaleType:
    """Return the SCALE type that an annotation names. Raises TypeError for anything else."""
    if isinstance(annotation, ScaleType):
        return annotation
    if get_origin(annotation) is Annotated:
        return next(item for item in annotation.__metadata__ if isinstance(item, ScaleType))
    if isinstance(annotation, type) and not get_args(annotation):
        return _type_of_class(annotation)
    return _type_of_generic(annotation)


def _type_of_class(cls: type[Any]) -> ScaleType:
    if cls is bytes:
        return ByteVec()
    if cls is bool:
        return Bool()
    if cls is str:
        return Text()
    if issubclass(cls, IntEnum):
        return PlainEnum(cls)
    if dataclasses.is_dataclass(cls):
        return Record(cls)
    raise TypeError(f"{cls.__name__} has no SCALE type")


def _type_of_generic(annotation: Any) -> ScaleType:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType) and len(args) == 2 and args[1] is types.NoneType:
        return OptionOf(type_of(args[0]))
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return VecOf(type_of(args[0]))
    if origin is tuple:
        return TupleOf(tuple(type_of(item) for item in args))
    if origin is frozenset:
        return SetOf(type_of(args[0]))
    if origin is Mapping or origin is typing.get_origin(Mapping[int, int]):
        return MapOf(type_of(args[0]), type_of(args[1]))
    raise TypeError(f"{annotation} has no SCALE type")


@cache
def _variant_table(classes: tuple[type[Variant], ...]) -> dict[int, type[Variant]]:
    return {cls.variant_index: cls for cls in classes}


def to_camel_case(name: str) -> str:
    """Return a Python name's words as the runtime writes them: MIN_REPUTATION, MinReputation."""
    return "".join(word.capitalize() for word in name.split("_"))


def encode_compact(value: int) -> bytes:
    """Encode a non-negative integer in the compact form."""
    if value < 0:
        raise ScaleError("a compact integer is not negative")
    if value < 1 << 6:
        return (value << 2).to_bytes(1, "little")
    if value < 1 << 14:
        return (value << 2 | 1).to_bytes(2, "little")
    if value < 1 << 30:
        return (value << 2 | 2).to_bytes(4, "little")
    size = (value.bit_length() + 7) // 8
    if size > _MAX_COMPACT_BYTES:
        raise ScaleError("a compact integer has at most 536 bits")
    return bytes([(size - 4) << 2 | 3]) + value.to_bytes(size, "little")


def decode_compact(reader: Reader) -> int:
    """Decode a compact integer. Raises ScaleError unless it is the shortest form."""
    first = reader.take(1)
    mode = first[0] & 3
    if mode == 3:
        raw = reader.take((first[0] >> 2) + 4)
        value = int.from_bytes(raw, "little")
        if raw[-1] == 0 or value < 1 << 30:
            raise ScaleError("a compact integer is not in its shortest form")
        return value
    value = int.from_bytes(first + reader.take((1, 2, 4)[mode] - 1), "little") >> 2
    if mode and value < (0, 1 << 6, 1 << 14)[mode]:
        raise ScaleError("a compact integer is not in its shortest form")
    return value


def _decode_count(reader: Reader) -> int:
    """Read a collection's length; every item takes at least a byte, so it is bounded."""
    count = decode_compact(reader)
    if count > reader.remaining:
        raise ScaleError(f"{count} items cannot fit in {reader.remaining} bytes")
    return count


def decode_all(kind: ScaleType, data: bytes) -> Any:
    """Decode ``data`` completely. Raises ScaleError for missing or trailing bytes."""
    reader = Reader(data)
    value = kind.decode(reader)
    if reader.remaining:
        raise ScaleError(f"{reader.remaining} bytes are left over")
    return value
