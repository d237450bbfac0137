"""The legacy shape, on which evaluation harnesses compute likelihoods."""

from __future__ import annotations

from tests.support.local_backend import MODEL

BASE = {"model": MODEL, "prompt": "An epoch", "temperature": 0}


async def complete(api, **body):
    response = await api.post("/v1/completions", json={**BASE, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_echo_with_logprobs_scores_the_prompt_without_generating(api, backend):
    reply = await complete(api, echo=True, logprobs=2, max_tokens=0)
    choice = reply["choices"][0]
    assert choice["text"] == "An epoch" and choice["finish_reason"] == "length"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["An", " epoch"]
    assert logprobs["token_logprobs"][0] is None and logprobs["token_logprobs"][1] < 0
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == [0, 2]
    assert reply["usage"]["completion_tokens"] == 0
    assert backend.requests[0].score_prompt and backend.requests[0].max_new_tokens == 0


async def test_a_harness_finds_the_continuations_likelihood(api):
    # Context and continuation as token ids, one new token asked for: as lm-eval does it.
    context, continuation = [270, 266], [268]
    reply = await complete(
        api, prompt=[context + continuation], echo=True, logprobs=1, max_tokens=1, seed=1234
    )
    logprobs = reply["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == 4
    assert all(value < 0 for value in logprobs["token_logprobs"][len(context) : -1])
    for place in range(len(context), 3):
        best = max(logprobs["top_logprobs"][place].items(), key=lambda entry: entry[1])[0]
        assert best == logprobs["tokens"][place]


async def test_an_end_token_is_scored_like_any_other_so_that_a_harness_can_cut_it_off(
    open_api, make_backend
):
    # lm-eval drops the last entry, the one token that it had to ask for.
    api = await open_api(make_backend(answer=""))
    reply = await complete(api, echo=True, logprobs=1, max_tokens=1)
    choice = reply["choices"][0]
    assert choice["text"] == "An epoch" and choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"] == ["An", " epoch", "<|end|>"]
    assert choice["logprobs"]["text_offset"] == [0, 2, 8]


async def test_the_chosen_token_is_among_its_alternatives_even_with_none_asked(api):
    reply = await complete(api, logprobs=0, max_tokens=2)
    tops = reply["choices"][0]["logprobs"]["top_logprobs"]
    assert [list(top) for top in tops] == [["An"], [" epoch"]]


async def test_offsets_count_characters_and_go_on_after_an_echo(api):
    reply = await complete(api, echo=True, logprobs=1, max_tokens=3)
    logprobs, text = reply["choices"][0]["logprobs"], reply["choices"][0]["text"]
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        assert text[offset:].startswith(token)


async def test_a_token_that_is_part_of_a_character_has_a_name_of_its_own(open_api, make_backend):
    api = await open_api(make_backend(answer="数"))
    reply = await complete(api, logprobs=1, max_tokens=3)
    assert reply["choices"][0]["text"] == "数"
    assert reply["choices"][0]["logprobs"]["tokens"] == [
        "bytes:\\xe6",
        "bytes:\\x95",
        "bytes:\\xb0",
    ]


async def test_no_tokens_and_no_scores_ask_nothing_of_the_swarm(api, backend):
    reply = await complete(api, prompt=["one", "two"], echo=True, max_tokens=0)
    assert [choice["text"] for choice in reply["choices"]] == ["one", "two"]
    assert backend.requests == []


async def test_token_ids_are_echoed_as_text(api):
    reply = await complete(api, prompt=[270, 266], echo=True, max_tokens=0)
    expected = (await complete(api, prompt=[[270, 266]], echo=True, max_tokens=0))["choices"]
    assert reply["choices"] == expected and expected[0]["text"]


async def test_sixteen_tokens_unless_told_otherwise(api):
    assert (await complete(api))["usage"]["completion_tokens"] == 16


async def test_every_sampling_parameter_reaches_the_backend(api, backend):
    await complete(
        api, temperature=0.5, top_p=0.9, top_k=7, repetition_penalty=1.1, seed=-1, max_tokens=1
    )
    sampling = backend.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.repetition_penalty, sampling.seed) == (1.1, 2**64 - 1)


async def test_input_takes_the_arguments_of_generate(api, backend):
    response = await api.post(
        "/input",
        json={
            "prompt": "Hello",
            "max_length": 12,
            "do_sample": True,
            "temperature": 0.7,
            "num_return_sequences": 2,
            "num_beams": 1,
            "use_cache": True,
            "stop_strings": ["nothing"],
        },
    )
    reply = response.json()
    assert reply["response"] == reply["outputs"][0]["generated_text"]
    assert len(reply["outputs"]) == 2
    assert backend.requests[0].sampling.top_k == 50
    prompt_tokens = len(backend.requests[0].prompt_ids)
    assert backend.requests[0].max_new_tokens == 12 - prompt_tokens
    assert reply["mesh"]["route"][0]["blocks"] == [0, 3]


async def test_input_is_greedy_without_do_sample(api, backend):
    await api.post("/input", json={"prompt": "Hello", "temperature": 0.9})
    assert backend.requests[0].sampling.temperature == 0
    assert backend.requests[0].max_new_tokens == 20


async def test_every_argument_of_transformers_is_honoured_or_refused_by_name(api):
    import transformers

    from mesh.api import parameters
    from mesh.api.schemas import InputRequest

    internal = {"_from_model_config", "is_assistant", "transformers_version"}
    arguments = set(transformers.GenerationConfig().to_dict()) - internal
    known = set(parameters.TRANSFORMERS) | set(InputRequest.model_fields)
    assert arguments - known == set()
    for name, neutral in parameters.TRANSFORMERS.items():
        refused = await api.post("/input", json={"prompt": "x", name: "something else"})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == name, name
        accepted = await api.post("/input", json={"prompt": "x", name: neutral[-1]})
        assert accepted.status_code == 200, name


async def test_input_refuses_what_generate_does_not_know(api):
    response = await api.post("/input", json={"prompt": "x", "max_tokns": 3})
    assert response.status_code == 400 and response.json()["error"]["param"] == "max_tokns"
