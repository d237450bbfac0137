"""The node's own examination: kept for readers, told at each change, and nothing ends the node."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from subnet.doctor.checks import CHECKS, Check
from subnet.doctor.finding import CheckStatus, Finding, failed, passed, warned
from subnet.doctor.hourly import HOURLY_CHECKS, HourlyExam
from subnet.doctor.subject import NodeFacts, Subject

SUBJECT = Subject(NodeFacts(data_dir=Path(), identity_path=Path()))


class Machine:
    """One check whose finding the test changes."""

    def __init__(self) -> None:
        self.finding = passed("well")

    async def check(self, subject: Subject) -> Finding:
        return self.finding


async def test_what_was_found_is_kept_and_told_once_until_it_changes() -> None:
    machine = Machine()
    check = Check(name="disk", here=machine.check, limit_s=5)
    exam = HourlyExam(lambda: SUBJECT, checks=(check,), clock=lambda: 1000.0)
    assert exam.health is None
    told = []
    for finding in (
        passed("well"),
        failed("full", "free space"),
        failed("full", "free space"),
        warned("nearly full", "free space"),
    ):
        machine.finding = finding
        with capture_logs() as logs:
            health = await exam.examine()
        assert exam.health is health and health.examined_at == 1000.0
        assert [one.finding for one in health.list_with(finding.status)] == [finding]
        told.append([(entry["event"], entry["check"]) for entry in logs])
    assert told == [[], [("a check fails", "disk")], [], [("a check no longer fails", "disk")]]


async def test_a_check_that_breaks_is_a_failure_of_its_own() -> None:
    async def break_down(subject: Subject) -> Finding:
        raise RuntimeError("a mistake")

    check = Check(name="broken", here=break_down, limit_s=5)
    health = await HourlyExam(lambda: SUBJECT, checks=(check,)).examine()
    assert len(health.list_with(CheckStatus.FAIL)) == 1


def test_only_what_costs_little_is_examined_every_hour() -> None:
    dear = {check.name for check in CHECKS} - {check.name for check in HOURLY_CHECKS}
    assert dear == {"p2pd", "canary", "round", "audit"}
