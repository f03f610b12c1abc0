"""Which certificates end soon, and when that is to be said."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

import attrs
from cryptography import x509

from ota_server.tls.certificates import describe

DAY = 86_400

WARNING_DAYS = (30, 14, 3)
"""How many days before its end it is said that a certificate ends; the last is urgent."""


@attrs.frozen
class Expiry:
    """When a certificate ends: a name for it, the file that it stands in, and the time in seconds since 1970."""

    name: str
    file: str
    ends: float

    @classmethod
    def of(cls, certificate: x509.Certificate, file: str) -> Expiry:
        """Read it of a certificate."""
        return cls(describe(certificate), file, certificate.not_valid_after_utc.timestamp())

    def days_left(self, now: float) -> float:
        """Return how many days are left; below 0 where it has ended."""
        return (self.ends - now) / DAY

    def level(self, now: float) -> int | None:
        """Return the smallest of WARNING_DAYS that the days left are within, 0 after its end, or else None."""
        left = self.days_left(now)
        return 0 if left <= 0 else next((days for days in sorted(WARNING_DAYS) if left <= days), None)

    def summarise(self, now: float) -> str:
        """Say in a few words, without the file's name, when it ends."""
        if self.days_left(now) <= 0:
            return f"the certificate of {self.name} has ended"
        return f"the certificate of {self.name} ends in {math.ceil(self.days_left(now))} days"

    def tell(self, now: float) -> str:
        """Say on one line when it ends, or ended, and what to do."""
        when = datetime.fromtimestamp(self.ends, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if self.days_left(now) <= 0:
            return f"the certificate of {self.name} in {self.file} ended on {when}: renew it, devices refuse it"
        days = int(self.days_left(now))
        left = f"in {days} days" if days > 1 else "within two days" if days else "within a day"
        return f"the certificate of {self.name} in {self.file} ends {left}, on {when}: renew it"


class ExpiryWarnings:
    """Remembers what has been said of the end of certificates, so that each is said once for each of WARNING_DAYS."""

    def __init__(self) -> None:
        self._said: dict[Expiry, int] = {}

    def due(self, expiries: Iterable[Expiry], now: float) -> list[tuple[Expiry, int]]:
        """Return which certificates there is something new to say of, with their levels (see Expiry.level)."""
        news = []
        said: dict[Expiry, int] = {}
        for expiry in expiries:
            level = expiry.level(now)
            if level is None:
                continue
            if self._said.get(expiry, WARNING_DAYS[0] + 1) > level and said.get(expiry) != level:
                news.append((expiry, level))
            said[expiry] = level
        self._said = said
        return news
