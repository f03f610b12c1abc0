"""The operator's door: an API and pages for people and programs, on a port of their own and always with a token.

Nothing in here is reachable by the device door, and `web/` knows nothing of it.
"""
