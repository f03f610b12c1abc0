"""Hooks of schemathesis: what the description of the API can't say of requests that are to be taken."""

from __future__ import annotations

from typing import Any

import schemathesis

ON_HAND = {
    "device": ("5C:CF:7F:00:00:01", "5C:CF:7F:00:00:02"),
    "project": ("lamp",),
    "version": ("1.0.0", "1.1.0"),
}
"""What there is on the server, by the names of parameters in addresses."""

_count = 0


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Correct a request that was made to be taken; those that were made to be refused go as they are."""
    global _count
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    _count += 1
    # A cursor is the server's own, and the digest is that of a body which isn't known when it is made up.
    case.query.pop("cursor", None)
    for name in ("Content-Digest", "Content-Range"):
        case.headers.pop(name, None)
    if case.operation.path.endswith("/explain") and "device" not in case.query:
        case.query.setdefault("project", "lamp")
    if case.operation.path.endswith("/rename") and isinstance(case.body, dict) and "name" in case.body:
        # What looks like an id can't be a name, nor what can't be shown.
        case.body["name"] = f"lamp {_count}"
    if "file" in case.path_parameters:
        case.path_parameters["file"] = f"lamp-2.{_count}.0.bin"
    if "channel" in case.path_parameters:
        # Schemathesis looks at `+` as it is escaped, and then takes it for wrong.
        case.path_parameters["channel"] = "beta"
    if len(case.path_parameters.get("project", "")) > 200:
        # With its version the file's name would be too long for the disk.
        case.path_parameters["project"] = "lamp"
    # What the others ask about has to stay.
    if _count % 3 and case.method != "DELETE" and not case.operation.path.endswith("/forget"):
        for name in case.path_parameters.keys() & ON_HAND.keys():
            values = ON_HAND[name]
            case.path_parameters[name] = values[_count % len(values)]
