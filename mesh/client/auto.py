"""A model served by the mesh, with the interface of transformers' models.

    model = AutoDistributedModelForCausalLM.from_pretrained(name, initial_peers=[...])
    output = model.generate(**tokenizer("Hello", return_tensors="pt"), max_new_tokens=50)

There are no weights here: the hosters compute, and send the logits of the newest positions.
transformers chooses the tokens, so its logits processors, stopping criteria, streamers, sampling,
beams, prompt lookup and assistants work as with a local model.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from mesh.client.auto_config import MODEL_TYPE, MeshConfig, make_mesh_config
from mesh.client.bridge import LoopBridge, LoopThread
from mesh.client.cache import MeshCache
from mesh.client.client import MeshClient
from mesh.client.connection import Connection, open_connection
from mesh.client.driven_text import DrivenText
from mesh.client.inference_session import InferenceSession
from mesh.client.texts import TextBatch
from mesh.errors import InvalidRequest
from mesh.model.config import read_config_fields
from mesh.model.files import resolve_known_model

_HARMLESS_OPTIONS = frozenset(
    {"_from_auto", "low_cpu_mem_usage", "local_files_only", "adapter_kwargs"}
)
_HARMLESS_VALUES = {
    "dtype": ("auto", "float32", torch.float32),
    "torch_dtype": ("auto", "float32", torch.float32),
    "device_map": ("auto", "cpu"),
}


class DistributedModelForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model whose layers are at hosters. Use ``from_pretrained``.

    Close it, or use it as a context manager: it owns a thread and a p2p daemon.
    """

    config_class = MeshConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = False

    def __init__(
        self,
        config: MeshConfig,
        client: MeshClient | None = None,
        bridge: LoopBridge | None = None,
        *,
        close: Callable[[], None] | None = None,
    ) -> None:
        if client is None or bridge is None:
            raise InvalidRequest("config", "a model of the mesh is made with from_pretrained")
        super().__init__(config)
        self._client = client
        self._bridge = bridge
        self._active = threading.local()
        # Also called when the model is forgotten, or at the program's end.
        self._close = weakref.finalize(self, close or _do_nothing)
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *args: Any,
        initial_peers: Sequence[str] | None = None,
        config: MeshConfig | None = None,
        max_layers_per_hop: int | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Dial ``initial_peers`` and return the model that they serve.

        ``name_or_path`` is the served model, or a folder that :meth:`save_pretrained` wrote.
        Raises InvalidRequest naming an option that has no meaning here, ModelError, PeerError or
        TransportError.
        """
        _refuse_options(args, options)
        saved = config if isinstance(config, MeshConfig) else _find_saved(str(name_or_path))
        model = str(name_or_path)
        if saved is not None:
            model, revision = saved.base_model or model, None
            initial_peers = initial_peers or saved.initial_peers
            max_layers_per_hop = max_layers_per_hop or saved.max_layers_per_hop
        peers = [initial_peers] if isinstance(initial_peers, str) else list(initial_peers or ())
        thread: LoopThread[Connection] = LoopThread("mesh-client")
        connection, bridge = thread.open(
            lambda: open_connection(peers, model=model, revision=revision)
        )
        return cls.from_connection(
            connection,
            bridge,
            initial_peers=peers,
            max_layers_per_hop=max_layers_per_hop,
            close=thread.close,
        )

    @classmethod
    def from_connection(
        cls,
        connection: Connection,
        bridge: LoopBridge,
        *,
        initial_peers: Sequence[str] = (),
        max_layers_per_hop: int | None = None,
        close: Callable[[], None] | None = None,
    ) -> Self:
        """Return a model over a client that runs already, in the event loop behind ``bridge``."""
        config = make_mesh_config(
            connection, initial_peers=list(initial_peers), max_layers_per_hop=max_layers_per_hop
        )
        model = cls(config, connection.client, bridge, close=close)
        if (connection.folder.source / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(connection.folder.source)
        return model

    @classmethod
    def _from_config(cls, config: MeshConfig, **options: Any) -> Self:
        """``AutoModelForCausalLM.from_config``: the configuration says where to dial."""
        return cls.from_pretrained(config.base_model or "", config=config, **options)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write where the model is served; there are no weights to write."""
        self.config.save_pretrained(save_directory)
        self.generation_config.save_pretrained(save_directory)

    def close(self) -> None:
        """End the thread and the daemon; idempotent."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def get_input_embeddings(self) -> NoReturn:
        """The embeddings are at the first hoster."""
        raise InvalidRequest("input_embeddings", "are at the hosters")

    def init_weights(self) -> None:
        """Nothing to initialise."""

    def make_cache(self, *, limit: int | None = None, refills: bool = True) -> MeshCache:
        """Return an empty cache for rows of at most ``limit`` tokens; None grows as needed.

        Without ``refills`` the hosters keep nothing to go on with after one of them was lost.
        """
        routing = replace(self.config.routing, refills=refills)
        batch = TextBatch(lambda: DrivenText(self._client, routing=routing))
        return MeshCache(batch, self._bridge, limit=limit)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: MeshCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        cache_position: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """Return float32 logits [batch, positions, vocabulary] of the last ``logits_to_keep``
        positions, 0 for all. Logits of masked positions are zero.

        ``labels`` add the loss, as a number without a gradient; transformers' own options of it are
        taken. ``position_ids`` may say only what follows from the mask. A cache is returned only
        where ``use_cache`` or ``past_key_values`` ask for one: it occupies the hosters until it is
        closed or forgotten. Raises InvalidRequest, NoRoute or SessionLost.
        """
        if input_ids is None or inputs_embeds is not None:
            field = "input_ids" if inputs_embeds is None else "inputs_embeds"
            raise InvalidRequest(field, "the embeddings are at the hosters: give input_ids")
        _refuse_outputs(output_attentions, output_hidden_states, options)
        if labels is not None and logits_to_keep:
            raise InvalidRequest("labels", "the loss needs the logits of all positions")
        if not isinstance(logits_to_keep, int):
            raise InvalidRequest("logits_to_keep", "must be a number of last positions")
        if past_key_values is not None and not isinstance(past_key_values, MeshCache):
            raise InvalidRequest("past_key_values", "must be a cache of this model")
        if position_ids is not None:
            _check_positions(position_ids, input_ids, attention_mask, past_key_values)
        columns = min(logits_to_keep or input_ids.shape[-1], input_ids.shape[-1])
        keeps = past_key_values is not None or bool(use_cache)
        cache = past_key_values
        if cache is None:
            cache = self.make_cache(
                limit=None if keeps else input_ids.shape[-1], refills=bool(keeps)
            )
        try:
            logits = cache.compute_logits(
                input_ids, attention_mask, columns=columns, vocab_size=self.config.vocab_size
            )
        finally:
            if not keeps:
                cache.close()
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                **{name: options[name] for name in _LOSS_OPTIONS & options.keys()},
            )
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=cache if keeps else None
        )
        return output if return_dict is not False else output.to_tuple()

    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        session: InferenceSession | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate as transformers does; within a session, go on from its text.

        In a session ``inputs`` are only what is new, and so is the result. Raises InvalidRequest
        naming an argument that cannot work here, NoRoute or SessionLost.
        """
        _refuse_generation(args, kwargs)
        session = session or getattr(self._active, "session", None)
        if session is not None:
            return session.generate(super().generate, inputs, *args, **kwargs)
        if kwargs.get("past_key_values") is not None or kwargs.get("use_cache") is False:
            return super().generate(inputs, *args, **kwargs)
        cache = self.make_cache()
        try:
            return super().generate(inputs, *args, past_key_values=cache, **kwargs)
        finally:
            cache.close()

    @contextmanager
    def inference_session(self, *, max_length: int) -> Iterator[InferenceSession]:
        """Keep a text of at most ``max_length`` tokens at the hosters between calls.

        Every ``generate`` of this thread belongs to it, unless it names another session.
        """
        limit = self.config.max_position_embeddings
        if not 0 < max_length <= limit:
            raise InvalidRequest("max_length", f"must be from 1 to {limit}")
        session = InferenceSession(self.make_cache(limit=max_length))
        before = getattr(self._active, "session", None)
        self._active.session = session
        try:
            yield session
        finally:
            self._active.session = before
            session.close()

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Say how long the text may become, so that the hosters reserve that much at once."""
        if generation_config.cache_implementation is not None:
            raise InvalidRequest("cache_implementation", "the hosters have their own cache")
        cache = model_kwargs.get("past_key_values")
        if isinstance(cache, MeshCache):
            cache.reserve(max_cache_length + 1)


class AutoDistributedModelForCausalLM:
    """The name that users of distributed models expect."""

    def __init__(self) -> None:
        raise TypeError("use AutoDistributedModelForCausalLM.from_pretrained")

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path, *args: Any, **options: Any
    ) -> DistributedModelForCausalLM:
        """Return a model of the mesh: see DistributedModelForCausalLM.from_pretrained."""
        return DistributedModelForCausalLM.from_pretrained(name_or_path, *args, **options)


def _do_nothing() -> None:
    """The caller that made the client closes it."""


def _find_saved(name: str) -> MeshConfig | None:
    """Return the configuration in a folder that save_pretrained wrote, None for another model."""
    folder = resolve_known_model(name)
    if read_config_fields(folder.source).get("model_type") != MODEL_TYPE:
        return None
    found: MeshConfig = MeshConfig.from_pretrained(folder.path)
    return found


def _refuse_options(args: Sequence[Any], options: dict[str, Any]) -> None:
    """Refuse by name what asks for something that is the hosters' business."""
    if args:
        raise InvalidRequest("model_args", "options have names")
    for name, value in options.items():
        if value is None or value is False or name in _HARMLESS_OPTIONS:
            continue
        if name == "trust_remote_code":
            raise InvalidRequest(name, "code that comes with a model is never run")
        if value not in _HARMLESS_VALUES.get(name, ()):
            raise InvalidRequest(name, "has no meaning here: the hosters hold the weights")


