"""What the fork server imports once for every child. Importing it is all it does."""

from __future__ import annotations

import gc
import signal

from subnet.localnet.processes import die_with_parent

# First of all: while it imports torch the server reads no pipe, so neither the end of its
# parent nor a Ctrl-C in its terminal would end it in good order.
die_with_parent()
signal.signal(signal.SIGINT, signal.SIG_IGN)

import subnet.localnet.children  # noqa: E402
import subnet.node  # noqa: E402, F401

# Frozen objects are never scanned, so their pages stay shared with the children.
gc.collect()
gc.freeze()
