"""A hoster that is killed in the middle of an epoch comes back, and nothing is lost or said twice.

Blocks are made by hand, so that the chain waits for the restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consensus.phases import compute_schedule
from consensus.protocol_params import MAINNET
from consensus.records import RecordKind
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, compute_epoch_position
from keys.envelope import decode_envelope
from mesh.assets import shipped_model_path
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from subnet.account.earnings import parse_row
from subnet.account.earnings_book import read_book
from subnet.account.registration import hex_account
from subnet.chain.substrate import SubstrateChain
from subnet.cli.console import run_app
from subnet.cli.mesh import app
from subnet.hosting.manifest import load_own_manifest
from subnet.journal.codec import decode_timed_record
from subnet.journal.log import EventType
from subnet.localnet.node_plan import plan_nodes
from subnet.operator.control import CONTROL_SOCKET
from subnet.operator.status import read_statuses
from tests.support.commands import MESH, MESH_TEST, Command
from tests.support.networks import Network, NodeFiles, register_network

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(420)]

EPOCH_LENGTH = 20
SCHEDULE = compute_schedule(EPOCH_LENGTH, MAINNET)
REVEAL_AT = SCHEDULE.reveal_start + SCHEDULE.grace
WAIT_S = 90.0
POLL_S = 0.05
PATIENCE_S = 2.0
SERVING = '"event": "serving"'


@dataclass
class Swarm:
    """Three hosters as processes, and the hand that makes blocks."""

    url: str
    directory: Path
    chain: SubstrateChain
    network: Network
    stack: ExitStack
    slot: int
    commands: dict[str, Command] = field(default_factory=dict)
    bootnode: str = ""

    async def start(self, node: NodeFiles) -> None:
        """Start a node, again if it has run before, and wait until it serves."""
        line = [*MESH_TEST, str(shipped_model_path()), "--hoster", "--threads", "1"]
        line += ["--identity_path", str(node.identity), "--data_dir", str(node.data_dir)]
        line += ["--hotkey_path", str(node.hotkey), "--hotkey_password_file", str(node.password)]
        line += ["--host_maddrs", "/ip4/127.0.0.1/tcp/0", "--chain", self.url]
        line += ["--initial_peers", self.bootnode] if self.bootnode else ["--new_swarm"]
        command = Command(line, self.directory)
        self.stack.callback(command.close)
        self.commands[node.name] = command
        await asyncio.to_thread(command.wait_for, SERVING)

    async def kill(self, node: NodeFiles) -> None:
        """End a node without a warning, and with it its daemon."""
        command = self.commands.pop(node.name)
        command.send(signal.SIGKILL)
        await asyncio.to_thread(command.wait)
        await asyncio.to_thread(command.wait_until_gone)

    async def stop_all(self) -> None:
        for command in self.commands.values():
            command.send(signal.SIGTERM)
        for command in self.commands.values():
            assert await asyncio.to_thread(command.wait) == 0, command.stderr[-4000:]

    async def fetch_head(self) -> BlockNumber:
        header = await self.chain.query(
            lambda session: session.read_header(session.read_head_hash())
        )
        return BlockNumber(header.number)

    async def advance_to(self, epoch: Epoch, offset: int) -> None:
        """Make blocks one by one; each waits until every living node has dealt with the last."""
        target = epoch * EPOCH_LENGTH + self.slot + offset
        while (head := await self.fetch_head()) < target:
            await self.chain.query(lambda session: session.rpc("dev_newBlock", {"count": 1}))
            await self.wait_until(lambda at=head + 1: self._is_handled(at), f"block {head + 1}")

    async def wait_done(self, duty: str) -> None:
        """Wait until every living node has logged this duty as done."""
        wanted = f'"duty": "{duty}"'
        await self.wait_until(
            lambda: all(
                any(wanted in line and "duty done" in line for line in command.stderr.splitlines())
                for command in self.commands.values()
            ),
            duty,
        )

    async def settle(self, epoch: Epoch) -> Submission:
        """Make blocks of ``epoch`` until all have attested what was proposed in it.

        An extrinsic makes its own block; the others are for those who wait for finality.
        """
        everybody = {node.node_id for node in self.network.nodes}
        submission = None
        for offset in range(EPOCH_LENGTH - 1):
            await self.advance_to(epoch, offset)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    while submission is None or submission.attested != everybody:
                        await asyncio.sleep(POLL_S)
                        submission = await self.fetch_submission(epoch)
                    return submission
        raise AssertionError(f"epoch {epoch} was not attested by all: {submission}")

    async def fetch_submission(self, epoch: Epoch) -> Submission | None:
        return await self.chain.fetch_submission(self.network.subnet_id, epoch)

    async def fetch_nonce(self, node: NodeFiles) -> int:
        """Return how many extrinsics of the node's hotkey the chain has taken."""
        account = await self.chain.query(
            lambda session: session.read(
                "System.Account", hex_account(node.hotkey_account), at=session.read_head_hash()
            )
        )
        return int(account["nonce"])

    async def wait_until(self, is_done: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not is_done():
                    for name, command in self.commands.items():
                        assert command.process.poll() is None, f"{name}: {command.stderr[-4000:]}"
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            logs = [command.stderr[-2000:] for command in self.commands.values()]
            raise AssertionError("\n\n".join([f"no {what}", *logs])) from None

    def _is_handled(self, block: int) -> bool:
        living = [node for node in self.network.nodes if node.name in self.commands]
        statuses = [status for node in living for status in read_statuses(node.data_dir)]
        return len(statuses) == len(living) and all(
            (status.head or 0) >= block for status in statuses
        )


@asynccontextmanager
async def open_swarm(directory: Path) -> AsyncIterator[Swarm]:
    """Run a chain whose blocks are made by extrinsics and by hand, and register three hosters."""
    folder = resolve_model_folder(str(shipped_model_path()))
    model = load_config(folder.path)
    manifest = load_own_manifest(folder)
    with ExitStack() as stack:
        line = [*MESH, "devchain", "--port", "0", "--block-mode", "instant"]
        devchain = Command(line, directory)
        stack.callback(devchain.close)
        await asyncio.to_thread(devchain.wait_for, "ws://")
        url = devchain.stdout.strip()
        async with SubstrateChain.open(url) as chain:
            network = await register_network(
                chain,
                plan_nodes(hosters=3, validators=0, num_layers=model.num_layers),
                directory,
                manifest_hash=manifest.manifest_hash,
            )
            subnet = await chain.fetch_subnet(network.subnet_id)
            assert subnet is not None and subnet.slot is not None
            yield Swarm(url, directory, chain, network, stack, subnet.slot)


async def start_all(swarm: Swarm) -> None:
    first, *others = swarm.network.nodes
    await swarm.start(first)
    address = json.loads(
        next(line for line in swarm.commands[first.name].stderr.splitlines() if SERVING in line)
    )["addresses"][0]
    swarm.bootnode = address
    await asyncio.gather(*(swarm.start(node) for node in others))


async def begin_epoch(swarm: Swarm) -> Epoch:
    """Go to the first block of the next epoch, the first that the nodes see whole."""
    position = compute_epoch_position(
        await swarm.fetch_head(), slot=swarm.slot, epoch_length=EPOCH_LENGTH
    )
    epoch = Epoch(position.epoch + 1)
    missing = EPOCH_LENGTH - position.offset - 1
    if missing:
        await swarm.chain.query(lambda session: session.rpc("dev_newBlock", {"count": missing}))
    await swarm.advance_to(epoch, 0)
    return epoch


Signed = Mapping[tuple[RecordKind, int], bytes]


@dataclass(frozen=True)
class JournalRows:
    """What a journal holds: its own records, and others' by author."""

    signed: Signed
    seen: Mapping[int, Signed]


def read_journal(node: NodeFiles, scratch: Path) -> JournalRows:
    """Read a copy, so that the node's own file stays as it is."""
    copy = scratch / f"{node.name}-{len(list(scratch.iterdir()))}"
    # A socket has nothing to copy.
    ignore = shutil.ignore_patterns(CONTROL_SOCKET)
    shutil.copytree(node.journal().parent, copy, ignore=ignore)
    with closing(sqlite3.connect(copy / node.journal().name)) as connection:
        rows = connection.execute("SELECT type, payload FROM log ORDER BY seq").fetchall()
    signed: dict[tuple[RecordKind, int], bytes] = {}
    seen: dict[int, dict[tuple[RecordKind, int], bytes]] = {}
    for number, payload in rows:
        if number == EventType.SIGNED.value:
            envelope = decode_envelope(payload)
            slot = (RecordKind(envelope.kind), envelope.epoch)
            assert slot not in signed
            signed[slot] = envelope.to_bytes()
        elif number == EventType.SIGHTED.value:
            envelope = decode_timed_record(payload).envelope
            slot = (RecordKind(envelope.kind), envelope.epoch)
            seen.setdefault(envelope.node_id, {}).setdefault(slot, envelope.to_bytes())
    return JournalRows(signed, seen)


def assert_paid_alike(submission: Submission, network: Network) -> None:
    scores = dict(submission.scores)
    assert set(scores) == {node.node_id for node in network.nodes}
    assert len(set(scores.values())) == 1 and min(scores.values()) > 0


async def test_a_hoster_killed_between_commit_and_reveal_is_scored_and_signs_nothing_twice(
    tmp_path: Path,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    async with open_swarm(tmp_path) as swarm:
        await start_all(swarm)
        _, second, third = swarm.network.nodes
        epoch = await begin_epoch(swarm)
        later = Epoch(epoch + 1)

        await swarm.advance_to(epoch, SCHEDULE.commit_start)
        await swarm.wait_done(f"CommitOutput(epoch={epoch})")
        await swarm.advance_to(epoch, SCHEDULE.reveal_start - SCHEDULE.grace)
        await swarm.kill(third)
        at_death = read_journal(third, scratch)
        assert (RecordKind.OUTPUT_COMMIT, epoch) in at_death.signed
        assert (RecordKind.OUTPUT_REVEAL, epoch) in at_death.signed
        await swarm.start(third)
        await swarm.advance_to(epoch, REVEAL_AT)
        await swarm.wait_done(f"RevealOutput(epoch={epoch})")
        await swarm.advance_to(epoch, EPOCH_LENGTH - 1)
        assert_paid_alike(await swarm.settle(later), swarm.network)

        await swarm.wait_done(f"CommitOutput(epoch={later})")
        await swarm.advance_to(later, REVEAL_AT)
        await swarm.wait_done(f"RevealOutput(epoch={later})")
        await swarm.advance_to(later, SCHEDULE.windows[RecordKind.OUTPUT_REVEAL].counts_until)
        await swarm.kill(second)
        await swarm.start(second)
        await swarm.advance_to(later, EPOCH_LENGTH - 1)
        assert_paid_alike(await swarm.settle(Epoch(later + 1)), swarm.network)

        await assert_earnings_equal_the_chain(swarm, scored=epoch)
        await swarm.stop_all()
        assert all(status.is_stopped for status in read_statuses(third.data_dir))
        await assert_said_once(swarm, (epoch, later, Epoch(later + 1)), scratch)
        final = read_journal(third, scratch)
        assert at_death.signed.items() <= final.signed.items()


def ask_earnings(node: NodeFiles, chain: str) -> dict[str, Any]:
    """Return what ``mesh earnings`` says on the machine of a node."""
    out = io.StringIO()
    line = ["earnings", "--json", "--data-dir", str(node.data_dir), "--chain", chain]
    with redirect_stdout(out), pytest.raises(SystemExit) as ended:
        run_app(app, line, name="mesh")
    assert ended.value.code == 0
    answer: dict[str, Any] = json.loads(out.getvalue())
    return answer


async def assert_earnings_equal_the_chain(swarm: Swarm, *, scored: Epoch) -> None:
    """Each node's rows add up to its stake on the chain, and the node has kept the same rows."""
    proposing = set()
    for node in swarm.network.nodes:
        found = await asyncio.to_thread(ask_earnings, node, swarm.url)
        rows = found["rows"]
        assert rows[0]["epoch"] == scored
        assert {row["difference"] for row in rows} == {"0"}
        gained = sum(int(row["gain"]) for row in rows)
        assert int(found["standing"]["stake"]) == int(rows[-1]["stake"][0]) + gained
        assert found["standing"]["eligibility"].endswith("eligible")
        proposing |= {node.node_id} if rows[0]["proposing"] is not None else set()
        await swarm.wait_until(
            lambda node=node: read_book(next(node.data_dir.glob("*-*")))[:1] != (), "kept earnings"
        )
        kept = read_book(next(node.data_dir.glob("*-*")))
        assert [parse_row(row) for row in rows if row["epoch"] == scored] == list(kept[:1])
        (status,) = read_statuses(node.data_dir)
        assert status.eligibility == found["standing"]["eligibility"]
        assert status.earned[0].epoch == scored
    assert len(proposing) == 1


async def assert_said_once(swarm: Swarm, epochs: Iterable[Epoch], scratch: Path) -> None:
    """Every journal saw what its author's journal holds, and no extrinsic was sent again."""
    journals = {node.node_id: read_journal(node, scratch) for node in swarm.network.nodes}
    for node_id, journal in journals.items():
        assert set(journals) - {node_id} <= set(journal.seen)
        for author, seen in journal.seen.items():
            assert author == node_id or seen.items() <= journals[author].signed.items()
    submissions = [await swarm.fetch_submission(epoch) for epoch in epochs]
    for node in swarm.network.nodes:
        landed = [one for one in submissions if one is not None and node.node_id in one.attested]
        assert await swarm.fetch_nonce(node) == len(landed)
