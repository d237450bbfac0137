"""How much memory a layer range needs, and how many layers fit: arithmetic over config.json.

Weights and cache are exact to the byte; what a step needs beside them is bounded from above.
Nothing is loaded and torch is not imported, except to ask a GPU how much memory it has free, and a
CPU in which order it holds a head that is the embedding too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import DeviceUnavailable, ModelError
from mesh.model.config import LayerSpan, ModelConfig
from mesh.model.families import list_layer
from mesh.model.family import LayerTensor
from mesh.model.quant_types import NOT_QUANTISED, QuantType, find_quant_type

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOAT32_BYTES = 4
_WIDENING_BYTES = 5
"""Bytes that an int4 number takes at most while a GPU widens the head for a product."""
PAGE_TOKENS = 16
"""Tokens whose keys and values stand in one page of a cache."""
PREFILL_ROWS = 128
"""Rows of a prompt chunk, the longest step that an engine computes by default."""
RUNTIME_BYTES = {"cpu": 512 << 20, "cuda": 1 << 30}
"""Libraries, connections, allocator slack, and on a GPU the context and its kernels."""
_CGROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


@dataclass(frozen=True, slots=True)
class ServingFormat:
    """How weights are held: ``dtype`` of activations and cache, a quant type, and where."""

    dtype: str
    quant_type: str = NOT_QUANTISED
    device: str = "cpu"

    @property
    def value_bytes(self) -> int:
        """Bytes of one activation or cached number. Raises ModelError for an unknown type."""
        if self.dtype not in DTYPE_BYTES:
            raise ModelError(f"dtype {self.dtype} is not one of {', '.join(DTYPE_BYTES)}")
        return DTYPE_BYTES[self.dtype]

    @property
    def served_dtype(self) -> str:
        """What a heartbeat says about the weights."""
        return self.dtype if self.quant_type == NOT_QUANTISED else self.quant_type

    @property
    def quant(self) -> QuantType | None:
        """How matrices are quantised. Raises ModelError for an unknown type."""
        return find_quant_type(self.quant_type)

    @property
    def has_quantised_head(self) -> bool:
        return self.quant is not None and self.quant.has_head

    @property
    def shares_tied_head(self) -> bool:
        """Whether a head that is the embedding too is held once, where both are served."""
        if self.has_quantised_head:
            return False
        if self.dtype != "bfloat16" or self.device != "cpu":
            return True
        from mesh.model.bfloat16_packed import has_kernels

        return not has_kernels()


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What serving a range takes, in bytes."""

    weights: int
    cache: int
    workspace: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.workspace


def compute_layer_bytes(config: ModelConfig, form: ServingFormat) -> int:
    """Return the weights of one layer."""
    return sum(_count_bytes(tensor, form) for tensor in list_layer(config))


