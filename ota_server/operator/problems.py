"""The problems that every operation may answer, and what answers them on the wire."""

from __future__ import annotations

from collections.abc import Iterable

from ota_server.operator.calls import Problem

PROBLEM_TYPE = "application/problem+json"

COMMON_PROBLEMS = (400, 401, 403, 404, 405, 413, 415, 421, 429, 500, 503)
"""The statuses of problems that may come of any operation."""


def bad_parameter(name: str, why: str) -> Problem:
    """Say what is wrong with a parameter."""
    return Problem(400, "bad-parameter", "A parameter is wrong", f"{name}: {why}", parameter=name)


def unknown_address() -> Problem:
    """Say that an address leads to nothing."""
    return Problem(404, "unknown-address", "There is nothing at this address", "see /api/v1/openapi.json")


def wrong_method(allowed: Iterable[str]) -> Problem:
    """Say which methods work."""
    methods = ", ".join(sorted(allowed))
    return Problem(405, "wrong-method", "This method doesn't work here", f"these do: {methods}", allow=methods)


def too_large(limit: int) -> Problem:
    """Say that a body is too large; `limit` is in bytes."""
    return Problem(413, "too-large", "The body is too large", f"at most {limit} bytes are taken here", limit=limit)


def token_needed() -> Problem:
    """Say that the request proves nobody."""
    return Problem(
        401, "token-needed", "A token is needed", "bring it as: Authorization: Bearer TOKEN (or log in at /login)"
    )


def token_wrong() -> Problem:
    """Say that a token is none, or none any more."""
    return Problem(401, "token-wrong", "This token is wrong", "it is none of the server's, or has been revoked")


def internal() -> Problem:
    """Say that the server failed; what of is in its log."""
    return Problem(500, "internal", "The server failed", "its log says more")
