"""Tests of what bodies are checked against, as tables."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator.bodies import check_body
from ota_server.operator.calls import Answer, Call, Operation
from ota_server.operator.routing import Router
from ota_server.operator.scopes import Scope


class SchemaTests(SynchronousTestCase):
    """The keywords of JSON Schema that there are."""

    def test_keywords(self) -> None:
        """Each keyword lets in what it should, and says of anything else where and why."""
        number = {"type": "number", "minimum": 1, "maximum": 9}
        words = {"type": "array", "items": {"type": "string", "minLength": 2}, "minItems": 1, "maxItems": 2}
        nested = {"type": "object", "properties": {"inner": {"type": "object", "properties": {"n": number}}}}
        table: tuple[tuple[dict[str, Any], Any, tuple[str, str] | None], ...] = (
            ({}, object, None),
            ({"type": "integer"}, 1, None),
            ({"type": "integer"}, True, ("", "has to be of type integer")),
            ({"type": "integer"}, 1.5, ("", "has to be of type integer")),
            ({"type": "boolean"}, False, None),
            ({"type": "boolean"}, 0, ("", "has to be of type boolean")),
            ({"type": ["string", "null"]}, None, None),
            ({"type": ["string", "null"]}, 1, ("", "has to be of type string or null")),
            ({"enum": ["a", "b"]}, "c", ("", "has to be one of a, b")),
            (number, 1, None),
            (number, 0.5, ("", "has to be at least 1")),
            (number, 10, ("", "may be at most 9")),
            (words, ["ab", "cd"], None),
            (words, [], ("", "needs at least 1 items")),
            (words, ["ab", "ab", "ab"], ("", "may have at most 2 items")),
            (words, ["ab", "c"], ("[1]", "needs at least 2 letters")),
            ({"type": "array", "uniqueItems": True}, [1, 1], ("", "holds something twice")),
            ({"type": "string", "maxLength": 2}, "abc", ("", "may have at most 2 letters")),
            ({"type": "string", "pattern": "^a"}, "ba", ("", "isn't of the form ^a")),
            ({"type": "string"}, "a\x00", ("", "holds letters that can't be shown")),
            (nested, {"inner": {"n": 5}}, None),
            (nested, {"inner": {"n": "5"}}, ("inner.n", "has to be of type number")),
            (nested, {"inner": {"m": 5}}, ("inner.m", "there is no such member; these are: n")),
        )
        for schema, value, wrong in table:
            self.assertEqual(check_body(schema, value), wrong, (schema, value))


class RouterTests(SynchronousTestCase):
    """Which operation an address leads to."""

    def make(self, name: str, method: str, path: str) -> Operation:
        """Return an operation that does nothing."""

        async def handle(call: Call) -> Answer:
            return Answer()

        return Operation(name, method, path, Scope.READ, "Nothing.", handle, {200: None})

    def test_fixed_before_named(self) -> None:
        """An address without parameters isn't taken for a name, in whatever order they come."""
        operations = [self.make("one", "GET", "/events/{id}"), self.make("stream", "GET", "/events/stream")]
        for order in (operations, operations[::-1]):
            router = Router(order)
            self.assertEqual(router.find("GET", "/api/v1/events/stream")[0].name, "stream")
            found, names = router.find("HEAD", "/api/v1/events/7")
            self.assertEqual((found.name, dict(names)), ("one", {"id": "7"}))

    def test_collisions(self) -> None:
        """Two of the same name, or of the same method and address, are a mistake that shows at the start."""
        one = self.make("one", "GET", "/a")
        self.assertRaises(ValueError, Router, [one, self.make("one", "GET", "/b")])
        self.assertRaises(ValueError, Router, [one, self.make("two", "GET", "/a")])
        Router([one, self.make("two", "POST", "/a")])
