"""``/v1/embeddings`` and Ollama's ``/api/embed``."""

from __future__ import annotations

import asyncio
import base64
import struct

import pytest

from mesh.api.errors import BackendBusy, GenerationFailed
from mesh.api.limits import MAX_EMBEDDED_TEXTS
from tests.support.http_checks import check_error
from tests.support.local_backend import CONTEXT, MODEL, ROUTE

TEXT = "Every hoster commits before anyone reveals."


async def send(api, given, **body):
    response = await api.post("/v1/embeddings", json={"model": MODEL, "input": given, **body})
    assert response.status_code == 200, response.text
    return response.json()


def expect(tokenizer, text):
    ids = tokenizer.encode(text).ids
    return [float(len(ids)), float(ids[0]), 0.1, -0.5]


async def test_each_text_gets_a_vector_in_its_order(api, backend, tokenizer):
    reply = await send(api, [TEXT, "Größe"], user="x")
    assert (reply["object"], reply["model"]) == ("list", MODEL)
    assert [entry["index"] for entry in reply["data"]] == [0, 1]
    assert [entry["embedding"] for entry in reply["data"]] == [
        expect(tokenizer, TEXT),
        expect(tokenizer, "Größe"),
    ]
    tokens = sum(len(tokenizer.encode(text).ids) for text in (TEXT, "Größe"))
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert [hop["blocks"] for hop in reply["mesh"]["route"]] == [[h.start, h.end] for h in ROUTE]
    assert backend.requests == []


async def test_text_and_token_ids_are_the_same(api, tokenizer):
    ids = tokenizer.encode(TEXT).ids
    replies = [await send(api, given) for given in (TEXT, [TEXT], ids, [ids])]
    assert all(reply["data"] == replies[0]["data"] for reply in replies)


async def test_base64_holds_little_endian_float32(api, tokenizer):
    reply = await send(api, TEXT, encoding_format="base64")
    raw = base64.b64decode(reply["data"][0]["embedding"])
    assert list(struct.unpack("<4f", raw)) == pytest.approx(expect(tokenizer, TEXT))


async def test_the_models_own_dimensions_may_be_named(api):
    assert len((await send(api, TEXT, dimensions=4))["data"][0]["embedding"]) == 4


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": ["a"] * (MAX_EMBEDDED_TEXTS + 1)}, "input"),
        ({"input": [100_000]}, "input"),
        ({"input": [[1], [100_000]]}, "input[1]"),
        ({"input": [5] * (CONTEXT + 1)}, "input"),
        ({"input": ["a", "a " * CONTEXT]}, "input[1]"),
        ({"input": [[5] * CONTEXT] * 129}, "input"),
        ({"dimensions": 2}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(api, backend, change, param):
    response = await api.post("/v1/embeddings", json={"model": MODEL, "input": TEXT, **change})
    assert check_error(response, 400)["param"].startswith(param)
    assert backend.embedded == []


async def test_a_model_without_embeddings_is_refused(open_api, make_backend):
    api = await open_api(make_backend(embedding_size=0))
    response = await api.post("/v1/embeddings", json={"model": MODEL, "input": TEXT})
    check_error(response, 400, param="model")


@pytest.mark.parametrize(
    ("failure", "status"), [(BackendBusy(), 503), (GenerationFailed("lost"), 502)]
)
async def test_what_the_swarm_refuses_has_its_status(open_api, make_backend, failure, status):
    api = await open_api(make_backend(failure=failure))
    response = await api.post("/v1/embeddings", json={"model": MODEL, "input": TEXT})
    check_error(response, status)


async def test_embeddings_take_a_place_and_free_it(open_api, make_backend):
    backend = make_backend()
    started, may_end = asyncio.Event(), asyncio.Event()
    embed = backend.embed

    async def wait_and_embed(model_id, texts):
        started.set()
        await may_end.wait()
        return await embed(model_id, texts)

    backend.embed = wait_and_embed
    api = await open_api(backend, limits={"max_generations": 1, "max_wait_s": 0.05})
    body = {"model": MODEL, "input": TEXT}
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(api.post("/v1/embeddings", json=body))
        await started.wait()
        check_error(await api.post("/v1/embeddings", json=body), 503)
        may_end.set()
    assert first.result().status_code == 200
    assert (await api.post("/v1/embeddings", json=body)).status_code == 200


async def test_ollamas_embed_cuts_what_is_too_long_unless_told_otherwise(api, tokenizer):
    long = "a " * CONTEXT
    body = {"model": f"{MODEL}:latest", "input": [TEXT, long]}
    reply = (await api.post("/api/embed", json=body)).json()
    assert reply["embeddings"][0] == expect(tokenizer, TEXT)
    assert reply["embeddings"][1][0] == CONTEXT
    assert reply["prompt_eval_count"] == len(tokenizer.encode(TEXT).ids) + CONTEXT
    refused = await api.post("/api/embed", json={**body, "truncate": False})
    assert refused.status_code == 400 and "'input[1]'" in refused.json()["error"]
