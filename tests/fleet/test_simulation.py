"""Tests for simulated fleets, which are also tests of the fleet's memory and ledger from one end to the other."""

from __future__ import annotations

import struct
from pathlib import Path

import attrs
from semver import Version
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.crowd import IMAGE_SIZE
from ota_server.fleet.device import Attempt, Device
from ota_server.fleet.journal import Memory
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.policy import read_policy
from ota_server.fleet.rollout import State
from ota_server.fleet.scenario import (
    BEGIN,
    DAY,
    HOUR,
    Chance,
    Fault,
    FaultKind,
    Rhythm,
    Scenario,
    ScenarioError,
    read_chance,
    read_chips,
    read_fault,
    read_off,
    read_rhythms,
    read_span,
)
from ota_server.fleet.servers import FleetServer, PlainServer
from ota_server.fleet.simulation import Simulation
from ota_server.fleet.tally import Result

PLACE = ("stable", "firmware")
NEW = (1, 1, 0)

SMALL = Scenario(
    devices=300, days=8, release_at=2 * DAY, rhythms=(Rhythm(HOUR, 0.3), Rhythm(6 * HOUR, 0.5), Rhythm(DAY, 0.2))
)
STAGES = 'stages = ["1", "10%", "100%"]'


def make(scenario: Scenario, policy: str = "") -> tuple[Simulation, FleetServer]:
    """Return a simulation with a server without a ledger."""
    server = FleetServer(Memory(), read_policy(policy, "ota.toml"), PLACE, lambda batch: None)
    return Simulation(scenario, "test", server), server


def play(scenario: Scenario, policy: str = "") -> Result:
    """Play a scenario with a server without a ledger."""
    return make(scenario, policy)[0].run()


def with_fault(text: str, **more: object) -> Scenario:
    """Return the small scenario with a fault, and other changes."""
    return attrs.evolve(SMALL, fault=read_fault(text), **more)  # type: ignore[arg-type]


