"""Parameters that callers may know from elsewhere and that this gateway does not have.

A known parameter that would change the answer is refused by name; the same parameter at its
neutral value is accepted, because many clients send every field that they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.api.problems import Problem

_Neutral = tuple[Any, ...]
_OFF: _Neutral = (None, False)
_EMPTY: _Neutral = (None, [], {}, "")
_ZERO: _Neutral = (None, 0)
_ONE: _Neutral = (None, 1)

COMMON: Mapping[str, _Neutral] = {
    "frequency_penalty": _ZERO,
    "presence_penalty": _ZERO,
    "logit_bias": _EMPTY,
    "min_p": _ZERO,
    "typical_p": _ONE,
    "min_tokens": _ZERO,
    "ignore_eos": _OFF,
    "use_beam_search": _OFF,
    "length_penalty": _ONE,
    "best_of": _ONE,
    "guided_json": _EMPTY,
    "guided_regex": _EMPTY,
    "guided_choice": _EMPTY,
    "guided_grammar": _EMPTY,
    "stop_token_ids": _EMPTY,
}

CHAT: Mapping[str, _Neutral] = {
    **COMMON,
    "tools": _EMPTY,
    "tool_choice": (None, "none", "auto"),
    "functions": _EMPTY,
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": _EMPTY,
    "prediction": _EMPTY,
    "web_search_options": (None,),
    "reasoning_effort": (None, "none"),
    "store": _OFF,
}

COMPLETION: Mapping[str, _Neutral] = {**COMMON, "suffix": _EMPTY}

TRANSFORMERS: Mapping[str, _Neutral] = {
    "num_beams": _ONE,
    "num_beam_groups": _ONE,
    "diversity_penalty": _ZERO,
    "length_penalty": _ONE,
    "early_stopping": _OFF,
    "penalty_alpha": _ZERO,
    "dola_layers": (None,),
    "guidance_scale": _ONE,
    "min_length": _ZERO,
    "min_new_tokens": _ZERO,
    "max_time": (None,),
    "min_p": _ZERO,
    "typical_p": _ONE,
    "top_h": (None,),
    "epsilon_cutoff": _ZERO,
    "eta_cutoff": _ZERO,
    "encoder_repetition_penalty": _ONE,
    "no_repeat_ngram_size": _ZERO,
    "encoder_no_repeat_ngram_size": _ZERO,
    "bad_words_ids": _EMPTY,
    "force_words_ids": _EMPTY,
    "constraints": _EMPTY,
    "sequence_bias": _EMPTY,
    "suppress_tokens": _EMPTY,
    "begin_suppress_tokens": _EMPTY,
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "renormalize_logits": _OFF,
    "remove_invalid_values": _OFF,
    "token_healing": _OFF,
    "watermarking_config": (None,),
    "output_attentions": _OFF,
    "output_hidden_states": _OFF,
    "output_scores": _OFF,
    "output_logits": _OFF,
    "return_dict_in_generate": _OFF,
    "prompt_lookup_num_tokens": (None,),
    "num_assistant_tokens": (None,),
    "num_assistant_tokens_schedule": (None,),
    "assistant_confidence_threshold": (None,),
    "assistant_early_exit": (None,),
    "assistant_lookbehind": (None,),
    "assistant_ensemble_weight": (None,),
    "speculation_type": (None,),
    "use_mtp": _OFF,
    "target_lookbehind": (None,),
    "max_matching_ngram_size": (None,),
    "decoder_start_token_id": (None,),
    "bos_token_id": (None,),
    "eos_token_id": (None,),
    "pad_token_id": (None,),
    "use_cache": (None, True),
    "cache_implementation": (None,),
    "cache_config": (None,),
    "max_cache_len": (None,),
    "prefill_chunk_size": (None,),
    "continuous_batching_config": (None,),
    "low_memory": _OFF,
    "disable_compile": (None, False, True),
    "compile_config": (None,),
}


def check_supported(extras: Mapping[str, Any], known: Mapping[str, _Neutral]) -> None:
    """Raise Problem 400 for a known parameter that this gateway cannot honour."""
    for name, value in extras.items():
        if name in known and not _is_neutral(value, known[name]):
            raise _unsupported(name)


def check_all_known(extras: Mapping[str, Any], known: Mapping[str, _Neutral]) -> None:
    """Raise Problem 400 for any parameter that is not known, or not supported."""
    for name, value in extras.items():
        if name not in known:
            raise Problem(
                400,
                "This is not an argument of generate.",
                param=name[:128],
                code="unknown_parameter",
            )
        if not _is_neutral(value, known[name]):
            raise _unsupported(name)


def _is_neutral(value: Any, neutral: _Neutral) -> bool:
    # True == 1 in Python, so a boolean only equals a boolean here.
    return any(
        value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
        for allowed in neutral
    )


def _unsupported(name: str) -> Problem:
    return Problem(400, f"'{name}' is not supported.", param=name, code="unsupported_parameter")
