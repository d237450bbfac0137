"""A network that serves outlives a node that dies, and says which epoch that cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, SubnetId, SubnetNodeId
from subnet.epoch.interfaces import BlockInfo
from subnet.localnet import epoch_outcome
from subnet.localnet.epoch_outcome import EpochOutcomes
from subnet.localnet.epoch_row import EpochRow, LostEpoch
from subnet.localnet.node_plan import plan_nodes

LENGTH = 20
SLOT = 3
NODES = plan_nodes(hosters=2, validators=1, num_layers=8)
NODE_IDS = {node.name: SubnetNodeId(index + 1) for index, node in enumerate(NODES)}
REPORT = {
    "challenge_seed": "ab" * 32,
    "failed_probes": [],
    "named_sightings": 0,
    "hosters": [],
    "validators": [],
}


class FakeChain:
    """A chain that makes a block whenever it is asked for its head; ``attested_at`` by all."""

    def __init__(self, *, proposer: int | None, attested_at: int = 0) -> None:
        self.height = SLOT + 7 * LENGTH
        self.proposer = proposer
        self.attested_at = attested_at

    async def fetch_head(self) -> BlockInfo:
        self.height += 1
        return BlockInfo(BlockNumber(self.height), bytes(32), 0)

    async def fetch_submission(self, subnet_id: SubnetId, epoch: Epoch) -> Submission | None:
        if self.proposer is None or epoch != 8:
            return None
        everybody = self.attested_at and self.height >= self.attested_at
        attested = NODE_IDS.values() if everybody else [self.proposer]
        return Submission(
            SubnetNodeId(self.proposer),
            BlockNumber(SLOT + 8 * LENGTH),
            (),
            frozenset(SubnetNodeId(node) for node in attested),
            None,
        )

    async def fetch_elected_validator(self, subnet_id: SubnetId, epoch: Epoch) -> SubnetNodeId:
        assert epoch == 8
        return SubnetNodeId(2)


async def wait_for(chain: FakeChain, report: dict[str, Any] | None) -> EpochRow | LostEpoch:
    outcomes = EpochOutcomes(
        chain,
        SubnetId(1),
        slot=SLOT,
        epoch_length=LENGTH,
        nodes=NODES,
        node_ids=NODE_IDS,
        find_report=lambda node_id, epoch: report if (node_id, epoch) == (1, 7) else None,
    )
    return await outcomes.wait_for(Epoch(7))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_outcome, "POLL_S", 0)


async def test_an_epoch_that_all_attested_is_shown_before_it_is_over() -> None:
    chain = FakeChain(proposer=1, attested_at=SLOT + 8 * LENGTH + 4)
    row = await wait_for(chain, REPORT)
    assert isinstance(row, EpochRow) and row.is_attested_by_all
    assert chain.height == chain.attested_at


async def test_an_epoch_that_some_attested_is_shown_when_it_is_over() -> None:
    chain = FakeChain(proposer=1)
    row = await wait_for(chain, REPORT)
    assert isinstance(row, EpochRow) and not row.is_attested_by_all
    assert chain.height == SLOT + 9 * LENGTH


async def test_a_dead_hoster_that_is_elected_costs_its_epoch_alone() -> None:
    chain = FakeChain(proposer=None)
    row = await wait_for(chain, REPORT)
    assert isinstance(row, LostEpoch)
    assert row.to_text() == "epoch 7   lost: no node proposed its scores; node 2 was elected"
    said = {"epoch": 7, "elected": 2, "lost": "no node proposed its scores"}
    assert json.loads(row.to_json()) == said


async def test_a_proposer_that_died_after_its_proposal_costs_its_epoch_alone() -> None:
    row = await wait_for(FakeChain(proposer=1), None)
    assert isinstance(row, LostEpoch) and row.elected == 1


ENDS = """
import asyncio, os, sys
from pathlib import Path
from subnet.localnet import processes

processes.PRELOAD = "json"


def end(config, send):
    if config["signal"]:
        os.kill(os.getpid(), config["signal"])
    sys.exit(config["code"])


async def main():
    group = processes.ProcessGroup(Path(sys.argv[1]))
    config = {"signal": int(sys.argv[2]), "code": int(sys.argv[3])}
    child = await group.start("child", end, config)
    async for _ in processes.read_messages(child):
        pass
    print(await child.describe_end())
    await group.aclose()


if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(0, 3, "ended with exit code 3"), (int(signal.SIGKILL), 0, "was ended by SIGKILL")],
)
def test_an_ended_process_is_named_with_its_exit_code_or_signal(
    tmp_path: Path, number: int, code: int, said: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(ENDS)
    line = [sys.executable, str(script), str(tmp_path / "logs"), str(number), str(code)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.stdout.strip() == said, done.stderr
