"""Parameters that callers may know from elsewhere and that this gateway does not have.

A known parameter that would change the answer is refused by name; the same parameter at its
neutral value is accepted, because many clients send every field that they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.api.problems import Problem

_Neutral = tuple[Any, ...]
Known = Mapping[str, _Neutral]
"""Names of parameters, each with the values at which it changes nothing."""
_NONE: _Neutral = (None,)
_OFF: _Neutral = (None, False)
_EMPTY: _Neutral = (None, [], {}, "")
_ZERO: _Neutral = (None, 0)
_ONE: _Neutral = (None, 1)


def _make_table(*groups: tuple[_Neutral, str]) -> Known:
    """Return each name of the groups with its neutral values."""
    return {name: neutral for neutral, names in groups for name in names.split()}


# Special tokens are no text of an answer here, and never were: that is what others do by default.
_TRUE: _Neutral = (None, True)
ANSWER: Known = {
    **_make_table(
        (
            _ZERO,
            "frequency_penalty presence_penalty min_p min_tokens min_length min_new_tokens "
            "no_repeat_ngram_size mirostat mirostat_mode dry_multiplier xtc_probability top_a "
            "dynatemp_range smoothing_factor epsilon_cutoff eta_cutoff penalty_alpha top_logprobs",
        ),
        (
            _ONE,
            "n best_of num_beams length_penalty repetition_penalty repeat_penalty typical "
            "typical_p tfs_z",
        ),
        (
            _OFF,
            "use_beam_search watermark ignore_eos include_stop_str_in_output no_stop_trim echo "
            "continue_final_message logprobs raw store background",
        ),
        (
            _EMPTY,
            "guided_json guided_regex guided_choice guided_grammar guided_whitespace_pattern "
            "structured_outputs grammar json_schema regex ebnf format bad_words allowed_token_ids "
            "suppress_tokens logit_bias logits_processors custom_logit_processor samplers "
            "stop stop_sequences stop_strings stop_regex stop_token_ids "
            "chat_template chat_template_kwargs documents lora lora_path "
            "messages input prompt system instructions template context suffix images "
            "tools functions audio prediction reasoning",
        ),
        (
            _NONE,
            "temperature top_p seed prompt_logprobs truncate_prompt_tokens max_tokens "
            "max_completion_tokens max_output_tokens max_new_tokens n_predict num_predict "
            "max_length think thinking_budget thinking_token_budget enable_thinking "
            "web_search_options previous_response_id conversation",
        ),
        (
            _TRUE,
            "skip_special_tokens spaces_between_special_tokens add_generation_prompt do_sample "
            "separate_reasoning",
        ),
    ),
    "top_k": (None, 0, -1),
    "top_n_sigma": (None, 0, -1),
    "split_special_tokens": _TRUE,
    "add_special_tokens": _OFF,
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
    "thinking": (None, {"type": "disabled"}),
    "truncation": (None, "disabled"),
}
"""What changes an answer at some server of language models. Every endpoint that answers refuses a
name that is no field of its own.
"""

CHAT: Known = ANSWER

MESSAGE: Known = _make_table((_NONE, "function_call audio"), (_OFF, "prefix partial"))
"""What of a message would change the answer."""

# A prompt there is whole: its special tokens count, and the one that begins a text stands before.
RAW: Known = {"split_special_tokens": _OFF, "add_special_tokens": _TRUE}
COMPLETION: Known = {**ANSWER, **RAW}

RESPONSES: Known = {
    **ANSWER,
    **_make_table((_NONE, "max_tool_calls"), (_EMPTY, "include")),
}

RESPONSES_TEXT: Known = {"verbosity": ANSWER["verbosity"]}

ANTHROPIC: Known = {
    **ANSWER,
    **_make_table((_EMPTY, "mcp_servers"), (_NONE, "container context_management output_format")),
}

OLLAMA: Known = ANSWER

OLLAMA_RAW: Known = {**ANSWER, **RAW}

OLLAMA_OPTIONS: Known = {**ANSWER, "repeat_last_n": (None, -1)}

INFERENCE: Known = {**ANSWER, "stream": _OFF}

EMBEDDINGS: Known = {
    **_make_table(
        (
            _NONE,
            "truncate_prompt_tokens additional_data priority input_type prompt_name task "
            "instruction",
        ),
        (_OFF, "normalize"),
        (_EMPTY, "messages"),
    ),
    "add_special_tokens": _TRUE,
}

TOKENIZE: Known = _make_table(
    (_OFF, "continue_final_message"),
    (_EMPTY, "chat_template mm_processor_kwargs documents"),
    (_NONE, "truncate_prompt_tokens enable_thinking"),
)

DETOKENIZE: Known = _make_table((_OFF, "skip_special_tokens"))

TRANSFORMERS: Known = {
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
    extras: Mapping[str, Any], known: Known, *, within: str = "", hint: str = ""
) -> None:
    """Raise Problem 400 for a known parameter that this gateway cannot honour. ``within`` is where
    in the body it stands; ``hint`` ends the sentence.
    """
    for name, value in extras.items():
        if name in known and not _is_neutral(value, known[name]):
            raise _unsupported(within + name, hint)


def check_all_known(extras: Mapping[str, Any], known: Known) -> None:
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


def _unsupported(name: str, hint: str = "") -> Problem:
    text = f"'{name}' is not supported{hint}."
    return Problem(400, text, param=name, code="unsupported_parameter")
