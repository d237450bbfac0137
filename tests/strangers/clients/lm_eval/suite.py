"""lm-eval on a local task: log likelihoods over the gateway are those of transformers.

MESH_REFERENCE is a folder: ``tokenizer`` as transformers saves it, and ``loglikelihoods.json`` with
[question, choice, log likelihood, whether it is the greedy continuation] of each choice.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from lm_eval.tasks import TaskManager

URL = os.environ["MESH_URL"]
REFERENCE = Path(os.environ["MESH_REFERENCE"])
TOLERANCE = 1e-3
FACTS = [json.loads(line) for line in Path("tiny_facts.jsonl").read_text("utf-8").splitlines()]


def open_model(**options) -> LocalCompletionsAPI:
    return LocalCompletionsAPI(
        base_url=f"{URL}/v1/completions",
        model=os.environ["MESH_MODEL"],
        tokenizer=str(REFERENCE / "tokenizer"),
        tokenizer_backend="huggingface",
        max_retries=1,
        **options,
    )


def make_requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, given, place) for place, given in enumerate(arguments)]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("tokenized_requests", [True, False])
def test_loglikelihoods_are_transformers(batch_size, tokenized_requests):
    expected = json.loads((REFERENCE / "loglikelihoods.json").read_text(encoding="utf-8"))
    model = open_model(batch_size=batch_size, tokenized_requests=tokenized_requests)
    asked = make_requests(
        "loglikelihood", [(text, f" {choice}") for text, choice, _, _ in expected]
    )
    for (text, choice, wanted, is_greedy), (found, greedy) in zip(
        expected, model.loglikelihood(asked), strict=True
    ):
        assert math.isclose(found, wanted, abs_tol=TOLERANCE), (text, choice, found, wanted)
        assert greedy is is_greedy, (text, choice)


def test_the_task_is_scored():
    expected = json.loads((REFERENCE / "loglikelihoods.json").read_text(encoding="utf-8"))
    right = 0
    for fact in FACTS:
        scores = {choice: score for text, choice, score, _ in expected if text == fact["question"]}
        right += max(scores, key=scores.get) == fact["choices"][fact["answer"]]
    results = simple_evaluate(
        open_model(),
        tasks=["tiny_facts"],
        task_manager=TaskManager(include_path=".", include_defaults=False),
        bootstrap_iters=0,
    )
    assert results["results"]["tiny_facts"]["acc,none"] == pytest.approx(right / len(FACTS))


def test_rolling_loglikelihood():
    model = open_model()
    text = "The capital of France is Paris."
    (found,) = model.loglikelihood_rolling(make_requests("loglikelihood_rolling", [(text,)]))
    expected = json.loads((REFERENCE / "rolling.json").read_text(encoding="utf-8"))
    assert math.isclose(found, expected[text], abs_tol=TOLERANCE)


def test_generate_until():
    model = open_model()
    options = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    (found,) = model.generate_until(
        make_requests("generate_until", [("The capital of France is", options)])
    )
    assert "Paris" in found


def test_chat_generate_until():
    model = LocalChatCompletion(
        base_url=f"{URL}/v1/chat/completions",
        model=os.environ["MESH_MODEL"],
        tokenizer_backend=None,
        tokenized_requests=False,
        max_retries=1,
    )
    options = {"until": ["\n"], "max_gen_toks": 24, "do_sample": False}
    question = {"role": "user", "content": "What is the capital of France?"}
    turns = model.apply_chat_template([question])
    (found,) = model.generate_until(make_requests("generate_until", [(turns, options)]))
    assert "Paris" in found
