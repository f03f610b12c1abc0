"""Tests of reading the ledger beside the server that writes it."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.journal import Batch, Event
from ota_server.fleet.ledger import Ledger, LedgerError, sqlite_url
from ota_server.fleet.reading import LedgerReader
from tests.fleet.databases import postgresql

NOW = 1_795_435_200.0


class ReaderCase:
    """What holds of each database."""

    url: str

    def open(self) -> Ledger:
        """Return an open ledger."""
        ledger = Ledger(self.url)
        ledger.open(NOW)
        self.addCleanup(ledger.close)  # type: ignore[attr-defined]
        return ledger

    def test_beside_the_writer(self) -> None:
        """What has been written is read, while the writer goes on; filters and counts agree."""
        ledger = self.open()
        reader = LedgerReader(self.url)
        self.addCleanup(reader.close)  # type: ignore[attr-defined]
        for number in range(1, 5):
            device = f"{number % 2}"
            events = [
                Event(NOW + number, "server", kind, "text", "stable", f"p{number}", (1, 0, number), device)
                for kind in ("one", "two")
            ]
            ledger.write(Batch(number, events=events))
            count = reader.read(lambda each: each.count_events())
            assert count == 2 * number, count
        for about, total in (
            ({"kind": "one"}, 4),
            ({"device": "1"}, 4),
            ({"device": "1", "kind": "two"}, 2),
            ({"project": "p3"}, 2),
            ({"channel": "beta"}, 0),
            ({"since": NOW + 3}, 4),
            ({"kind": "a\0b"}, 0),
        ):
            found = reader.read(lambda each, about=about: each.events(100, **about))  # type: ignore[misc]
            counted = reader.read(lambda each, about=about: each.count_events(**about))  # type: ignore[misc]
            assert (len(found), counted) == (total, total), (about, len(found), counted)
        later = reader.read(lambda each: each.events(100, after=(3, 0), kind="one"))
        assert [number for number, _ in later] == [(4, 0)], later


class SqliteTests(ReaderCase, SynchronousTestCase):
    """SQLite."""

    def setUp(self) -> None:
        """Choose the file."""
        self.path = Path(self.mktemp()).absolute()
        self.url = sqlite_url(self.path)

    def test_none_yet(self) -> None:
        """Before there is a ledger that is an error; afterwards it is read."""
        reader = LedgerReader(self.url)
        self.addCleanup(reader.close)
        self.assertRaises(LedgerError, reader.read, lambda each: each.count_events())
        self.open()
        self.assertEqual(reader.read(lambda each: each.count_events()), 0)

    def test_set_aside(self) -> None:
        """Where a damaged file was set aside, the new one is read."""
        ledger = self.open()
        reader = LedgerReader(self.url)
        self.addCleanup(reader.close)
        ledger.write(Batch(1, events=[Event(NOW, "server", "one", "text")]))
        self.assertEqual(reader.read(lambda each: each.count_events()), 1)
        ledger.begin_anew(NOW)
        self.assertEqual(reader.read(lambda each: each.count_events()), 0)


class PostgresqlTests(ReaderCase, SynchronousTestCase):
    """PostgreSQL."""

    def setUp(self) -> None:
        """Empty the database."""
        self.url = postgresql().empty()
