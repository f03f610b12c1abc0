"""Tests of tokens: the files that they are kept in, and the operations that make and revoke them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator.scopes import EVERYTHING, Scope
from ota_server.operator.token_calls import TokenCalls
from ota_server.operator.tokens import (
    FIRST,
    MAX_TOKENS,
    TOKENS_FILE,
    Token,
    TokenFileError,
    Tokens,
    as_entries,
    hash_token,
    make_token_file,
    read_token_file,
    read_tokens,
    write_tokens,
)
from tests.operator.door import OperatorDoor, bearer, make_token, read_problem
from tests.operator.test_door import JSON
from tests.web.memory import NOW


class FileTests(SynchronousTestCase):
    """The files."""

    def setUp(self) -> None:
        """Make a folder."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def test_made(self) -> None:
        """A token is made once, 43 characters long, in a file that nobody else can read."""
        path = self.folder / "operator.token"
        token = make_token_file(path)
        self.assertRegex(token, rb"\A[\w-]{43}\Z")
        self.assertEqual((read_token_file(path), stat.S_IMODE(path.stat().st_mode)), (token, 0o600))
        self.assertNotEqual(make_token_file(self.folder / "other"), token)
        self.assertEqual(sorted(entry.name for entry in self.folder.iterdir()), ["operator.token", "other"])

    def refused(self, text: bytes, mode: int = 0o600) -> str:
        """Return why a file is refused."""
        path = self.folder / "own"
        path.write_bytes(text)
        path.chmod(mode)
        return str(self.assertRaises(TokenFileError, read_token_file, path))

    def test_own(self) -> None:
        """A file of one's own is refused where it can't be a secret, and the message doesn't tell what is in it."""
        self.assertIn("16 to 1024 characters, this one 15", self.refused(b"short-secret-15"))
        self.assertIn("this one 0", self.refused(b""))
        for text in (b"two words of a secret", b"two-lines-of-it\nmore-of-the-secret", b"\xc3\xa4" * 20):
            message = self.refused(text)
            self.assertIn("one line of ASCII", message)
            self.assertNotIn(text.split()[0].decode(), message)
        for mode in (0o640, 0o604, 0o620, 0o666):
            message = self.refused(b"long-enough-secret", mode)
            self.assertIn("chmod 600", message)
            self.assertNotIn("\n", message)
        self.assertIn("No such file", str(self.assertRaises(TokenFileError, read_token_file, self.folder / "none")))
        self.assertIn("Is a directory", str(self.assertRaises(TokenFileError, read_token_file, self.folder)))
        path = self.folder / "right"
        path.write_bytes(b"  long-enough-secret \r\n")
        path.chmod(0o600)
        self.assertEqual(read_token_file(path), b"long-enough-secret")

    def test_kept(self) -> None:
        """Tokens come back as they were, without themselves; the first one isn't among them."""
        path = self.folder / TOKENS_FILE
        token = Token("ci", hash_token(b"secret-of-ci-0123456789"), frozenset([Scope.PUBLISH]), NOW, NOW + 60.0)
        unused = Token("new", hash_token(b"x"), EVERYTHING, NOW)
        write_tokens(path, as_entries([token, unused, make_token(FIRST, b"first")]))
        back = {kept.name: kept for kept in read_tokens(path)}
        self.assertEqual(set(back), {"ci", "new"})
        kept = back["ci"]
        self.assertEqual(
            (kept.digest, kept.scopes, kept.created, kept.last_used),
            (token.digest, token.scopes, token.created, token.last_used),
        )
        self.assertIsNone(back["new"].last_used)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertNotIn("secret", path.read_text())

    def test_damaged(self) -> None:
        """A file that can't be read stops the start: else a revoked token might come back, or all be gone."""
        path = self.folder / TOKENS_FILE
        good = {"format": 1, "tokens": as_entries([make_token("ci", b"x")])}
        entry = good["tokens"][0]  # type: ignore[index]
        for told in (
            "",
            "{",
            "[]",
            {"format": 1},
            {"format": 1, "tokens": [{**entry, "sha256": "00"}]},
            {"format": 1, "tokens": [{**entry, "sha256": "zz" * 32}]},
            {"format": 1, "tokens": [{**entry, "scopes": ["everything"]}]},
            {"format": 1, "tokens": [{**entry, "name": "../x"}]},
            {"format": 1, "tokens": [{**entry, "name": FIRST}]},
            {"format": 1, "tokens": [{**entry, "created": "yesterday"}]},
            {"format": 1, "tokens": [entry, entry]},
        ):
            path.write_text(told if isinstance(told, str) else json.dumps(told))
            self.assertIn("can't be read", str(self.assertRaises(TokenFileError, read_tokens, path)), told)
        path.write_bytes(b"\xff")
        self.assertIn("can't be read", str(self.assertRaises(TokenFileError, read_tokens, path)))
        path.write_text(json.dumps({**good, "format": 2}))
        self.assertIn("newer version", str(self.assertRaises(TokenFileError, read_tokens, path)))
        path.write_text(json.dumps(good))
        self.assertEqual([token.name for token in read_tokens(path)], ["ci"])
        self.assertEqual(read_tokens(self.folder / "none"), [])

    def test_whole_or_not_at_all(self) -> None:
        """Where a file can't be written the one before stays, and nothing is left beside it."""
        path = self.folder / TOKENS_FILE
        write_tokens(path, [])
        before = path.read_bytes()

        def fail(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", fail)
        self.assertRaises(OSError, write_tokens, path, as_entries([make_token("ci", b"x")]))
        self.assertEqual((path.read_bytes(), [entry.name for entry in self.folder.iterdir()]), (before, [TOKENS_FILE]))


class TokenCallTests(SynchronousTestCase):
    """The operations."""

    def setUp(self) -> None:
        """Open a door with them."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.events: list[tuple[str, str, str]] = []
        tokens = Tokens()

        async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

        async def note(*event: str) -> None:
            self.events.append(event)  # type: ignore[arg-type]

        self.calls = TokenCalls(tokens, self.folder / TOKENS_FILE, in_thread, note)
        self.door = OperatorDoor(self, self.calls.make_operations(), tokens=tokens)

    def make(self, name: str, *scopes: str, token: bytes | None = None) -> Any:
        """Return the answer to a token that is to be made."""
        body = json.dumps({"name": name, "scopes": scopes}).encode()
        brought = bearer() if token is None else bearer(token)
        return self.door.ask(b"POST", b"/api/v1/tokens", brought, JSON, body=body)

    def revoke(self, name: bytes) -> Any:
        """Return the answer to a token that is to be revoked."""
        return self.door.ask(b"DELETE", b"/api/v1/tokens/" + name, bearer())

    def test_make(self) -> None:
        """A token that was made works at once, does what it may, and is on disk as a hash, with an event."""
        answer = self.make("ci", "operate")
        made = json.loads(answer.body)
        self.assertEqual((answer.code, made["name"], made["scopes"]), (201, "ci", ["operate"]))
        secret = made["token"].encode()
        listed = json.loads(self.door.ask(b"GET", b"/api/v1/tokens", bearer(secret)).body)
        self.assertEqual([item["name"] for item in listed["items"]], ["admin", "ci", "reader"])
        self.assertEqual(listed["items"][1]["last_used"], "2026-11-23T12:00:00Z")
        self.assertNotIn("token", listed["items"][1])
        [kept] = [token for token in read_tokens(self.folder / TOKENS_FILE) if token.name == "ci"]
        self.assertEqual(kept.digest, hash_token(secret))
        self.assertEqual(self.events, [("operator:admin", "token-created", "token ci made: operate")])

    def test_no_more_than_its_own(self) -> None:
        """A token makes none that allows more than itself."""
        secret = json.loads(self.make("ops", "operate", "read").body)["token"].encode()
        self.assertEqual(self.make("a", "read", token=secret).code, 201)
        self.assertEqual(read_problem(self.make("b", "publish", token=secret)), (403, "wrong-scope"))
        self.assertIsNone(self.door.tokens.get("b"))

    def test_revoke(self) -> None:
        """A revoked token is wrong from then on, also after a restart; there is an event."""
        secret = json.loads(self.make("ci", "read").body)["token"].encode()
        self.assertEqual(self.revoke(b"ci").code, 204)
        self.assertEqual(self.door.ask(b"GET", b"/api/v1/session", bearer(secret)).code, 401)
        self.assertNotIn("ci", [token.name for token in read_tokens(self.folder / TOKENS_FILE)])
        self.assertEqual(self.events[-1], ("operator:admin", "token-revoked", "token ci revoked"))
        self.assertEqual(read_problem(self.revoke(b"ci")), (404, "unknown-token"))
        self.assertEqual(read_problem(self.revoke(b"admin")), (409, "first-token"))
        self.assertEqual(read_problem(self.revoke(b"..%2f..")), (404, "unknown-address"))

    def test_names(self) -> None:
        """A name is used once, is of a few letters, and isn't that of the first."""
        self.assertEqual(self.make("ci", "read").code, 201)
        self.assertEqual(read_problem(self.make("ci", "read")), (409, "token-exists"))
        self.assertEqual(read_problem(self.make("admin", "read")), (409, "token-exists"))
        for name in ("", "A", "../x", "a b", "-a", "x" * 64, "a\n"):
            self.assertEqual(read_problem(self.make(name, "read")), (400, "bad-body"), name)
        self.assertEqual(read_problem(self.make("x")), (400, "bad-body"))
        self.assertEqual(read_problem(self.make("x", "read", "read")), (400, "bad-body"))
        self.assertEqual(read_problem(self.make("x", "everything")), (400, "bad-body"))

    def test_bounded(self) -> None:
        """There are so many tokens at most."""
        for number in range(MAX_TOKENS - len(self.door.tokens)):
            self.door.tokens.add(make_token(f"t{number}", b"t%d" % number))
        self.assertEqual(read_problem(self.make("more", "read")), (409, "too-many-tokens"))

    def test_disk_trouble(self) -> None:
        """Where nothing can be written no token is made; one that is to be revoked is, for as long as this runs."""
        secret = json.loads(self.make("ci", "read").body)["token"].encode()

        def fail(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", fail)
        self.assertEqual(read_problem(self.make("b", "read")), (503, "state-trouble"))
        self.assertIsNone(self.door.tokens.get("b"))
        self.assertEqual(read_problem(self.revoke(b"ci")), (503, "state-trouble"))
        self.assertEqual(self.door.ask(b"GET", b"/api/v1/session", bearer(secret)).code, 401)

    def test_uses_are_written_down(self) -> None:
        """When tokens were used last is written now and then, not at each call."""
        self.make("ci", "read")
        written = self.folder / TOKENS_FILE
        written.unlink()
        self.successResultOf(self.save())
        self.assertTrue(written.exists())
        written.unlink()
        self.door.get(b"/api/v1/tokens")
        self.successResultOf(self.save())
        self.assertFalse(written.exists())
        self.door.clock.advance(61)
        self.door.get(b"/api/v1/tokens")
        self.successResultOf(self.save())
        self.assertTrue(written.exists())

    def save(self) -> Any:
        """Write down what there is."""
        return Deferred.fromCoroutine(self.calls.save())
