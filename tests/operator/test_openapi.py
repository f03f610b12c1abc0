"""Tests of the description of the API: it is what OpenAPI 3.1 takes, and says what the operations do."""

from __future__ import annotations

from typing import Any, cast

from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator.api import make_all_operations
from ota_server.operator.bodies import check_body
from ota_server.operator.calls import Operation, Place
from ota_server.operator.house import House
from ota_server.operator.openapi import describe
from ota_server.operator.routing import Router
from ota_server.operator.token_calls import SESSION, TokenCalls
from tests.operator.door import OperatorDoor
from tests.operator.test_door import OPERATIONS


class NoHouse:
    """Stands for the parts of a server, none of which is asked while operations are made."""

    def __getattr__(self, name: str) -> Any:
        return None


def all_operations() -> tuple[Operation, ...]:
    """Return all operations of the API, of no server."""
    house = cast("House", NoHouse())
    nothing: Any = None
    return (*make_all_operations(house, TokenCalls(nothing, nothing, nothing, nothing)), SESSION)


class DescriptionTests(SynchronousTestCase):
    """The document."""

    def test_valid(self) -> None:
        """It is valid by the schema of OpenAPI 3.1, and each schema in it by that of JSON Schema."""
        validate(describe(all_operations()), cls=OpenAPIV31SpecValidator)

    def test_served(self) -> None:
        """It is served, describes itself and what else there is, and names ways to bring a token."""
        served = OperatorDoor(self, OPERATIONS).get(b"/api/v1/openapi.json")
        validate(served, cls=OpenAPIV31SpecValidator)
        self.assertEqual(
            set(served["paths"]),
            {"/api/v1/things/{thing}", "/api/v1/failure", "/api/v1/refusal", "/api/v1/session", "/api/v1/openapi.json"},
        )
        self.assertEqual(set(served["components"]["securitySchemes"]), {"bearer", "basic"})
        post = served["paths"]["/api/v1/things/{thing}"]["post"]
        self.assertEqual(post["requestBody"]["content"]["application/json"]["schema"]["required"], ["version"])
        self.assertFalse(post["requestBody"]["content"]["application/json"]["schema"]["additionalProperties"])

    def test_complete(self) -> None:
        """Each operation tells its parameters and problems, has a name and a summary of one sentence."""
        operations = all_operations()
        Router(operations)
        for operation in operations:
            in_path = {parameter.name for parameter in operation.parameters if parameter.place is Place.PATH}
            self.assertEqual(in_path, set(operation.pattern.groupindex), operation.name)
            self.assertTrue(operation.summary.endswith("."), operation.name)
            self.assertEqual(operation.handle is None, operation.receive is not None, operation.name)
            self.assertTrue(operation.answers, operation.name)

    def test_bodies(self) -> None:
        """The schemas of bodies hold nothing that isn't checked: one with an unknown word raises ValueError."""
        for operation in all_operations():
            if operation.body is not None:
                check_body(operation.body, dict.fromkeys(operation.body["properties"]))
                for schema in operation.body["properties"].values():
                    values: tuple[Any, ...] = ("", 1, True, None, [], ["x"], {})
                    for value in values:
                        check_body(schema, value)
        self.assertRaises(ValueError, check_body, {"oneOf": []}, 1)
