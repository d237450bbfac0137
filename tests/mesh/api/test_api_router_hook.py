"""``/inference``, as Hypertensor's inference gateway calls it."""

from __future__ import annotations

import pytest

from tests.support.http_checks import check_error
from tests.support.local_backend import ANSWER, MODEL


def make_body(**changes):
    """What that gateway sends: its user's request with every field."""
    body = {"model": MODEL, "prompt": "user: Hello", "max_tokens": 400, "temperature": 0}
    return {**body, "stream": False, "metadata": {}, **changes}


async def test_a_prompt_gets_an_output_and_its_usage(api, backend):
    response = await api.post("/inference", json=make_body())
    assert response.status_code == 200, response.text
    reply = response.json()
    assert (reply["model"], reply["output"]) == (MODEL, ANSWER)
    usage = reply["usage"]
    assert usage["input_tokens"] == len(backend.requests[0].prompt_ids)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 20
    assert [(m.role, m.content) for m in backend.chats[0]] == [("user", "user: Hello")]
    assert response.headers["x-request-id"] and response.headers["x-mesh-route"]


async def test_lengths_stops_and_the_only_model_are_honoured(api, backend):
    cut = await api.post("/inference", json=make_body(max_tokens=3))
    assert cut.json()["usage"]["output_tokens"] == 3
    body = make_body(stop=["propose"], seed=5, top_p=0.5)
    del body["model"]
    stopped = await api.post("/inference", json=body)
    assert stopped.json()["output"] == ANSWER.partition("propose")[0]
    assert (backend.requests[1].sampling.seed, backend.requests[1].sampling.top_p) == (5, 0.5)


async def test_a_model_without_a_template_gets_the_prompt_as_it_is(open_api, make_backend):
    backend = make_backend(has_template=False)
    api = await open_api(backend)
    response = await api.post("/inference", json=make_body(prompt="Hello"))
    assert response.json()["output"] == ANSWER
    assert backend.requests[0].prompt_ids == tuple(backend.tokenizer.encode("Hello").ids)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 100_000}, 400, "max_tokens"),
        ({"stream": True}, 400, "stream"),
        ({"n": 2}, 400, "n"),
        ({"model": "gpt-4"}, 404, "model"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(api, backend, change, status, param):
    response = await api.post("/inference", json=make_body(**change))
    check_error(response, status, param=param)
    assert backend.requests == []
