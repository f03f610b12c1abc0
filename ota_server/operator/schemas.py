"""Making JSON Schemas (2020-12, as OpenAPI 3.1 uses them)."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ota_server.operator.calls import Json

Schema = dict[str, Json]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number", "description": "seconds"}
BYTES: Schema = {"type": "integer", "minimum": 0, "description": "bytes"}
TIME: Schema = {"type": "string", "format": "date-time", "description": "RFC 3339, in UTC"}
VERSION: Schema = {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def described(schema: Mapping[str, Json], description: str) -> Schema:
    """Return a schema with words for people."""
    return {**schema, "description": description}


def optional(schema: Mapping[str, Json]) -> Schema:
    """Return the schema of a value that may be null."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [dict(schema), {"type": "null"}]}


def one_of(values: Iterable[str]) -> Schema:
    """Return the schema of one of some words."""
    return {"type": "string", "enum": list(values)}


def a_list(item: Mapping[str, Json]) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": dict(item)}


def an_object(**members: Mapping[str, Json]) -> Schema:
    """Return the schema of an object that has all these members, and no others."""
    return {
        "type": "object",
        "properties": {name: dict(schema) for name, schema in members.items()},
        "required": list(members),
        "additionalProperties": False,
    }


_PLAIN: Mapping[Any, Schema] = {
    int: {"type": "integer"},
    str: TEXT,
    bool: FLAG,
    float: {"type": "number"},
    type(None): {"type": "null"},
}


def schema_of(kind: Any, depth: int = 2) -> Schema:
    """Return the schema of a type as cattrs writes it: plain ones, enums, tuples, unions, and classes of attrs.

    A class that holds itself is told so many levels deep.
    """
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema_of(each, depth) for each in arguments]}
    if origin is tuple:
        return a_list(schema_of(arguments[0], depth))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return one_of(each.value for each in kind)
    if not attrs.has(kind):
        raise TypeError(f"no schema is known for {kind}")
    hints = typing.get_type_hints(kind)
    own = {}
    for field in attrs.fields(kind):
        inside = depth - 1 if kind in typing.get_args(hints[field.name]) else depth
        if inside < 1:
            own[field.name] = optional({"type": "object"})
        else:
            own[field.name] = schema_of(hints[field.name], inside)
    return an_object(**own)