def _count_bytes(tensor: LayerTensor, form: ServingFormat) -> int:
    numbers = math.prod(tensor.shape)
    if form.quant is None or not tensor.is_matrix:
        return numbers * form.value_bytes
    columns = tensor.shape[-1]
    return form.quant.count_bytes(numbers // columns, columns)


def compute_embedding_bytes(config: ModelConfig, form: ServingFormat) -> int:
    """Return the embedding: what the range of layer 0 holds beside its layers."""
    return config.vocab_size * config.hidden_size * form.value_bytes


def compute_head_bytes(config: ModelConfig, form: ServingFormat) -> int:
    """Return final norm and head: what the last layer's range holds beside its layers."""
    norm = config.hidden_size * form.value_bytes
    if form.quant is not None and form.has_quantised_head:
        return norm + form.quant.count_bytes(config.vocab_size, config.hidden_size)
    return norm + config.vocab_size * config.hidden_size * form.value_bytes


def compute_weights_bytes(config: ModelConfig, form: ServingFormat, span: LayerSpan) -> int:
    """Return the weights of a range. A tied head may be the embedding where both are held."""
    total = len(span) * compute_layer_bytes(config, form)
    is_first, is_last = span.start == 0, span.end == config.num_layers
    if is_first:
        total += compute_embedding_bytes(config, form)
    if is_last:
        total += compute_head_bytes(config, form)
    if is_first and is_last and config.tie_word_embeddings and form.shares_tied_head:
        total -= compute_embedding_bytes(config, form)
    return total


def count_pages(tokens: int) -> int:
    """Return how many pages hold that many tokens."""
    return -(-tokens // PAGE_TOKENS)


def compute_cache_bytes(
    config: ModelConfig, form: ServingFormat, *, layers: int, tokens: int
) -> int:
    """Return keys and values of ``tokens`` tokens, in whole pages, in ``layers`` layers."""
    slots = count_pages(tokens) * PAGE_TOKENS
    return layers * slots * config.cache_values_per_token * form.value_bytes


def compute_workspace_bytes(
    config: ModelConfig, form: ServingFormat, *, rows: int = PREFILL_ROWS
) -> int:
    """Bound what is needed beside weights and cache: a step of ``rows``, or a challenge.

    A challenge widens one layer to float32; loading one holds its parts twice. The two and a
    step follow each other on one thread, so the largest counts; rotary tables are always there.
    """
    rotary = 2 * config.max_context * config.head_dim * form.value_bytes
    wide_layer = _FLOAT32_BYTES * sum(math.prod(tensor.shape) for tensor in list_layer(config))
    loading = 2 * compute_layer_bytes(config, form)
    return rotary + max(wide_layer, loading, _compute_step_bytes(config, form, rows))


def _compute_step_bytes(config: ModelConfig, form: ServingFormat, rows: int) -> int:
    """Bound the activations of one layer over ``rows`` of a full context, then logits or mask."""
    qkv = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    inner = 4 * config.intermediate_size
    activations = rows * (6 * config.hidden_size + 3 * qkv + inner) * _FLOAT32_BYTES
    logits = rows * config.vocab_size * (_FLOAT32_BYTES + form.value_bytes)
    if form.has_quantised_head:
        logits += _WIDENING_BYTES * config.vocab_size * config.hidden_size
    group = config.num_heads // config.num_kv_heads
    # The mask is laid out for each head of a group, as bits in bytes and as numbers.
    mask = rows * config.max_context * (1 + group * (1 + form.value_bytes))
    return activations + max(logits, mask)


def compute_memory(
    config: ModelConfig,
    form: ServingFormat,
    span: LayerSpan,
    *,
    cache_tokens: int,
    rows: int = PREFILL_ROWS,
) -> MemoryNeed:
    """Return what serving ``span`` with ``cache_tokens`` takes, in steps of ``rows`` at most."""
    return MemoryNeed(
        weights=compute_weights_bytes(config, form, span),
        cache=compute_cache_bytes(config, form, layers=len(span), tokens=cache_tokens),
        workspace=compute_workspace_bytes(config, form, rows=rows),
    )


def count_fitting_layers(
    config: ModelConfig,
    form: ServingFormat,
    *,
    memory_bytes: int,
    cache_tokens: int,
    rows: int = PREFILL_ROWS,
) -> int:
    """Return how many adjacent layers fit into ``memory_bytes``, wherever they stand; 0 if none.

    A range shorter than the model holds the embedding or the head, never both.
    """
    whole = LayerSpan(0, config.num_layers)
    need = compute_memory(config, form, whole, cache_tokens=cache_tokens, rows=rows)
    if need.total <= memory_bytes:
        return config.num_layers
    ends = max(compute_embedding_bytes(config, form), compute_head_bytes(config, form))
    left = memory_bytes - ends - compute_workspace_bytes(config, form, rows=rows)
    each = compute_layer_bytes(config, form)
    each += compute_cache_bytes(config, form, layers=1, tokens=cache_tokens)
    return min(max(0, left // each), config.num_layers - 1)


def get_runtime_bytes(device: str) -> int:
    """Return what a node's process needs on ``device`` before any weight."""
    return RUNTIME_BYTES["cpu" if device == "cpu" else "cuda"]


def check_device(device: str) -> None:
    """Raise DeviceUnavailable unless weights can be held on ``device``: cpu, cuda or cuda:N."""
    if device != "cpu":
        _measure_gpu_memory(device)


def measure_free_memory(device: str) -> int:
    """Return the bytes that a node may use on ``device`` now, its own process not counted.

    On the CPU that is the memory available on the machine or in the control group, whichever is
    less. Raises DeviceUnavailable.
    """
    free = _measure_host_memory() if device == "cpu" else _measure_gpu_memory(device)
    return max(0, free - get_runtime_bytes(device))


def _measure_host_memory() -> int:
    import psutil

    available = int(psutil.virtual_memory().available)
    left = read_cgroup_room()
    return available if left is None else min(available, left)


def read_cgroup_room() -> int | None:
    """Return the bytes left in this process's control group; None without a limit."""
    for limit_file, usage_file in _CGROUP_LIMITS:
        try:
            limit, usage = limit_file.read_text().strip(), usage_file.read_text().strip()
        except OSError:
            continue
        if limit.isdecimal() and usage.isdecimal():
            return max(0, int(limit) - int(usage))
    return None


def _measure_gpu_memory(device: str) -> int:
    import torch

    try:
        free, _ = torch.cuda.mem_get_info(torch.device(device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise make_device_error(device, error) from error
    return int(free)


def make_device_error(device: str, error: Exception) -> DeviceUnavailable:
    """Return torch's reason, of which only the first sentence is about the device."""
    reason = str(error).partition("\n")[0].partition(". ")[0].removesuffix(".")
    return DeviceUnavailable(f"device {device} cannot be used: {reason}")
