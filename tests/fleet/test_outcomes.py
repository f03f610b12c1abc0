"""Tests of what a check-in shows of an attempt, and of how long a device is waited for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import Image
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decision import find_running
from ota_server.fleet.device import Attempt, Device, Outcome
from ota_server.fleet.outcomes import (
    MIN_PATIENCE,
    NEW_PATIENCE,
    UNKNOWN_PATIENCE,
    judge,
    numbers_told,
    patience,
    told_by,
)
from ota_server.fleet.rhythm import add_interval
from ota_server.fleet.rules import Rules
from tests.firmware.samples import make_catalog, make_image
from tests.fleet.play import HOUR, NOW, Play

_OLD, _NEW = make_image("lamp-1.0.0.bin"), make_image("lamp-1.1.0.bin")
_BETA, _DOOR = make_image("lamp-1.1.0.bin", channel="beta"), make_image("door-1.1.0.bin")
_TWIN = make_image("lamp-1.2.0.bin", b"stable/lamp-1.1.0.bin")
_CATALOG = make_catalog([_OLD, _NEW, _BETA, _DOOR])
_UNKNOWN = "0" * 32


def _judge(
    before: str | None, version: str | None, image: Image | str | None = None, *, kind: Kind = Kind.APP
) -> Outcome | None:
    """Judge an attempt at lamp 1.1.0 by a check-in that tells a version, and the hash of an image."""
    md5 = image.facts.md5 if isinstance(image, Image) else image
    check_in = CheckIn("stable", "lamp", "esp8266", "esp8266", "id", version, sketch_md5=md5)
    attempt = Attempt("stable", "lamp", kind, (1, 1, 0), _NEW.facts.sha256, before, NOW)
    return judge(attempt, check_in, find_running(check_in, _CATALOG))


class JudgeTests(SynchronousTestCase):
    """What a check-in shows."""

    def test_versions(self) -> None:
        """By the version: confirmed on the new one, bounced on the one before, drifted on any other."""
        for before, version, outcome in (
            ("1.0.0", "1.1.0", Outcome.CONFIRMED),
            ("1.0.0", "v1.1", Outcome.CONFIRMED),
            ("1.0.0", "1.1.0(lamp)", Outcome.CONFIRMED),
            ("1.0.0", "1.1.0(Lamp)", Outcome.CONFIRMED),
            ("1.0.0", "1.1.0+build.7", Outcome.CONFIRMED),
            ("1.0.0", "1.1.0-4-gabc123", Outcome.CONFIRMED),
            ("1.0.0", "1.0.0", Outcome.BOUNCED),
            ("1.0.0", "v1.0", Outcome.BOUNCED),
            ("1.0.0", "1.0.0 started 7", Outcome.BOUNCED),
            ("1.0.0", "0.9.0", Outcome.DRIFTED),
            ("1.0.0", "1.2.0", Outcome.DRIFTED),
            ("1.0.0", "1.1.0-rc.1", Outcome.DRIFTED),
            ("1.1.0-rc.1", "1.1.0-rc.1", Outcome.BOUNCED),
            (None, "1.1.0", Outcome.CONFIRMED),
            (None, "1.0.0", Outcome.DRIFTED),
            ("1.0.0", "nonsense", None),
            ("1.0.0", None, None),
            (None, None, None),
        ):
            with self.subTest(before, version=version):
                self.assertIs(_judge(before, version), outcome)
                self.assertIs(_judge(before, version, kind=Kind.FILESYSTEM), outcome)

    def test_other_build(self) -> None:
        """A device that runs another build of the very version hasn't confirmed it: it would be sent it for ever."""
        self.assertIs(_judge("1.1.0(mini)", "1.1.0(mini)"), Outcome.BOUNCED)
        self.assertIs(_judge("1.0.0(mini)", "1.1.0(mini)"), Outcome.DRIFTED)
        self.assertIs(_judge("1.1.0(mini)", "1.1.0"), Outcome.CONFIRMED)
        self.assertIs(_judge("1.1.0", "1.1.0", _DOOR), Outcome.BOUNCED)
        self.assertIs(_judge(_DOOR.facts.md5, None, _DOOR), Outcome.BOUNCED)
        play = Play.of("lamp-1.1.0.bin")
        reasons = [play.update(1, "1.1.0(mini)").reason for _ in range(5)]
        self.assertEqual(reasons, ["other-build"] * 3 + ["bounced"] * 2)

    def test_hashes(self) -> None:
        """A hash that names an image overrules what the device says of its version; one that names none doesn't."""
        for version in (None, "0.9", "1.0.0", "1.1.0", "9.9", "nonsense"):
            with self.subTest(version):
                self.assertIs(_judge("1.0.0", version, _NEW), Outcome.CONFIRMED)
                self.assertIs(_judge("1.0.0", version, _BETA), Outcome.CONFIRMED)
                self.assertIsNot(_judge("1.0.0", version, _OLD), Outcome.CONFIRMED)
        self.assertIs(_judge("1.0.0", "1.1.0", _UNKNOWN), Outcome.CONFIRMED)
        self.assertIs(_judge("1.0.0", "1.0.0", _UNKNOWN), Outcome.BOUNCED)
        self.assertIs(_judge(_OLD.facts.md5, None, _OLD), Outcome.BOUNCED)
        self.assertIs(_judge(_UNKNOWN, None, _UNKNOWN), Outcome.BOUNCED)
        self.assertIs(_judge(_OLD.facts.md5, None, _UNKNOWN), Outcome.DRIFTED)

    @settings(deadline=None, max_examples=200)
    @given(st.none() | st.text(max_size=128), st.none() | st.text(max_size=128), st.sampled_from([None, _OLD, _NEW]))
    def test_any_text(self, before: str | None, version: str | None, image: Image | None) -> None:
        """Any text is judged; the same as before is never a confirmation, but where a hash says so."""
        outcome = _judge(before, version, image)
        if image is _NEW:
            self.assertIs(outcome, Outcome.CONFIRMED)
        elif version is None and image is None:
            self.assertIsNone(outcome)
        if version is not None and image is None:
            self.assertIn(_judge(version, version), (Outcome.BOUNCED, Outcome.CONFIRMED, None))

    def test_told(self) -> None:
        """What is kept to compare with is the version, of bounded length, or else the stronger hash."""
        check_in = CheckIn("stable", "lamp", "esp8266", "esp8266", "id")
        self.assertIsNone(told_by(check_in))
        for changes, told in (
            ({"version": "1" * 500, "sketch_md5": "a"}, "1" * 128),
            ({"version": "", "sketch_md5": "a"}, ""),
            ({"sketch_md5": "a"}, "a"),
            ({"sketch_md5": "a", "sketch_sha256": "b"}, "b"),
        ):
            self.assertEqual(told_by(CheckIn("stable", "lamp", None, None, **changes)), told)  # type: ignore[arg-type]

    def test_numbers(self) -> None:
        """The version that runs is known by hash first, of several the highest, and by what is told second."""
        for version, running, numbers in (
            (None, (), None),
            ("nonsense", (), None),
            ("v1.2", (), (1, 2, 0)),
            ("1.2.3-rc.1", (), (1, 2, 3)),
            ("9.9", (_OLD,), (1, 0, 0)),
            (None, (_NEW, _TWIN), (1, 2, 0)),
        ):
            with self.subTest(version, running=running):
                check_in = CheckIn("stable", "lamp", None, None, version=version)
                told: Numbers | None = numbers_told(check_in, running)
                self.assertEqual(told, numbers)


