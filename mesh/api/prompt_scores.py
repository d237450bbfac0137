"""``prompt_logprobs``: what the model gave each token of the prompt, in vLLM's form.

The prompt is scored by a job of its own beside the choices, which generates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mesh.api.backend import GenerateRequest
from mesh.api.generation import ChoiceJob
from mesh.api.problems import Problem
from mesh.api.schemas import SamplingFields
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Token


def make_score_jobs(
    body: SamplingFields, requests: Sequence[GenerateRequest]
) -> tuple[ChoiceJob, ...]:
    """Return a job for each prompt whose scores are wanted. Raises Problem 400 for a stream."""
    wanted = body.prompt_logprobs
    if wanted is None:
        return ()
    if body.stream:
        raise Problem(400, "'prompt_logprobs' comes with whole answers only.", param="stream")
    return tuple(
        ChoiceJob(
            replace(
                request,
                max_new_tokens=0,
                sampling=Sampling(),
                alternatives=wanted,
                score_prompt=True,
            )
        )
        for request in requests
    )


def make_prompt_logprobs(tokens: Sequence[Token]) -> list[dict[str, Any] | None]:
    """Return an object for each token by ids, null for the first. A ``rank`` counts from 1; it is
    null for a token that is not among the alternatives that were asked for.
    """
    return [None if token.logprob is None else _describe(token) for token in tokens]


def _describe(token: Token) -> dict[str, Any]:
    told = {
        str(other.token_id): {
            "logprob": other.logprob,
            "rank": rank,
            "decoded_token": other.name,
        }
        for rank, other in enumerate(token.top_logprobs, start=1)
    }
    own = {"logprob": token.logprob, "rank": None, "decoded_token": token.name}
    return {str(token.token_id): own} | told
