"""Twisted's side: requests in, bytes out. No rules live here."""
