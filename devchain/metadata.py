"""Metadata version 14, built from the declarations.

Every SCALE type that a call, event, error, storage item or constant uses gets a
number in the portable registry; the same declarations encode the values, so the
description cannot drift from the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Annotated, Any

from consensus.types import NodeClass
from devchain import chain_types, events, scale
from devchain.pallets import (
    CALL_TYPE,
    PALLETS,
    RUNTIME_PATH,
    STORAGE_ITEMS,
    EventRecord,
    Pallet,
    list_constants,
)
from devchain.runtime import LedgerConfig
from devchain.scale import U8, U32, CompactU32, Hash, ScaleType, Variant, fields_of, type_of
from devchain.state import Item

METADATA_MAGIC = b"meta"
METADATA_VERSION = 14
EXTRINSIC_VERSION = 4


class Primitive(IntEnum):
    BOOL = 0
    STR = 2
    U8 = 3
    U16 = 4
    U32 = 5
    U64 = 6
    U128 = 7
    I128 = 13


@dataclass(frozen=True)
class Field:
    name: str | None
    type: CompactU32
    type_name: str | None = None
    docs: tuple[str, ...] = ()


@dataclass(frozen=True)
class VariantEntry:
    name: str
    fields: tuple[Field, ...]
    index: U8
    docs: tuple[str, ...] = ()


class Composite(Variant, index=0):
    fields: tuple[Field, ...]


class VariantList(Variant, index=1):
    variants: tuple[VariantEntry, ...]


class Sequence(Variant, index=2):
    type: CompactU32


class Array(Variant, index=3):
    len: U32
    type: CompactU32


class Tuple(Variant, index=4):
    fields: tuple[CompactU32, ...]


class PrimitiveType(Variant, index=5):
    primitive: Primitive


class CompactType(Variant, index=6):
    type: CompactU32


Definition = Annotated[
    Variant,
    scale.Variants(
        ("scale_info", "TypeDef"),
        (Composite, VariantList, Sequence, Array, Tuple, PrimitiveType, CompactType),
    ),
]


@dataclass(frozen=True)
class TypeParameter:
    name: str
    type: CompactU32 | None


@dataclass(frozen=True)
class PortableType:
    id: CompactU32
    path: tuple[str, ...]
    params: tuple[TypeParameter, ...]
    definition: Definition
    docs: tuple[str, ...] = ()


class Modifier(IntEnum):
    OPTIONAL = 0
    DEFAULT = 1


class PlainEntry(Variant, index=0):
    value: CompactU32


class MapEntry(Variant, index=1):
    hashers: tuple[U8, ...]
    key: CompactU32
    value: CompactU32


@dataclass(frozen=True)
class StorageEntry:
    name: str
    modifier: Modifier
    type: Annotated[Variant, scale.Variants(("StorageEntryType",), (PlainEntry, MapEntry))]
    default: bytes
    docs: tuple[str, ...] = ()


@dataclass(frozen=True)
class PalletStorage:
    prefix: str
    entries: tuple[StorageEntry, ...]


@dataclass(frozen=True)
class PalletConstant:
    name: str
    type: CompactU32
    value: bytes
    docs: tuple[str, ...] = ()


@dataclass(frozen=True)
class PalletMetadata:
    name: str
    storage: PalletStorage | None
    calls: CompactU32 | None
    events: CompactU32 | None
    constants: tuple[PalletConstant, ...]
    errors: CompactU32 | None
    index: U8


@dataclass(frozen=True)
class SignedExtension:
    identifier: str
    type: CompactU32
    additional_signed: CompactU32


@dataclass(frozen=True)
class ExtrinsicMetadata:
    type: CompactU32
    version: U8
    signed_extensions: tuple[SignedExtension, ...]


@dataclass(frozen=True)
class Metadata:
    types: tuple[PortableType, ...]
    pallets: tuple[PalletMetadata, ...]
    extrinsic: ExtrinsicMetadata
    runtime_type: CompactU32


ERA = scale.Newtype(("sp_runtime", "generic", "era", "Era"), scale.ByteVec())
_NOTHING = scale.TupleOf()
SIGNED_EXTENSIONS: tuple[tuple[str, tuple[str, ...], ScaleType | None, ScaleType], ...] = (
    ("CheckNonZeroSender", ("frame_system", "check_non_zero_sender"), None, _NOTHING),
    ("CheckSpecVersion", ("frame_system", "check_spec_version"), None, scale.UInt(32)),
    ("CheckTxVersion", ("frame_system", "check_tx_version"), None, scale.UInt(32)),
    ("CheckGenesis", ("frame_system", "check_genesis"), None, type_of(Hash)),
    ("CheckMortality", ("frame_system", "check_mortality"), ERA, type_of(Hash)),
    ("CheckNonce", ("frame_system", "check_nonce"), scale.Compact(32), _NOTHING),
    ("CheckWeight", ("frame_system", "check_weight"), None, _NOTHING),
    ("ChargeTransactionPayment", ("pallet_transaction_payment",), scale.Compact(128), _NOTHING),
)
"""Identifier, crate path, what the extrinsic carries, and what is signed besides it."""

ACCOUNT_TYPE = type_of(chain_types.AccountId)
SIGNATURE_TYPE = scale.Newtype(("fp_account", "EthereumSignature"), scale.ByteArray(65))

_PATHS: dict[type[Any], tuple[str, ...]] = {
    chain_types.AccountInfo: ("frame_system", "AccountInfo"),
    chain_types.AccountData: ("pallet_balances", "types", "AccountData"),
    chain_types.PeerInfo: ("pallet_network", "pallet", "PeerInfo"),
    NodeClass: ("pallet_network", "pallet", "SubnetNodeClass"),
    EventRecord: ("frame_system", "EventRecord"),
    events.Weight: ("sp_weights", "weight_v2", "Weight"),
    events.DispatchInfo: ("frame_support", "dispatch", "DispatchInfo"),
    events.DispatchClass: ("frame_support", "dispatch", "DispatchClass"),
    events.Pays: ("frame_support", "dispatch", "Pays"),
    events.ModuleError: ("sp_runtime", "ModuleError"),
    events.TokenError: ("sp_runtime", "TokenError"),
}


class TypeRegistry:
    """Numbers types as they are first met."""

    def __init__(self) -> None:
        self._ids: dict[object, int] = {}
        self._types: dict[int, PortableType] = {}

    @property
    def types(self) -> tuple[PortableType, ...]:
        return tuple(self._types[number] for number in sorted(self._types))

    def add(self, kind: ScaleType) -> int:
        """Return the number of ``kind``, describing it and its parts on first sight."""
        if kind not in self._ids:
            # The number is taken before the parts are described, so that it is lower.
            self._ids[kind] = len(self._ids)
            path, params, definition = self._describe(kind)
            self._store(self._ids[kind], path, params, definition)
        return self._ids[kind]

    def add_variants(self, path: tuple[str, ...], variants: Iterable[VariantEntry]) -> int:
        """Number an enum that no value uses: the errors of a pallet."""
        number = self._ids.setdefault(path, len(self._ids))
        self._store(number, path, {}, VariantList(tuple(variants)))
        return number

    def add_composite(
        self, path: tuple[str, ...], params: dict[str, int | None], parts: tuple[ScaleType, ...]
    ) -> int:
        """Number a named composite of unnamed parts that no value uses."""
        number = self._ids.setdefault(path, len(self._ids))
        definition = Composite(tuple(Field(None, self.add(part)) for part in parts))
        self._store(number, path, params, definition)
        return number

    def _store(
        self,
        number: int,
        path: tuple[str, ...],
        params: dict[str, int | None],
        definition: Variant,
    ) -> None:
        listed = tuple(TypeParameter(name, kind) for name, kind in params.items())
        self._types[number] = PortableType(number, path, listed, definition)

    def _describe(self, kind: ScaleType) -> tuple[tuple[str, ...], dict[str, int | None], Variant]:
        """Return path, parameters and definition."""
        if kind == ERA:
            return ERA.path, {}, self._describe_era()
        match kind:
            case scale.UInt(bits):
                return (), {}, PrimitiveType(Primitive[f"U{bits}"])
            case scale.SInt(bits):
                return (), {}, PrimitiveType(Primitive[f"I{bits}"])
            case scale.Bool():
                return (), {}, PrimitiveType(Primitive.BOOL)
            case scale.Text():
                return (), {}, PrimitiveType(Primitive.STR)
            case scale.Compact(bits):
                return (), {}, CompactType(self.add(scale.UInt(bits)))
            case scale.ByteVec():
                return (), {}, Sequence(self.add(scale.UInt(8)))
            case scale.ByteArray(size):
                return (), {}, Array(size, self.add(scale.UInt(8)))
            case scale.VecOf(item):
                return (), {}, Sequence(self.add(item))
            case scale.TupleOf(parts):
                return (), {}, Tuple(tuple(self.add(part) for part in parts))
            case _:
                return self._describe_named(kind)

    def _describe_named(
        self, kind: ScaleType
    ) -> tuple[tuple[str, ...], dict[str, int | None], Variant]:
        match kind:
            case scale.OptionOf(item):
                inner = self.add(item)
                some = VariantEntry("Some", (Field(None, inner),), 1)
                none = VariantEntry("None", (), 0)
                return ("Option",), {"T": inner}, VariantList((none, some))
            case scale.BoundedBytes():
                path = ("bounded_collections", "bounded_vec", "BoundedVec")
                parameters = {"T": self.add(scale.UInt(8)), "S": None}
                return path, parameters, self._wrap(scale.ByteVec(), "Vec<T>")
            case scale.SetOf(item):
                return ("BTreeSet",), {"T": self.add(item)}, self._wrap(scale.VecOf(item))
            case scale.MapOf(key, value):
                pairs = scale.VecOf(scale.TupleOf((key, value)))
                return ("BTreeMap",), {"K": self.add(key), "V": self.add(value)}, self._wrap(pairs)
            case scale.Newtype(path, item):
                return path, {}, self._wrap(item)
            case scale.PlainEnum(cls):
                return _path_of(cls), {}, VariantList(_list_plain_variants(cls))
            case scale.Record(cls):
                params = self._record_params(cls)
                return _path_of(cls), params, Composite(self._list_fields(cls))
            case scale.Variants(path, classes):
                return path, {}, VariantList(tuple(self._list_variant(cls) for cls in classes))
            case scale.PalletVariants(path, pallets):
                entries = tuple(
                    VariantEntry(name, (Field(None, self.add(variants)),), index)
                    for index, name, variants in pallets
                )
                return path, {}, VariantList(entries)
        raise TypeError(f"{kind} has no description")

    def _record_params(self, cls: type[Any]) -> dict[str, int | None]:
        if cls is EventRecord:
            parts = dict(fields_of(cls))
            return {"E": self.add(parts["event"]), "T": self.add(type_of(Hash))}
        return {}

    def _wrap(self, item: ScaleType, type_name: str | None = None) -> Composite:
        return Composite((Field(None, self.add(item), type_name),))

    def _describe_era(self) -> VariantList:
        byte = self.add(scale.UInt(8))
        mortal = (VariantEntry(f"Mortal{i}", (Field(None, byte),), i) for i in range(1, 256))
        return VariantList((VariantEntry("Immortal", (), 0), *mortal))

    def _list_fields(self, cls: type[Any], *, named: bool = True) -> tuple[Field, ...]:
        names = {item.name: item.metadata.get("name", item.name) for item in fields(cls)}
        return tuple(
            Field(names[name] if named else None, self.add(kind), _type_name(kind))
            for name, kind in fields_of(cls)
        )

    def _list_variant(self, cls: type[Variant]) -> VariantEntry:
        listed = self._list_fields(cls, named=cls.has_named_fields)
        return VariantEntry(cls.variant_name, listed, cls.variant_index, _docs_of(cls))


def _type_name(kind: ScaleType) -> str:
    """Return the type in the source's words; clients print it, and some insist on it."""
    match kind:
        case scale.UInt(bits):
            return f"u{bits}"
        case scale.SInt(bits):
            return f"i{bits}"
        case scale.Compact(bits):
            return f"Compact<u{bits}>"
        case scale.Bool():
            return "bool"
        case scale.Text():
            return "Text"
        case scale.ByteVec() | scale.BoundedBytes():
            return "Vec<u8>"
        case scale.ByteArray(size):
            return f"[u8; {size}]"
        case scale.OptionOf(item):
            return f"Option<{_type_name(item)}>"
        case scale.VecOf(item):
            return f"Vec<{_type_name(item)}>"
        case scale.SetOf(item):
            return f"BTreeSet<{_type_name(item)}>"
        case scale.MapOf(key, value):
            return f"BTreeMap<{_type_name(key)}, {_type_name(value)}>"
        case scale.TupleOf(parts):
            return f"({', '.join(_type_name(part) for part in parts)})"
        case scale.Newtype(path, _) | scale.Variants(path, _) | scale.PalletVariants(path, _):
            return path[-1]
        case scale.Record(cls) | scale.PlainEnum(cls):
            return _path_of(cls)[-1]
    raise TypeError(f"{kind} has no name")


