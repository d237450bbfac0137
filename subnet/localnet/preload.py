"""Imports of the fork server, done once for every child. Importing this module does all of it."""

from __future__ import annotations

import gc

from mesh.inference.threads import wait_passively
from subnet.localnet.processes import become_fork_server

# First of all: what follows takes seconds.
become_fork_server()

wait_passively()

import subnet.localnet.child_programs  # noqa: E402
import subnet.node.run  # noqa: E402, F401

# Frozen objects are never scanned, so their pages stay shared with the children.
gc.collect()
gc.freeze()
