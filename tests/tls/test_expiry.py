"""Tests of warnings before certificates end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.tls.expiry import DAY, WARNING_DAYS, Expiry, ExpiryWarnings
from tests.certificates import FAR, Authority

ENDS = 1_795_435_200.0
LAMP = Expiry("lamp.example", "/etc/lamp.pem", ENDS)


class ExpiryTests(SynchronousTestCase):
    """When one certificate ends, and what is said of that."""

    def test_of_a_certificate(self) -> None:
        """Name, file and end are those of the certificate."""
        issued = Authority.root("Root").issue("ota.example", ends=FAR)
        self.assertEqual(Expiry.of(issued.certificate, "/x.pem"), Expiry("ota.example", "/x.pem", float(int(FAR))))

    def test_levels(self) -> None:
        """The level is the smallest number of days that the time left is within, both bounds as people count."""
        for left, level in (
            (30 * DAY + 1, None),
            (30 * DAY, 30),
            (14 * DAY + 1, 30),
            (14 * DAY, 14),
            (3 * DAY + 1, 14),
            (3 * DAY, 3),
            (1, 3),
            (0, 0),
            (-1000 * DAY, 0),
        ):
            self.assertEqual(LAMP.level(ENDS - left), level, left)

    def test_words(self) -> None:
        """What is said fits the time left: never `in 1 days`, and the moment to the minute."""
        start = "the certificate of lamp.example in /etc/lamp.pem"
        end = "on 2026-11-23 08:00 UTC: renew it"
        moment = ENDS - ENDS % DAY + 8 * 3600
        lamp = Expiry("lamp.example", "/etc/lamp.pem", moment)
        self.assertEqual(moment, ENDS - ENDS % DAY + 8 * 3600)
        for left, words in (
            (29.9 * DAY, f"ends in 29 days, {end}"),
            (2.0 * DAY, f"ends in 2 days, {end}"),
            (1.5 * DAY, f"ends within two days, {end}"),
            (0.5 * DAY, f"ends within a day, {end}"),
            (0, f"ended {end}, devices refuse it"),
        ):
            self.assertEqual(lamp.tell(moment - left), f"{start} {words}")


class WarningTests(SynchronousTestCase):
    """What is said, and how often."""

    def test_once_each(self) -> None:
        """Looked at every hour for two months, a certificate is told of four times."""
        warnings = ExpiryWarnings()
        said = []
        for hour in range(60 * 24):
            now = ENDS - 50 * DAY + hour * 3600
            said += [(round((ENDS - now) / DAY), level) for _, level in warnings.due([LAMP], now)]
        self.assertEqual(said, [(30, 30), (14, 14), (3, 3), (0, 0)])

    def test_late_start(self) -> None:
        """A server that starts late says only what holds now."""
        for left, level in ((20 * DAY, 30), (4 * DAY, 14), (1 * DAY, 3), (-1 * DAY, 0)):
            self.assertEqual(ExpiryWarnings().due([LAMP], ENDS - left), [(LAMP, level)])

    def test_several(self) -> None:
        """Each certificate is told of for itself, and one that is in two chains of a file once."""
        middle = Expiry("Middle", "/etc/lamp.pem", ENDS)
        self.assertEqual(ExpiryWarnings().due([LAMP, middle, middle], ENDS), [(LAMP, 0), (middle, 0)])

    def test_renewed(self) -> None:
        """A renewed certificate starts anew, also where it ends soon as well."""
        warnings = ExpiryWarnings()
        warnings.due([LAMP], ENDS - 2 * DAY)
        renewed = Expiry(LAMP.name, LAMP.file, ENDS + 10 * DAY)
        self.assertEqual(warnings.due([renewed], ENDS - 2 * DAY), [(renewed, 14)])
        self.assertEqual(warnings.due([renewed], ENDS - 2 * DAY), [])

    @given(
        ends=st.lists(st.integers(0, 60), min_size=1, max_size=4),
        steps=st.lists(st.floats(0, 20), min_size=1, max_size=20),
    )
    def test_law(self, ends: list[int], steps: list[float]) -> None:
        """However time goes on, each level is told once at most, always a more urgent one, and the present one is told.

        That is: at every moment the last thing told of a certificate is its level of that moment.
        """
        warnings = ExpiryWarnings()
        expiries = [Expiry(f"lamp{number}", "/x", days * DAY) for number, days in enumerate(ends)]
        told: dict[Expiry, list[int]] = {expiry: [] for expiry in expiries}
        now = 0.0
        for step in steps:
            now += step * DAY
            for expiry, level in warnings.due(expiries, now):
                told[expiry].append(level)
            for expiry, levels in told.items():
                self.assertEqual(levels[-1] if levels else None, expiry.level(now))
        for levels in told.values():
            self.assertEqual(levels, sorted(set(levels), reverse=True))
            self.assertLessEqual(set(levels), {*WARNING_DAYS, 0})
