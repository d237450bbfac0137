"""transformers' generate over real hosters, beside the same model in one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    pipeline,
)
from transformers.generation.streamers import BaseStreamer

from mesh.client import DistributedModelForCausalLM
from mesh.client.bridge import LoopBridge
from mesh.client.connection import join_network
from mesh.errors import InvalidRequest, NoRoute
from mesh.model.files import resolve_model_folder
from mesh.routing.directory import fetch_info

SPANS = {0: [(0, 3)], 1: [(0, 6)], 2: [(0, 3), (3, 6)], 3: [(0, 2), (2, 4), (4, 6)]}
PROMPT = torch.tensor([[1, 17, 90, 4, 201, 33, 8, 64, 250, 12, 77]])
LENGTH = {"max_new_tokens": 24, "do_sample": False}


@pytest.fixture
def reference(load_reference, chat_checkpoint):
    return load_reference(chat_checkpoint)


@pytest.fixture
async def open_model(swarm):
    """Return a function that starts hosters and opens a model over them."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_it(ranges: int = 2, **options) -> DistributedModelForCausalLM:
            for span in SPANS[ranges]:
                await swarm.add_hoster(*span)
            host = await swarm.open_host(stack, swarm.next_key())
            peers = [hoster.key.peer_id for hoster in swarm.hosters]
            info = await fetch_info(host, peers[0])
            folder = resolve_model_folder(str(swarm.folder))
            connection = await join_network(host, info, peers, folder=folder, name=str(folder.path))
            bridge = LoopBridge(asyncio.get_running_loop())
            return DistributedModelForCausalLM.from_connection(connection, bridge, **options)

        yield open_it


async def run(function: Callable, *args, **kwargs):
    """The model is synchronous: it runs beside the loop that the swarm lives in."""
    return await asyncio.to_thread(function, *args, **kwargs)


def count_sessions(swarm) -> int:
    return sum(hoster.engine.session_count for hoster in swarm.hosters)


async def wait_until_free(swarm) -> None:
    async with asyncio.timeout(5):
        while count_sessions(swarm):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ranges", [1, 2, 3])
async def test_greedy_tokens_are_transformers_own(swarm, open_model, reference, ranges):
    model = await open_model(ranges)
    ours = await run(model.generate, PROMPT, **LENGTH)
    assert ours.tolist() == reference.generate(PROMPT, **LENGTH).tolist()
    await wait_until_free(swarm)


@pytest.mark.parametrize("ranges", [1, 3])
async def test_all_logits_are_transformers_own(open_model, reference, ranges):
    """Also over several chunks of the prompt, and in as many frames as they need."""
    model = await open_model(ranges)
    with torch.no_grad():
        theirs = reference(PROMPT).logits
    torch.testing.assert_close((await run(model, PROMPT)).logits, theirs, rtol=1e-4, atol=1e-5)
    last = (await run(model, PROMPT, logits_to_keep=3)).logits
    torch.testing.assert_close(last, theirs[:, -3:], rtol=1e-4, atol=1e-5)


async def test_padded_batch_answers_each_row_as_if_alone(swarm, open_model, reference):
    model = await open_model(2)
    rows = [[1, 5, 9], [1, 200, 33, 8, 77, 21], [1, 42]]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    wanted = {**LENGTH, "attention_mask": mask, "pad_token_id": 0}
    ours = await run(model.generate, ids, **wanted)
    assert ours.tolist() == reference.generate(ids, **wanted).tolist()
    for row, answer in zip(rows, ours.tolist(), strict=True):
        alone = await run(model.generate, torch.tensor([row]), **LENGTH, pad_token_id=0)
        expected = alone[0, len(row) :].tolist()
        assert answer[width : width + len(expected)] == expected
    await wait_until_free(swarm)


