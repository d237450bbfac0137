"""A whole subnet on one machine: a development chain, hosters, validators and a client.

Every part is its own process and runs the production code; only the keys and the
block time are made for the occasion.
"""
