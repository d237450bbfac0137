"""Receipts of answers over one, two and three ranges: what they prove, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import resource
import stat
from contextlib import aclosing

import httpx
import pytest

from mesh.api.mesh_backend import MeshBackend
from mesh.api.server import ServeConfig, open_gateway
from mesh.client.http import GatewayMisbehaved, GatewayRefused, HttpMeshClient
from mesh.client.receipt_check import ReceiptRefused, check_receipt, read_receipts
from mesh.client.receipts import AnswerReceipt, NoReceipt
from mesh.inference import session_server
from mesh.inference.receipt_wire import RECEIPT_METHOD
from mesh.inference.receipts import RunningReceipt
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampling import Sampling
from tests.support.gateways import QUICK

SPLITS = [[(0, 6)], [(0, 2), (2, 6)], [(0, 2), (2, 3), (3, 6)]]
GREEDY = Sampling()
SHAPED = Sampling(temperature=0.8, seed=3, frequency_penalty=0.5, logit_bias=((90, 0.1),))


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as stack:
        yield stack


async def ask(
    client, *, count=12, sampling=GREEDY, stop_after=None, prompt="Who is it?", **options
):
    """Return the shown token ids, and the receipt as JSON."""
    receipt, found = AnswerReceipt(), []
    answer = client.generate(
        prompt,
        max_new_tokens=count,
        sampling=sampling,
        ignore_eos=True,
        receipt=receipt,
        **options,
    )
    async with aclosing(answer):
        async for piece in answer:
            found.append(piece.token_id)
            if len(found) == stop_after:
                break
    return found, json.loads(json.dumps(receipt.to_dict()))


def redact(receipt):
    hidden = dict.fromkeys(("salt", "prompt_token_ids", "token_ids", "sampling"))
    return {**receipt, **hidden}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("sampling", [GREEDY, SHAPED])
async def test_every_hop_signs_what_came_and_went(swarm, stack, split, sampling):
    for start, end in split:
        await swarm.add_hoster(start, end)
    client = await swarm.open_client(stack)
    plain = [
        piece.token_id
        async for piece in client.generate(
            "Who is it?", max_new_tokens=12, sampling=sampling, ignore_eos=True
        )
    ]
    found, receipt = await ask(client, sampling=sampling)
    assert found == plain == receipt["token_ids"]
    assert receipt["prompt_token_ids"] == list(client.encode("Who is it?"))
    checked = check_receipt(receipt)
    assert checked.is_complete and checked.is_disclosed
    (part,) = checked.parts
    assert (part.start, part.end) == (0, 12)
    assert [(hop.span.start, hop.span.end) for hop in part.route] == split
    assert [hop.peer_id for hop in part.route] == [h.key.peer_id for h in swarm.hosters]
    # Others check it without the prompt, and cannot try prompts without the salt.
    others = check_receipt(redact(receipt))
    assert others.is_complete and not others.is_disclosed


@pytest.mark.parametrize("split", SPLITS)
async def test_an_answer_that_is_cut_has_a_receipt_of_what_was_computed(swarm, stack, split):
    for start, end in split:
        await swarm.add_hoster(start, end)
    client = await swarm.open_client(stack)
    found, receipt = await ask(client, count=200, stop_after=5)
    assert receipt["token_ids"][:5] == found
    # The hosters end with the token that was on its way, far from what was asked for.
    assert 5 <= len(receipt["token_ids"]) <= 100
    assert check_receipt(receipt).is_complete
    for hoster in swarm.hosters:
        await wait_until_free(hoster)
    assert (await ask(client))[1] is not None


async def wait_until_free(hoster):
    async with asyncio.timeout(20):
        while hoster.engine.session_count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_answer_without_a_receipt_is_the_same_bytes_as_before(swarm, stack, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a receipt was made unasked")

    monkeypatch.setattr(RunningReceipt, "__init__", refuse)
    await swarm.add_hoster(0, 6)
    client = await swarm.open_client(stack)
    async for piece in client.generate("hi", max_new_tokens=3):
        assert piece.token_id >= 0


async def test_a_hoster_of_an_earlier_version_is_left_out_of_receipts_only(swarm, stack):
    await swarm.add_hoster(0, 3)
    old = await swarm.add_hoster(3, 6, throughput=100_000, features="gs")
    del swarm.network._hosts[old.key.peer_id]._server._streams[RECEIPT_METHOD]
    await swarm.add_hoster(3, 6)
    client = await swarm.open_client(stack)
    plain = [piece async for piece in client.generate("hi", max_new_tokens=3, ignore_eos=True)]
    assert plain[-1].trace.route[-1].peer_id == str(old.key.peer_id)
    # Its heartbeat tells, so that it is not even asked.
    failures = swarm.hosters[0].engine.measures.sessions_failed.copy()
    found, receipt = await ask(client, prompt="hi", count=3)
    assert swarm.hosters[0].engine.measures.sessions_failed == failures
    assert found == [piece.token_id for piece in plain]
    (part,) = check_receipt(receipt).parts
    assert part.route[-1].peer_id == swarm.hosters[2].key.peer_id and not part.unsigned


async def test_a_prompt_that_was_kept_from_before_is_said_and_signed(swarm, stack):
    for start, end in SPLITS[1]:
        await swarm.add_hoster(start, end)
    client = await swarm.open_client(stack)
    prompt = "x" * 120
    _, first = await ask(client, prompt=prompt, user="ada")
    _, second = await ask(client, prompt=prompt, user="ada")
    reused = [
        [hop["receipt"]["reused"] for hop in receipt["parts"][0]["hops"]]
        for receipt in (first, second)
    ]
    assert reused[0] == [0, 0] and reused[1][0] == reused[1][1] > 0
    check_receipt(first)
    check_receipt(second)
    second["parts"][0]["hops"][1]["receipt"]["reused"] = 0
    with pytest.raises(ReceiptRefused, match="reused"):
        check_receipt(second)


async def test_a_receipt_covers_both_parts_of_a_recovered_answer_or_says_which_it_does_not(
    swarm, stack
):
    await swarm.add_hoster(0, 3)
    await swarm.add_hoster(3, 6)
    await swarm.add_hoster(3, 6)
    client = await swarm.open_client(stack)
    expected, _ = await ask(client, count=40)
    receipt, found = AnswerReceipt(), []
    answer = client.generate(
        "Who is it?", max_new_tokens=40, sampling=GREEDY, ignore_eos=True, receipt=receipt
    )
    async with aclosing(answer):
        async for piece in answer:
            found.append(piece.token_id)
            if len(found) == 12:
                used = {hop.peer_id for hop in piece.trace.route}
                for hoster in swarm.hosters[1:]:
                    if str(hoster.key.peer_id) in used:
                        await hoster.stop()
    told = receipt.to_dict()
    checked = check_receipt(told)
    assert found == expected == told["token_ids"]
    lost, taken_over = checked.parts
    assert lost.start == 0 and lost.end == taken_over.start >= 12 and taken_over.end == 40
    assert lost.unsigned == (0, 1) and taken_over.unsigned == ()
    assert not checked.is_complete
    # The part that is signed binds the tokens before it as its prompt.
    told["token_ids"][0] ^= 1
    with pytest.raises(ReceiptRefused, match="prompt_token_ids"):
        check_receipt(told)


@pytest.fixture
async def gateway_url(swarm, stack):
    """Return a function that puts a gateway before the hosters of a split."""

    async def start(split):
        for first, end in split:
            await swarm.add_hoster(first, end)
        client = await swarm.open_client(stack)
        backend = MeshBackend(client, model_id="tiny", created_s=1)
        config = ServeConfig(port=0, limits=QUICK)
        return (await stack.enter_async_context(open_gateway(config, backend))).url

    return start


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("prompt", ["Who is it?", [5, 6, 7]])
async def test_a_receipt_over_http_is_kept_checked_and_saved_as_over_libp2p(
    swarm, gateway_url, stack, tmp_path, split, prompt
):
    client = await stack.enter_async_context(HttpMeshClient(await gateway_url(split)))
    receipt, plain = AnswerReceipt(), AnswerReceipt()
    answer = client.generate(prompt, max_new_tokens=9, sampling=SHAPED, receipt=receipt)
    async with aclosing(answer):
        pieces = [piece async for piece in answer]
    assert pieces[-1].finish_reason and receipt.to_dict()["prompt_token_ids"]
    checked = receipt.check()
    assert checked.is_complete and checked.is_disclosed
    signers = [hop.peer_id for hop in checked.parts[0].route]
    assert signers == [hoster.key.peer_id for hoster in swarm.hosters]
    file = tmp_path / "answer.receipt"
    receipt.save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (found,) = read_receipts(file.read_bytes())
    assert check_receipt(found) == checked
    with pytest.raises(FileExistsError):
        receipt.save(file)
    refused = tmp_path / "refused.receipt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            receipt.save(refused)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not refused.exists()
    for unused in (plain.check, lambda: plain.save(tmp_path / "none.receipt")):
        with pytest.raises(NoReceipt):
            unused()
    assert not (tmp_path / "none.receipt").exists()


async def test_an_answer_over_http_that_nobody_can_sign_is_refused_with_its_reason(
    swarm, gateway_url, stack
):
    await swarm.add_hoster(0, 6, features="gs")
    client = await stack.enter_async_context(HttpMeshClient(await gateway_url([])))
    answer = client.generate("hi", max_new_tokens=3, receipt=AnswerReceipt())
    with pytest.raises(GatewayRefused, match="signs receipts") as refused:
        await anext(answer)
    assert refused.value.code == "no_capable_route"


@pytest.mark.parametrize("told", [5, [5], "x", {"a": 1}])
async def test_a_receipt_of_another_shape_is_no_gateways(told):
    event = {"choices": [], "mesh": {"receipts": told}}
    reply = httpx.Response(200, content=f"data: {json.dumps(event)}\n\n")
    transport = httpx.MockTransport(lambda request: reply)
    async with HttpMeshClient("http://gateway", model="m", transport=transport) as client:
        with pytest.raises(GatewayMisbehaved):
            await anext(client.generate("hi", max_new_tokens=3, receipt=AnswerReceipt()))


class OtherBytes(RunningReceipt):
    """A hoster that hashes something else than what it was sent."""

    def note_received(self, frame):
        super().note_received(frame[:-1] + bytes([frame[-1] ^ 1]))


@pytest.mark.parametrize("liar", [1, 2])
async def test_a_hop_that_hashes_differently_is_named_by_the_check(swarm, stack, monkeypatch, liar):
    for start, end in SPLITS[2]:
        await swarm.add_hoster(start, end)
    peers = [hoster.key.peer_id for hoster in swarm.hosters]

    def make(key, network_id, request):
        kind = OtherBytes if key.peer_id == peers[liar] else RunningReceipt
        return kind(key, network_id, request)

    monkeypatch.setattr(session_server, "RunningReceipt", make)
    client = await swarm.open_client(stack)
    found, receipt = await ask(client)
    assert len(found) == 12
    with pytest.raises(ReceiptRefused) as refused:
        check_receipt(receipt)
    assert refused.value.field == f"parts[0].hops[{liar}].receipt.received"
    assert f"{peers[liar]} signed that it received something else" in str(refused.value)
    assert f"than {peers[liar - 1]} signed" in str(refused.value)


async def test_a_hoster_that_signs_nothing_costs_the_receipt_and_not_the_answer(
    swarm, stack, monkeypatch
):
    for start, end in SPLITS[1]:
        await swarm.add_hoster(start, end)
    silent = swarm.hosters[1].key.peer_id

    class Silent(RunningReceipt):
        def sign(self, reused):
            if self._key.peer_id == silent:
                raise Refused(RefusalReason.FAILED, "no")
            return super().sign(reused)

    monkeypatch.setattr(session_server, "RunningReceipt", Silent)
    client = await swarm.open_client(stack)
    found, receipt = await ask(client)
    assert len(found) == 12
    (part,) = check_receipt(receipt).parts
    assert part.unsigned == (1,)


@pytest.fixture
async def receipt(swarm, stack):
    for start, end in SPLITS[2]:
        await swarm.add_hoster(start, end)
    client = await swarm.open_client(stack)
    return (await ask(client, sampling=SHAPED))[1]


def flip(text):
    return text[:-1] + ("0" if text[-1] != "0" else "1")


EDITS = {
    "network_id": (lambda r: r.update(network_id=flip(r["network_id"])), "signature"),
    "salt": (lambda r: r.update(salt=flip(r["salt"])), "salt"),
    "prompt": (lambda r: r["prompt_token_ids"].append(5), "prompt_token_ids"),
    "token": (lambda r: r["token_ids"].__setitem__(3, 1 + r["token_ids"][3]), "token_ids"),
    "cut": (lambda r: r["token_ids"].pop(), "token_ids"),
    "more": (lambda r: r["token_ids"].append(7), "token_ids"),
    "temperature": (lambda r: r["sampling"].update(temperature=0.0), "sampling"),
    "session": (lambda r: part(r).update(session_id=flip(part(r)["session_id"])), "signature"),
    "first": (lambda r: part(r).update(first_index=1), "first_index"),
    "salt digest": (lambda r: part(r).update(salt_digest="0" * 64), "salt"),
    "prompt digest": (lambda r: part(r).update(prompt_digest="0" * 64), "prompt_token_ids"),
    "sampling digest": (lambda r: part(r).update(sampling_digest="0" * 64), "sampling"),
    "peer": (lambda r: hop(r, 0).update(peer_id=hop(r, 1)["peer_id"]), "parts[0].hops"),
    "blocks": (lambda r: hop(r, 0).update(blocks=[0, 1]), "parts[0].hops"),
    "received": (lambda r: signed(r, 1).update(received="0" * 64), "hops[1].receipt.received"),
    "sent": (lambda r: signed(r, 1).update(sent="0" * 64), "hops[1].receipt.sent"),
    "tokens chosen": (lambda r: signed(r, 2).update(sent="0" * 64), "hops[2].receipt.sent"),
    "time": (lambda r: signed(r, 2).update(signed_s=1), "hops[2].receipt.signature"),
    "signature": (
        lambda r: signed(r, 0).update(signature=signed(r, 1)["signature"]),
        "hops[0].receipt.signature",
    ),
    "version": (lambda r: r.update(version=2), "version"),
    "field": (lambda r: signed(r, 0).update(extra=1), "hops[0].receipt.extra"),
    "gone": (lambda r: part(r).pop("session_id"), "parts[0].session_id"),
    "type": (lambda r: signed(r, 0).update(reused="0"), "hops[0].receipt.reused"),
    "size": (lambda r: signed(r, 0).update(sent="00"), "hops[0].receipt.sent"),
    "id": (lambda r: r["token_ids"].__setitem__(0, 1 << 32), "token_ids[0]"),
    "redacted in part": (lambda r: r.update(salt=None), "salt"),
    "no parts": (lambda r: r.update(parts=[]), "parts"),
    "no hops": (lambda r: part(r).update(hops=[]), "parts[0].hops"),
    "an answer twice": (lambda r: r["parts"].append(copy.deepcopy(part(r))), "first_index"),
}


def part(receipt):
    return receipt["parts"][0]


def hop(receipt, place):
    return part(receipt)["hops"][place]


def signed(receipt, place):
    return hop(receipt, place)["receipt"]


async def test_an_edited_receipt_is_refused_by_the_field(receipt):
    check_receipt(receipt)
    for name, (edit, field) in EDITS.items():
        edited = copy.deepcopy(receipt)
        edit(edited)
        with pytest.raises(ReceiptRefused) as refused:
            check_receipt(edited)
        assert field in refused.value.field, (name, str(refused.value))


async def test_no_signature_passes_for_another_answer(swarm, stack, receipt):
    client = await swarm.open_client(stack)
    _, other = await ask(client, sampling=SHAPED)
    assert other["token_ids"] == receipt["token_ids"]
    for place in range(3):
        mixed = copy.deepcopy(other)
        hop(mixed, place)["receipt"] = signed(receipt, place)
        with pytest.raises(ReceiptRefused, match=rf"hops\[{place}\].receipt"):
            check_receipt(redact(mixed))


async def test_digests_are_salted_and_bound_to_what_they_are_of(receipt):
    told = json.dumps(redact(receipt))
    assert receipt["salt"] not in told
    digests = [part(receipt)[f"{name}_digest"] for name in ("salt", "prompt", "sampling")]
    digests += [signed(receipt, place)["sent"] for place in range(3)]
    assert len(set(digests)) == 6


def test_what_is_no_receipt_is_a_sentence():
    for raw in (b"", b"no", b"[" * 100_000, b"\xff", b"9" * 5000):
        with pytest.raises(ReceiptRefused, match="JSON object"):
            for found in read_receipts(raw):
                check_receipt(found)
    for raw in (b"[]", b"1", b"null", b"{}"):
        with pytest.raises(ReceiptRefused):
            for found in read_receipts(raw):
                check_receipt(found)
    with pytest.raises(ReceiptRefused, match="X-Mesh-Receipt"):
        read_receipts(b'{"mesh": {"route": []}}')
    with pytest.raises(ReceiptRefused, match="at most"):
        read_receipts(b" " * (16 << 20) + b"{}")


async def test_the_receipts_of_an_answer_are_found_in_it(receipt):
    answer = {"id": "x", "mesh": {"route": [], "receipts": [receipt]}}
    for raw in (receipt, answer, {"type": "response.completed", "response": answer}):
        (found,) = read_receipts(json.dumps(raw).encode())
        assert found == receipt
