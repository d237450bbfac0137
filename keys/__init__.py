"""Identities, signatures and keystores: the leaf that every other package may import."""
