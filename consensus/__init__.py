"""The protocol as pure functions: no I/O, no clock, no framework.

Reading order: phases.py, records.py, challenge.py, commitment.py, agreement.py,
scoring.py, duties.py.
"""
