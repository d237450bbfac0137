"""The two commands: ``mesh-test`` runs a node, ``mesh`` is everything else.

Rules: results on stdout, talk on stderr; an error is one sentence and one fix;
exit code 1 for a failure, 2 for usage; heavy imports stay inside commands, so
that ``--help`` is instant.
"""
