"""What the fork server imports once for every child. Importing it is all it does."""

from __future__ import annotations

import gc

import subnet.localnet.children
import subnet.node  # noqa: F401

# Frozen objects are never scanned, so their pages stay shared with the children.
gc.collect()
gc.freeze()