async def test_right_padding_leaves_zero_logits(open_model, reference):
    model = await open_model(1)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    ids = torch.tensor([[1, 5, 9, 0, 0]])
    logits = (await run(model, ids, attention_mask=mask)).logits
    with torch.no_grad():
        theirs = reference(ids[:, :3]).logits
    torch.testing.assert_close(logits[:, :3], theirs, rtol=1e-4, atol=1e-5)
    assert not logits[:, 3:].any()


async def test_sampling_draws_transformers_own_tokens(open_model, reference):
    model = await open_model(2)
    wanted = {"max_new_tokens": 20, "do_sample": True, "temperature": 0.8, "top_k": 40}
    torch.manual_seed(5)
    theirs = reference.generate(PROMPT, **wanted, num_return_sequences=3)
    torch.manual_seed(5)
    ours = await run(model.generate, PROMPT, **wanted, num_return_sequences=3)
    assert ours.tolist() == theirs.tolist()


async def test_beams_find_what_transformers_finds(swarm, open_model, reference):
    model = await open_model(2)
    wanted = {**LENGTH, "num_beams": 4, "num_return_sequences": 2, "early_stopping": True}
    ours = await run(model.generate, PROMPT, **wanted)
    assert ours.tolist() == reference.generate(PROMPT, **wanted).tolist()
    await wait_until_free(swarm)


async def test_prompt_lookup_saves_steps_and_changes_nothing(open_model, reference):
    """Several candidates a step: logits of several positions, and rejected ones forgotten."""
    model = await open_model(2)
    prompt = PROMPT.repeat(1, 3)
    ours = await run(model.generate, prompt, **LENGTH, prompt_lookup_num_tokens=3)
    assert ours.tolist() == reference.generate(prompt, **LENGTH).tolist()


class Forbid(LogitsProcessor):
    def __init__(self, token_ids):
        self.token_ids = token_ids

    def __call__(self, input_ids, scores):
        scores[:, self.token_ids] = -torch.inf
        return scores


class StopAfter(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.length)


class Collect(BaseStreamer):
    def __init__(self):
        self.parts = []
        self.is_ended = False

    def put(self, value):
        self.parts.append(value.tolist())

    def end(self):
        self.is_ended = True


async def test_processors_criteria_and_streamers_run_on_the_client(open_model, reference):
    model = await open_model(2)
    plain = reference.generate(PROMPT, **LENGTH)[0, PROMPT.shape[1] :].tolist()

    def ask(asked, streamer):
        return asked.generate(
            PROMPT,
            **LENGTH,
            repetition_penalty=1.3,
            logits_processor=LogitsProcessorList([Forbid(plain[:3])]),
            stopping_criteria=StoppingCriteriaList([StopAfter(PROMPT.shape[1] + 9)]),
            streamer=streamer,
        )

    streamer = Collect()
    ours = await run(ask, model, streamer)
    assert ours.tolist() == ask(reference, None).tolist()
    assert ours.shape[1] == PROMPT.shape[1] + 9
    assert not set(plain[:3]) & set(ours[0, PROMPT.shape[1] :].tolist())
    assert streamer.is_ended
    assert [token for part in streamer.parts[1:] for token in part] == ours[0, 11:].tolist()


async def test_scores_and_logits_can_be_returned(open_model, reference):
    model = await open_model(1)
    wanted = {**LENGTH, "return_dict_in_generate": True, "output_logits": True}
    ours = await run(model.generate, PROMPT, **wanted)
    theirs = reference.generate(PROMPT, **wanted)
    torch.testing.assert_close(
        torch.stack(ours.logits), torch.stack(theirs.logits), rtol=1e-4, atol=1e-5
    )


async def test_without_a_cache_the_answer_is_the_same(swarm, open_model, reference):
    model = await open_model(2)
    ours = await run(model.generate, PROMPT, max_new_tokens=5, do_sample=False, use_cache=False)
    wanted = reference.generate(PROMPT, max_new_tokens=5, do_sample=False)
    assert ours.tolist() == wanted.tolist()
    await wait_until_free(swarm)


