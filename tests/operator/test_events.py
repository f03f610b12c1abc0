"""Tests of events: as a list, and as a stream in memory."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.journal import Event
from ota_server.operator import events as events_module
from ota_server.operator.shapes import read_number
from tests.fleet.play import mac
from tests.operator.door import OperatorConnection, bearer, make_head
from tests.operator.library import Library
from tests.operator.streaming import StreamReader

PATH = "/api/v1/events/stream"


class Follower:
    """A client of the stream in memory."""

    def __init__(self, library: Library, query: str = "", last_id: str | None = None, method: bytes = b"GET") -> None:
        fields = [] if last_id is None else [f"Last-Event-ID: {last_id}".encode("ascii")]
        self.connection: OperatorConnection = library.connect()
        self.reader = StreamReader()
        self._read = 0
        self.connection.send(make_head(method, f"{PATH}{query}".encode("ascii"), bearer(), *fields))

    def read(self) -> StreamReader:
        """Read what has come so far."""
        data = self.connection.received
        self.reader.feed(data[self._read :])
        self._read = len(data)
        return self.reader


class EventsCase(SynchronousTestCase):
    """Tests with a server that decides things."""

    def setUp(self) -> None:
        """Start it."""
        self.library = Library(self)

    def tell(self, *texts: str, **about: Any) -> None:
        """Let the server decide something, and write it down."""
        for text in texts:
            self.library.fleet.outbox.told(Event(self.library.clock.seconds(), "server", "test", text, **about))
        self.library.pass_time()

    def listed(self, **query: Any) -> list[str]:
        """Return the ids of all events in the ledger, the oldest first."""
        return [each["id"] for each in reversed(self.library.pages("list_events", **query))]


class ListTests(EventsCase):
    """The list of events."""

    def test_newest_first(self) -> None:
        """Events are told with all that they are about, the newest first, on pages that don't shift."""
        self.library.bounce(1, 2)
        self.library.pass_time()
        first = self.library.call("list_events", limit=1)
        self.tell("later")
        rest = self.library.pages("list_events", limit=1, cursor=first["next"])
        kinds = [each["kind"] for each in (*first["items"], *rest)]
        self.assertEqual(kinds, ["halted", "started"])
        event = first["items"][0]
        self.assertEqual((event["project"], event["channel"], event["version"]), ("lamp", "stable", "1.1.0"))
        self.assertEqual((event["actor"], event["device"]), ("server", None))
        self.assertEqual(self.library.call("list_events")["items"][0]["text"], "later")
        self.assertEqual(self.library.call("list_events", limit=1)["total"], 3)

    def test_filters(self) -> None:
        """They can be sought by kind, project, channel, device and time."""
        self.tell("one", project="lamp", channel="stable")
        self.tell("two", project="lamp", channel="beta", device=mac(1))
        self.tell("three", project="fan", channel="stable")
        queries: tuple[tuple[dict[str, Any], list[str]], ...] = (
            ({"project": "lamp"}, ["two", "one"]),
            ({"channel": "stable"}, ["three", "one"]),
            ({"device": mac(1)}, ["two"]),
            ({"kind": "test"}, ["three", "two", "one"]),
            ({"kind": "halted"}, []),
            ({"since": "2026-11-23T12:00:01Z"}, ["three", "two"]),
            ({"since": "2026-11-23T12:00:01Z", "project": "fan"}, ["three"]),
            ({"device": "\0"}, []),
        )
        for query, texts in queries:
            with self.subTest(query):
                self.assertEqual([each["text"] for each in self.library.pages("list_events", **query)], texts)
                self.assertEqual(self.library.call("list_events", **query)["total"], len(texts))


