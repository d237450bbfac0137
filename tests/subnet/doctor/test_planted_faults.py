"""Each planted fault of a machine or on the chain is found by its check, and by its fix."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, Score, SubnetId, SubnetNodeId
from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain
from keys.account import derive_development_account
from keys.identity_file import create_identity_file
from keys.keystore import create_keystore
from keys.peer import PeerId, PeerKey
from mesh.p2p import daemon
from subnet.account.registration import NodeRegistration, RegisteredNode
from subnet.chain.substrate import SubstrateChain
from subnet.doctor import on_chain
from subnet.doctor.checks import CHECKS, Check, run_checks
from subnet.doctor.finding import CheckStatus, Finding
from subnet.doctor.subject import NodeFacts, Subject
from subnet.hosting.manifest import MANIFEST_FILES
from subnet.operator.vitals import LOW_DISK_BYTES
from tests.support.chain_rigs import COLDKEYS, HOTKEY_FUNDS, OWNER, WireRig, make_subnet

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOTKEY, OTHER_HOTKEY = (derive_development_account(index) for index in (50, 51))
NOWHERE = "ws://127.0.0.1:1"
MODEL_FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 128,
    "max_position_embeddings": 128,
}


@dataclass(frozen=True)
class Place:
    """A chain with a queued node in a subnet, and the files of that node, with nothing wrong."""

    devchain: DevChain
    chain: SubstrateChain
    facts: NodeFacts

    @property
    def subject(self) -> Subject:
        return Subject(self.facts, chain=self.chain)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    directory = tmp_path_factory.mktemp("doctor")
    peer_id = create_identity_file(directory / "peer_id.key")
    create_keystore(directory / "hotkey.json", HOTKEY, "secret", work_factor=1 << 4)
    create_keystore(directory / "other.json", OTHER_HOTKEY, "secret", work_factor=1 << 4)
    (directory / "model").mkdir()
    (directory / "model" / "config.json").write_text(json.dumps(MODEL_FIELDS))
    config = DevChainConfig(mode=BlockMode.INSTANT, seed=b"doctor")
    async with DevChain.open(config) as devchain, WireRig.connect(devchain.url) as rig:
        subnet_id = await rig.register_subnet(make_subnet("doctor"), OWNER)
        wanted = NodeRegistration(subnet_id=subnet_id, hotkey=HOTKEY.account_id, peer_id=peer_id)
        node_id = await rig.register_node(wanted, COLDKEYS[0])
        await rig.fund(HOTKEY.account_id, HOTKEY_FUNDS)
        async with rig.open() as chain:
            assert isinstance(chain, SubstrateChain)
            yield Place(
                devchain, chain, _make_facts(directory, devchain.url, peer_id, subnet_id, node_id)
            )


def _make_facts(
    directory: Path, url: str, peer_id: PeerId, subnet_id: SubnetId, node_id: SubnetNodeId
) -> NodeFacts:
    folder = directory / "data" / f"{subnet_id}-{node_id}"
    folder.mkdir(parents=True, mode=0o700)
    return NodeFacts(
        data_dir=directory / "data",
        folder=folder,
        identity_path=directory / "peer_id.key",
        hotkey_path=directory / "hotkey.json",
        chain_urls=(url,),
        peer_id=peer_id,
        subnet_id=subnet_id,
        node_id=node_id,
        model=str(directory / "model"),
        host_maddrs=("/ip4/127.0.0.1/tcp/0",),
    )


def find_check(name: str) -> Check:
    return next(check for check in CHECKS if check.name == name)


async def ask(name: str, subject: Subject) -> Finding:
    """Make one check."""
    (outcome,) = [one async for one in run_checks(subject, (find_check(name),))]
    assert outcome.name == name
    return outcome.finding


async def fails(name: str, subject: Subject, sentence: str, fix: str) -> None:
    """Assert that a check fails, and says so in these words."""
    finding = await ask(name, subject)
    assert finding.status is CheckStatus.FAIL, finding
    assert sentence in finding.detail and fix in finding.fix, finding


async def warns(name: str, subject: Subject, sentence: str, fix: str) -> None:
    finding = await ask(name, subject)
    assert finding.status is CheckStatus.WARN, finding
    assert sentence in finding.detail and fix in finding.fix, finding


def change(place: Place, **changes: Any) -> Subject:
    """Return the node with a fault: other facts."""
    return replace(place.subject, facts=replace(place.facts, **changes))


@pytest.fixture
def copy(place: Place, tmp_path: Path) -> Callable[[str, int], Path]:
    """Copies a file of the node, with another mode."""

    def make(name: str, mode: int) -> Path:
        copied = tmp_path / name
        shutil.copy(place.facts.identity_path.parent / name, copied)
        copied.chmod(mode)
        return copied

    return make


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


async def test_nothing_fails_on_a_machine_without_a_fault(place: Place) -> None:
    place.devchain.build()
    checks = tuple(check for check in CHECKS if check.name != "p2pd")
    outcomes = [outcome async for outcome in run_checks(place.subject, checks)]
    assert [one.name for one in outcomes] == [check.name for check in checks]
    assert [one for one in outcomes if one.finding.status is CheckStatus.FAIL] == []
    passing = {one.name for one in outcomes if one.finding.status is CheckStatus.PASS}
    assert passing >= {"identity", "hotkey", "folder", "endpoints", "clock", "stake", "balance"}


async def test_no_identity(place: Place) -> None:
    await fails("identity", change(place, identity_path=Path("gone")), "gone", "mesh keygen")


async def test_an_identity_that_others_can_read(
    place: Place, copy: Callable[[str, int], Path]
) -> None:
    path = copy("peer_id.key", 0o644)
    await fails("identity", change(place, identity_path=path), "0644", f"chmod 600 {path}")


async def test_an_identity_that_is_cut_off(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "short.key"
    path.write_bytes(bytes(10))
    path.chmod(0o600)
    await fails("identity", change(place, identity_path=path), "68 bytes", "backup")


async def test_the_identity_of_another_node(place: Place, tmp_path: Path) -> None:
    create_identity_file(tmp_path / "twin.key")
    subject = change(place, identity_path=tmp_path / "twin.key")
    await fails("identity", subject, "the node here is", "--identity-path")


async def test_a_hotkey_that_others_can_read(
    place: Place, copy: Callable[[str, int], Path]
) -> None:
    path = copy("hotkey.json", 0o640)
    await fails("hotkey", change(place, hotkey_path=path), "0640", f"chmod 600 {path}")


async def test_no_hotkey(place: Place) -> None:
    await warns("hotkey", change(place, hotkey_path=None), "no hotkey", "--hotkey-path")
    await fails("hotkey", change(place, hotkey_path=Path("gone")), "gone", "--hotkey-path")


async def test_a_journal_that_others_can_read(place: Place, tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    journal.touch(mode=0o644)
    await fails("folder", change(place, folder=tmp_path), "open to other", f"chmod 600 {journal}")


async def test_a_data_folder_that_is_a_file(place: Place) -> None:
    subject = change(place, data_dir=place.facts.identity_path)
    await fails("folder", subject, "cannot be written", "--data-dir")


async def test_a_full_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place.facts.data_dir)
    for free, see in ((1 << 20, fails), (LOW_DISK_BYTES - 1, warns)):
        full = usage._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, full=full: full)
        await see("disk", place.subject, "GiB free", "free space")


async def test_no_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()
    for free, see in ((1 << 20, fails), (1 << 29, warns)):
        full = memory._replace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda full=full: full)
        await see("memory", place.subject, "GiB available", "--num-blocks")


async def test_a_port_that_another_process_has(place: Place, busy_port: int) -> None:
    subject = change(place, host_maddrs=(f"/ip4/127.0.0.1/tcp/{busy_port}",))
    await fails("ports", subject, "in use", "stop the other process")


async def test_a_running_node_that_does_not_listen(place: Place, busy_port: int) -> None:
    async def silent(name: str) -> Finding:
        raise AssertionError(name)

    subject = replace(place.subject, ask_node=silent)
    await warns("ports", subject, "another one at each start", "--port")
    maddr = f"/ip4/0.0.0.0/tcp/{busy_port}"
    listening = replace(subject, facts=replace(place.facts, host_maddrs=(maddr,)))
    assert (await ask("ports", listening)).status is CheckStatus.PASS
    deaf = replace(subject, facts=replace(place.facts, host_maddrs=("/ip4/0.0.0.0/tcp/1",)))
    await fails("ports", deaf, "nothing listens on 127.0.0.1:1", "start it again")


async def test_a_p2pd_that_is_gone_and_one_that_does_not_start(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "p2pd"
    monkeypatch.setattr(daemon, "_get_executable", lambda: program)
    await fails("p2pd", place.subject, "does not run", "hivemind")
    program.write_text("#!/bin/sh\necho no; exit 3\n")
    program.chmod(0o700)
    daemon.describe_build.cache_clear()
    await fails("p2pd", place.subject, "code 3: no", "hivemind")
    daemon.describe_build.cache_clear()


async def test_endpoints_that_do_not_answer(place: Place) -> None:
    await fails("endpoints", change(place, chain_urls=(NOWHERE,)), "no endpoint", "--chain")
    urls = (*place.facts.chain_urls, f"{NOWHERE}/token-of-an-account")
    await warns("endpoints", change(place, chain_urls=urls), "does not serve", NOWHERE)
    assert "token" not in (await ask("endpoints", change(place, chain_urls=urls))).detail


async def test_an_endpoint_of_another_chain(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    look = on_chain.look_at

    async def look_elsewhere(url: str) -> on_chain.EndpointReport:
        found = await look(place.facts.chain_urls[0])
        return found if url != NOWHERE else replace(found, url=url, genesis=bytes(32))

    monkeypatch.setattr(on_chain, "look_at", look_elsewhere)
    urls = (*place.facts.chain_urls, NOWHERE)
    await fails("endpoints", change(place, chain_urls=urls), "another chain", "leave it out")


async def test_an_endpoint_that_is_behind(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_chain, "MAX_LAG_BLOCKS", -1)
    await warns("endpoints", place.subject, "at block", "replace")


async def test_a_clock_that_is_wrong(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.devchain.build()
    real_s = time.time()
    for ahead_s, see, sentence in (
        (-100, fails, "behind the time of block"),
        (-10, warns, "behind the time of block"),
        (100, fails, "s old by this clock"),
        (20, warns, "s old by this clock"),
    ):
        monkeypatch.setattr(time, "time", lambda ahead_s=ahead_s: real_s + ahead_s)
        await see("clock", place.subject, sentence, "timedatectl")


async def test_a_chain_that_makes_no_blocks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real_s = time.time()
    monkeypatch.setattr(time, "time", lambda: real_s + 1000)
    await fails("epoch", place.subject, "has stood at block", "--chain")


async def test_finality_that_is_too_late(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch_finalised_number(chain: SubstrateChain) -> int:
        return (await chain.fetch_head()).number - lag

    monkeypatch.setattr(SubstrateChain, "fetch_finalised_number", fetch_finalised_number)
    for lag, see in ((3, warns), (6, fails)):
        await see("epoch", place.subject, f"{lag} blocks behind", "too late")


async def test_a_peer_that_is_not_registered(place: Place) -> None:
    stranger = PeerKey(b"\x77" * 32).peer_id
    subject = change(place, peer_id=stranger, node_id=None)
    await fails("registration", subject, "is registered", "register-node")
    for name in ("class", "stake", "score"):
        assert (await ask(name, subject)).status is CheckStatus.SKIP
    await fails("registration", change(place, peer_id=stranger), "to peer", "identity")


async def test_a_hotkey_that_is_not_the_registered_one(place: Place) -> None:
    subject = change(place, hotkey_path=place.facts.identity_path.parent / "other.json")
    await fails("registration", subject, OTHER_HOTKEY.address, "--hotkey-path")


async def test_a_node_that_still_waits_in_the_queue(place: Place) -> None:
    await warns("class", place.subject, "queued", "mesh chain queue")


async def test_a_node_that_the_last_proposals_leave_out_or_score_0(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await on_chain.fetch_row(place.chain, place.subject)
    assert row is not None
    active = replace(row, is_queued=False, node_class=NodeClass.INCLUDED)
    rows: tuple[tuple[SubnetNodeId, Score], ...] | None = None

    async def fetch_row(chain: SubstrateChain, subject: Subject) -> RegisteredNode:
        return active

    async def fetch_submission(
        chain: SubstrateChain, subnet_id: SubnetId, epoch: Epoch
    ) -> Submission | None:
        if rows is None:
            return None
        return Submission(SubnetNodeId(9), BlockNumber(1), rows, frozenset(), None)

    monkeypatch.setattr(on_chain, "fetch_row", fetch_row)
    monkeypatch.setattr(SubstrateChain, "fetch_submission", fetch_submission)
    await warns("score", place.subject, "no validator proposed", "mesh why")
    rows = ((SubnetNodeId(row.node_id + 1), Score(5)),)
    await warns("score", place.subject, "no row of this node", "mesh why")
    rows = ((row.node_id, Score(0)), (row.node_id, Score(7)))
    await warns("score", place.subject, "0.000000", "mesh why")
    rows = ((row.node_id, Score(10**17)),)
    assert (await ask("score", place.subject)).status is CheckStatus.PASS
    assert (await ask("class", place.subject)).status is CheckStatus.PASS
    active = replace(active, node_class=NodeClass.IDLE)
    await warns("class", place.subject, "Idle", "keep it running")


async def test_a_stake_below_the_subnet_s_minimum(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = on_chain.read_at_head

    async def read_raised(chain: SubstrateChain, item: str, *keys: object, default: bool) -> int:
        value = int(await read(chain, item, *keys, default=default))
        return 2 * value if "MinStake" in item else value

    monkeypatch.setattr(on_chain, "read_at_head", read_raised)
    await fails("stake", place.subject, "100 TENSOR staked, 200 TENSOR needed", "add-stake")


async def test_a_hotkey_that_cannot_pay_a_fee(place: Place) -> None:
    subject = change(
        place, node_id=None, hotkey_path=place.facts.identity_path.parent / "other.json"
    )
    await fails("balance", subject, "refused", f"--to {OTHER_HOTKEY.address}")


async def test_a_model_that_the_subnet_does_not_serve(place: Place, tmp_path: Path) -> None:
    await warns("manifest", place.subject, "not on this machine", "copy the file")
    await fails("manifest", change(place, model=str(tmp_path / "gone")), "gone", "name the model")
    shutil.copy(place.facts.identity_path.parent / "model" / "config.json", tmp_path)
    (tmp_path / MANIFEST_FILES["none"]).write_text("{}")
    await fails("manifest", change(place, model=str(tmp_path)), "which the chain names", "revision")


async def test_a_chain_that_is_away_skips_what_needs_it(place: Place) -> None:
    outcomes = [one async for one in run_checks(Subject(place.facts), CHECKS[8:16])]
    assert {str(one.finding.status) for one in outcomes} == {"SKIP"}


async def test_a_check_that_breaks_or_hangs_is_one_failed_row() -> None:
    async def break_down(subject: Subject) -> Finding:
        raise RuntimeError("a mistake")

    async def hang(subject: Subject) -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    checks = (
        Check(name="broken", here=break_down, limit_s=5),
        Check(name="slow", here=hang, limit_s=0.01),
    )
    facts = NodeFacts(data_dir=Path(), identity_path=Path())
    outcomes = [one async for one in run_checks(Subject(facts), checks)]
    assert [one.finding.status for one in outcomes] == [CheckStatus.FAIL, CheckStatus.FAIL]
    assert "RuntimeError: a mistake" in outcomes[0].finding.detail
    assert "no result within" in outcomes[1].finding.detail
