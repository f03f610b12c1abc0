"""Compares this server with nginx and with plain Python servers: ``python -m bench``, or ``make bench``."""