class StreamTests(EventsCase):
    """The stream of events."""

    def test_from_now_on(self) -> None:
        """Without anything said a stream begins now, and tells where that is."""
        self.tell("before")
        client = Follower(self.library)
        reader = client.read()
        self.assertEqual((reader.status, reader.events, reader.retry), (200, [], 2000))
        self.assertEqual(reader.last_id, self.listed()[-1])
        self.tell("one", "two")
        self.tell("three")
        self.assertEqual([each["text"] for each in client.read().events], ["one", "two", "three"])
        self.assertEqual(reader.ids, self.listed()[1:])

    def test_number_of_another_ledger(self) -> None:
        """A client with a number that this ledger has yet to give hears what comes from now on, and goes on there."""
        self.tell("before")
        clients = [Follower(self.library, last_id="999999-0"), Follower(self.library, "?after=999999-0")]
        for client in clients:
            self.assertEqual((client.read().status, client.read().last_id), (200, self.listed()[-1]))
        self.tell("one")
        for client in clients:
            self.assertEqual([each["text"] for each in client.read().events], ["one"])

    def test_number_before_anything(self) -> None:
        """The same where nothing has ever happened."""
        client = Follower(self.library, last_id="7-0")
        self.assertEqual(client.read().events, [])
        self.tell("one")
        self.assertEqual([each["text"] for each in client.read().events], ["one"])

    def test_only_what_is_on_disk(self) -> None:
        """Nothing is told before it is in the ledger."""
        client = Follower(self.library)
        with_lock = self.library.fleet.outbox
        with_lock.told(Event(1.0, "server", "test", "soon"))
        self.assertEqual(client.read().events, [])
        self.library.pass_time()
        self.assertEqual([each["text"] for each in client.read().events], ["soon"])

    def test_resume_anywhere(self) -> None:
        """From whichever event a client resumes, it gets what follows, once, from memory or from the ledger."""
        self.patch(events_module, "KEPT", 5)
        self.patch(events_module, "PAGE", 3)
        for number in range(6):
            self.tell(*(f"{number}-{part}" for part in range(number % 3 + 1)))
        ids = self.listed()
        self.assertEqual(len(ids), 12)
        for place, last_id in enumerate(ids):
            for query, header in ((f"?after={last_id}", None), ("", last_id), ("?after=0-0", last_id)):
                with self.subTest(last_id, query=query, header=header):
                    client = Follower(self.library, query, header)
                    self.assertEqual(client.read().ids, ids[place + 1 :])
        everything = Follower(self.library, "?after=0-0")
        self.assertEqual(everything.read().ids, ids)
        self.tell("last")
        self.assertEqual(everything.read().ids, self.listed())

    def test_after_a_restart(self) -> None:
        """What another process wrote is told, too, and what is written from now on behind it."""
        self.tell("one", "two")
        library = self.library
        other = Library.beside(library)
        self.addCleanup(other.hang_up)
        self.library = other
        ids = self.listed()
        client = Follower(other, f"?after={ids[0]}")
        newcomer = Follower(other)
        self.assertEqual(client.read().ids, ids[1:])
        self.assertEqual(newcomer.read().last_id, ids[-1])
        self.tell("three")
        self.assertEqual([each["text"] for each in client.read().events], ["two", "three"])
        self.assertEqual([each["text"] for each in newcomer.read().events], ["three"])

    def test_filters(self) -> None:
        """A stream may leave events out; its position goes on all the same."""
        self.patch(events_module, "KEPT", 4)
        self.tell("one", project="lamp")
        live = Follower(self.library, "?project=lamp")
        for text in ("a", "b", "c", "d", "e"):
            self.tell(text, project="fan")
        self.tell("two", project="lamp")
        self.tell("f", project="fan")
        self.assertEqual([each["text"] for each in live.read().events], ["two"])
        late = Follower(self.library, "?project=lamp&after=0-0")
        self.assertEqual([each["text"] for each in late.read().events], ["one", "two"])
        self.library.pass_time(events_module.HEARTBEAT)
        for client in (live, late):
            self.assertEqual(client.read().last_id, self.listed()[-1])
        resumed = Follower(self.library, "?project=lamp", last_id=live.reader.last_id)
        self.tell("three", project="lamp")
        self.assertEqual([each["text"] for each in resumed.read().events], ["three"])

    def test_heartbeats(self) -> None:
        """While nothing happens a client hears something, and nobody else is bothered."""
        client = Follower(self.library)
        self.library.pass_time(3 * events_module.HEARTBEAT)
        self.assertEqual(client.read().comments, 3)
        client.connection.lose()
        self.library.pass_time(1)
        soon = self.library.clock.seconds() + 6
        self.assertEqual([each for each in self.library.clock.getDelayedCalls() if each.getTime() > soon], [])

    def test_end_of_life(self) -> None:
        """A stream ends after a while, properly, and is resumed without a gap."""
        client = Follower(self.library)
        self.tell("one")
        self.library.pass_time(events_module.LIFE + events_module.HEARTBEAT)
        self.assertTrue(client.read().ended)
        self.tell("two")
        resumed = Follower(self.library, last_id=client.reader.last_id)
        self.assertEqual([each["text"] for each in resumed.read().events], ["two"])

    def test_slow_client(self) -> None:
        """A client that takes nothing is dropped, and nothing piles up for it; when it resumes, nothing is missing."""
        client = Follower(self.library)
        transport = client.connection.transport
        text = "x" * 4000
        for _ in range(100):
            self.tell(*[text] * 10)
            if transport.paused:
                break
        self.assertTrue(transport.paused)
        sent = len(client.connection.received)
        self.tell(*[text] * 100)
        self.assertEqual(len(client.connection.received), sent)
        self.library.pass_time(events_module.SLOW)
        self.assertTrue(transport.aborted)
        client.connection.lose()
        reader = client.read()
        resumed = Follower(self.library, last_id=reader.last_id)
        while resumed.connection.transport.paused:
            resumed.connection.transport.drain()
        self.assertEqual(reader.ids + resumed.read().ids, self.listed())

    def test_one_reading_for_many(self) -> None:
        """Many clients that are up to date cost the ledger nothing."""
        clients = [Follower(self.library) for _ in range(50)]
        self.tell("first")
        reader = self.library.house.reader
        assert reader is not None
        self.patch(reader, "read", lambda ask: self.fail("the ledger was read"))
        self.tell("one", "two")
        for client in clients:
            self.assertEqual([each["text"] for each in client.read().events][-2:], ["one", "two"])

    def test_too_many(self) -> None:
        """There is a bound to how many may follow."""
        self.patch(events_module, "MAX_CLIENTS", 2)
        clients = [Follower(self.library) for _ in range(3)]
        self.assertEqual([client.read().status for client in clients], [200, 200, 503])
        clients[0].connection.lose()
        self.assertEqual(Follower(self.library).read().status, 200)

    def test_head(self) -> None:
        """HEAD answers at once, and follows nothing."""
        client = Follower(self.library, method=b"HEAD")
        self.assertIn(b"200 OK", client.connection.received)
        self.tell("something")
        self.assertNotIn(b"something", client.connection.received)

    def test_ledger_trouble(self) -> None:
        """Where the ledger can't be read the stream ends, and the client is to come again."""
        self.patch(events_module, "KEPT", 2)
        self.tell("one", "two", "three")
        (self.library.folder / ".ledger.sqlite").rename(self.library.folder / ".aside")
        client = Follower(self.library, "?after=0-0")
        self.assertEqual((client.read().status, client.reader.events, client.reader.ended), (200, [], True))
        (self.library.folder / ".aside").rename(self.library.folder / ".ledger.sqlite")
        self.assertEqual(len(Follower(self.library, "?after=0-0").read().events), 3)

    def test_numbers(self) -> None:
        """The id of an event is two numbers, and nothing else."""
        self.assertEqual(read_number("12-0"), (12, 0))
        for text in ("", "12", "12-", "-12", "12-0-1", "a-b", "1-٣", f"{'9' * 30}-1", " 1-1", "+1-1"):
            with self.subTest(text):
                self.assertRaises(ValueError, read_number, text)
                if text.isascii() and text.strip() == text:
                    self.assertEqual(Follower(self.library, last_id=text or "x").read().status, 400)
