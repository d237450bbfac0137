"""The protocol as pure functions: no I/O, no clock, no framework.

Reading order: epoch.py, then phases.py, records.py, challenge.py, commitment.py, evidence.py,
equivocation.py, agreement.py, scoring.py, attestation.py, duties.py.
"""
