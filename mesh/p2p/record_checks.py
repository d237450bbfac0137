"""What every record store asks before it publishes, stores or believes a record."""

from __future__ import annotations

import logging
import math

from mesh.errors import RecordRefused
from mesh.p2p.interface import MAX_RECORD_SIZE, RecordPolicy

logger = logging.getLogger(__name__)


def check_own_record(
    policy: RecordPolicy | None, *, key: bytes, value: bytes, expires_at: int
) -> None:
    """Raise RecordRefused unless we would admit the record that we are about to publish."""
    if policy is None:
        raise RecordRefused("no-policy", "this host admits no records")
    if len(value) > MAX_RECORD_SIZE:
        raise RecordRefused("size", f"a record has at most {MAX_RECORD_SIZE} bytes")
    if policy.admit(value, float(expires_at)) != key:
        raise RecordRefused("wrong-key", "the record belongs under another key")


def is_admitted(
    policy: RecordPolicy | None, *, key: bytes, value: bytes, expires_at: float
) -> bool:
    """Say whether ``value`` belongs under ``key``; False for whatever is wrong, never raises."""
    return derive_key(policy, value=value, expires_at=expires_at) == key


def derive_key(policy: RecordPolicy | None, *, value: bytes, expires_at: float) -> bytes | None:
    """Return the key of a record that another peer offers, or None when it is refused.

    A defect in the policy refuses too: it runs inside the library that carries our records,
    and one peer's bytes must not be able to stop the others'.
    """
    if policy is None or len(value) > MAX_RECORD_SIZE or not math.isfinite(expires_at):
        return None
    try:
        return policy.admit(value, expires_at)
    except RecordRefused as error:
        logger.debug("a record is refused: %s", error)
    except Exception:
        logger.exception("the record policy failed")
    return None
