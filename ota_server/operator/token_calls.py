"""The operations for tokens: list, make and revoke them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredLock

from ota_server.operator.calls import Answer, Call, Json, Operation, Parameter, Place, Problem
from ota_server.operator.scopes import Scope
from ota_server.operator.tokens import (
    FIRST,
    MAX_TOKENS,
    NAME_PATTERN,
    Token,
    Tokens,
    as_entries,
    hash_token,
    make_secret,
    write_time,
    write_tokens,
)

InThread = Callable[..., Awaitable[Any]]
"""Runs a function that blocks, with its arguments, in a thread."""

Note = Callable[[str, str, str], Awaitable[None]]
"""Writes an event down: actor, kind, and text for people. It is on disk when that returns."""

_TIME: Json = {"type": "string", "format": "date-time"}
_SCOPES: Json = {
    "type": "array",
    "items": {"type": "string", "enum": sorted(Scope)},
    "minItems": 1,
    "uniqueItems": True,
}
_NAME: Json = {"type": "string", "pattern": NAME_PATTERN, "examples": ["ci"]}
_TOKEN: Json = {
    "type": "object",
    "required": ["name", "scopes", "created", "last_used"],
    "properties": {
        "name": {"type": "string"},
        "scopes": _SCOPES,
        "created": _TIME,
        "last_used": {"type": ["string", "null"], "format": "date-time"},
    },
}
_NEW_TOKEN: Json = {
    "type": "object",
    "required": [*_TOKEN["required"], "token"],
    "properties": {**_TOKEN["properties"], "token": {"type": "string", "description": "It is shown this once."}},
}
_TOKEN_LIST: Json = {
    "type": "object",
    "required": ["items", "next", "total"],
    "properties": {
        "items": {"type": "array", "items": _TOKEN},
        "next": {"type": ["string", "null"]},
        "total": {"type": "integer"},
    },
}


def _show(token: Token) -> dict[str, Json]:
    return {
        "name": token.name,
        "scopes": sorted(token.scopes),
        "created": write_time(token.created),
        "last_used": None if token.last_used is None else write_time(token.last_used),
    }


class TokenCalls:
    """Makes and revokes tokens, and keeps the file of their hashes; see InThread and Note.

    `check` raises Problem while no events can be kept.
    """

    def __init__(
        self, tokens: Tokens, path: Path, in_thread: InThread, note: Note, check: Callable[[], None] = lambda: None
    ) -> None:
        self._tokens = tokens
        self._path = path
        self._in_thread = in_thread
        self._note = note
        self._check = check
        self._lock = DeferredLock()

    async def list_tokens(self, call: Call) -> Answer:
        """List all tokens: they are few."""
        items = [_show(token) for token in self._tokens]
        return Answer({"items": items, "next": None, "total": len(items)})

    async def create(self, call: Call) -> Answer:
        """Make a token, once it is written down."""
        self._check()
        name, scopes = call.body["name"], frozenset(Scope(word) for word in call.body["scopes"])
        beyond = scopes - call.operator.scopes
        if beyond:
            raise Problem(
                403,
                "wrong-scope",
                "This token doesn't allow that",
                f"a token can't make one that allows more than itself: {', '.join(sorted(beyond))}",
                needs=min(beyond),
            )
        secret = make_secret()
        token = Token(name, hash_token(secret.encode("ascii")), scopes, call.now)
        await self._lock.acquire()
        try:
            if self._tokens.get(name) is not None or name == FIRST:
                raise Problem(409, "token-exists", "There is a token of this name", "revoke it, or choose another name")
            if len(self._tokens) >= MAX_TOKENS:
                raise Problem(409, "too-many-tokens", "There are too many tokens", "revoke those that nobody uses")
            await self._write([*self._tokens, token])
            self._tokens.add(token)
        finally:
            self._lock.release()
        await self._note(call.operator.actor, "token-created", f"token {name} made: {', '.join(sorted(scopes))}")
        return Answer({**_show(token), "token": secret}, 201)

    async def revoke(self, call: Call) -> Answer:
        """Revoke a token: from now on, and in the file before this is answered."""
        self._check()
        name = call["name"]
        if name == FIRST:
            raise Problem(
                409,
                "first-token",
                "The server's own token can't be revoked",
                "remove the file operator.token from what the server keeps, or change the file of --admin-token-file, "
                "and start the server anew",
            )
        await self._lock.acquire()
        try:
            token = self._tokens.get(name)
            if token is None:
                raise Problem(404, "unknown-token", "There is no token of this name", "see GET /api/v1/tokens")
            self._tokens.remove(token)
            await self._write(list(self._tokens))
        finally:
            self._lock.release()
        await self._note(call.operator.actor, "token-revoked", f"token {name} revoked")
        return Answer(None, 204)

    async def save(self) -> None:
        """Write down when tokens were used last, if they were. Raises Problem."""
        if self._tokens.used:
            await self._lock.acquire()
            try:
                self._tokens.used = False
                await self._write(list(self._tokens))
            finally:
                self._lock.release()

    async def _write(self, tokens: list[Token]) -> None:
        try:
            await self._in_thread(write_tokens, self._path, as_entries(tokens))
        except OSError as problem:
            raise Problem(
                503,
                "state-trouble",
                "The server can't write what it keeps",
                f"{self._path.name}: {problem.strerror}; what was asked for may not outlast a restart",
            ) from problem

    def make_operations(self) -> tuple[Operation, ...]:
        """Return the operations of this room."""
        name = Parameter("name", Place.PATH, "Name of a token.", schema={"type": "string"})
        body = {"type": "object", "properties": {"name": _NAME, "scopes": _SCOPES}, "required": ["name", "scopes"]}
        return (
            Operation(
                "list_tokens",
                "GET",
                "/tokens",
                Scope.OPERATE,
                "List the tokens that are taken: their names, what they allow, and when they were last used.",
                self.list_tokens,
                {200: _TOKEN_LIST},
            ),
            Operation(
                "create_token",
                "POST",
                "/tokens",
                Scope.OPERATE,
                "Make a token, with no scope that the caller doesn't have; it is shown in this answer alone.",
                self.create,
                {201: _NEW_TOKEN},
                body=body,
                problems=(409,),
            ),
            Operation(
                "revoke_token",
                "DELETE",
                "/tokens/{name}",
                Scope.OPERATE,
                "Revoke a token; sessions of browsers that were begun with it end, too.",
                self.revoke,
                {204: None},
                (name,),
                problems=(409,),
            ),
        )


async def _tell_session(call: Call) -> Answer:
    operator = call.operator
    return Answer({"name": operator.name, "scopes": sorted(operator.scopes), "csrf_token": call.csrf_token})


SESSION = Operation(
    "get_session",
    "GET",
    "/session",
    None,
    "Tell who is asking, and what a browser's writes have to bring as `X-CSRF-Token`.",
    _tell_session,
    {
        200: {
            "type": "object",
            "required": ["name", "scopes", "csrf_token"],
            "properties": {
                "name": {"type": "string"},
                "scopes": _SCOPES,
                "csrf_token": {"type": ["string", "null"], "description": "null for a call with a token"},
            },
        }
    },
)
"""Who is asking."""
