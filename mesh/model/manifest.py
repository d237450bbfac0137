"""The model manifest: what all hosters of one subnet must serve, bit for bit.

Canonical JSON of the model's name and revision, its architecture numbers, the SHA-256 of
every weight tensor, the protocol's constants, which the caller passes in, and what calibration
measured. Its hash is part of the network id, so nodes of another model never meet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import ManifestMismatch, ModelError, NotCalibrated
from mesh.model.abandon import CheckWanted, always_wanted
from mesh.model.config import ModelConfig
from mesh.model.fields import MAX_LAYERS
from mesh.model.files import ModelFolder
from mesh.model.margins import Calibration, describe_calibration, parse_calibration
from mesh.model.quant_types import NOT_QUANTISED, find_quant_type
from mesh.model.tensors import (
    ServedTensor,
    TensorEntry,
    list_range_tensors,
    list_served_tensors,
    locate_tensors,
)
from mesh.plugins import PluginKind, PluginStamp, parse_stamps
from mesh.progress import BYTES, Step, ignore_step, track

FORMAT = 2
UNCALIBRATED_FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
"""What one answer of a peer may hold."""
_READ_BYTES = 4 << 20
_TENSOR_TAG = b"mesh/tensor"
# What reading other people's JSON can trip over; an infinity has no integer.
_MALFORMED = (ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RecursionError)
# A tensor stored in the key's type keeps its values in each of these.
_EXACT_DTYPES = {
    "F32": {"float32"},
    "BF16": {"bfloat16", "float32"},
    "F16": {"float16", "float32"},
}


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """The manifest's canonical bytes and the fields that code asks for.

    ``tensors`` maps a name to (dtype, shape, SHA-256 hex): the stored ones, or, where a quantised
    model serves other values, ``I8`` or ``I4`` and the hash of those. ``plugins`` are what scores,
    probes or describes the model in place of what is built in.
    """

    body: bytes
    model_name: str
    revision: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    architecture: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...], str]]
    constants: Mapping[str, int]
    calibration: Calibration
    quant_type: str = NOT_QUANTISED
    plugins: Mapping[PluginKind, PluginStamp] = field(default_factory=dict)

    @property
    def manifest_hash(self) -> bytes:
        """SHA-256 of the canonical bytes: what stands on chain."""
        return hashlib.sha256(self.body).digest()


def build_manifest(
    folder: ModelFolder,
    config: ModelConfig,
    *,
    model_name: str,
    revision: str,
    constants: Mapping[str, int],
    calibration: Calibration,
    quant_type: str = NOT_QUANTISED,
    plugins: Mapping[PluginKind, PluginStamp] | None = None,
    check_wanted: CheckWanted = always_wanted,
) -> ModelManifest:
    """Hash every tensor of the model, as it is served (about one second a gigabyte).

    A quantised model has its own manifest, which says so; raises ModelError, and Abandoned
    between two pieces once ``check_wanted`` does.
    """
    entries = locate_tensors(folder, config, list_range_tensors(config, 0, config.num_layers))
    listed = list_served_tensors(config, 0, config.num_layers, quant_type)
    tensors: dict[str, list[Any]] = {}
    size = sum(entries[served.stored].num_bytes for served in listed)
    with track("hashing the weights", total=size, unit=BYTES) as step:
        for served in listed:
            entry = entries[served.stored]
            tensors[served.name] = list(_describe(entry, served, quant_type, check_wanted))
            step(entry.num_bytes)
    value: dict[str, Any] = {
        "format": FORMAT,
        "model": model_name,
        "revision": revision,
        "architecture": describe_architecture(config),
        "tensors": tensors,
        "constants": dict(constants),
        "calibration": describe_calibration(calibration),
    }
    if quant_type != NOT_QUANTISED:
        value["quantisation"] = quant_type
    manifest = decode_manifest(encode_canonical_json(value))
    return add_plugins(manifest, plugins or {})


def add_plugins(
    manifest: ModelManifest, plugins: Mapping[PluginKind, PluginStamp]
) -> ModelManifest:
    """Return the manifest with these plug-ins and no others; without any, it names none."""
    value = json.loads(manifest.body)
    value.pop("plugins", None)
    if plugins:
        value["plugins"] = {kind.value: stamp.describe() for kind, stamp in plugins.items()}
    return decode_manifest(encode_canonical_json(value))


def encode_canonical_json(value: Mapping[str, Any]) -> bytes:
    """Sorted keys, no spaces, ASCII, no floating-point numbers: one value, one encoding."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii")


