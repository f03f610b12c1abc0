"""Who may do what at the operator's door."""

from __future__ import annotations

import enum

import attrs


class Scope(enum.StrEnum):
    """What a token allows; none includes another."""

    READ = "read"
    PUBLISH = "publish"
    OPERATE = "operate"


EVERYTHING = frozenset(Scope)


@attrs.frozen
class Operator:
    """Somebody who may use the door: the name of the token, and what it allows."""

    name: str
    scopes: frozenset[Scope]

    @property
    def actor(self) -> str:
        """How events name who acted."""
        return f"operator:{self.name}"