def _path_of(cls: type[Any]) -> tuple[str, ...]:
    return _PATHS.get(cls, ("pallet_network", "pallet", cls.__name__))


def _list_plain_variants(cls: type[IntEnum]) -> tuple[VariantEntry, ...]:
    return tuple(VariantEntry(scale.to_camel_case(item.name), (), item.value) for item in cls)


def _docs_of(cls: type[Any]) -> tuple[str, ...]:
    """Return the docstring that was written, not the one that dataclass makes."""
    docs = cls.__doc__ or ""
    if docs.startswith(f"{cls.__name__}("):
        return ()
    return tuple(line.strip() for line in docs.strip().splitlines())


def build_metadata(config: LedgerConfig) -> bytes:
    """Return the metadata of one chain, with its magic and version."""
    registry = TypeRegistry()
    extrinsic = _build_extrinsic(registry)
    pallets = tuple(_build_pallet(registry, pallet, config) for pallet in PALLETS)
    runtime_type = registry.add_composite((RUNTIME_PATH, "Runtime"), {}, ())
    registry.add(type_of(tuple[EventRecord, ...]))
    metadata = Metadata(registry.types, pallets, extrinsic, runtime_type)
    return METADATA_MAGIC + bytes([METADATA_VERSION]) + type_of(Metadata).encode(metadata)


