"""The pool of extrinsics that wait for a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from devchain.errors import LedgerError
from devchain.extrinsics import SignedExtrinsic

MAX_WAITING = 4096
MAX_WAITING_PER_SIGNER = 256


class PoolRefusal(LedgerError):
    """The pool does not take the extrinsic. ``code`` is JSON-RPC's."""

    def __init__(self, code: int, message: str, data: str) -> None:
        super().__init__(data)
        self.code = code
        self.message = message
        self.data = data


@dataclass
class TransactionPool:
    """Waiting extrinsics by signer and nonce; the first of two with one nonce wins."""

    _waiting: dict[tuple[bytes, int], SignedExtrinsic] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[SignedExtrinsic]:
        return iter(self._waiting.values())

    def add(self, extrinsic: SignedExtrinsic) -> None:
        """Take an extrinsic. Raises PoolRefusal."""
        slot = (extrinsic.signer, extrinsic.nonce)
        present = self._waiting.get(slot)
        if present is not None and present.raw == extrinsic.raw:
            raise PoolRefusal(1013, "Already imported", f"0x{extrinsic.hash.hex()}")
        if present is not None and extrinsic.tip <= present.tip:
            raise PoolRefusal(
                1014,
                f"Priority is too low: ({present.tip} vs {extrinsic.tip})",
                "The transaction has too low priority to replace another transaction already "
                "in the pool.",
            )
        from_signer = sum(signer == extrinsic.signer for signer, _ in self._waiting)
        if present is None and (len(self) >= MAX_WAITING or from_signer >= MAX_WAITING_PER_SIGNER):
            raise PoolRefusal(
                1016, "Immediately Dropped", "The transaction couldn't enter the pool: it is full."
            )
        self._waiting[slot] = extrinsic

    def next_nonce(self, signer: bytes, nonce: int) -> int:
        """Return the first nonce from ``nonce`` on that no waiting extrinsic uses."""
        while (signer, nonce) in self._waiting:
            nonce += 1
        return nonce

    def take_ready(
        self, nonce_of: Callable[[bytes], int], *, limit: int
    ) -> Iterator[SignedExtrinsic]:
        """Yield and remove what may enter the block now, until nothing is left or ``limit``.

        ``nonce_of`` is asked again each time, so that a signer's next extrinsic
        follows the one before it.
        """
        taken = 0
        progress = True
        while progress and taken < limit:
            progress = False
            for slot, extrinsic in list(self._waiting.items()):
                expected = nonce_of(extrinsic.signer)
                if extrinsic.nonce > expected or taken >= limit:
                    continue
                del self._waiting[slot]
                taken += 1
                progress = True
                yield extrinsic
