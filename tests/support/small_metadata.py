"""Metadata of few types: what an endpoint may say of its runtime, without the runtime."""

from __future__ import annotations

from collections.abc import Iterable

from devchain.metadata import (
    EXTRINSIC_VERSION,
    METADATA_MAGIC,
    METADATA_VERSION,
    Array,
    CompactType,
    Composite,
    ExtrinsicMetadata,
    Field,
    MapEntry,
    Metadata,
    Modifier,
    PalletConstant,
    PalletMetadata,
    PalletStorage,
    PlainEntry,
    PortableType,
    Primitive,
    PrimitiveType,
    Sequence,
    SignedExtension,
    StorageEntry,
    Tuple,
    TypeParameter,
    VariantEntry,
    VariantList,
)
from devchain.scale import Variant, type_of


def encode_metadata(types: Iterable[PortableType], pallets: Iterable[PalletMetadata] = ()) -> bytes:
    """Encode the metadata of these types; the first stands for the extrinsic and the runtime."""
    extrinsic = ExtrinsicMetadata(0, EXTRINSIC_VERSION, (SignedExtension("CheckNonce", 0, 0),))
    metadata = Metadata(tuple(types), tuple(pallets), extrinsic, 0)
    return METADATA_MAGIC + bytes([METADATA_VERSION]) + type_of(Metadata).encode(metadata)


def number(*definitions: Variant) -> tuple[PortableType, ...]:
    """Number types without names, from 0 on."""
    return tuple(PortableType(place, (), (), item) for place, item in enumerate(definitions))


def make_small_metadata() -> bytes:
    """Return metadata with a type of every kind, and one pallet with a part of every kind."""
    byte, unit, records = 1, 2, 6
    parameters = (TypeParameter("Address", 4), TypeParameter("Call", 9), TypeParameter("X", None))
    some = VariantEntry("Some", (Field(None, byte),), 1)
    both = VariantEntry("Both", (Field("a", byte, "u8"), Field("b", 3)), 2, ("Two fields.",))
    types = (
        PortableType(0, ("sp", "Extrinsic"), parameters, Composite((Field(None, 5),))),
        PortableType(byte, (), (), PrimitiveType(Primitive.U8)),
        PortableType(unit, (), (), Tuple(())),
        PortableType(3, (), (), CompactType(8)),
        PortableType(4, ("fp_account", "AccountId20"), (), Composite((Field(None, 10),))),
        PortableType(5, (), (), Sequence(byte)),
        PortableType(records, (), (), Sequence(7)),
        PortableType(7, ("p", "Row"), (), Composite((Field("owner", 4), Field("stake", 3)))),
        PortableType(8, (), (), PrimitiveType(Primitive.U128)),
        PortableType(9, ("p", "Call"), (), VariantList((VariantEntry("None", (), 0), some, both))),
        PortableType(10, (), (), Array(20, byte)),
        PortableType(11, ("Option",), (TypeParameter("T", 4),), VariantList((both, some))),
        PortableType(12, (), (), Tuple((4, byte))),
        PortableType(13, ("BTreeMap",), (), Composite((Field(None, 14),))),
        PortableType(14, (), (), Sequence(12)),
    )
    storage = (
        StorageEntry("Now", Modifier.DEFAULT, PlainEntry(8), bytes(16)),
        StorageEntry("Rows", Modifier.OPTIONAL, MapEntry((2,), 4, records), b"\0", ("Rows.",)),
        StorageEntry("Known", Modifier.OPTIONAL, MapEntry((2, 5), 12, 13), b"\0"),
    )
    constants = (PalletConstant("Limit", 3, b"\x04"),)
    stored = PalletStorage("P", storage)
    pallets = (PalletMetadata("P", stored, 9, 9, constants, 9, 3),)
    return encode_metadata(types, pallets)
