"""The rows of ``mesh earnings`` that a running node keeps, for when the chain has forgotten them.

Endpoints keep states for some hundred blocks. The node adds a row when an epoch is settled, and
says at that moment in its log what was lost. One file, replaced as a whole and bounded, so it can
be read while the node runs. It is for people: a row that cannot be kept costs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import structlog

from consensus.types import Epoch, SubnetId, SubnetNodeId
from subnet.account.earnings import (
    MAX_EPOCHS,
    NOT_LISTED,
    EpochEarnings,
    fetch_earnings,
    parse_row,
    render_row,
)
from subnet.account.registration import TENSOR
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError
from subnet.private_file import replace_private_file

BOOK_FILE = "earnings.json"
BOOK_VERSION = 1
MAX_BOOK_SIZE = 4 << 20
MAX_CATCH_UP = 8
"""Epochs that a node reads at once after it was away; older ones `mesh earnings` asks for."""

logger = structlog.get_logger(__name__)


def read_book(data_dir: Path) -> tuple[EpochEarnings, ...]:
    """Return the rows that a node keeps, the newest first; none if it keeps no file.

    Raises ConfigError for a file that is not such a book.
    """
    path = data_dir / BOOK_FILE
    try:
        if path.stat().st_size > MAX_BOOK_SIZE:
            raise ValueError("it is too large")
        body = json.loads(path.read_bytes())
        if body["version"] != BOOK_VERSION:
            raise ValueError(f"its version is {body['version']!r}, not {BOOK_VERSION}")
        rows = {row.epoch: row for row in map(parse_row, body["rows"])}
    except FileNotFoundError:
        return ()
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        hint = "remove it; the chain has it too"
        raise ConfigError(f"{path} cannot be read: {error}", hint) from error
    return tuple(rows[epoch] for epoch in sorted(rows, reverse=True))


def select_older(
    kept: Sequence[EpochEarnings],
    rows: Sequence[EpochEarnings],
    *,
    count: int,
    last: Epoch | None,
) -> tuple[EpochEarnings, ...]:
    """Return the kept rows that go on where the chain's ``rows`` end, ``count`` with those.

    Both are ordered from the newest down. ``last`` is the newest epoch that is asked for.
    """
    oldest = rows[-1].epoch if rows else None
    older = [
        row
        for row in kept
        if (oldest is None or row.epoch < oldest) and (last is None or row.epoch <= last)
    ]
    return tuple(older[: max(0, count - len(rows))])


class EarningsBook:
    """Keeps one node's rows, and warns of each loss when the chain has made it."""

    def __init__(self, data_dir: Path, subnet_id: SubnetId, node_id: SubnetNodeId) -> None:
        self._data_dir = data_dir
        self._subnet_id = subnet_id
        self._node_id = node_id
        try:
            self.rows = read_book(data_dir)
        except ConfigError as error:
            logger.warning("the kept earnings begin anew", reason=str(error))
            self.rows = ()

    async def follow(self, chain: SubstrateChain) -> None:
        """Add what has been settled since the last call. Raises ChainUnavailable."""
        known = self.rows[0].epoch if self.rows else None
        found = await fetch_earnings(
            chain,
            self._subnet_id,
            self._node_id,
            # What was settled before this node ran first is no news.
            count=1 if known is None else MAX_CATCH_UP,
            known_until=known,
        )
        if not found.rows:
            return
        for row in reversed(found.rows):
            warn_of_losses(row)
        self.rows = (*found.rows, *self.rows)[:MAX_EPOCHS]
        self._write()

    def _write(self) -> None:
        body = {"version": BOOK_VERSION, "rows": [render_row(row) for row in self.rows]}
        try:
            raw = json.dumps(body).encode()
            replace_private_file(self._data_dir / BOOK_FILE, raw, is_durable=False)
        except OSError as error:
            logger.warning("the earnings of an epoch cannot be kept", reason=error.strerror)


def warn_of_losses(row: EpochEarnings) -> None:
    """Log what the row earned, and each loss with its cause."""
    logger.info(
        "epoch paid",
        epoch=row.epoch,
        paid_tensor=row.paid / TENSOR,
        proposing_tensor=None if row.proposing is None else row.proposing / TENSOR,
    )
    if not row.paid:
        tell = logger.info if row.is_waiting else logger.warning
        tell("not paid", epoch=row.epoch, reason=row.shortfall or row.unpaid or NOT_LISTED)
    if row.proposing == 0:
        logger.warning(
            "elected, and not paid for proposing", epoch=row.epoch, proposed_in=row.epoch + 1
        )
    if row.slashed:
        logger.warning("slashed", epoch=row.epoch, tensor=row.slashed / TENSOR)
    for step in row.reputation:
        if step.after < step.before:
            logger.warning(
                "reputation fell",
                epoch=row.epoch,
                reason=step.cause,
                before=step.before / TENSOR,
                after=step.after / TENSOR,
            )
    if row.is_removed:
        logger.warning("the chain has removed this node", epoch=row.epoch)