async def test_hoster_that_dies_in_the_middle_costs_no_token(swarm, open_model, reference):
    """Two hosters for the second half: the one in use stops after some tokens."""
    model = await open_model(2)
    spare = await swarm.add_hoster(3, 6, throughput=1)
    loop = asyncio.get_running_loop()
    victim = swarm.hosters[1]

    class KillAt(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            if input_ids.shape[1] == PROMPT.shape[1] + 6:
                asyncio.run_coroutine_threadsafe(victim.stop(), loop).result(10)
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    for hoster in swarm.hosters:
        await hoster.directory.fetch_from_records([h.key.peer_id for h in swarm.hosters])
    ours = await run(
        model.generate, PROMPT, **LENGTH, stopping_criteria=StoppingCriteriaList([KillAt()])
    )
    assert ours.tolist() == reference.generate(PROMPT, **LENGTH).tolist()
    swarm.hosters.remove(victim)
    await wait_until_free(swarm)
    assert spare.engine.session_count == 0


async def test_session_goes_on_without_reading_the_text_again(swarm, open_model, reference):
    model = await open_model(2)
    fed = []
    engine = swarm.hosters[0].engine
    submit = engine.submit

    def count_rows(session, step):
        fed.append(step.rows)
        return submit(session, step)

    engine.submit = count_rows
    more = torch.tensor([[50, 60, 70]])

    def talk():
        with model.inference_session(max_length=80) as session:
            first = model.generate(PROMPT, max_new_tokens=6, do_sample=False)
            fed.clear()
            second = model.generate(more, max_new_tokens=5, do_sample=False)
            third = model.generate(max_new_tokens=4, do_sample=False, session=session)
            return first, second, third, session.output_ids

    first, second, third, whole = await run(talk)
    assert sum(fed) <= 1 + 3 + 5 + 4
    text = reference.generate(PROMPT, max_new_tokens=6, do_sample=False)
    assert first.tolist() == text.tolist()
    text = torch.cat((text, more), dim=1)
    before = text.shape[1] - 3
    text = reference.generate(text, max_new_tokens=5, do_sample=False)
    assert second.tolist() == text[:, before:].tolist()
    text = reference.generate(text, max_new_tokens=4, do_sample=False)
    assert third.tolist() == text[:, -4:].tolist()
    assert whole.tolist() == text.tolist()
    await wait_until_free(swarm)


async def test_session_of_a_padded_batch_keeps_its_mask(open_model, reference):
    model = await open_model(1)
    ids = torch.tensor([[0, 0, 1, 5], [1, 9, 33, 8]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    more = torch.tensor([[7, 8], [9, 10]])
    wanted = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}

    def talk():
        with model.inference_session(max_length=40):
            model.generate(ids, attention_mask=mask, **wanted)
            return model.generate(more, **wanted)

    ours = await run(talk)
    text = torch.cat((reference.generate(ids, attention_mask=mask, **wanted), more), dim=1)
    wide = torch.cat((mask, torch.ones(2, 6, dtype=torch.long)), dim=1)
    theirs = reference.generate(text, attention_mask=wide, **wanted)
    assert ours.tolist() == theirs[:, -6:].tolist()


async def test_cache_of_forward_can_be_fed_and_cropped(swarm, open_model, reference):
    model = await open_model(2)
    with torch.no_grad():
        whole = reference(PROMPT).logits

    def step_by_step():
        output = model(PROMPT[:, :6], use_cache=True)
        cache = output.past_key_values
        model(torch.tensor([[9, 9]]), past_key_values=cache)
        cache.crop(-2)
        rest = model(PROMPT[:, 6:], past_key_values=cache).logits
        cache.close()
        return torch.cat((output.logits, rest), dim=1)

    torch.testing.assert_close(await run(step_by_step), whole, rtol=1e-4, atol=1e-5)
    await wait_until_free(swarm)


async def test_forgotten_cache_frees_the_hosters(swarm, open_model):
    model = await open_model(2)
    output = await run(model, PROMPT, use_cache=True)
    assert count_sessions(swarm) == 2
    del output
    await wait_until_free(swarm)


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"output_attentions": True}, "output_attentions"),
        ({"inputs_embeds": torch.zeros(1, 2, 48)}, "inputs_embeds"),
        ({"custom_generate": "somebody/generate"}, "custom_generate"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"num_beams": 20}, "input_ids"),
    ],
)
async def test_what_cannot_work_is_refused_by_name(open_model, kwargs, field):
    model = await open_model(1)
    with pytest.raises(InvalidRequest) as refused:
        await run(model.generate, PROMPT, max_new_tokens=3, **kwargs)
    assert refused.value.field == field


