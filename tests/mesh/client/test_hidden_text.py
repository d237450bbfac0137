"""The last hidden states of texts, beside the same model in one process."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel

from mesh.assets import shipped_model_path
from mesh.client.hidden_text import HiddenText
from mesh.client.route_search import RoutingOptions
from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import InvalidRequest, SessionLost
from mesh.inference.accounts import OWN_ACCOUNT
from mesh.inference.drive_wire import HIDDEN_METHOD, LogitsFrame, decode_feed, encode_logits
from mesh.inference.refusals import RefusalReason
from mesh.inference.steps import StepInput
from mesh.model.config import LayerSpan, load_config
from tests.mesh.client.conftest import Swarm

TEXT = "What is an epoch, and who commits before anyone reveals? " * 3
SPANS = {1: [(0, 8)], 2: [(0, 4), (4, 8)]}


@pytest.fixture
async def shipped():
    swarm = Swarm(shipped_model_path())
    yield swarm
    for hoster in swarm.hosters:
        await hoster.stop()


@pytest.fixture(scope="module")
def reference():
    return AutoModel.from_pretrained(shipped_model_path(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def texts():
    """Token ids of several lengths: chunks of one row, a part of a chunk and several chunks."""
    token_ids = ChatTokenizer.load(shipped_model_path()).encode(TEXT)
    assert len(token_ids) > 17
    return [token_ids[:1], token_ids[:5], token_ids[:9], token_ids[:17], token_ids]


@contextlib.asynccontextmanager
async def open_text(swarm, **options):
    async with contextlib.AsyncExitStack() as stack:
        text = HiddenText(await swarm.open_client(stack), **options)
        stack.push_async_callback(text.close)
        yield text


@pytest.mark.parametrize("ranges", [1, 2])
async def test_hidden_states_are_transformers_own(shipped, reference, texts, ranges):
    for span in SPANS[ranges]:
        await shipped.add_hoster(*span)
    async with open_text(shipped) as text:
        for token_ids in texts:
            with torch.inference_mode():
                wanted = reference(torch.tensor([token_ids])).last_hidden_state[0].numpy()
            found = await text.compute_hidden(token_ids, capacity=len(texts[-1]))
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
            mean = await text.compute_mean(token_ids)
            assert mean.dtype == np.float32
            np.testing.assert_allclose(mean, wanted.mean(axis=0), rtol=1e-4, atol=1e-4)
        assert len(text.route) == ranges and text.reroutes == 0


async def test_hidden_states_and_logits_share_a_batch(shipped, texts):
    """The steps that wait while another is computed become one batch; each gets what it wants."""
    engine = (await shipped.add_hoster(0, 8)).engine
    asked = [StepInput(1, token_ids=(token_id,), logit_rows=1) for token_id in (5, 7, 7)]
    asked[2] = replace(asked[2], wants_hidden=True)

    async def compute(steps):
        with contextlib.ExitStack() as stack:
            sessions = [
                stack.enter_context(engine.admit(LayerSpan(0, 8), capacity=4, account=OWN_ACCOUNT))
                for _ in steps
            ]
            outputs = [engine.submit(s, step) for s, step in zip(sessions, steps, strict=True)]
            return [(await output).logits.numpy() for output in outputs]

    _, logits, hidden = await compute(asked)
    config = load_config(shipped_model_path())
    assert logits.shape == (1, config.vocab_size) and hidden.shape == (1, config.hidden_size)
    alone = [(await compute([step]))[0] for step in asked[1:]]
    np.testing.assert_array_equal(logits, alone[0])
    np.testing.assert_array_equal(hidden, alone[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_a_hidden_state_that_is_no_number_is_not_passed_on(shipped, texts, value):
    hoster = await shipped.add_hoster(0, 8)
    width = load_config(shipped_model_path()).hidden_size

    async def lie(stream):
        await stream.receive()
        feed = decode_feed(await stream.receive())
        rows = np.full((feed.wanted, width), value, np.float32)
        frame = LogitsFrame(0, feed.wanted, memoryview(rows).cast("B"))
        await stream.send(encode_logits(frame, vocab_size=width))

    async with open_text(shipped, routing=RoutingOptions(max_reroutes=1)) as text:
        hoster.server._host.serve_stream(HIDDEN_METHOD, lie)
        with pytest.raises(SessionLost) as caught:
            await text.compute_hidden(texts[1])
    assert caught.value.reason is RefusalReason.MALFORMED


async def test_a_text_beyond_the_context_is_refused_before_it_is_sent(shipped):
    await shipped.add_hoster(0, 8)
    room = load_config(shipped_model_path()).max_context
    async with open_text(shipped) as text:
        with pytest.raises(InvalidRequest, match="context"):
            await text.compute_hidden([5] * (room + 1))
        assert shipped.hosters[0].engine.measures.sessions_opened == 0
