"""Events of the epoch loop, for logs, the status file and a local network's display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from consensus.duties import Duty
from consensus.errors import InvalidRecord
from consensus.evidence import TimedRecord
from consensus.missed import OwedDuty
from consensus.owed import DutyNow
from consensus.records import RecordKind
from consensus.report import EpochReport
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, EpochPosition, SubnetNodeId
from consensus.view import EpochStatus
from subnet.epoch.interfaces import BlockInfo
from subnet.journal.journal import Extrinsic

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """A head was accepted; nothing has been read or planned for it yet."""

    head: BlockInfo


@dataclass(frozen=True, slots=True)
class HeadHandled:
    """A head was planned for; ``status`` says whether the node takes part in the epoch.

    ``duties`` are those of the epoch, ``stay`` is why stopping the node now would cost something.
    """

    position: EpochPosition
    status: EpochStatus
    duties: tuple[DutyNow, ...] = ()
    stay: str | None = None


@dataclass(frozen=True, slots=True)
class Elected:
    """The chain elected this node in ``epoch``; ``unable`` is why it cannot propose, if it knows.

    Once an epoch, and again when ``unable`` changes.
    """

    epoch: Epoch
    unable: str | None


@dataclass(frozen=True, slots=True)
class ParticipationChanged:
    """Whether this node takes part in the epoch has changed; ``status`` says why not."""

    epoch: Epoch
    status: EpochStatus


@dataclass(frozen=True, slots=True)
class RecordSeen:
    """A record was seen for the first time."""

    sighting: TimedRecord


@dataclass(frozen=True, slots=True)
class RecordDropped:
    """Some store answered with something that is not admitted."""

    kind: RecordKind
    node_id: SubnetNodeId
    error: InvalidRecord


@dataclass(frozen=True, slots=True)
class DutyDone:
    duty: Duty


@dataclass(frozen=True, slots=True)
class DutyFailed:
    """A duty could not be done now; it stays owed while its time lasts."""

    duty: Duty
    reason: str


@dataclass(frozen=True, slots=True)
class DutyMissed:
    """A duty that this node owed was not done, and can be done no more. Once a duty and epoch."""

    duty: OwedDuty
    epoch: Epoch
    reason: str


@dataclass(frozen=True, slots=True)
class ExtrinsicLanded:
    extrinsic: Extrinsic
    epoch: Epoch
    block: BlockNumber


@dataclass(frozen=True, slots=True)
class AttestationRefused:
    """The proposal on chain differs from what this node computed, or cannot be checked in time."""

    epoch: Epoch
    detail: str


@dataclass(frozen=True, slots=True)
class EpochScored:
    """An epoch is over and its report stands in the journal, once an epoch."""

    report: EpochReport


@dataclass(frozen=True, slots=True)
class ProposalScored:
    """This node has scored an epoch from the records that a proposal names, its own or another's.

    ``list_hash`` is the hash of the named list; the same list gives the same report everywhere.
    """

    report: EpochReport
    list_hash: bytes


@dataclass(frozen=True, slots=True)
class EpochSettled:
    """A chain epoch is over: who was elected, what was proposed, who attested."""

    epoch: Epoch
    elected: SubnetNodeId | None
    submission: Submission | None


@dataclass(frozen=True, slots=True)
class HosterProbed:
    """This node asked a hoster as a client would; ``result`` says what that proved, in words."""

    epoch: Epoch
    node_id: SubnetNodeId
    result: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The chain or the record store did not answer; the next head is the next attempt."""

    what: str
    detail: str


NodeEvent = (
    HeadSeen
    | HeadHandled
    | Elected
    | ParticipationChanged
    | RecordSeen
    | RecordDropped
    | DutyDone
    | DutyFailed
    | DutyMissed
    | ExtrinsicLanded
    | AttestationRefused
    | EpochScored
    | ProposalScored
    | EpochSettled
    | HosterProbed
    | Unavailable
)
Observe = Callable[[NodeEvent], None]
"""Called as things happen; quick, and never raises."""


def log_event(event: NodeEvent) -> None:
    """Write one log line; ids, kinds and reasons only."""
    match event:
        case HeadSeen(head):
            logger.debug("head seen", block=head.number)
        case HeadHandled(position, status):
            epoch, offset = position.epoch, position.offset
            logger.debug("head handled", epoch=epoch, offset=offset, status=status.name)
        case Elected(epoch, None):
            logger.info("elected: this node proposes", epoch=epoch)
        case Elected(epoch, unable):
            logger.warning("elected, and unable to propose", epoch=epoch, reason=unable)
        case ParticipationChanged(epoch, EpochStatus.ACTIVE):
            logger.info("this node takes part", epoch=epoch)
        case ParticipationChanged(epoch, status):
            logger.info("this node does not take part", epoch=epoch, reason=status.value)
        case RecordSeen(sighting):
            envelope = sighting.envelope
            logger.debug(
                "record seen",
                kind=RecordKind(envelope.kind).name,
                epoch=envelope.epoch,
                node_id=envelope.node_id,
                seen_at=sighting.seen_at,
            )
        case RecordDropped(kind, node_id, error):
            reason = str(error.reason)
            logger.warning("record dropped", kind=kind.name, node_id=node_id, reason=reason)
        case DutyDone(duty):
            logger.info("duty done", duty=str(duty))
        case DutyFailed(duty, reason):
            logger.warning("duty failed", duty=str(duty), reason=reason)
        case DutyMissed(duty, epoch, reason):
            logger.warning(f"duty missed: {duty.value}", epoch=epoch, reason=reason)
        case ExtrinsicLanded(extrinsic, epoch, block):
            logger.info("extrinsic landed", extrinsic=extrinsic.value, epoch=epoch, block=block)
        case AttestationRefused(epoch, detail):
            logger.warning("attestation refused", epoch=epoch, detail=detail)
        case EpochScored(report):
            rows = {str(node_id): str(score) for node_id, score in report.rows}
            logger.info("epoch scored", epoch=report.epoch, rows=rows)
        case ProposalScored(report, list_hash):
            logger.info("proposal scored", epoch=report.epoch, named_list=list_hash.hex())
        case EpochSettled(epoch, elected, submission):
            attested = [] if submission is None else sorted(submission.attested)
            logger.info("epoch settled", epoch=epoch, elected=elected, attested=attested)
        case HosterProbed(epoch, node_id, result):
            logger.info("hoster probed", epoch=epoch, node_id=node_id, result=result)
        case Unavailable(what, detail):
            logger.warning("unavailable", what=what, detail=detail)