_LOSS_OPTIONS = frozenset({"num_items_in_batch", "ignore_index", "shift_labels"})
# generate hands these through to the model, for which they mean nothing.
_GENERATION_OPTIONS = frozenset({"tokenizer", "assistant_tokenizer"})


def _refuse_outputs(
    attentions: bool | None, hidden_states: bool | None, options: dict[str, Any]
) -> None:
    """Refuse by name what the hosters keep, and what is no argument of a model."""
    for name, wanted in (
        ("output_attentions", attentions),
        ("output_hidden_states", hidden_states),
    ):
        if wanted:
            raise InvalidRequest(name, "stays at the hosters")
    for name, value in options.items():
        if value is not None and name not in _LOSS_OPTIONS | _GENERATION_OPTIONS:
            raise InvalidRequest(name, "is no argument of a model of the mesh")


def _check_positions(
    given: Tensor, input_ids: Tensor, mask: Tensor | None, cache: MeshCache | None
) -> None:
    """Refuse positions other than those that the hosters count: 0 for the first unmasked token."""
    held = 0 if cache is None else cache.get_seq_length()
    if mask is None:
        kept = torch.ones(input_ids.shape[0], held + input_ids.shape[1], dtype=torch.long)
        if cache is not None and cache.mask is not None:
            kept[:, :held] = cache.mask
    else:
        kept = mask.to("cpu", torch.long)
    new = input_ids.shape[1]
    expected, is_kept = (kept.cumsum(dim=1) - 1)[:, -new:], kept[:, -new:].bool()
    positions = given.to("cpu", torch.long)
    fits = positions.ndim == 2 and positions.shape[1] == new
    fits = fits and positions.shape[0] in (1, len(kept))
    if fits and bool((positions.expand_as(expected) == expected)[is_kept].all()):
        return
    raise InvalidRequest("position_ids", "must count the unmasked tokens from 0 on")


def _refuse_generation(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    configs = [kwargs.get("generation_config"), *args]
    for name in ("output_attentions", "output_hidden_states"):
        if kwargs.get(name) or any(getattr(config, name, False) for config in configs):
            raise InvalidRequest(name, "stays at the hosters")
    if kwargs.get("inputs_embeds") is not None:
        raise InvalidRequest("inputs_embeds", "the embeddings are at the hosters")
    if kwargs.get("custom_generate") is not None and not callable(kwargs["custom_generate"]):
        raise InvalidRequest("custom_generate", "code that comes with a model is never run")


AutoModelForCausalLM.register(MeshConfig, DistributedModelForCausalLM, exist_ok=True)
