"""What a node waits for, what being away costs it, and what it keeps of its own earnings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from consensus.types import BlockNumber, Epoch, NodeClass, SubnetId, SubnetNodeId
from subnet.account.earnings import EpochEarnings, StakeChange, compute_absence
from subnet.account.earnings_book import (
    BOOK_FILE,
    EarningsBook,
    read_book,
    select_older,
    warn_of_losses,
)
from subnet.account.eligibility import NodeOnChain, Obstacle, judge_eligibility
from subnet.account.money import MIN_HOTKEY_BALANCE
from subnet.account.registration import TENSOR, ActivationRules, RegisteredNode
from subnet.account.rewards import ABSENT, ReputationStep
from subnet.account.standing import Standing, check_eligibility, describe_next_class
from subnet.cli.earnings import EarningsReport, describe
from subnet.errors import ConfigError

NODE = SubnetNodeId(3)


def make_standing(node_class: NodeClass, **changes: object) -> Standing:
    node = RegisteredNode(
        node_id=NODE,
        hotkey=bytes(20),
        peer_id=None,
        node_class=node_class,
        start_epoch=Epoch(4),
        is_queued=node_class is NodeClass.REGISTERED,
    )
    standing = Standing(
        head=BlockNumber(207),
        epoch=Epoch(10),
        epoch_s=120.0,
        subnet_id=SubnetId(128001),
        subnet_state="Active",
        started_at=1,
        node=node,
        stake=100 * TENSOR,
        reputation=TENSOR,
        min_reputation=TENSOR // 10,
        fall=TENSOR // 10,
        hotkey_balance=TENSOR,
        rules=ActivationRules(is_automatic=True),
        queue_place=None,
        queue_epochs=3,
        churn_limit=4,
        idle_left=2,
        included_left=1,
        num_electable=6,
        elected=None,
    )
    return replace(standing, **changes)  # type: ignore[arg-type]


def make_row(epoch: int, **changes: object) -> EpochEarnings:
    row = EpochEarnings(
        epoch=Epoch(epoch),
        node_id=NODE,
        block=BlockNumber(20 * (epoch + 2) + 3),
        is_agreed=True,
        paid=TENSOR // 20,
        shared=0,
        proposing=None,
        slashed=0,
        reputation=(),
        unpaid=None,
        shortfall=None,
        promoted=None,
        is_removed=False,
        stake=StakeChange(100 * TENSOR, 100 * TENSOR + TENSOR // 20, 0),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (
            make_standing(NodeClass.REGISTERED, queue_place=9),
            "Queued: place 9 in the queue, activated by the chain in epoch 13 at the earliest",
        ),
        (
            make_standing(
                NodeClass.REGISTERED, rules=ActivationRules(is_automatic=False, grace_epochs=2)
            ),
            "Queued: waits for `mesh chain activate-node`, in epochs 4 to 6",
        ),
        (make_standing(NodeClass.IDLE), "Included after 2 more agreed epochs, in epoch 12"),
        (
            make_standing(NodeClass.INCLUDED, reputation=TENSOR * 9 // 10),
            "and a reputation of 1 (now 0.900), in epoch 11 at the earliest",
        ),
        (make_standing(NodeClass.VALIDATOR, subnet_state="Registered"), "activate-subnet"),
    ],
)
def test_a_node_that_is_not_paid_yet_says_what_it_waits_for(standing: Standing, said: str) -> None:
    assert said in describe_next_class(standing)
    verdict = check_eligibility(standing)
    assert verdict.reason == describe_next_class(standing)
    assert str(verdict).startswith("epoch 11: not eligible: ")


def test_a_validator_is_eligible_unless_something_stands_in_its_way() -> None:
    validator = make_standing(NodeClass.VALIDATOR)
    assert str(check_eligibility(validator)) == "epoch 11: eligible"
    assert (
        check_eligibility(validator, unable="no hotkey was given").reason == "no hotkey was given"
    )
    for changes, word in (
        ({"hotkey_balance": 0}, "cannot pay a fee"),
        ({"reputation": TENSOR // 20}, "the chain removes it"),
        ({"subnet_state": "Paused"}, "paused"),
    ):
        reason = check_eligibility(make_standing(NodeClass.VALIDATOR, **changes)).reason
        assert reason is not None and word in reason


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({}, None),
        ({"subnet_state": "Paused", "is_queued": True}, Obstacle.SUBNET_PAUSED),
        ({"subnet_state": "Registered"}, Obstacle.SUBNET_INACTIVE),
        ({"is_queued": True, "node_class": NodeClass.REGISTERED}, Obstacle.QUEUED),
        ({"node_class": NodeClass.REGISTERED}, Obstacle.REGISTERED),
        ({"node_class": NodeClass.IDLE}, Obstacle.IDLE),
        ({"node_class": NodeClass.INCLUDED}, Obstacle.INCLUDED),
        ({"start_epoch": 11}, None),
        ({"start_epoch": 12}, Obstacle.STARTS_LATER),
        ({"reputation": 4}, Obstacle.LOW_REPUTATION),
        ({"hotkey_balance": MIN_HOTKEY_BALANCE - 1}, Obstacle.LOW_BALANCE),
    ],
)
def test_what_the_chain_says_of_any_node_decides_whether_it_can_earn(
    changes: dict[str, Any], obstacle: Obstacle | None
) -> None:
    facts: dict[str, Any] = {
        "epoch": Epoch(10),
        "subnet_state": "Active",
        "node_class": NodeClass.VALIDATOR,
        "is_queued": False,
        "start_epoch": 3,
        "reputation": 5,
        "min_reputation": 5,
        "hotkey_balance": MIN_HOTKEY_BALANCE,
    }
    found = judge_eligibility(NodeOnChain(**facts | changes))
    assert (found.epoch, found.obstacle) == (11, obstacle)
    assert (found.reason is None) is (obstacle is None)


def test_an_hour_away_costs_a_validator_its_place_and_an_idle_node_nothing() -> None:
    rows = [make_row(8), make_row(7, proposing=TENSOR * 9 // 10)]
    away = compute_absence(make_standing(NodeClass.VALIDATOR), rows)
    assert (away.epochs, away.elections, away.pay) == (30, 5.0, 30 * TENSOR // 20)
    assert away.proposing == TENSOR * 45 // 10
    # 0.9 ** 22 < 0.1: the settlement after that removes it.
    assert away.removed_after == 23
    short = compute_absence(make_standing(NodeClass.VALIDATOR), rows, seconds=240)
    assert short.removed_after is None and short.reputation == TENSOR * 81 // 100
    idle = compute_absence(make_standing(NodeClass.IDLE), rows)
    assert (idle.pay, idle.proposing, idle.reputation) == (0, 0, TENSOR)


def test_each_loss_is_one_warning_with_its_cause() -> None:
    lost = make_row(
        8,
        paid=0,
        proposing=0,
        slashed=TENSOR // 2,
        reputation=(ReputationStep(TENSOR, TENSOR * 9 // 10, ABSENT),),
        unpaid="it is not in the proposal",
        is_removed=True,
    )
    with structlog.testing.capture_logs() as logs:
        warn_of_losses(lost)
        warn_of_losses(make_row(9))
    warnings = [log["event"] for log in logs if log["log_level"] == "warning"]
    assert warnings == [
        "not paid",
        "elected, and not paid for proposing",
        "slashed",
        "reputation fell",
        "the chain has removed this node",
    ]
    assert logs[4]["reason"] == ABSENT and logs[1]["reason"] == "it is not in the proposal"


def test_kept_rows_go_on_where_the_chain_has_forgotten() -> None:
    kept = tuple(make_row(epoch) for epoch in (9, 8, 7, 6))
    none: tuple[EpochEarnings, ...] = ()
    assert select_older(kept, kept[:2], count=3, last=None) == kept[2:3]
    assert select_older(kept, kept[:2], count=2, last=None) == none
    # An endpoint that keeps no states any more gives no row at all.
    assert select_older(kept, none, count=3, last=None) == kept[:3]
    assert select_older(kept, none, count=3, last=Epoch(7)) == kept[2:]


def test_a_kept_book_that_is_damaged_is_refused_by_name_and_begun_anew(tmp_path: Path) -> None:
    assert read_book(tmp_path) == ()
    for content in (
        b"{",
        b"[]",
        b'{"version": 2, "rows": []}',
        b'{"version": 1, "rows": [{}]}',
        b'{"version": 1, "rows": [{"epoch": Infinity}]}',
    ):
        (tmp_path / BOOK_FILE).write_bytes(content)
        with pytest.raises(ConfigError, match=BOOK_FILE):
            read_book(tmp_path)
    assert EarningsBook(tmp_path, SubnetId(128001), NODE).rows == ()


def test_the_screen_fits_80_columns_names_units_and_says_what_differs() -> None:
    away = make_standing(NodeClass.VALIDATOR)
    wrong = make_row(6, stake=StakeChange(0, TENSOR, 0))
    lost = make_row(7, paid=0, unpaid="it is not in the proposal", stake=None)
    for rows in ((make_row(8), lost), (make_row(8), lost, wrong)):
        found = EarningsReport(
            SubnetId(128001),
            NODE,
            rows,
            frozenset(),
            "the endpoint no longer keeps what settled epoch 5",
            away,
            compute_absence(away, rows),
        )
        text = describe(found)
        assert max(map(len, text.splitlines())) <= 80
        assert "100.000000 TENSOR" in text and "not paid: it is not in the proposal" in text
        assert ("differs from the chain: in block 163" in text) == (wrong in rows)
        assert ("equals the chain" in text) == (wrong not in rows)
