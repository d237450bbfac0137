"""What can go wrong in the node.

SubnetError
├── ConfigError(message, hint)   what the operator asked for cannot be done
│   └── UsageError               the command line itself is wrong (exit code 2)
├── ChainError
│   ├── ChainUnavailable         no answer; retried
│   ├── ChainMismatch            another chain, or a runtime that lacks what is needed
│   └── ExtrinsicFailed(reason)  the chain refused or failed an extrinsic
├── DutyPostponed(reason)        a duty that could not be done now; it stays owed
├── NotRegistered                the node id does not belong to this node's keys
│   └── UnknownSubnet            the chain has no such subnet
├── JournalError(message, hint)
│   ├── JournalCorrupt           a journal cannot be trusted; the node must not sign
│   └── JournalFailed            a journal could not be written; nothing may be published
├── ReceiptError(message, hint)
│   ├── ReceiptDamaged           a receipt file that is none, or was cut off or changed
│   ├── ReceiptInvalid           what a receipt file says does not hold
│   └── ReceiptNotKept           no node of this machine kept the epoch
└── AlreadySigned                the journal holds another body for this slot
"""

from __future__ import annotations


class SubnetError(Exception):
    """Base of every error of the subnet package."""


class ConfigError(SubnetError):
    """What the operator asked for cannot be done. ``hint`` is the one fix."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(ConfigError):
    """The command line itself is wrong."""


class ChainError(SubnetError):
    """Base of the chain's errors."""


class ChainUnavailable(ChainError):
    """The chain did not answer; try again."""


class ChainMismatch(ChainError):
    """The endpoint is another chain, or its runtime lacks what this node needs."""


class ExtrinsicFailed(ChainError):
    """The chain refused an extrinsic.

    ``reason`` is the error's name in the pallet (``InvalidValidator``) or a pool
    reason (``Stale``, ``Payment``, ``BadProof``); ``detail`` is a sentence.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class DutyPostponed(SubnetError):
    """A duty could not be done now; it stays owed while its time lasts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotRegistered(SubnetError):
    """The node is not on the chain, or its id belongs to another peer."""


class UnknownSubnet(NotRegistered):
    """The chain has no subnet by this id or name."""


class JournalError(SubnetError):
    """Base of what can be wrong with a journal. ``hint`` is the one fix."""

    def __init__(self, message: str, hint: str = "check the disk of --data-dir") -> None:
        super().__init__(message)
        self.hint = hint


class JournalCorrupt(JournalError):
    """The journal cannot be trusted, so the node must not sign."""

    def __init__(
        self,
        message: str,
        hint: str = "restore the journal from a backup; do not delete it in the middle of an epoch",
    ) -> None:
        super().__init__(message, hint)


class JournalFailed(JournalError):
    """The journal could not be written, so what it should have held must not be published."""


class AlreadySigned(SubnetError):
    """The journal holds another body for this slot; signing a second one is refused."""


class ReceiptError(SubnetError):
    """Base of what can be wrong with a receipt file. ``hint`` is the one fix."""

    def __init__(
        self,
        message: str,
        hint: str = "ask for the file again: `mesh why EPOCH NODE --share FILE` writes it",
    ) -> None:
        super().__init__(message)
        self.hint = hint


class ReceiptDamaged(ReceiptError):
    """The bytes are no receipt file, or were cut off or changed."""


class ReceiptInvalid(ReceiptError):
    """What the file says does not hold: a signature, a hash, a score, or the chain."""


class ReceiptNotKept(ReceiptError):
    """No node of this machine kept the epoch."""
