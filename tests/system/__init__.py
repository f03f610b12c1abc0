"""Runs of the whole server on systems of their own, as programs: `python -m tests.system.service`.

They need root and minutes, so that trial doesn't collect them; `make check-all` runs them.
"""
