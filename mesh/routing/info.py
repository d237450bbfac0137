"""What a node answers to "mesh.info": which network and model it belongs to."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mesh.routing.heartbeat import MAX_SOFTWARE, PROTOCOL_VERSION

INFO_METHOD = "mesh.info"
MAX_INFO_BYTES = 512
MAX_MODEL_NAME = 200
# network id, manifest hash, protocol, layers, context, vocabulary, name length, software length
_INFO = struct.Struct("<32s32sHIIIBB")


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """The network and its model. ``max_context`` is in tokens."""

    network_id: bytes
    manifest_hash: bytes
    model_name: str
    num_layers: int
    max_context: int
    vocab_size: int
    software: str
    protocol_version: int = PROTOCOL_VERSION


def encode_info(info: NetworkInfo) -> bytes:
    """Encode the answer. Raises ValueError when a name is too long."""
    name, software = info.model_name.encode(), info.software.encode()
    if len(name) > MAX_MODEL_NAME or len(software) > MAX_SOFTWARE:
        raise ValueError("the model's or the software's name is too long")
    header = _INFO.pack(
        info.network_id,
        info.manifest_hash,
        info.protocol_version,
        info.num_layers,
        info.max_context,
        info.vocab_size,
        len(name),
        len(software),
    )
    return header + name + software


def decode_info(raw: bytes) -> NetworkInfo:
    """Parse the answer of a peer. Raises ValueError."""
    if not _INFO.size <= len(raw) <= MAX_INFO_BYTES:
        raise ValueError("an info answer has another size")
    network_id, manifest_hash, protocol, layers, context, vocabulary, name, software = (
        _INFO.unpack_from(raw)
    )
    if name > MAX_MODEL_NAME or software > MAX_SOFTWARE:
        raise ValueError("a name in an info answer is too long")
    software_at = _INFO.size + name
    if len(raw) != software_at + software:
        raise ValueError("an info answer has another size")
    model_name, software_name = raw[_INFO.size : software_at].decode(), raw[software_at:].decode()
    if not (model_name + software_name).isprintable():
        raise ValueError("a name in an info answer is not printable")
    return NetworkInfo(
        network_id=network_id,
        manifest_hash=manifest_hash,
        model_name=model_name,
        num_layers=layers,
        max_context=context,
        vocab_size=vocabulary,
        software=software_name,
        protocol_version=protocol,
    )
