"""The list: one rule broken by each, as a piece of a file's text and what stands there instead.

An old text must occur exactly once in its file; what no longer does is an error of this list, to be
brought up to date by whoever changed the rule. Add one for each rule that you add.
"""

from __future__ import annotations

from tests.mutation.harness import Mutation
from tests.mutation.second_edition import SECOND_EDITION

MUTATIONS = (
    # consensus/commitment.py: what a commitment binds.
    Mutation(
        "commitments bind no author",
        "consensus/commitment.py",
        "_u32(self.epoch) + _u32(self.node_id) + self.author.public_key",
        "_u32(self.epoch)",
        "a copied commitment opens for whoever copied it",
    ),
    Mutation(
        "commitments bind no epoch",
        "consensus/commitment.py",
        "return self.network_id + _u32(self.epoch) +",
        "return self.network_id +",
        "last epoch's commitment opens in this one",
    ),
    Mutation(
        "output commitments bind no challenge",
        "consensus/commitment.py",
        "message = _OUTPUT_TAG + context.to_bytes() + seed + span + salt + root",
        "message = _OUTPUT_TAG + context.to_bytes() + span + salt + root",
        "an answer to another challenge opens",
    ),
    Mutation(
        "output commitments bind no range",
        "consensus/commitment.py",
        "message = _OUTPUT_TAG + context.to_bytes() + seed + span + salt + root",
        "message = _OUTPUT_TAG + context.to_bytes() + seed + salt + root",
        "what was committed for one range opens for another",
    ),
    Mutation(
        "outputs need not open their commitment",
        "consensus/commitment.py",
        'raise CommitmentMismatch("the outputs do not open the commitment")',
        "return",
        "a hoster waits for the others' reveals and copies them",
    ),
    Mutation(
        "scores need not open their commitment",
        "consensus/commitment.py",
        'raise CommitmentMismatch("the scores do not open the commitment")',
        "return",
        "a validator reveals other scores than it committed to",
    ),
    Mutation(
        "salts repeat from epoch to epoch",
        "consensus/commitment.py",
        'kind.to_bytes(1, "little") + _u32(epoch) + _u32(node_id)',
        'kind.to_bytes(1, "little") + _u32(node_id)',
        "a revealed salt opens the next commitment to guesses",
    ),
    # consensus/challenge.py: nobody chooses the challenge.
    Mutation(
        "the seed knows no height",
        "consensus/challenge.py",
        'numbers = epoch.to_bytes(4, "little") + seed_height.to_bytes(4, "little")',
        'numbers = epoch.to_bytes(4, "little")',
        "the challenge is not the one of the epoch's first block",
    ),
    Mutation(
        "the seed knows no block hash",
        "consensus/challenge.py",
        "hashlib.sha256(_SEED_TAG + network_id + numbers + block_hash).digest()",
        "hashlib.sha256(_SEED_TAG + network_id + numbers).digest()",
        "challenges of all epochs can be computed in advance",
    ),
    Mutation(
        "inputs of -128",
        "consensus/challenge.py",
        "values = np.maximum(np.frombuffer(stream, dtype=np.int8), _MIN_INT8)",
        "values = np.frombuffer(stream, dtype=np.int8)",
        "the mean of the inputs is not zero, and they are others than the protocol's",
    ),
    Mutation(
        "the head is not owed",
        "consensus/challenge.py",
        "return range(layers.start, layers.end + (layers.end == num_layers))",
        "return range(layers.start, layers.end)",
        "hosters of the last layer need not have the head",
    ),
    Mutation(
        "vectors may hold what is not a number",
        "consensus/challenge.py",
        "return largest < 2.0 **",
        "return not largest >= 2.0 **",
        "one NaN poisons a layer",
    ),
    Mutation(
        "repeated coordinates",
        "consensus/challenge.py",
        "if len(first_seen) >= wanted:",
        "if len(drawn) >= wanted:",
        "a sampled vector has fewer coordinates than its length says",
    ),
    # consensus/admission.py: what a replica keeps.
    Mutation(
        "a record lives as long as its author likes",
        "consensus/admission.py",
        "if envelope.expires_at != entry.expires_at:",
        "if False:",
        "a signed expiry may differ from the epoch's",
    ),
    Mutation(
        "a node may sign under another node's id",
        "consensus/admission.py",
        "if node_id != envelope.node_id:",
        "if False:",
        "one node fills the slots of others",
    ),
    Mutation(
        "records of other networks are kept",
        "consensus/admission.py",
        "if envelope.network_id != table.network_id:",
        "if False:",
        "a record of another subnet counts in this one",
    ),
    Mutation(
        "signatures are not checked",
        "consensus/admission.py",
        "        envelope.check_signature()\n",
        "        pass\n",
        "whoever knows a roster writes its nodes' records",
    ),
    Mutation(
        "the younger node keeps a key that two have",
        "consensus/admission.py",
        "authors.setdefault(node.peer_id, node.node_id)",
        "authors[node.peer_id] = node.node_id",
        "who registers another node's key takes its place",
    ),
    # keys/envelope.py: one value, one encoding.
    Mutation(
        "bytes behind an envelope",
        "keys/envelope.py",
        "if len(raw) != OVERHEAD + body_size:",
        "if len(raw) < OVERHEAD + body_size:",
        "a record has two encodings, and two hashes",
    ),
    Mutation(
        "envelopes of any version",
        "keys/envelope.py",
        "if version != VERSION:",
        "if False:",
        "a later version is read as this one",
    ),
    Mutation(
        "record hashes without a domain",
        "keys/envelope.py",
        "hashlib.sha256(_HASH_TAG + self.unsigned_bytes()).digest()",
        "hashlib.sha256(self.unsigned_bytes()).digest()",
        "nodes name the same record differently",
    ),
    # consensus/phases.py, protocol_params.py: when a record leaves and counts.
    Mutation(
        "the grace is rounded down",
        "consensus/protocol_params.py",
        "else -(-epoch_length // 50)",
        "else epoch_length // 50",
        "nodes disagree about the grace of long epochs",
    ),
    Mutation(
        "phases begin a block too early",
        "consensus/phases.py",
        "return -(-percent * length // 100)",
        "return percent * length // 100",
        "boundaries that are no whole block",
    ),
    Mutation(
        "a window is one block too long",
        "consensus/phases.py",
        "return first_seen_offset < self.windows[kind].counts_until",
        "return first_seen_offset <= self.windows[kind].counts_until",
        "a commit counts that was made when reveals were out",
    ),
    Mutation(
        "records leave a block too late",
        "consensus/phases.py",
        "return window.leaves_from <= offset < window.leaves_until",
        "return window.leaves_from <= offset <= window.leaves_until",
        "honest records arrive at the edge of their window",
    ),
    # consensus/agreement.py: what a layer's answers are worth.
    Mutation(
        "tau is twice as wide",
        "consensus/agreement.py",
        "return 1 << (params.residual_bits - params.tolerance_bits)",
        "return 2 << (params.residual_bits - params.tolerance_bits)",
        "worse numbers are valid",
    ),
    Mutation(
        "the upper median",
        "consensus/agreement.py",
        "middle = (len(votes) - 1) // 2",
        "middle = len(votes) // 2",
        "with an even number of votes other nodes' medians differ",
    ),
    Mutation(
        "the mean is rounded down",
        "consensus/agreement.py",
        "mean = (2 * residuals[valid_votes].sum(axis=0) + count) // (2 * count)",
        "mean = residuals[valid_votes].sum(axis=0) // count",
        "distances differ in the last unit",
    ),
    Mutation(
        "every vote is in the mean",
        "consensus/agreement.py",
        "valid_votes = [row for row in votes if valid[row]]",
        "valid_votes = list(votes)",
        "a minority moves the mean",
    ),
    # consensus/duties.py: what is sent, and when.
    Mutation(
        "lost extrinsics are sent again after 30 blocks",
        "consensus/duties.py",
        "RESEND_AFTER_BLOCKS = 3",
        "RESEND_AFTER_BLOCKS = 30",
        "a proposal that was lost is missing for the epoch",
    ),
    Mutation(
        "extrinsics without end",
        "consensus/duties.py",
        "MAX_SUBMISSION_ATTEMPTS = 3",
        "MAX_SUBMISSION_ATTEMPTS = 300",
        "a node pays for extrinsics that never land",
    ),
    Mutation(
        "attestations in the last block",
        "consensus/phases.py",
        "return self.length - 2",
        "return self.length - 1",
        "what is sent there lands in the next epoch",
    ),
    Mutation(
        "proposals after the attestation deadline",
        "consensus/phases.py",
        "return self.attestation_deadline - BLOCKS_TO_LAND",
        "return self.length - 2",
        "what is sent there may land in the next epoch, or too late for others to follow",
    ),
    Mutation(
        "everybody publishes the challenge at once",
        "consensus/duties.py",
        "is_late = view.position.offset >= view.schedule.challenge_fallback",
        "is_late = True",
        "the elected node's turn is nobody's",
    ),
    # consensus/attestation.py, roster.py, types.py.
    Mutation(
        "a proposal may list a node twice",
        "consensus/attestation.py",
        "if len(theirs) != len(proposed):",
        "if False:",
        "the last of two rows hides the first",
    ),
    Mutation(
        "an empty proposal equals none",
        "consensus/attestation.py",
        "if not proposed:",
        "if False:",
        "a proposer pays nobody, and a node without rows attests it",
    ),
    Mutation(
        "a class begins an epoch late",
        "consensus/roster.py",
        "return self.node_class >= wanted and self.start_epoch <= epoch",
        "return self.node_class >= wanted and self.start_epoch < epoch",
        "rosters differ from the chain's",
    ),
    Mutation(
        "networks of two models meet",
        "consensus/roster.py",
        'subnet_id.to_bytes(4, "little") + manifest_hash',
        'subnet_id.to_bytes(4, "little")',
        "a record of another model is signed for this one",
    ),
    Mutation(
        "epochs know no slot",
        "consensus/types.py",
        "epoch = max(0, (block - slot) // epoch_length)",
        "epoch = max(0, block // epoch_length)",
        "epochs are not those of the chain",
    ),
    # subnet/journal, subnet/epoch: a node that dies signs nothing twice.
    Mutation(
        "a slot may be signed twice",
        "subnet/journal/journal.py",
        "if stored.envelope.record_hash != envelope.record_hash:",
        "if False:",
        "an equivocation of one's own, which scores 0",
    ),
    Mutation(
        "a reveal is not journaled with its commit",
        "subnet/journal/journal.py",
        "signed = (record,) if reveal is None else (record, reveal)",
        "signed = (record,)",
        "after a crash nothing opens the commit",
    ),
    Mutation(
        "epochs that the journal forgot may be signed",
        "subnet/journal/journal.py",
        "if envelope.epoch < self._oldest:",
        "if False:",
        "the proof that nothing was signed has gone with the rows",
    ),
    Mutation(
        "heads may jump back any way",
        "subnet/epoch/heads.py",
        "return ahead >= -MAX_BLOCKS_BACK and unexplained",
        "return unexplained",
        "an endpoint sends a node into epochs that are over",
    ),
    Mutation(
        "a late finality is none",
        "subnet/epoch/rosters.py",
        "is_late = position.offset >= self._terms.schedule.finality_deadline",
        "is_late = False",
        "a node takes part in an epoch whose first block was not final in time",
    ),
    *SECOND_EDITION,
)