class SimulationTests(SynchronousTestCase):
    """What becomes of a fleet."""

    def test_same_again(self) -> None:
        """The same scenario has the same result, and another seed another."""
        scenario = attrs.evolve(with_fault("dies", failure_rate=0.05), days=4)
        self.assertEqual(play(scenario, STAGES), play(scenario, STAGES))
        self.assertNotEqual(play(scenario).samples, play(attrs.evolve(scenario, seed=2)).samples)

    def test_good_release(self) -> None:
        """A good release gets everywhere, by default and by stages."""
        for policy in ("", STAGES):
            result = play(SMALL, policy)
            self.assertEqual((result.harmed, result.halt), (0, None))
            assert result.updated_after["99%"] is not None
            self.assertGreaterEqual(result.updated, 0.99 * result.alive)
            self.assertEqual(result.alive + result.left, result.devices)
            self.assertGreaterEqual(result.bytes_in_vain, result.in_vain * IMAGE_SIZE)

    def test_dies(self) -> None:
        """A release that never starts harms a few by default, and one device by stages."""
        result = play(with_fault("dies"))
        self.assertLessEqual(result.harmed, 5)
        assert result.halt is not None
        self.assertEqual(result.harmed, result.took)
        result = play(with_fault("dies"), STAGES)
        self.assertEqual((result.harmed, result.dead, result.took), (1, 0, 1))
        assert result.halt is not None
        self.assertEqual(result.halt.downloads, 1)

    def test_plain_server(self) -> None:
        """A server that always serves the newest harms every device, and again and again."""
        scenario = with_fault("dies")
        result = Simulation(scenario, "plain", PlainServer()).run()
        self.assertGreater(result.bounced, 0.97 * result.devices)
        self.assertGreater(result.in_vain, 100 * result.devices)
        self.assertEqual((result.updated, result.halt, result.steps), (0, None, ()))
        result = Simulation(SMALL, "plain", PlainServer()).run()
        self.assertGreaterEqual(result.updated, 0.99 * result.alive)
        self.assertLess(result.in_vain, 0.1 * result.devices)

    def test_never_returns(self) -> None:
        """A release that no device comes back from is halted when two are silent, and after one by stages."""
        result = play(with_fault("never-returns"))
        assert result.halt is not None
        self.assertGreater(result.halt.time, 2.5 * HOUR)
        self.assertEqual(result.silent, result.dead)
        self.assertEqual(result.bounced, 0)
        self.assertEqual(play(with_fault("never-returns"), STAGES).dead, 1)

    def test_dies_after(self) -> None:
        """A release that dies later is seen by a stage that waits for longer."""
        scenario = with_fault("dies-after:1h")
        self.assertIsNone(play(scenario).halt)
        result = play(scenario, f'{STAGES}\nsoak = "1d"')
        assert result.halt is not None
        self.assertLessEqual(result.dead, 31)

    def test_wrong_version(self) -> None:
        """A release that tells the old version runs well where a hash is told, and comes again where none is."""
        result = play(with_fault("wrong-version", hashes=1.0))
        self.assertEqual((result.harmed, result.halt), (0, None))
        result = play(with_fault("wrong-version", hashes=0.0))
        assert result.halt is not None
        self.assertLessEqual(result.harmed, 5)

    def test_one_chip(self) -> None:
        """A fault of one chip harms no other."""
        scenario = with_fault("dies-on:esp32s3:30%")
        self.assertAlmostEqual(sum(scenario.shares_of_chips().values()), 1.0)
        simulation, _ = make(scenario, 'halt = { failures = 300, share = "50%" }')
        result = simulation.run()
        hit = [actor for actor in simulation.crowd if actor.bounced]
        self.assertEqual({actor.chip for actor in hit}, {"esp32s3"})
        self.assertEqual(len(hit), result.bounced)
        self.assertGreater(result.bounced, 60)
        self.assertGreater(result.braked, 60)
        self.assertEqual(result.updated, sum(not actor.gone and actor.runs == 1 for actor in simulation.crowd))

    def test_fix(self) -> None:
        """After the halt a good release can come, which gets everywhere."""
        result = play(with_fault("dies", fix_after=DAY))
        assert result.halt is not None
        self.assertEqual(result.fixed_at, result.halt.time + DAY)
        self.assertGreaterEqual(result.updated, 0.99 * result.alive)
        self.assertEqual({step.version for step in result.steps}, {"1.1.0", "1.1.1"})

    def test_seats(self) -> None:
        """Never do more devices hold a staged release than its stage has seats."""
        simulation, server = make(
            attrs.evolve(SMALL, bad_links=Chance(0.5, 0.5)), 'stages = ["3", "10%", "50%", "100%"]'
        )
        seats: list[int] = []

        def observe() -> None:
            rollout = server.rollout(NEW)
            if rollout is not None and rollout.seats is not None:
                holders = sum(actor.took or actor.pending is not None for actor in simulation.crowd)
                self.assertLessEqual(holders, rollout.seats)
                if rollout.seats not in seats[-1:]:
                    seats.append(rollout.seats)

        simulation.run(observe)
        self.assertEqual(seats[:3], [3, 30, 150])

    def test_ledger(self) -> None:
        """What the ledger holds at the end is what is in memory: devices, attempts and the counts of rollouts."""
        for number, (fault, policy) in enumerate(
            [("none", ""), ("dies-on:esp32c3:8%", 'halt = { failures = 9, share = "50%" }'), ("never-returns", STAGES)]
        ):
            url = sqlite_url(Path(self.mktemp()).absolute().with_name(f"ledger{number}"))
            ledger = Ledger(url)
            ledger.open(BEGIN)
            self.addCleanup(ledger.close)
            server = FleetServer(ledger.load(BEGIN), read_policy(policy, "ota.toml"), PLACE, ledger.write)
            scenario = attrs.evolve(with_fault(fault), days=5, fix_after=HOUR)
            simulation = Simulation(scenario, "test", server)
            simulation.run()
            self._compare(server, ledger.load(simulation.now))

    def _compare(self, server: FleetServer, loaded: Memory) -> None:
        fleet = server.fleet
        places = fleet.course.places
        self.assertEqual(loaded.places.keys(), places.keys())
        for place, rollouts in places.items():
            self.assertEqual(loaded.places[place].fleet, rollouts.fleet)
            self.assertEqual(loaded.places[place].barred, rollouts.barred)
            self.assertEqual(loaded.places[place].by_version.keys(), rollouts.by_version.keys())
            for version, rollout in rollouts.by_version.items():
                again = loaded.places[place].by_version[version]
                counts = {outcome: number for outcome, number in rollout.outcomes.items() if number}
                self.assertEqual(again.outcomes, counts)
                for name in ("state", "stage", "seats", "admitted", "acknowledged"):
                    self.assertEqual(getattr(again, name), getattr(rollout, name), name)
        self.assertEqual(loaded.devices.keys(), fleet.devices.keys())
        for id_, device in fleet.devices.items():
            other = loaded.devices[id_]
            for name in (
                "key",
                "dialect",
                "channel",
                "project",
                "address",
                "version",
                "image",
                "chip",
                "taken",
                "taken_downloads",
            ):
                self.assertEqual(getattr(other, name), getattr(device, name), name)
            # Sightings are kept to a fraction of a second, so that an interval may be a second off.
            self.assertLess(abs(other.last_seen - device.last_seen), 0.01)
            for one, another in zip(self._intervals(other), self._intervals(device), strict=True):
                self.assertLessEqual(abs(one - another), 1)
            self.assertEqual([self._attempt(each) for each in other.attempts], [*map(self._attempt, device.attempts)])

    def _intervals(self, device: Device) -> tuple[int, ...]:
        return struct.unpack(f"<{len(device.rhythm) // 4}I", device.rhythm)

    def _attempt(self, attempt: Attempt) -> tuple[object, ...]:
        """Return an attempt to compare: that it was offered once more before it was taken isn't written."""
        return tuple(value for name, value in attrs.asdict(attempt, recurse=False).items() if name != "offered_at")

    def test_window(self) -> None:
        """A policy's hours hold in simulated time."""
        scenario = attrs.evolve(SMALL, days=5)
        simulation, server = make(scenario, 'window = "02:00-03:00"')
        told: set[int] = set()

        def observe() -> None:
            downloading = any(actor.pending is not None for actor in simulation.crowd)
            if downloading:
                told.add(int((simulation.now - BEGIN) % DAY // HOUR))

        simulation.run(observe)
        # A download that began at the last moment goes on, and the minute is looked at when it is over.
        self.assertTrue(told)
        self.assertLessEqual(told, {2, 3})
        rollout = server.rollout(NEW)
        assert rollout is not None
        self.assertIs(rollout.state, State.RUNNING)


class ScenarioTests(SynchronousTestCase):
    """Reading what is to be played."""

    def test_read(self) -> None:
        """What can be read is read."""
        self.assertEqual(read_span("90m"), 5400)
        self.assertEqual(read_fault("bricks"), Fault(FaultKind.NEVER_RETURNS))
        self.assertEqual(read_fault("dies-after").after, HOUR)
        self.assertEqual(read_fault("dies-after:2h"), Fault(FaultKind.DIES_AFTER, after=7200))
        self.assertEqual(read_fault("dies-on:ESP32-C3:5%"), Fault(FaultKind.DIES, "esp32c3", 0.05))
        self.assertEqual(read_rhythms("1h:25%, 7d:75%"), (Rhythm(HOUR, 0.25), Rhythm(7 * DAY, 0.75)))
        self.assertEqual(read_chips("esp8266:60%,esp32:40%"), {"esp8266": 0.6, "esp32": 0.4})
        self.assertEqual(read_chance("5%:50%"), Chance(0.05, 0.5))
        self.assertEqual(read_off("20%:8h"), (0.2, 8 * HOUR))

    def test_refused(self) -> None:
        """What can't be says what to write instead."""
        for read, text in (
            (read_span, "soon"),
            (read_fault, "burns"),
            (read_fault, "dies:5%"),
            (read_fault, "dies-on:avr"),
            (read_fault, "dies-on:esp32:many"),
            (read_rhythms, "1h:20%,6h:60%"),
            (read_rhythms, "1h"),
            (read_rhythms, "1s:100%"),
            (read_rhythms, "1h:50%,1h:50%"),
            (read_chips, "abacus:100%"),
            (read_chance, "5%"),
            (read_off, "20%"),
            (read_off, "20%:1d"),
            (read_off, "x:8h"),
        ):
            error = self.assertRaises(ScenarioError, read, text)
            self.assertNotIn("\n", str(error))

    def test_does_not_fit(self) -> None:
        """Parts that don't fit together are refused."""
        for change in (
            {"devices": 0},
            {"devices": 2_000_000},
            {"days": 0.0},
            {"release_at": 9 * DAY},
            {"new": Version(1, 0, 0)},
        ):
            with self.assertRaises(ScenarioError):
                attrs.evolve(SMALL, **change)
