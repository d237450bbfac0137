"""A subnet's own rule of what hosters are paid: integers in, integers out.

Everything that can be cheated at is decided before it: which records count, whose answers are
valid, who is refuted, withheld, unpaid or on probation. The rule divides pay among the hosters that
are left. Validators share a quarter of what it pays, as they do of the rule that is built in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from consensus.errors import ScorerFailed
from consensus.scoring import HosterReport, HosterScores
from consensus.types import SCORE_ONE, Score


@dataclass(frozen=True, slots=True)
class HosterWork:
    """One hoster's valid work in an epoch.

    It served the layers ``[start, end)``. ``scores`` and ``shares`` have an integer for each layer
    that it owed an answer to: how near the mean that is, 10**18 at most, and what the built-in rule
    pays for it. The head counts as a layer of the hoster of the last one.
    """

    node_id: int
    start: int
    end: int
    scores: tuple[int, ...]
    shares: tuple[int, ...]

    @property
    def built_in(self) -> int:
        """What the built-in rule pays."""
        return sum(self.shares)


Scorer = Callable[[Sequence[HosterWork]], Sequence[int]]
"""Returns what each hoster is paid, in the order given: 0 or more, and 10**18 at most in all.

It is a function of its argument alone. Raises ScorerFailed.
"""


def apply_scorer(hosters: HosterScores, scorer: Scorer) -> HosterScores:
    """Return the hosters' scores as ``scorer`` pays them; who has a penalty stays at 0.

    Raises ScorerFailed.
    """
    works = [describe_work(one) for one in hosters.reports if one.penalty is None]
    paid = check_pay(scorer(works), len(works)) if works else ()
    by_node = {work.node_id: Score(pay) for work, pay in zip(works, paid, strict=True)}
    reports = tuple(
        replace(report, score=by_node[report.node_id]) if report.node_id in by_node else report
        for report in hosters.reports
    )
    return replace(hosters, reports=reports)


def describe_work(report: HosterReport) -> HosterWork:
    """Return what a scorer is told of one hoster."""
    return HosterWork(
        node_id=report.node_id,
        start=report.layers.start,
        end=report.layers.end,
        scores=tuple(int(reason.score) for reason in report.reasons),
        shares=tuple(int(reason.share) for reason in report.reasons),
    )


def check_pay(paid: object, count: int) -> Sequence[int]:
    """Return what a scorer gave if it is ``count`` integers that may be paid, or ScorerFailed."""
    if not isinstance(paid, list | tuple) or len(paid) != count:
        raise ScorerFailed(f"it did not give {count} integers, one for each hoster")
    for pay in paid:
        if type(pay) is not int:
            raise ScorerFailed(f"it gave a {type(pay).__name__}, not an integer")
        if pay < 0:
            raise ScorerFailed(f"it gave {pay}: pay is not negative")
    if sum(paid) > SCORE_ONE:
        raise ScorerFailed(f"it pays {sum(paid)} in all, which is more than 10**18")
    return paid