def _build_pallet(registry: TypeRegistry, pallet: Pallet, config: LedgerConfig) -> PalletMetadata:
    entries = tuple(
        _build_entry(registry, item) for item in STORAGE_ITEMS if item.pallet == pallet.name
    )
    constants = tuple(
        PalletConstant(
            constant.name,
            registry.add(type_of(constant.annotation)),
            type_of(constant.annotation).encode(constant.value),
        )
        for constant in list_constants(config)
        if constant.pallet == pallet.name
    )
    return PalletMetadata(
        name=pallet.name,
        storage=PalletStorage(pallet.name, entries) if entries else None,
        calls=registry.add(pallet.calls) if pallet.calls else None,
        events=registry.add(pallet.events) if pallet.events else None,
        constants=constants,
        errors=_build_errors(registry, pallet),
        index=pallet.index,
    )


def _build_errors(registry: TypeRegistry, pallet: Pallet) -> int | None:
    if not pallet.errors:
        return None
    variants = (VariantEntry(name, (), index) for name, index in pallet.errors.items())
    return registry.add_variants((pallet.crate, "pallet", "Error"), variants)


def _build_entry(registry: TypeRegistry, item: Item[Any]) -> StorageEntry:
    value = registry.add(item.kind)
    entry: Variant = PlainEntry(value)
    if item.keys:
        hashers = tuple(part.hasher.value for part in item.keys)
        kinds = tuple(part.kind for part in item.keys)
        key = registry.add(kinds[0] if len(kinds) == 1 else scale.TupleOf(kinds))
        entry = MapEntry(hashers, key, value)
    if item.is_optional:
        return StorageEntry(item.name, Modifier.OPTIONAL, entry, b"\x00")
    return StorageEntry(item.name, Modifier.DEFAULT, entry, item.kind.encode(item.default))


def _build_extrinsic(registry: TypeRegistry) -> ExtrinsicMetadata:
    extensions = tuple(
        SignedExtension(
            name,
            registry.add_composite((*crate, name), {}, () if carried is None else (carried,)),
            registry.add(signed),
        )
        for name, crate, carried, signed in SIGNED_EXTENSIONS
    )
    params: dict[str, int | None] = {
        "Address": registry.add(ACCOUNT_TYPE),
        "Call": registry.add(CALL_TYPE),
        "Signature": registry.add(SIGNATURE_TYPE),
        "Extra": registry.add_composite(
            (RUNTIME_PATH, "SignedExtra"),
            {},
            tuple(item[2] for item in SIGNED_EXTENSIONS if item[2]),
        ),
    }
    path = ("sp_runtime", "generic", "unchecked_extrinsic", "UncheckedExtrinsic")
    extrinsic = registry.add_composite(path, params, (scale.ByteVec(),))
    return ExtrinsicMetadata(extrinsic, EXTRINSIC_VERSION, extensions)
