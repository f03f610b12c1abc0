"""Checks JSON against the part of JSON Schema that the bodies of operations are written in: pure.

It is a small part, since bodies are small; a schema with any other keyword is a mistake of the program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ota_server.operator.calls import Json

_KEYWORDS = {
    *("type", "enum", "properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
    *("uniqueItems", "minLength", "maxLength", "pattern", "minimum", "maximum"),
    *("title", "description", "examples", "default", "format"),
}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def check_body(schema: Mapping[str, Json], value: Json, where: str = "") -> tuple[str, str] | None:
    """Return where and why a value isn't as a schema has it, or None where it is.

    Objects hold no members but those named. Raises ValueError for a schema that holds anything unknown.
    """
    unknown = set(schema) - _KEYWORDS
    if unknown:
        raise ValueError(f"a schema holds {', '.join(sorted(unknown))}")
    wrong = _check_type(schema, value) or _check_value(schema, value)
    if wrong is not None:
        return where, wrong
    if isinstance(value, dict):
        return _check_object(schema, value, where)
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            deeper = check_body(schema["items"], item, f"{where}[{number}]")
            if deeper is not None:
                return deeper
    return None


def _check_type(schema: Mapping[str, Json], value: Json) -> str | None:
    if "type" not in schema:
        return None
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    fits = any(isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in names)
    return None if fits else f"has to be of type {' or '.join(names)}"


def _check_value(schema: Mapping[str, Json], value: Json) -> str | None:
    if "enum" in schema and value not in schema["enum"]:
        return f"has to be one of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, str | list):
        unit, short, long = ("Items", "items", "items") if isinstance(value, list) else ("Length", "letters", "letters")
        if len(value) < schema.get(f"min{unit}", 0):
            return f"needs at least {schema[f'min{unit}']} {short}"
        if len(value) > schema.get(f"max{unit}", len(value)):
            return f"may have at most {schema[f'max{unit}']} {long}"
    if isinstance(value, str):
        if not value.isprintable():
            return "holds letters that can't be shown"
        if "pattern" in schema and re.search(schema["pattern"], value) is None:
            return f"isn't of the form {schema['pattern']}"
    if isinstance(value, list) and schema.get("uniqueItems") and any(value.count(item) > 1 for item in value):
        return "holds something twice"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            return f"has to be at least {schema['minimum']}"
        if value > schema.get("maximum", value):
            return f"may be at most {schema['maximum']}"
    return None


def _check_object(schema: Mapping[str, Json], value: Mapping[str, Json], where: str) -> tuple[str, str] | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return _join(where, name), "is missing"
    for name, member in value.items():
        if name not in properties:
            known = ", ".join(sorted(properties)) or "none"
            return _join(where, name[:100]), f"there is no such member; these are: {known}"
        deeper = check_body(properties[name], member, _join(where, name))
        if deeper is not None:
            return deeper
    return None


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
