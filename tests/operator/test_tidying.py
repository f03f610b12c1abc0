"""Tidying up at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.journal import Event
from ota_server.operator.receiving import Inbox
from ota_server.operator.tidying import TidyingService
from ota_server.operator.yard import Yard
from tests.keeping import logged
from tests.web.memory import MemoryReactor, OwnThreadPool

RECORD = {
    "time": "2026-11-24T02:00:00.000Z",
    "actor": "operator:me",
    "channel": "stable",
    "project": "lamp",
    "version": "1.0.0",
}


class TidyingTests(SynchronousTestCase):
    """What a process that was killed left behind."""

    def setUp(self) -> None:
        """Make the folders."""
        self.root, self.state, self.rules = (Path(self.mktemp()).absolute() for _ in range(3))
        for each in (self.root, self.state, self.rules):
            each.mkdir()
        self.policy = Path(self.mktemp()).absolute()
        self.policy.symlink_to(self.rules / "ota.toml")
        self.inbox = Inbox(self.root)
        self.yard = Yard(self.inbox, self.state)
        self.events: list[Event] = []

    def tidy(self) -> list[str]:
        """Start, and return what is logged."""
        clock = MemoryReactor()
        pool: Any = OwnThreadPool()
        note = self.events.append
        service = TidyingService(self.inbox, self.yard, self.policy, clock, pool, clock.seconds, note)
        with logged() as lines:
            service.startService()
            clock.advance(0)
            stopped = service.stopService()
            assert stopped is not None
            self.successResultOf(stopped)
        return lines

    def test_all(self) -> None:
        """Halves go, also beside the policy file, and what was being withdrawn is; it is told, once."""
        parts = [folder / ".upload-0123456789abcdef.part" for folder in (self.root, self.rules)]
        for part in parts:
            part.write_bytes(b"half")
        image = self.root / "lamp-1.0.bin"
        image.write_bytes(b"image")
        begun = self.yard.folder / "then"
        begun.mkdir(parents=True)
        file = {"file": image.name, "size": 5, "mtime_ns": image.stat().st_mtime_ns}
        (begun / ".yanking.json").write_text(json.dumps(RECORD | {"files": [file]}))
        lines = self.tidy()
        self.assertEqual([part for part in parts if part.exists()], [])
        self.assertEqual((image.exists(), (begun / image.name).read_bytes()), (False, b"image"))
        self.assertIn("withdrawn by operator:me", lines[0])
        self.assertIn("2 files", lines[1])
        (event,) = self.events
        self.assertEqual((event.actor, event.kind), ("operator:me", "yanked"))
        self.assertIn("lamp-1.0.bin; kept in yanked/then; begun at 2026-11-24T02:00:00.000Z", event.text)
        self.assertEqual((self.tidy(), len(self.events)), ([], 1))

    def test_another_file_since(self) -> None:
        """A file that has come in the place of a withdrawn one stays."""
        image = self.root / "lamp-1.0.bin"
        image.write_bytes(b"newer")
        begun = self.yard.folder / "then"
        begun.mkdir(parents=True)
        file = {"file": image.name, "size": 5, "mtime_ns": 1}
        (begun / ".yanking.json").write_text(json.dumps(RECORD | {"files": [file]}))
        self.tidy()
        self.assertEqual(image.read_bytes(), b"newer")
        self.assertTrue((begun / "yanked.json").exists())

    def test_damaged_record(self) -> None:
        """A record that can't be read is told, and nothing is moved."""
        for text in ("{", "[]", '{"channel": "stable", "actor": "x", "files": [{"file": "../x"}]}'):
            begun = self.yard.folder / "then"
            begun.mkdir(parents=True, exist_ok=True)
            (begun / ".yanking.json").write_text(text)
            self.assertIn("can't be moved there", self.tidy()[0])
        self.assertEqual(self.events, [])

    def test_failure(self) -> None:
        """Whatever goes wrong, the server starts."""

        def fail(*ignored: object) -> None:
            raise ZeroDivisionError

        self.patch(self.inbox, "clean", fail)
        self.tidy()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
