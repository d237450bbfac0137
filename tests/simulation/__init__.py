"""Seven nodes of the production code on a virtual clock: see ``python -m tests.simulation -h``."""
