"""The two commands: ``mesh-test`` runs a node, ``mesh`` is everything else.

Each command has one file; the rules that all of them keep stand at the top of console.py.
"""
