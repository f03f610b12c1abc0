"""The operator's door with the operations that change something, in memory: real files, a real ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import attrs
from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator import ordering, publishing, writing, yanking
from ota_server.operator.problems import COMMON_PROBLEMS
from ota_server.operator.receiving import Inbox
from ota_server.operator.site import make_operator_site
from ota_server.operator.yard import Yard
from tests.operator.door import TOKEN, OperatorConnection, bearer, make_head
from tests.operator.library import LAMPS, Library

Told = tuple[int, Any]
"""The status of an answer, and its JSON."""


class Workshop(Library):
    """A library in which things may be changed, too."""

    def __init__(
        self,
        test: SynchronousTestCase,
        files: Mapping[str, bytes] = LAMPS,
        policy: str = "",
        *,
        remembers: bool = True,
        max_image: int = 1 << 20,
    ) -> None:
        super().__init__(test, files, policy, remembers=remembers)
        self.state = Path(test.mktemp()).absolute()
        self.inbox = Inbox(self.folder, (), max_image)
        self.yard = Yard(self.inbox, self.state)
        self.house = attrs.evolve(self.house, inbox=self.inbox, yard=self.yard)
        for room in (publishing, yanking, ordering, writing):
            self.operations |= {each.name: each for each in room.make_operations(self.house)}
        self.site = make_operator_site([*self.operations.values()], self.tokens, self.clock, self.clock.seconds)

    def path(self, name: str, *in_path: str, **query: str) -> str:
        """Return the path of an operation."""
        path = self.operations[name].address
        for value in in_path:
            head, _, tail = path.partition("{")
            path = head + quote(value, safe="") + tail.partition("}")[2]
        return f"{path}?{urlencode(query)}" if query else path

    def begin(self, name: str, *in_path: str, fields: tuple[bytes, ...] = (), **query: str) -> OperatorConnection:
        """Send the head of a request."""
        connection = self.connect()
        method = self.operations[name].method.encode()
        connection.send(make_head(method, self.path(name, *in_path, **query).encode(), bearer(TOKEN), *fields))
        return connection

    def told(self, connection: OperatorConnection) -> Told:
        """Wait for the answer of a request, and return it."""
        for _ in range(1000):
            if b"\r\n\r\n" in connection.received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""):
                break
            self.clock.advance(0)
        head, _, body = connection.received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body)

    def send(self, name: str, *in_path: str, body: bytes = b"", fields: tuple[bytes, ...] = (), **query: str) -> Told:
        """Send a whole request, and return its answer, whose form is checked."""
        fields = (*fields, b"Content-Length: %d" % len(body))
        connection = self.begin(name, *in_path, fields=fields, **query)
        for start in range(0, len(body), 10_000):
            connection.send(body[start : start + 10_000])
        status, told = self.told(connection)
        self.judge(name, status, told)
        return status, told

    def post(self, name: str, /, *in_path: str, **body: Any) -> Told:
        """Send JSON, or nothing."""
        data = json.dumps(body).encode() if body else b""
        return self.send(name, *in_path, body=data, fields=(b"Content-Type: application/json",) if body else ())

    def judge(self, name: str, status: int, told: Any) -> None:
        """See whether an answer is as the operation says."""
        import jsonschema_rs

        operation = self.operations[name]
        if status in operation.answers:
            schema: Any = operation.answers[status]
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(told)
        else:
            self.test.assertTrue(status in operation.problems or status in COMMON_PROBLEMS, (name, status))
            self.test.assertEqual(told["status"], status)

    def files(self, folder: Path | None = None) -> dict[str, bytes]:
        """Return the files of the folder, hidden ones as well, but for the ledger and the policy."""
        folder = folder or self.folder
        found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if not name.startswith((".ledger", "ota.toml"))}

    def events(self) -> list[tuple[str, str]]:
        """Return the kinds of the events on disk that operators caused, the oldest first, each with its actor."""
        found = self.call("list_events", limit=100)["items"] if self.keeper is not None else []
        return [(each["kind"], each["actor"]) for each in reversed(found) if each["actor"] != "server"]
