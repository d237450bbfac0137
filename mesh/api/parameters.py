"""Parameters that callers may know from elsewhere and that this gateway does not have.

A known parameter that would change the answer is refused by name; the same parameter at its
neutral value is accepted, because many clients send every field that they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.api.problems import Problem

_Neutral = tuple[Any, ...]
_NONE: _Neutral = (None,)
_OFF: _Neutral = (None, False)
_EMPTY: _Neutral = (None, [], {}, "")
_ZERO: _Neutral = (None, 0)
_ONE: _Neutral = (None, 1)


def _make_table(*groups: tuple[_Neutral, str]) -> Mapping[str, _Neutral]:
    """Return each name of the groups with its neutral values."""
    return {name: neutral for neutral, names in groups for name in names.split()}


# Special tokens are no text of an answer here, and never were: that is what others do by default.
_TRUE: _Neutral = (None, True)
COMMON = _make_table(
    (
        _ZERO,
        "no_repeat_ngram_size mirostat mirostat_mode dry_multiplier xtc_probability "
        "dynatemp_range top_a smoothing_factor epsilon_cutoff eta_cutoff penalty_alpha min_length",
    ),
    (_ONE, "typical_p typical length_penalty best_of tfs_z repeat_penalty"),
    (_OFF, "use_beam_search"),
    (
        _EMPTY,
        "guided_grammar guided_whitespace_pattern grammar json_schema bad_words "
        "allowed_token_ids suppress_tokens logits_processors chat_template documents",
    ),
    (_NONE, "truncate_prompt_tokens max_new_tokens n_predict num_predict max_length"),
    (_TRUE, "skip_special_tokens spaces_between_special_tokens"),
)

CHAT: Mapping[str, _Neutral] = {
    **COMMON,
    **_make_table(
        (_EMPTY, "functions audio prediction reasoning"),
        (_OFF, "store"),
        (_NONE, "web_search_options enable_thinking thinking_budget"),
    ),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None, "none"),
}

MESSAGE: Mapping[str, _Neutral] = _make_table(
    (_NONE, "function_call audio"), (_OFF, "prefix partial")
)
"""What of a message would change the answer."""

COMPLETION: Mapping[str, _Neutral] = {
    **COMMON,
    "suffix": _EMPTY,
    "continue_final_message": _OFF,
    "response_format": (None, {"type": "text"}),
}

RESPONSES: Mapping[str, _Neutral] = {
    **COMMON,
    **_make_table(
        (_NONE, "previous_response_id conversation prompt max_tool_calls prompt_logprobs"),
        (_OFF, "store background include_stop_str_in_output continue_final_message echo"),
        (_EMPTY, "include reasoning stop"),
        (_ZERO, "top_logprobs frequency_penalty presence_penalty"),
    ),
    "truncation": (None, "disabled"),
}

ANTHROPIC: Mapping[str, _Neutral] = {
    **COMMON,
    **_make_table((_EMPTY, "mcp_servers"), (_NONE, "container context_management output_format")),
    "thinking": (None, {"type": "disabled"}),
}

OLLAMA: Mapping[str, _Neutral] = _make_table((_EMPTY, "images suffix template context"))

OLLAMA_OPTIONS: Mapping[str, _Neutral] = {
    **_make_table((_ZERO, "mirostat"), (_ONE, "tfs_z typical_p")),
    "repeat_last_n": (None, -1),
}

INFERENCE: Mapping[str, _Neutral] = {
    **COMMON,
    **_make_table(
        (_OFF, "stream"), (_EMPTY, "tools response_format"), (_ONE, "n repetition_penalty")
    ),
    **_make_table((_ZERO, "frequency_penalty presence_penalty min_p")),
}

EMBEDDINGS: Mapping[str, _Neutral] = _make_table(
    (_NONE, "truncate_prompt_tokens additional_data priority"), (_OFF, "normalize")
)

TOKENIZE: Mapping[str, _Neutral] = _make_table(
    (_OFF, "continue_final_message"), (_EMPTY, "chat_template mm_processor_kwargs")
)

TRANSFORMERS: Mapping[str, _Neutral] = {
    **_make_table(
        (
            _NONE,
            "dola_layers max_time top_h forced_bos_token_id forced_eos_token_id "
            "exponential_decay_length_penalty watermarking_config prompt_lookup_num_tokens "
            "num_assistant_tokens num_assistant_tokens_schedule "
            "assistant_confidence_threshold assistant_early_exit assistant_lookbehind "
            "assistant_ensemble_weight speculation_type target_lookbehind "
            "max_matching_ngram_size decoder_start_token_id bos_token_id eos_token_id "
            "pad_token_id cache_implementation cache_config max_cache_len prefill_chunk_size "
            "continuous_batching_config compile_config",
        ),
        (
            _ZERO,
            "diversity_penalty penalty_alpha min_length min_new_tokens min_p epsilon_cutoff "
            "eta_cutoff no_repeat_ngram_size encoder_no_repeat_ngram_size",
        ),
        (
            _ONE,
            "num_beams num_beam_groups length_penalty guidance_scale typical_p "
            "encoder_repetition_penalty",
        ),
        (
            _OFF,
            "early_stopping renormalize_logits remove_invalid_values token_healing "
            "output_attentions output_hidden_states output_scores output_logits "
            "return_dict_in_generate use_mtp low_memory",
        ),
        (
            _EMPTY,
            "bad_words_ids force_words_ids constraints sequence_bias suppress_tokens "
            "begin_suppress_tokens",
        ),
    ),
    "use_cache": (None, True),
    "disable_compile": (None, False, True),
}


def check_supported(
    extras: Mapping[str, Any], known: Mapping[str, _Neutral], *, within: str = ""
) -> None:
    """Raise Problem 400 for a known parameter that this gateway cannot honour. ``within`` is where
    in the body it stands.
    """
    for name, value in extras.items():
        if name in known and not _is_neutral(value, known[name]):
            raise _unsupported(within + name)


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
