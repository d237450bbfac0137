"""A metagraph in a file: what is none is refused, and so is a file that cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keys.peer import PeerKey
from subnet.account.metagraph import FORMAT, Metagraph
from subnet.errors import ConfigError


def make_document(**changes: Any) -> dict[str, Any]:
    """Return a metagraph of one node as JSON values."""
    node = {
        "subnet_node_id": 1,
        "class": 3,
        "is_queued": False,
        "start_epoch": 2,
        "stake": "100",
        "reputation": "1",
        "score": "-1",
        "attested": False,
        "hotkey": "ab" * 20,
        "coldkey": "cd" * 20,
        "peer_id": str(PeerKey(bytes([1]) * 32).peer_id),
    }
    return {
        "format": FORMAT,
        "subnet_id": 1,
        "name": "mesh",
        "block": 9,
        "block_hash": "ab" * 32,
        "scores_epoch": -1,
        "nodes": [node | changes],
    }


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_a_class_that_no_node_has_is_refused(tmp_path: Path) -> None:
    graph = Metagraph.load(write(tmp_path / "good", make_document()))
    assert graph.to_json() == make_document()
    with pytest.raises(ConfigError, match="is not a metagraph: 9 is not a valid NodeClass"):
        Metagraph.load(write(tmp_path / "bad", make_document(**{"class": 9})))


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    graph = Metagraph.load(write(tmp_path / "good", make_document()))
    with pytest.raises(ConfigError, match="absent/graph cannot be written: No such file"):
        graph.save(tmp_path / "absent" / "graph")
