"""Why a score is 0 or low, and what to do about it: the one table of `mesh why`.

The sentences are filled in where the reason is found (``causes.py``). ``mesh why`` prints each with
its fix, ``--json`` with its code, which never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from consensus.errors import Reason
from consensus.records import RecordKind


class Why(StrEnum):
    """What costs a node its score, or a part of it. The values are in ``--json``."""

    NOT_IN_ROSTER = "not_in_roster"
    CLASS_TOO_LOW = "class_too_low"
    NOTHING_SCORED = "nothing_scored"
    NO_ELECTION = "no_election"
    NO_PROPOSAL = "no_proposal"
    ELECTED_AWAY = "elected_away"
    NOTHING_NAMED = "nothing_named"
    NAMED_NOTHING = "named_nothing"
    NOT_AGREED = "not_agreed"
    NOT_ATTESTED = "not_attested"
    ATTESTATION_REFUSED = "attestation_refused"
    SILENT = "silent"
    FEW_HEADS = "few_heads"
    RECORD_NOT_SEEN = "record_not_seen"
    RECORD_LATE = "record_late"
    RECORD_TOO_FEW = "record_too_few"
    EQUIVOCATION = "equivocation"
    REVEAL_WITHOUT_COMMIT = "reveal_without_commit"
    COMMITMENT_MISMATCH = "commitment_mismatch"
    WRONG_SEED = "wrong_seed"
    WRONG_RANGE = "wrong_range"
    REFUTED = "refuted"
    WITHHELD = "withheld"
    ON_PROBATION = "on_probation"
    NOT_SERVING = "not_serving"
    OUTSIDE_TOLERANCE = "outside_tolerance"
    INVALID_VECTOR = "invalid_vector"
    NO_MAJORITY = "no_majority"
    SHARED_COLDKEY = "shared_coldkey"
    NO_SCORES = "no_scores"
    SCORES_WRONG = "scores_wrong"
    NO_SCORES_EXPECTED = "no_scores_expected"
    AUDIT_NOT_COUNTED = "audit_not_counted"
    AUDIT_WRONG = "audit_wrong"
    NO_AUDIT = "no_audit"
    TOO_FEW_AUDITORS = "too_few_auditors"
    NOT_PRESENT_BEFORE = "not_present_before"


class Cause(NamedTuple):
    """One reason, in a sentence, and the one thing to do about it."""

    why: Why
    sentence: str
    fix: str


class _Entry(NamedTuple):
    sentence: str
    fix: str


_KEEP_RUNNING = "keep `mesh-test` running, and look at its log around that block"
_CHECK_WEIGHTS = (
    "serve exactly the subnet's model: the revision, --quant-type and float32 arithmetic of its "
    "manifest (`mesh-test` refuses other weights unless --unpaid is given)"
)
_OTHERS = "this lies with other nodes; if it repeats, tell their owners (`mesh chain show`)"

TABLE: Mapping[Why, _Entry] = {
    Why.NOT_IN_ROSTER: _Entry(
        "node {node} was not among the subnet's activated nodes at block {block}, where the "
        "epoch begins",
        "register it (`mesh chain register-node`), or give the id that the chain gave it",
    ),
    Why.CLASS_TOO_LOW: _Entry(
        "node {node} was of class {node_class} in this epoch; only Included and Validator nodes "
        "are scored",
        "keep it running: the chain raises its class (`mesh chain show` says when)",
    ),
    Why.NOTHING_SCORED: _Entry(
        "the chain elected no validator in this epoch, so no work in it is scored",
        "nothing to do: scores begin with the first epoch that has an elected validator",
    ),
    Why.NO_ELECTION: _Entry(
        "the chain elected no validator in epoch {next_epoch}, so no node could propose the scores",
        "the subnet needs active Validator-class nodes: `mesh chain show`",
    ),
    Why.NO_PROPOSAL: _Entry(
        "node {elected} was elected in epoch {next_epoch} and proposed nothing: the epoch pays "
        "no node",
        _OTHERS,
    ),
    Why.ELECTED_AWAY: _Entry(
        "node {node} itself was elected in epoch {next_epoch} and did not propose{detail}: the "
        "chain lowers its reputation, and the epoch pays no node",
        "run it all the time, with its --hotkey-path and a chain endpoint that answers "
        "(--chain URL,URL)",
    ),
    Why.NOTHING_NAMED: _Entry(
        "node {elected} could not get two thirds of the sightings, and proposed 0 for every node",
        _OTHERS,
    ),
    Why.NAMED_NOTHING: _Entry(
        "node {node} itself was elected, could not get two thirds of the sightings, and proposed 0 "
        "for every node",
        "see that it reaches the others in time: ports, line, and what else runs on the machine",
    ),
    Why.NOT_AGREED: _Entry(
        "{attested} of {voters} validators attested the proposal, and {needed} are needed: the "
        "epoch pays no node",
        "`mesh chain submission` shows who did not; look at the logs of these nodes",
    ),
    Why.NOT_ATTESTED: _Entry(
        "node {node} did not attest the proposal{detail}",
        "run it all the time, with its --hotkey-path; the chain counts on each Validator",
    ),
    Why.ATTESTATION_REFUSED: _Entry(
        "this node refused to attest the proposal: {detail}",
        "if others refused it too, it was wrong; else compare this node's version with the "
        "proposer's",
    ),
    Why.SILENT: _Entry(
        "no record of node {node} in this epoch is listed by half of the named sightings: for the "
        "others it was not there",
        "start it, and see that peers can dial it (--port, --public-ip): `mesh status`",
    ),
    Why.FEW_HEADS: _Entry(
        "only {heads} of the epoch's {length} blocks reached this node{detail}: its chain endpoint "
        "did not answer, or stood still",
        "give --chain an endpoint that is synchronised, and a second one after a comma",
    ),
    Why.RECORD_NOT_SEEN: _Entry(
        "no {kind} of node {node} is listed by a named sighting, and the keeping node saw none "
        "before block {cutoff}, where it had to be there{detail}",
        _KEEP_RUNNING,
    ),
    Why.RECORD_LATE: _Entry(
        "the {kind} of node {node} came too late: the keeping node first saw it at block "
        "{seen_at}, and it had to be there before block {cutoff}; {listed} of {num_named} named "
        "sightings list it",
        "give the machine time (close what else runs, fewer blocks per node) and a faster line; "
        "check its clock",
    ),
    Why.RECORD_TOO_FEW: _Entry(
        "{listed} of {num_named} named sightings list the {kind} of node {node}, and half of them "
        "are needed{detail}",
        "it left near the end of its window or reached few peers: check line, clock and ports",
    ),
    Why.EQUIVOCATION: _Entry(
        "node {node} signed {versions} versions of its {kind}, and none of them counts",
        "run one identity on one machine only, and never with another data folder",
    ),
    Why.REVEAL_WITHOUT_COMMIT: _Entry(
        "node {node} revealed outputs to which it had not committed in time",
        _KEEP_RUNNING,
    ),
    Why.COMMITMENT_MISMATCH: _Entry(
        "the {kind} of node {node} does not open the commitment that it had published",
        "an honest node reveals what it journaled: keep its data folder, and run no copy of it",
    ),
    Why.WRONG_SEED: _Entry(
        "node {node} committed to another challenge than this epoch's",
        "give --chain an endpoint of the subnet's chain that is synchronised",
    ),
    Why.WRONG_RANGE: _Entry(
        "the {kind} of node {node} is about blocks that the model or its commitment does not have",
        _CHECK_WEIGHTS,
    ),
    Why.REFUTED: _Entry(
        "refuted: on the audited block {layers} the answer of node {node} stands more than "
        "{tolerance} from what more than half of the votes and of the validators' own answers "
        "agree on; it is not paid in this epoch and the next {epochs}",
        _CHECK_WEIGHTS,
    ),
    Why.WITHHELD: _Entry(
        "withheld: node {node} committed to the audited block {layers} and did not open it; it is "
        "not paid in this epoch and the next {epochs}",
        "a hoster that is stopped between commit and reveal loses three epochs: stop it after the "
        "reveal",
    ),
    Why.ON_PROBATION: _Entry(
        "node {node} is on probation for an earlier refutation or withheld audit: {left} epochs "
        "are left, this one included",
        "`mesh why` of the epoch in which it began says what it was; correct that and wait",
    ),
    Why.NOT_SERVING: _Entry(
        "{failed} of {num_named} named validators say that node {node} failed their last probes, "
        "which ask for text as a client does",
        "see that strangers can dial it and open sessions: --port, --public-ip, no --allow-file",
    ),
    Why.OUTSIDE_TOLERANCE: _Entry(
        "block {layers}: the answer of node {node} is not within {tolerance} of more than half "
        "of the votes",
        _CHECK_WEIGHTS,
    ),
    Why.INVALID_VECTOR: _Entry(
        "block {layers}: the answer of node {node} is no vector of the right length with finite "
        "values",
        "run `mesh-test` without other programs on its device, and check its memory",
    ),
    Why.NO_MAJORITY: _Entry(
        "block {layers}: no answer had more than half of the votes near it, so it pays no node",
        _OTHERS,
    ),
    Why.SHARED_COLDKEY: _Entry(
        "nodes of one coldkey share a validator's part, which went to node {other}",
        "one validator a coldkey is paid; this is no fault",
    ),
    Why.NO_SCORES: _Entry(
        "the sighting of node {node} of epoch {previous_epoch} had no scores in it, so none can be "
        "paid",
        "it saw no reveal in epoch {previous_epoch}, or is a hoster: keep it running all the time",
    ),
    Why.SCORES_WRONG: _Entry(
        "{wrong} of {rows} scores that node {node} gave in epoch {previous_epoch} are wrong "
        "(hosters {hosters})",
        "it saw other records than most, or scores with another version: check line and version",
    ),
    Why.NO_SCORES_EXPECTED: _Entry(
        "no hoster's reveal of epoch {previous_epoch} was accepted, so there was nothing to score",
        "nothing to do: it is so in a subnet's first epochs",
    ),
    Why.AUDIT_NOT_COUNTED: _Entry(
        "the audit of node {node} does not count: {detail}",
        _KEEP_RUNNING,
    ),
    Why.AUDIT_WRONG: _Entry(
        "the audit of node {node} disagrees with more than half of the votes on block {layers}",
        _CHECK_WEIGHTS,
    ),
    Why.NO_AUDIT: _Entry(
        "node {node} audited nothing in this epoch{detail}",
        "a validator without --light, with the model's files at hand, is paid for audits too",
    ),
    Why.TOO_FEW_AUDITORS: _Entry(
        "fewer than {needed} owners audited, so all of the validators' part is for scores",
        "nothing to do",
    ),
    Why.NOT_PRESENT_BEFORE: _Entry(
        "node {node} was at least Included only from epoch {next_epoch} on",
        "nothing to do: its first score is that of epoch {next_epoch}",
    ),
}

KIND_WORDS: Mapping[RecordKind, str] = {
    RecordKind.CHALLENGE: "challenge",
    RecordKind.OUTPUT_COMMIT: "commit",
    RecordKind.OUTPUT_REVEAL: "reveal",
    RecordKind.SCORE_REVEAL: "score reveal",
    RecordKind.SIGHTING: "sighting",
    RecordKind.AUDIT_COMMIT: "audit commit",
    RecordKind.AUDIT_REVEAL: "audit reveal",
    RecordKind.NAMED_LIST: "named list",
}

REFUSALS: Mapping[Reason, Why] = {
    Reason.COMMITMENT_MISMATCH: Why.COMMITMENT_MISMATCH,
    Reason.WRONG_SEED: Why.WRONG_SEED,
    Reason.WRONG_RANGE: Why.WRONG_RANGE,
    Reason.NO_COMMIT: Why.REVEAL_WITHOUT_COMMIT,
}
"""Why an output commit or reveal that is accepted does not count."""

LAYER_REFUSALS: Mapping[Reason, Why] = {
    Reason.OUTSIDE_TOLERANCE: Why.OUTSIDE_TOLERANCE,
    Reason.INVALID_VECTOR: Why.INVALID_VECTOR,
    Reason.NO_MAJORITY: Why.NO_MAJORITY,
}
"""Why an answer to one layer that was revealed is worth nothing."""


def make_cause(why: Why, **facts: Any) -> Cause:
    """Return a reason of the table with its facts filled in."""
    entry = TABLE[why]
    return Cause(why, entry.sentence.format(**facts), entry.fix.format(**facts))
