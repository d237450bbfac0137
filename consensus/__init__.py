"""The protocol as pure functions: no I/O, no clock, no framework.

Reading order: epoch.py, then phases.py, records.py, naming.py, challenge.py, commitment.py,
evidence.py, agreement.py, audit.py, scoring.py, rows.py, attestation.py, duties.py.
"""