def describe_architecture(config: ModelConfig) -> dict[str, Any]:
    """Return the numbers that change a layer's output; floats as their shortest exact text.

    What a model does not have is left out, so a new kind of number changes no manifest.
    """
    fields = dataclasses.asdict(config)
    for name in ("stored_dtype", "eos_token_ids"):
        del fields[name]
    # The name that manifests on chain were hashed with.
    fields["num_blocks"] = fields.pop("num_layers")
    return _without_floats(fields)


def _without_floats(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _describe_value(value) for name, value in fields.items() if value is not None}


def _describe_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _without_floats(value)
    if isinstance(value, tuple):
        return [_describe_value(part) for part in value]
    return repr(value) if isinstance(value, float) else value


def decode_manifest(body: bytes) -> ModelManifest:
    """Parse canonical bytes, of a file or a peer. Raises ModelError, NotCalibrated for old ones."""
    if len(body) > MAX_MANIFEST_BYTES:
        raise ModelError(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    try:
        value = json.loads(body)
        found_format = value["format"]
    except _MALFORMED as error:
        raise ModelError(f"the manifest is malformed: {type(error).__name__}") from error
    if found_format == UNCALIBRATED_FORMAT:
        raise NotCalibrated("the manifest has no calibration: an earlier version made it")
    if found_format != FORMAT:
        raise ModelError(f"manifest format {found_format!r:.20} is not {FORMAT}")
    try:
        manifest = _parse(body, value)
    except _MALFORMED as error:
        raise ModelError(f"the manifest is malformed: {type(error).__name__}") from error
    if encode_canonical_json(value) != body:
        raise ModelError("the manifest is not in canonical form")
    return manifest


def _parse(body: bytes, value: dict[str, Any]) -> ModelManifest:
    architecture = dict(value["architecture"])
    num_layers = int(architecture["num_blocks"])
    if not 0 < num_layers <= MAX_LAYERS:
        raise ValueError(f"{num_layers} blocks")
    return ModelManifest(
        body=body,
        model_name=str(value["model"]),
        revision=str(value["revision"]),
        num_layers=num_layers,
        hidden_size=int(architecture["hidden_size"]),
        vocab_size=int(architecture["vocab_size"]),
        architecture=architecture,
        tensors={
            str(name): (str(dtype), tuple(int(length) for length in shape), str(digest))
            for name, (dtype, shape, digest) in value["tensors"].items()
        },
        constants={str(name): int(number) for name, number in value["constants"].items()},
        calibration=parse_calibration(value["calibration"], num_layers),
        quant_type=str(value.get("quantisation", NOT_QUANTISED)),
        plugins=parse_stamps(value.get("plugins", {})),
    )


def check_manifest(
    manifest: ModelManifest,
    folder: ModelFolder,
    config: ModelConfig,
    *,
    start: int,
    end: int,
    served_dtype: str,
    constants: Mapping[str, int],
    quant_type: str = NOT_QUANTISED,
    check_wanted: CheckWanted = always_wanted,
    is_reported: bool = True,
) -> None:
    """Raise ManifestMismatch naming the first difference of what ``[start, end)`` would serve.

    Only the range's own tensors are read. ``served_dtype`` is ``float32``, ``bfloat16`` or
    ``float16``; a type that rounds the stored values does not serve the manifest's model.
    Progress is reported unless ``is_reported`` is False: for a single layer.
    """
    _check_equal("quantisation", manifest.quant_type, quant_type)
    _check_fields("architecture", manifest.architecture, describe_architecture(config))
    _check_fields("constants", manifest.constants, constants)
    entries = locate_tensors(folder, config, list_range_tensors(config, start, end))
    tensors = list_served_tensors(config, start, end, quant_type)
    size = sum(entries[served.stored].num_bytes for served in tensors)
    with ExitStack() as stack:
        step: Step = ignore_step
        if is_reported:
            work = track("checking the weights", total=size, unit=BYTES, blocks=f"{start}:{end}")
            step = stack.enter_context(work)
        for served in sorted(tensors, key=lambda served: served.name):
            entry = entries[served.stored]
            _check_tensor(manifest, entry, served, served_dtype, check_wanted)
            step(entry.num_bytes)


def _check_tensor(
    manifest: ModelManifest,
    entry: TensorEntry,
    served: ServedTensor,
    served_dtype: str,
    check_wanted: CheckWanted,
) -> None:
    name = served.name
    if name not in manifest.tensors:
        raise ManifestMismatch(f"tensor {name} is not in the manifest")
    expected, shape, digest = manifest.tensors[name]
    dtype = _get_dtype(entry, served, manifest.quant_type)
    _check_equal(f"dtype of {name}", expected, dtype)
    _check_equal(f"shape of {name}", shape, entry.shape)
    rounds = served_dtype not in _EXACT_DTYPES.get(dtype, {"float32"})
    if rounds and not served.is_quantised:
        raise ManifestMismatch(f"{name} is stored as {dtype}; {served_dtype} would round it")
    found = _hash_served(entry, served, manifest.quant_type, check_wanted)
    _check_equal(f"SHA-256 of {name}", digest, found)


def _check_fields(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        _check_equal(f"{what}.{name}", expected.get(name), found.get(name))


def _check_equal(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise ManifestMismatch(f"{what}: the manifest has {expected}, this node {found}")


def _get_dtype(entry: TensorEntry, served: ServedTensor, quant_type: str) -> str:
    quant = find_quant_type(quant_type)
    return quant.manifest_dtype if quant is not None and served.is_quantised else entry.dtype


def _describe(
    entry: TensorEntry, served: ServedTensor, quant_type: str, check_wanted: CheckWanted
) -> tuple[str, list[int], str]:
    digest = _hash_served(entry, served, quant_type, check_wanted)
    return _get_dtype(entry, served, quant_type), list(entry.shape), digest


def _hash_served(
    entry: TensorEntry, served: ServedTensor, quant_type: str, check_wanted: CheckWanted
) -> str:
    check_wanted()
    if not served.is_quantised:
        return hash_tensor(entry, check_wanted=check_wanted)
    # Here only: a manifest of stored values needs no torch.
    from mesh.model.weights import hash_quantised

    return hash_quantised(entry, quant_type)


def hash_tensor(entry: TensorEntry, *, check_wanted: CheckWanted = always_wanted) -> str:
    """SHA-256 hex of the tensor's little-endian values: of the stored bytes, or dequantised."""
    digest = hashlib.sha256(_TENSOR_TAG)
    if entry.gguf_rows is not None:
        for values in entry.gguf_rows.iterate_served():
            check_wanted()
            digest.update(values)
        return digest.hexdigest()
    for part in entry.safetensors:
        for piece in _read_pieces(part):
            check_wanted()
            digest.update(piece)
    return digest.hexdigest()


def _read_pieces(entry: TensorEntry) -> Iterator[bytes]:
    left = entry.end - entry.begin
    with entry.file.open("rb") as file:
        file.seek(entry.begin)
        while left:
            piece = file.read(min(left, _READ_BYTES))
            if not piece:
                raise ModelError(f"{entry.file.name} ends inside {entry.name}")
            yield piece
            left -= len(piece)
