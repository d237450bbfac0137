"""What a node does before it signs: it listens, says so in its status, and marks its folder."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from consensus.types import Role, SubnetNodeId
from keys.backup import KeySet, restore_backup
from keys.identity_file import PEER_ID_FILE
from mesh.model.config import load_config
from mesh.model.files import resolve_known_model
from subnet.claim import FolderBefore, claim_identity
from subnet.epoch.rosters import Rosters
from subnet.errors import ConfigError
from subnet.journal.journal import JOURNAL_FILE
from subnet.known_peers import KnownPeers
from subnet.network import SubnetMembership
from subnet.operator.config import NodeConfig
from subnet.operator.folder_mark import mark_folder, read_mark
from subnet.operator.layout import prepare_folder
from subnet.operator.preflight import PreparedNode
from subnet.operator.status import STATUS_FILE, NodeStatus, read_status
from tests.support.fakes import SUBNET_ID, FakeChain, FakeReader
from tests.support.node import make_journal, make_key, make_roster_node, make_terms

NODE = SubnetNodeId(2)
BEGINS_AT, LENGTH = 45, 20


class Scene:
    """A node whose identity was restored, on a chain that makes blocks quickly; no peers."""

    def __init__(self, home: Path) -> None:
        self.chain = FakeChain((make_roster_node(1), make_roster_node(2)), height=BEGINS_AT)
        self.reader = FakeReader(self.chain)
        keys, folder = home / "keys", resolve_known_model("mesh-tiny")
        restore_backup(KeySet({PEER_ID_FILE: make_key(NODE)}, {}), keys, "")
        config = NodeConfig(
            model="mesh-tiny", role=Role.VALIDATOR, identity_path=keys / PEER_ID_FILE
        )
        self.prepared = PreparedNode(
            config=config,
            key=make_key(NODE),
            hotkey=None,
            subnet_id=SUBNET_ID,
            node_id=NODE,
            folder=folder,
            model=load_config(folder.source),
            layers=None,
            data_dir=home / "1-2",
            notices=(),
        )
        terms, journal = make_terms(self.chain), make_journal()
        rosters = Rosters(terms, reader=self.reader, journal=journal)
        # Known peers are asked for by a host only, and without peers there is none.
        self.state = SubnetMembership(terms, journal, rosters, cast(KnownPeers, None))

    async def claim(self) -> list[NodeStatus]:
        """Claim the identity; return the statuses that were seen meanwhile."""
        prepare_folder(self.prepared.data_dir)
        before, seen = FolderBefore.look(self.prepared), []
        (self.prepared.data_dir / JOURNAL_FILE).touch()

        async def make_blocks() -> None:
            while True:
                await asyncio.sleep(0.01)
                path = self.prepared.data_dir / STATUS_FILE
                if path.exists():
                    seen.append(read_status(path))
                self.chain.advance()

        async with asyncio.TaskGroup() as tasks:
            making = tasks.create_task(make_blocks())
            try:
                await claim_identity(self.prepared, self.reader, self.state, (), before)
            finally:
                making.cancel()
        return seen


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_restored_identity_listens_says_so_and_listens_once_only(scene: Scene) -> None:
    seen = await scene.claim()
    assert scene.chain.height >= BEGINS_AT + LENGTH
    told = [status for status in seen if status.head is not None and not status.is_stopped]
    text = (
        f"listening for its own identity until block {BEGINS_AT + LENGTH}: "
        "its identity was restored from a backup"
    )
    assert {status.taking_part for status in told} == {text}
    assert told[0].eligibility == f"epoch 3: not eligible: {text}"
    assert read_mark(scene.prepared.data_dir) is not None
    height = scene.chain.height
    await scene.claim()
    assert scene.chain.height <= height + 2


async def test_an_unpaid_node_signs_no_record_and_listens_to_nothing(scene: Scene) -> None:
    config = scene.prepared.config.model_copy(update={"role": Role.HOSTER, "unpaid": True})
    scene.prepared = replace(scene.prepared, config=config)
    assert await scene.claim() == []
    assert scene.chain.height <= BEGINS_AT + 1


async def test_a_folder_is_not_marked_while_another_process_has_the_identity(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def twin(*_: Any) -> Any:
        raise ConfigError("another process runs as it", "stop it")

    monkeypatch.setattr(scene.reader, "fetch_submission", twin)
    with pytest.raises(BaseExceptionGroup):
        await scene.claim()
    assert read_mark(scene.prepared.data_dir) is None
    assert read_status(scene.prepared.data_dir / STATUS_FILE).is_stopped


async def test_a_moved_folder_with_its_mark_of_another_machine_listens(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from subnet.operator import folder_mark

    stamp = FolderBefore.look(scene.prepared).restored
    prepare_folder(scene.prepared.data_dir)
    (scene.prepared.data_dir / JOURNAL_FILE).touch()
    mark_folder(scene.prepared.data_dir, restored=stamp)
    (tmp_path / "id").write_text("another machine")
    monkeypatch.setattr(folder_mark, "MACHINE_FILE", tmp_path / "id")
    seen = await scene.claim()
    assert "another machine" in seen[-1].taking_part
