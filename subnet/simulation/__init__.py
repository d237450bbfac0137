"""Simulated networks: the production code and rules between simulated machines and cheats."""