async def test_session_beyond_its_length_is_refused_by_name(open_model):
    model = await open_model(1)

    def ask(**kwargs):
        with model.inference_session(max_length=20):
            model.generate(PROMPT, do_sample=False, **kwargs)

    with pytest.raises(InvalidRequest, match="max_length"):
        await run(ask, max_new_tokens=15)
    with pytest.raises(InvalidRequest, match="num_beams"):
        await run(ask, max_new_tokens=2, num_beams=2)


async def test_uncovered_layers_are_named(swarm, open_model):
    model = await open_model(0)
    with pytest.raises(NoRoute, match="3:6"):
        await run(model.generate, PROMPT, max_new_tokens=3)


async def test_stop_strings_end_an_answer_as_transformers_ends_it(
    open_model, reference, chat_checkpoint
):
    model = await open_model(2)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(chat_checkpoint / "tokenizer.json"))
    # The checkpoint is random: without this, most of its bytes are no text.
    texts = [tokenizer.decode([number]) for number in range(259)]
    letters = {"suppress_tokens": [n for n, text in enumerate(texts) if not text.isalpha()]}
    plain = reference.generate(PROMPT, **LENGTH, **letters)[0, PROMPT.shape[1] :]
    stop = tokenizer.decode(plain[7:9])
    wanted = {**LENGTH, **letters, "stop_strings": [stop], "tokenizer": tokenizer}
    ours = await run(model.generate, PROMPT, **wanted)
    assert ours.tolist() == reference.generate(PROMPT, **wanted).tolist()
    assert ours.shape[1] < PROMPT.shape[1] + len(plain)
    with pytest.raises(ValueError, match="tokenizer"):
        await run(model.generate, PROMPT, **LENGTH, stop_strings=[stop])


async def test_labels_give_transformers_own_loss(open_model, reference):
    model = await open_model(1)
    labels = PROMPT.clone()
    labels[0, :4] = -100
    with torch.no_grad():
        theirs = reference(PROMPT, labels=labels).loss
    output = await run(model, PROMPT, labels=labels)
    torch.testing.assert_close(output.loss, theirs, rtol=1e-4, atol=1e-5)
    loss, logits = await run(model, PROMPT, labels=labels, return_dict=False)
    assert loss == output.loss and logits.shape == output.logits.shape
    with pytest.raises(InvalidRequest) as refused:
        await run(model, PROMPT, labels=labels, logits_to_keep=2)
    assert refused.value.field == "labels"