class PatienceTests(SynchronousTestCase):
    """How long a device is waited for."""

    def _patience(self, *intervals: float, silent_after: float = 3.0) -> float:
        device = Device(1, "id", None, "stable", "lamp", NOW, NOW)
        for seconds in intervals:
            device.rhythm = add_interval(device.rhythm, seconds)
        return patience(device, Rules(silent_after=silent_after))

    def test_rhythms(self) -> None:
        """Three times its own rhythm, ten minutes at least; who is hardly known is given more."""
        self.assertEqual(self._patience(), UNKNOWN_PATIENCE)
        self.assertEqual(self._patience(60), NEW_PATIENCE)
        self.assertEqual(self._patience(60, 60), NEW_PATIENCE)
        self.assertEqual(self._patience(60, 60, 60), MIN_PATIENCE)
        self.assertEqual(self._patience(200, 200, 200), 600)
        self.assertEqual(self._patience(201, 201, 201), 603)
        self.assertEqual(self._patience(7 * 24 * HOUR), 21 * 24 * HOUR)
        self.assertEqual(self._patience(HOUR, HOUR, HOUR, silent_after=10), 10 * HOUR)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.floats(1, 1e7), max_size=10), st.floats(1, 100))
    def test_bounds(self, intervals: list[float], silent_after: float) -> None:
        """It is never less than ten minutes, and a policy that waits longer never makes it shorter."""
        waited = self._patience(*intervals, silent_after=silent_after)
        self.assertGreaterEqual(waited, MIN_PATIENCE)
        self.assertGreaterEqual(self._patience(*intervals, silent_after=silent_after + 1), waited)
