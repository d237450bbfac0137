"""From a proposal on chain and its proposer's report to what people and programs read."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from consensus.submission import Submission
from consensus.types import SCORE_ONE, BlockNumber, Epoch, Score, SubnetNodeId
from subnet.localnet.display import PlainDisplay
from subnet.localnet.epoch_outcome import build_row
from subnet.localnet.epoch_row import EpochRow
from subnet.localnet.node_plan import plan_nodes

NODES = plan_nodes(hosters=3, validators=1, num_layers=8)
NODE_IDS = {node.name: SubnetNodeId(index + 1) for index, node in enumerate(NODES)}
SEED = "ab" * 32


def make_hoster(node_id: int, **changes: Any) -> dict[str, Any]:
    seen = {
        "subnet_node_id": node_id,
        "blocks": [0, 8],
        "committed_at": 3,
        "refusal": None,
        "distance": "1/8192",
        "penalty": None,
    }
    return seen | changes


VALIDATOR = {
    "subnet_node_id": 4,
    "refusal": None,
    "accuracy": str(SCORE_ONE),
    "audit_share": "5",
}


def make_row(*hosters: dict[str, Any], attested: set[int] | None = None) -> EpochRow:
    submission = Submission(
        proposer=SubnetNodeId(2),
        block=BlockNumber(99),
        scores=((SubnetNodeId(1), Score(SCORE_ONE // 4)), (SubnetNodeId(4), Score(0))),
        attested=frozenset(SubnetNodeId(node) for node in attested or {1, 2, 3, 4}),
        args=None,
    )
    report = {
        "challenge_seed": SEED,
        "hosters": list(hosters),
        "validators": [VALIDATOR],
        "failed_probes": [[1, 2]],
        "named_sightings": 3,
    }
    return build_row(Epoch(7), submission, report, NODES, NODE_IDS)


def test_a_row_joins_chain_and_report() -> None:
    row = json.loads(make_row(make_hoster(1), make_hoster(3, refusal="wrong_salt")).to_json())
    assert (row["epoch"], row["elected"], row["challenge_seed"]) == (7, 2, SEED)
    first, absent, refused = row["hosters"]
    assert first == {
        "subnet_node_id": 1,
        "blocks": [0, 8],
        "committed": True,
        "revealed": True,
        "distance": 2**-13,
        "failed_probes": [2, 3],
        "penalty": None,
        "score": str(SCORE_ONE // 4),
        "attested": True,
    }
    assert (absent["committed"], absent["revealed"], absent["distance"]) == (False, False, None)
    assert absent["score"] == "0"
    assert (refused["committed"], refused["revealed"]) == (True, False)
    (validator,) = row["validators"]
    assert (validator["accuracy"], validator["audited"]) == (str(SCORE_ONE), True)
    assert row["proposal"] == [[1, str(SCORE_ONE // 4)], [4, "0"]]


def test_the_layers_are_those_that_were_seen_not_those_that_were_planned() -> None:
    row = make_row(make_hoster(1, blocks=[0, 2]))
    assert str(row.hosters[0].layers) == "0:2"


@pytest.mark.parametrize(("attested", "ratio"), [({1, 2}, 0.5), ({1, 2, 3, 4}, 1.0)])
def test_the_ratio_is_of_all_nodes(attested: set[int], ratio: float) -> None:
    row = make_row(attested=attested)
    assert json.loads(row.to_json())["attestation_ratio"] == ratio
    assert row.is_attested_by_all is (ratio == 1.0)


def test_scores_are_exact_as_text() -> None:
    """A JSON number would lose the last digits."""
    assert json.loads(make_row(make_hoster(1)).to_json())["hosters"][0]["score"] == str(
        SCORE_ONE // 4
    )


def test_the_table_names_every_node_and_the_ratio() -> None:
    text = make_row(make_hoster(1), attested={1, 2}).to_text()
    assert "proposed in epoch 8 by node 2" in text
    assert text.count("hoster ") == 3 and text.count("validator ") == 1
    assert "0.250000" in text and "1.2e-04" in text
    assert "attested by 2 of 4 nodes, ratio 0.50" in text


def test_the_table_says_how_many_found_that_a_hoster_does_not_serve() -> None:
    header, first, second, *_ = make_row(make_hoster(1), make_hoster(2)).to_text().splitlines()[1:]
    place = header.index("failed probes")
    assert first[place:].startswith("2 of 3 ")
    assert second[place:].startswith("0 of 3 ")


def test_the_table_names_the_penalty_of_a_hoster() -> None:
    assert make_row(make_hoster(1, penalty="refuted")).to_text().count("refuted") == 1


def test_json_goes_to_results_and_talk_stays_beside_it() -> None:
    talk, results = io.StringIO(), io.StringIO()
    display = PlainDisplay(talk, results=results)
    display.step("hello")
    display.head(epoch=3, offset=0, length=20, phase="propose")
    display.head(epoch=3, offset=1, length=20, phase="propose")
    display.piece("An ")
    display.piece("answer")
    display.row(make_row())
    display.piece("")
    assert talk.getvalue() == "hello\nepoch 3 begins\nAn answer\n"
    assert len(results.getvalue().splitlines()) == 1


def test_without_results_the_table_is_shown() -> None:
    talk = io.StringIO()
    PlainDisplay(talk, results=None).row(make_row())
    assert "attested by 4 of 4 nodes" in talk.getvalue()
