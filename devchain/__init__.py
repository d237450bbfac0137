"""A Hypertensor development chain in one process. Begin to read at :mod:`devchain.chain`."""
