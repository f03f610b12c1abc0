"""The description of the API, made of the table of its operations: OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from ota_server import __version__
from ota_server.operator.calls import Answer, Call, Json, Operation, Parameter, Place
from ota_server.operator.problems import COMMON_PROBLEMS, PROBLEM_TYPE
from ota_server.operator.scopes import Scope

PROBLEM_SCHEMA: Json = {
    "type": "object",
    "description": "What went wrong (RFC 9457); more members say more of it.",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def describe(operations: Sequence[Operation]) -> Json:
    """Return the OpenAPI document of these operations."""
    paths: dict[str, dict[str, Json]] = {}
    for operation in operations:
        methods = paths.setdefault(operation.address, {})
        methods[operation.method.lower()] = _describe_operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OTA Server: the operator's door",
            "version": __version__.public(),
            "description": "A browser that is logged in may call it by its cookie, too; its writes bring the "
            "`csrf_token` of `GET /api/v1/session` as `X-CSRF-Token`. HEAD is answered as GET, without the body.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"basic": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token of the server."},
                "basic": {"type": "http", "scheme": "basic", "description": "Any name, and a token as the password."},
            },
            "schemas": {"Problem": PROBLEM_SCHEMA},
        },
    }


def _describe_operation(operation: Operation) -> Json:
    scope = operation.scope
    described: dict[str, Json] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Needs a token with {'any scope' if scope is None else f'the scope `{scope}`'}.",
        "parameters": [_describe_parameter(parameter) for parameter in operation.parameters],
        "responses": {},
    }
    if operation.receive is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    elif operation.body is not None:
        described["requestBody"] = {
            "required": bool(operation.body.get("required")),
            # What isn't described is refused.
            "content": {"application/json": {"schema": {"additionalProperties": False, **operation.body}}},
        }
    for status, schema in operation.answers.items():
        answer: dict[str, Json] = {"description": HTTPStatus(status).phrase}
        if schema is not None:
            answer["content"] = {operation.media: {"schema": schema}}
        described["responses"][str(status)] = answer
    for status in sorted({*COMMON_PROBLEMS, *operation.problems}):
        described["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return described


def _describe_parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.place.value,
        "description": parameter.summary,
        "required": parameter.required or parameter.place is Place.PATH,
        "schema": parameter.schema,
    }


def make_description(operations: Sequence[Operation]) -> Operation:
    """Return the operation that serves the description of these operations and of itself."""
    described: list[Json] = []

    async def handle(call: Call) -> Answer:
        return Answer(described[0])

    operation = Operation(
        name="get_description",
        method="GET",
        path="/openapi.json",
        scope=Scope.READ,
        summary="Get this description of the API.",
        handle=handle,
        answers={200: {"type": "object"}},
    )
    described.append(describe([*operations, operation]))
    return operation