async def test_positions_that_follow_from_the_mask_are_taken_and_others_refused(open_model):
    model = await open_model(1)
    ids = torch.tensor([[0, 0, 1, 5, 9], [1, 9, 33, 8, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    positions = torch.tensor([[1, 1, 0, 1, 2], [0, 1, 2, 3, 4]])
    plain = (await run(model, ids, attention_mask=mask)).logits
    given = (await run(model, ids, attention_mask=mask, position_ids=positions)).logits
    assert given.tolist() == plain.tolist()
    one_row = torch.arange(PROMPT.shape[1])[None]
    assert (await run(model, PROMPT, position_ids=one_row)).logits.shape[1] == PROMPT.shape[1]

    def go_on(position):
        cache = model(PROMPT, use_cache=True).past_key_values
        try:
            return model(
                torch.tensor([[9]]), past_key_values=cache, position_ids=torch.tensor([[position]])
            )
        finally:
            cache.close()

    assert (await run(go_on, PROMPT.shape[1])).logits.shape[1] == 1
    for wrong in (positions + 1, positions[:, 1:], positions[0]):
        with pytest.raises(InvalidRequest) as refused:
            await run(model, ids, attention_mask=mask, position_ids=wrong)
        assert refused.value.field == "position_ids"
    with pytest.raises(InvalidRequest, match="position_ids"):
        await run(go_on, 0)


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"output_attentions": True}, "output_attentions"),
        ({"inputs_embeds": torch.zeros(1, 2, 48)}, "inputs_embeds"),
        ({"token_type_ids": torch.zeros(1, 2)}, "token_type_ids"),
    ],
)
async def test_what_forward_cannot_give_is_refused_by_name(open_model, kwargs, field):
    model = await open_model(1)
    with pytest.raises(InvalidRequest) as refused:
        await run(model, PROMPT, **kwargs)
    assert refused.value.field == field
    assert (await run(model, PROMPT, output_hidden_states=False)).logits.shape[0] == 1


async def test_an_assistant_saves_steps_and_changes_nothing(swarm, open_model, reference):
    """The assistant is a local model; here a perfect one, so that its candidates are taken."""
    model = await open_model(2)
    fed = []
    submit = swarm.hosters[0].engine.submit
    swarm.hosters[0].engine.submit = lambda session, step: (
        fed.append(step.rows),
        submit(session, step),
    )[1]
    ours = await run(model.generate, PROMPT, **LENGTH, assistant_model=reference)
    assert ours.tolist() == reference.generate(PROMPT, **LENGTH).tolist()
    assert len(fed) < LENGTH["max_new_tokens"]
    await wait_until_free(swarm)


async def test_a_model_of_the_mesh_may_be_the_assistant(open_model, reference):
    model = await open_model(1)
    theirs = reference.generate(PROMPT, **LENGTH)
    ours = await run(reference.generate, PROMPT, **LENGTH, assistant_model=model)
    assert ours.tolist() == theirs.tolist()


async def test_beams_over_a_padded_batch_find_what_transformers_finds(swarm, open_model, reference):
    model = await open_model(2)
    ids = torch.tensor([[0, 0, 0, 1, 5, 9], [1, 200, 33, 8, 77, 21]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    wanted = {
        "max_new_tokens": 8,
        "do_sample": False,
        "attention_mask": mask,
        "pad_token_id": 0,
        "num_beams": 3,
        "length_penalty": 0.8,
    }
    ours = await run(model.generate, ids, **wanted)
    assert ours.tolist() == reference.generate(ids, **wanted).tolist()
    sampled = {**wanted, "do_sample": True, "temperature": 0.9}
    torch.manual_seed(3)
    theirs = reference.generate(ids, **sampled)
    torch.manual_seed(3)
    assert (await run(model.generate, ids, **sampled)).tolist() == theirs.tolist()
    await wait_until_free(swarm)


async def test_a_pipeline_of_transformers_runs_on_it(open_model, reference, chat_checkpoint):
    model = await open_model(2)
    tokenizer = AutoTokenizer.from_pretrained(chat_checkpoint, padding_side="left")
    tokenizer.pad_token = "<pad>"

    def ask(asked, batch_size):
        writer = pipeline("text-generation", model=asked, tokenizer=tokenizer)
        texts = ["Who is it?", "A longer question, which needs padding beside it.", "What?"]
        chat = [{"role": "user", "content": "hi"}]
        options = {"max_new_tokens": 4, "do_sample": False}
        answers = writer(texts, batch_size=batch_size, **options)
        return answers, writer(chat, **options)

    for batch_size in (1, 3):
        assert await run(ask, model, batch_size) == ask(reference, batch_size)
