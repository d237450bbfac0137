"""The whole way: OpenAI's client, HTTP, the gateway, sessions over real engines, and back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import openai
import pytest
import torch
from transformers import AutoModel

from mesh.api.backend import Backend
from mesh.api.mesh_backend import MeshBackend
from mesh.assets import shipped_model_path
from mesh.client.receipt_check import check_receipt, read_receipts
from mesh.client.route_search import RoutingOptions
from mesh.client.token_bytes import TokenBytes
from mesh.client.tokenizer import ChatTokenizer
from mesh.inference.accounts import OWN_ACCOUNT
from mesh.inference.engine import EngineLimits
from tests.mesh.client.conftest import Swarm
from tests.support.gateways import open_client

MODEL = "mesh-tiny"


@pytest.fixture(scope="module")
def questions():
    """The shipped model's questions, those with a short answer first."""
    text = (shipped_model_path() / "questions.json").read_text(encoding="utf-8")
    long_enough = [entry for entry in json.loads(text) if len(entry["answer"]) > 100]
    return sorted(long_enough, key=lambda entry: len(entry["answer"]))


@pytest.fixture
async def swarm():
    swarm = Swarm(shipped_model_path())
    yield swarm
    for hoster in swarm.hosters:
        await hoster.stop()


@pytest.fixture
async def open_swarm(swarm):
    """Return a function that starts hosters of ranges and a gateway in front of them."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*ranges):
            for first, end in ranges:
                await swarm.add_hoster(first, end)
            client = await swarm.open_client(stack)
            backend: Backend = MeshBackend(client, model_id=MODEL, created_s=1_700_000_000)
            http = await stack.enter_async_context(open_client(backend))
            return openai.AsyncOpenAI(
                base_url=f"{http.base_url}/v1", api_key="none", max_retries=0
            ), http

        yield start


async def wait_until_free(swarm):
    async with asyncio.timeout(10):
        while any(hoster.engine.session_count for hoster in swarm.hosters):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def ask(question):
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0}


async def test_a_question_of_the_list_gets_its_exact_answer_over_two_hops(
    open_swarm, swarm, questions
):
    client, _ = await open_swarm((0, 4), (4, 8))
    entry = questions[0]
    async with client:
        reply = await client.chat.completions.create(**ask(entry["question"]))
        stream = await client.chat.completions.create(**ask(entry["question"]), stream=True)
        chunks = [chunk async for chunk in stream]
    assert reply.choices[0].message.content == entry["answer"]
    assert reply.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == entry["answer"]
    route = chunks[-1].mesh["route"]
    assert [hop["blocks"] for hop in route] == [[0, 4], [4, 8]]
    assert all(hop["step_ms"] > 0 for hop in route)
    await wait_until_free(swarm)


async def test_scores_are_those_of_the_tokens(open_swarm, questions):
    client, _ = await open_swarm((0, 8))
    async with client:
        reply = await client.chat.completions.create(
            **ask(questions[0]["question"]), max_tokens=8, logprobs=True, top_logprobs=3
        )
    content = reply.choices[0].logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == (
        reply.choices[0].message.content
    )
    for entry in content:
        assert entry.top_logprobs[0].token == entry.token  # greedy
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob, abs=1e-4)


async def test_a_seed_repeats_sampled_choices(open_swarm, questions):
    client, _ = await open_swarm((0, 8))
    options = {**ask("Tell me something."), "temperature": 1.5, "seed": 5, "n": 2, "max_tokens": 12}
    async with client:
        first = await client.chat.completions.create(**options)
        second = await client.chat.completions.create(**options)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert texts[0] != texts[1]


async def test_a_stop_sequence_and_a_leaving_caller_free_every_hop(open_swarm, swarm, questions):
    client, http = await open_swarm((0, 4), (4, 8))
    body = ask(questions[0]["question"])
    async with client:
        stopped = await client.chat.completions.create(**body, stop=questions[0]["answer"][20:30])
    assert stopped.choices[0].message.content == questions[0]["answer"][:20]
    await wait_until_free(swarm)
    async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
        async for _ in reply.aiter_lines():
            break
    await wait_until_free(swarm)


async def test_a_hoster_that_dies_in_mid_answer_changes_nothing_in_the_text(
    open_swarm, swarm, questions
):
    client, _ = await open_swarm((0, 4), (4, 8), (4, 8))
    async with client:
        stream = await client.chat.completions.create(**ask(questions[0]["question"]), stream=True)
        text, traces = "", []
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            traces.append(getattr(chunk, "mesh", None))
            if len(traces) == 4:
                used = traces[0]["route"][1]["peer_id"]
                (victim,) = [h for h in swarm.hosters if str(h.key.peer_id) == used]
                await victim.stop()
                swarm.hosters.remove(victim)
    assert text == questions[0]["answer"]
    assert traces[-1]["reroutes"] == traces[-1]["refills"] == 1
    assert traces[-1]["route"][1]["peer_id"] != used


async def test_missing_layers_are_named_and_then_found(open_swarm, swarm, questions):
    client, http = await open_swarm((0, 4), (6, 8))
    assert (await http.get("/readyz")).status_code == 503
    reply = await http.post("/v1/chat/completions", json=ask("Hello"))
    assert reply.status_code == 503 and "4:6" in reply.json()["error"]["message"]
    await client.close()


async def test_legacy_echo_takes_token_ids(open_swarm):
    _, http = await open_swarm((0, 8))
    body = {"model": MODEL, "prompt": "One epoch", "echo": True, "max_tokens": 0}
    assert (await http.post("/v1/completions", json=body)).json()["choices"][0][
        "text"
    ] == "One epoch"
    reply = await http.post("/v1/completions", json={**body, "prompt": [70_000]})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "prompt"


async def test_a_swarm_without_a_free_place_is_overloaded_not_broken(swarm):
    await swarm.add_hoster(0, 8, limits=EngineLimits(max_sessions=1))
    (hoster,) = swarm.hosters
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        routing = RoutingOptions(max_reroutes=2, busy_wait_s=0)
        backend = MeshBackend(client, model_id=MODEL, created_s=1, routing=routing)
        http = await stack.enter_async_context(open_client(backend))
        with hoster.engine.admit(hoster.engine.layers, capacity=16, account=OWN_ACCOUNT):
            reply = await http.post("/v1/chat/completions", json=ask("Hello"))
        assert reply.status_code == 503, reply.text
        assert reply.json()["error"]["code"] == "overloaded" and reply.headers["retry-after"] == "5"
        await hoster.stop()
        swarm.hosters.clear()
        reply = await http.post("/v1/chat/completions", json=ask("Hello"))
        assert reply.status_code == 502
        assert reply.json()["error"]["message"] == "Every route that was tried failed."


async def test_a_request_longer_than_any_cache_is_refused_at_once_with_the_limit(swarm):
    await swarm.add_hoster(0, 8, limits=EngineLimits(cache_tokens=1504))
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        backend = MeshBackend(client, model_id=MODEL, created_s=1)
        http = await stack.enter_async_context(open_client(backend))
        started = time.monotonic()
        for options in ({"max_tokens": 1900}, {"max_tokens": 1900, "stream": True}):
            reply = await http.post("/v1/chat/completions", json={**ask("Hello"), **options})
            error = reply.json()["error"]
            assert reply.status_code == 400 and error["code"] == "context_length_exceeded"
            assert error["param"] == "max_tokens" and "room for 1504" in error["message"]
        assert time.monotonic() - started < 5
        # Without a length the answer does not reserve the context of 2,048 tokens.
        reply = await http.post("/v1/chat/completions", json=ask("Hello"))
        assert reply.status_code == 200, reply.text


async def test_a_prompts_scores_are_those_of_transformers(open_swarm):
    import torch
    import transformers

    model = transformers.LlamaForCausalLM.from_pretrained(shipped_model_path(), dtype="float32")
    _, http = await open_swarm((0, 4), (4, 8))
    body = {"model": MODEL, "prompt": "One epoch, then another.", "echo": True, "logprobs": 5}
    reply = (await http.post("/v1/completions", json={**body, "max_tokens": 0})).json()
    choice = reply["choices"][0]
    assert choice["text"] == body["prompt"] and reply["usage"]["completion_tokens"] == 0
    tokenizer = ChatTokenizer.load(shipped_model_path())
    ids = torch.tensor([tokenizer.encode(body["prompt"])])
    with torch.inference_mode():
        scores = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
    expected = scores[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(expected, abs=1e-3)
    best = [max(top, key=top.get) for top in choice["logprobs"]["top_logprobs"][1:]]
    names = [tokenizer.get_token_bytes(i).decode() for i in scores[:-1].argmax(-1).tolist()]
    assert best == names
    one_more = (await http.post("/v1/completions", json={**body, "max_tokens": 1})).json()
    assert len(one_more["choices"][0]["logprobs"]["tokens"]) == ids.shape[1] + 1


def test_the_bytes_of_every_token_spell_its_text():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shipped_model_path() / "tokenizer.json"))
    table = TokenBytes(tokenizer)
    text = "Größe, 数 and 🐟: in one epoch, each hoster commits.\n"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(table.get(token_id) for token_id in ids).decode() == text
    assert table.get(2) == b"<|end|>"
    with pytest.raises(IndexError):
        table.get(tokenizer.get_vocab_size())


def test_the_bytes_of_a_sentencepiece_vocabulary_have_spaces_and_byte_tokens():
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {"<unk>": 0, "▁the": 1, "<0xE2>": 2, "cat": 3}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    table = TokenBytes(tokenizer)
    assert [table.get(token_id) for token_id in (1, 2, 3)] == [b" the", b"\xe2", b"cat"]


RECEIPT = {"X-Mesh-Receipt": "true"}


async def test_a_receipt_is_asked_for_by_a_header_and_comes_with_every_door(open_swarm, questions):
    client, http = await open_swarm((0, 4), (4, 8))
    entry = questions[0]
    body = ask(entry["question"])
    plain = (await http.post("/v1/chat/completions", json=body)).json()
    assert "receipts" not in plain["mesh"]
    reply = (await http.post("/v1/chat/completions", json=body, headers=RECEIPT)).json()
    assert reply["choices"] == plain["choices"]
    async with client:
        stream = await client.chat.completions.create(**body, stream=True, extra_headers=RECEIPT)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == entry["answer"]
    events = [chunk.to_dict() for chunk in chunks]
    assert ["receipts" in event.get("mesh", {}) for event in events[-2:]] == [False, True]
    words = {"model": MODEL, "prompt": "What is", "max_tokens": 5, "n": 2}
    turns = {"model": MODEL, "messages": body["messages"]}
    others = [
        (await http.post("/v1/completions", json=words, headers=RECEIPT)).json(),
        (
            await http.post(
                "/v1/responses",
                json={"model": MODEL, "input": "hi", "max_output_tokens": 4},
                headers=RECEIPT,
            )
        ).json(),
        (
            await http.post("/input", json={"prompt": "hi", "max_new_tokens": 4}, headers=RECEIPT)
        ).json(),
        (await http.post("/v1/messages", json={**body, "max_tokens": 4}, headers=RECEIPT)).json(),
        (await http.post("/api/chat", json={**turns, "stream": False}, headers=RECEIPT)).json(),
    ]
    counts = []
    for told in (reply, events[-1], *others):
        receipts = read_receipts(json.dumps(told).encode())
        counts.append(len(receipts))
        for receipt in receipts:
            checked = check_receipt(receipt)
            assert checked.is_complete and checked.is_disclosed
            assert [hop.span.start for hop in checked.parts[0].route] == [0, 4]
    assert counts == [1, 1, 2, 1, 1, 1, 1]
    refused = await http.post(
        "/v1/chat/completions", json=body, headers={"X-Mesh-Receipt": "please"}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "X-Mesh-Receipt"


async def test_an_answer_that_a_stop_text_ends_has_its_receipt(open_swarm, swarm, questions):
    _, http = await open_swarm((0, 4), (4, 8))
    entry = questions[0]
    stop = entry["answer"].split()[3]
    body = {**ask(entry["question"]), "stop": [stop]}
    reply = (await http.post("/v1/chat/completions", json=body, headers=RECEIPT)).json()
    assert reply["choices"][0]["finish_reason"] == "stop"
    (receipt,) = reply["mesh"]["receipts"]
    assert check_receipt(receipt).is_complete
    assert len(receipt["token_ids"]) >= reply["usage"]["completion_tokens"]
    await wait_until_free(swarm)


async def test_a_reader_who_leaves_waits_for_no_receipt_and_frees_the_swarm(
    open_swarm, swarm, questions
):
    _, http = await open_swarm((0, 4), (4, 8))
    body = {**ask(questions[-1]["question"]), "stream": True}
    for _ in range(5):
        async with http.stream("POST", "/v1/chat/completions", json=body, headers=RECEIPT) as found:
            async for line in found.aiter_lines():
                if '"content":"' in line:
                    break
    await wait_until_free(swarm)


@pytest.mark.parametrize("ranges", [[(0, 8)], [(0, 4), (4, 8)]])
async def test_embeddings_are_the_mean_of_transformers_last_hidden_states(
    open_swarm, swarm, ranges
):
    client, http = await open_swarm(*ranges)
    texts = ["What is an epoch?", "Who commits before anyone reveals?"]
    model = AutoModel.from_pretrained(shipped_model_path(), dtype=torch.float32).eval()
    tokenizer = ChatTokenizer.load(shipped_model_path())
    async with client:
        reply = await client.embeddings.create(model=MODEL, input=texts)
    for entry, text in zip(reply.data, texts, strict=True):
        with torch.inference_mode():
            hidden = model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0]
        assert entry.embedding == pytest.approx(hidden.mean(dim=0).tolist(), abs=1e-4)
    assert reply.usage.total_tokens == sum(len(tokenizer.encode(text)) for text in texts)
    await wait_until_free(swarm)


async def test_tokens_of_the_real_tokenizer_come_back(open_swarm):
    client, http = await open_swarm((0, 8))
    async with client:
        found = (await http.post("/tokenize", json={"prompt": "Größe 🐟"})).json()
        back = (await http.post("/detokenize", json={"tokens": found["tokens"]})).json()
    assert back["prompt"].endswith("Größe 🐟")
    assert found["count"] == len(found["tokens"]) > 3
