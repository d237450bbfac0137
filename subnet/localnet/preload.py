"""What the fork server imports once for every child. Importing it is all it does."""

from __future__ import annotations

import gc

import subnet.devchain.run
import subnet.node
import subnet.run_client  # noqa: F401

# Frozen objects are never scanned, so their pages stay shared with the children.
gc.collect()
gc.freeze()
