"""Addresses, parameters and bodies of calls: pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote_to_bytes

from ota_server.operator.bodies import check_body
from ota_server.operator.calls import BASE, Json, Operation, Place, Problem
from ota_server.operator.problems import bad_parameter, unknown_address, wrong_method

MAX_PARAMETERS = 50


def read_path(raw: bytes) -> str:
    """Return a path with its escapes read, segment by segment. Raises Problem where it can't lead anywhere.

    An escaped slash is none that parts segments, and no name holds one.
    """
    segments = []
    for segment in raw.split(b"/"):
        try:
            text = unquote_to_bytes(segment).decode()
        except UnicodeDecodeError:
            raise unknown_address() from None
        if "/" in text or not text.isprintable():
            raise unknown_address()
        segments.append(text)
    return "/".join(segments)


class Router:
    """Finds operations by their addresses. Raises ValueError for two with the same name, or method and address."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        # Addresses without parameters come first: they are not meant as somebody's name.
        ordered = sorted(operations, key=lambda operation: operation.address.count("{"))
        self._routes = [(operation.pattern, operation) for operation in ordered]
        for key in (lambda o: o.name, lambda o: (o.method, o.address)):
            keys = [key(operation) for operation in operations]
            twice = sorted({str(value) for value in keys if keys.count(value) > 1})
            if twice:
                raise ValueError(f"there are several operations {', '.join(twice)}")

    def find(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]]:
        """Return an operation, and the texts in its path. Raises Problem (404, or 405 with `allow`)."""
        allowed = set()
        for pattern, operation in self._routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if operation.method in (method, "GET" if method == "HEAD" else method):
                return operation, match.groupdict()
            allowed |= {operation.method, *(["HEAD"] if operation.method == "GET" else [])}
        if allowed:
            raise wrong_method(allowed)
        raise unknown_address()

    def leads_to_api(self, path: str) -> bool:
        """Say whether a path is the API's, or that of an operation beside it."""
        return path == BASE or path.startswith(f"{BASE}/") or any(p.fullmatch(path) for p, _ in self._routes)


def read_values(
    operation: Operation, in_path: Mapping[str, str], query: bytes, headers: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return the parameters of a call by their names; `headers` by names in lower case. Raises Problem."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise Problem(400, "bad-query", "The query can't be read", "write it as ?name=value&name=value") from None
    in_query: dict[str, str] = {}
    for name, text in pairs:
        if name in in_query:
            raise bad_parameter(name[:100], "is there twice")
        in_query[name] = text
    known = {parameter.name for parameter in operation.parameters if parameter.place is Place.QUERY}
    for name in in_query:
        if name not in known:
            takes = f"this takes {', '.join(sorted(known))}" if known else "this takes none"
            raise bad_parameter(name[:100], f"there is no such parameter; {takes}")
    values = {}
    for parameter in operation.parameters:
        given: Mapping[str, str] = in_path
        key = parameter.name
        if parameter.place is Place.QUERY:
            given = in_query
        elif parameter.place is Place.HEADER:
            given, key = headers, key.lower()
        if key not in given:
            if parameter.required:
                raise bad_parameter(parameter.name, "is missing")
            values[parameter.name] = parameter.default
            continue
        try:
            values[parameter.name] = parameter.read(given[key])
        except ValueError as error:
            raise bad_parameter(parameter.name, str(error)) from None
    return values


def read_body(operation: Operation, data: bytes, content_type: str | None) -> Json:
    """Return the JSON of a body that an operation takes; None where it takes none. Raises Problem."""
    if operation.body is None:
        if data:
            raise Problem(400, "body-unexpected", "This takes no body", "send none")
        return None
    if not data and not operation.body.get("required"):
        return {}
    kind, _, rest = (content_type or "").partition(";")
    if kind.strip().lower() != "application/json" or rest.strip().lower() not in ("", "charset=utf-8"):
        raise Problem(415, "wrong-type", "This takes JSON", "send it as Content-Type: application/json")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unite, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        detail = f"{error.msg}, in line {error.lineno}, column {error.colno}"
        raise Problem(400, "bad-json", "The body is no JSON", detail, line=error.lineno, column=error.colno) from None
    except UnicodeDecodeError as error:
        raise Problem(400, "bad-json", "The body is no JSON", f"byte {error.start} is no UTF-8") from None
    except RecursionError:
        raise Problem(400, "bad-json", "The body is no JSON", "it is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, "bad-json", "The body is no JSON", str(error)) from None
    wrong = check_body(operation.body, value)
    if wrong is not None:
        where, why = wrong
        raise Problem(400, "bad-body", "The body is wrong", f"{where or 'the body'}: {why}", member=where)
    return value


def read_fields(fields: Iterable[tuple[bytes, Sequence[bytes]]]) -> Mapping[str, str]:
    """Return header fields by their names in lower case; several of a name as one (RFC 9110, section 5.3)."""
    return {name.decode("latin-1").lower(): b", ".join(values).decode("latin-1") for name, values in fields}


def read_form(data: bytes, content_type: str | None) -> Mapping[str, str]:
    """Return the fields of a form that a browser sent. Raises Problem."""
    if (content_type or "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise Problem(415, "wrong-type", "This takes a form", "send it as application/x-www-form-urlencoded")
    try:
        return dict(parse_qsl(data.decode("ascii"), errors="strict", max_num_fields=MAX_PARAMETERS))
    except ValueError:
        raise Problem(400, "bad-form", "The form can't be read", "write it as name=value&name=value") from None


def _unite(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    united = dict(pairs)
    if len(united) != len(pairs):
        raise ValueError("a member is there twice")
    return united


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
