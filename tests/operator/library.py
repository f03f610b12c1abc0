"""A whole server to ask at the operator's door in memory: real files, a real ledger, devices that behave as told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jsonschema_rs
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware import folder
from ota_server.firmware.digests import DigestStore
from ota_server.firmware.folder import POLICY_FILE, Folder
from ota_server.firmware.watch import FolderWatcher
from ota_server.fleet import database
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.decision import Send
from ota_server.fleet.fleet import Fleet
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.reading import LedgerReader
from ota_server.forgetful import Forgetful
from ota_server.keeper import FleetKeeper
from ota_server.operator import devices, event_list, events, explaining, reading, rollouts, status
from ota_server.operator.calls import Operation
from ota_server.operator.house import House
from ota_server.operator.site import make_operator_site
from ota_server.operator.turns import Turns
from ota_server.policy_watch import PolicyWatcher, load_policy
from tests.fleet.play import mac
from tests.operator.door import OperatorDoor, bearer, make_head
from tests.web.memory import OwnThreadPool, write_files

ROOMS = (reading, devices, rollouts, event_list, events, explaining, status)

LAMPS = {"lamp-1.0.0.bin": b"one", "lamp-1.1.0.bin": b"two"}


class Library(OperatorDoor):
    """The door, with the operations that read, in front of a folder and a fleet; the time is the test's."""

    def __init__(
        self,
        test: SynchronousTestCase,
        files: Mapping[str, bytes] = LAMPS,
        policy: str = "",
        *,
        remembers: bool = True,
        at: Path | None = None,
    ) -> None:
        super().__init__(test)
        test.patch(database, "LOCK_PATIENCE", 0.01)
        # What is there is whole.
        for name in ("SETTLE_TIME", "OPAQUE_SETTLE_TIME"):
            test.patch(folder, name, 0.0)
        self.test = test
        self.folder = Path(test.mktemp()).absolute() if at is None else at
        if at is None:
            self.folder.mkdir()
            write_files(self.folder, files)
            (self.folder / POLICY_FILE).write_text(policy)
        self.url = sqlite_url(self.folder / ".ledger.sqlite")
        pool: Any = OwnThreadPool()
        reactor: Any = self.clock
        rules = load_policy(self.folder / POLICY_FILE, required=True)
        self.keeper = FleetKeeper(Ledger(self.url), rules, reactor, pool, self.clock.seconds) if remembers else None
        kept = self.keeper or Forgetful(rules, self.clock.seconds)

        self.watcher = FolderWatcher(
            Folder(self.folder, DigestStore(None)), reactor, pool, self.clock.seconds, kept.take_catalog
        )
        self.rules = PolicyWatcher(self.folder / POLICY_FILE, True, reactor, pool, kept.take_policy, rules)
        reader = LedgerReader(self.url) if remembers else None
        self.house = House(
            self.watcher,
            kept,
            self.rules,
            reader,
            reactor,
            pool,
            Turns(reactor, pool),
            doors=("tcp:8000",),
            folder=str(self.folder),
            policy_file=str(self.folder / POLICY_FILE),
            started_at=self.clock.seconds(),
        )
        self.operations: dict[str, Operation] = {
            operation.name: operation for room in ROOMS for operation in room.make_operations(self.house)
        }
        self.site = make_operator_site([*self.operations.values()], self.tokens, self.clock, self.clock.seconds)
        for service in (self.keeper, self.watcher, self.rules):
            if service is not None:
                service.startService()
                test.addCleanup(lambda each: each.stopService() if each.running else None, service)
        if reader is not None:
            test.addCleanup(reader.close)

    @classmethod
    def beside(cls, other: Library) -> Library:
        """Return another server of the same folder, after the end of the one before."""
        assert other.keeper is not None
        other.keeper.stopService()
        return cls(other.test, at=other.folder)

    @property
    def fleet(self) -> Fleet:
        """The fleet in memory."""
        assert self.keeper is not None
        return self.keeper.loaded

    def check_in(self, number: int, version: str | None = "1.0.0", **told: Any) -> CheckIn:
        """Return what a device says."""
        values = {
            "channel": "stable",
            "project": "lamp",
            "dialect": "esp8266",
            "chip": "esp8266",
            "device": mac(number),
            "version": version,
            "mode": Mode.SKETCH,
            "free_space": 4 << 20,
        }
        return CheckIn(**(values | told))

    def check(self, number: int, version: str | None = "1.0.0", **told: Any) -> str:
        """Let a device check in, and return the reason of the answer."""
        return self.house.keeper.answer(self.check_in(number, version, **told), self.house.catalog, "192.0.2.1").reason

    def update(self, number: int, version: str = "1.0.0", **told: Any) -> None:
        """Let a device check in, and download what it is sent."""
        check_in = self.check_in(number, version, **told)
        decision = self.house.keeper.answer(check_in, self.house.catalog, "192.0.2.1")
        if isinstance(decision, Send) and self.keeper is not None:
            follower = self.keeper.watch(check_in, self.house.catalog, "192.0.2.1", lambda: None)
            follower.begun(decision.image)
            follower.downloaded(decision.image)
            follower.ended()

    def bounce(self, *numbers: int) -> None:
        """Let devices download, and come back as they were."""
        for number in numbers:
            self.update(number)
            self.check(number)

    def pass_time(self, seconds: float = 1.0) -> None:
        """Let time pass, so that all is written."""
        self.clock.pump([0.25] * int(seconds / 0.25))

    def call(self, name: str, /, *in_path: str, status: int = 200, **query: object) -> Any:
        """Call an operation, and return its JSON, which has to be as its schema says."""
        operation = self.operations[name]
        path = operation.address
        for value in in_path:
            head, _, tail = path.partition("{")
            path = head + quote(value, safe="") + tail.partition("}")[2]
        words = {key: str(value).lower() if isinstance(value, bool) else value for key, value in query.items()}
        answer = self.fetch(f"{path}?{urlencode(words)}" if words else path)
        self.test.assertEqual(answer[0], status, answer[1])
        if status in operation.answers:
            schema: Any = operation.answers[status]
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(answer[1])
        else:
            self.test.assertTrue(status in operation.problems or status in (400, 404, 503), (name, status))
        return answer[1]

    def fetch(self, path: str) -> tuple[int, Any]:
        """Return status and JSON of a GET."""
        connection = self.connect()
        connection.send(make_head(b"GET", path.encode("ascii"), bearer()))
        for _ in range(1000):
            if b"\r\n\r\n" in connection.received:
                break
            self.clock.advance(0)
        head, _, body = connection.received.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body)

    def pages(self, name: str, /, *in_path: str, **query: Any) -> list[Any]:
        """Return the items of all pages of a list."""
        found: list[Any] = []
        cursor: dict[str, Any] = {}
        while True:
            page = self.call(name, *in_path, **query, **cursor)
            found += page["items"]
            if page["next"] is None:
                return found
            cursor = {"cursor": page["next"]}
