"""Following attempts: what devices are sent, what arrives, and what their next check-ins show of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from itertools import count

from ota_server.firmware.catalog import Image
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers, numbers_of
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.course import Course
from ota_server.fleet.device import FAILURES, Attempt, Device, Outcome, Taken
from ota_server.fleet.journal import Actor, Event
from ota_server.fleet.listening import Listening
from ota_server.fleet.outbox import Outbox
from ota_server.fleet.outcomes import BRAKE, MAX_DOWNLOADS, judge, numbers_told, patience, told_by
from ota_server.fleet.rhythm import median_of
from ota_server.fleet.rules import Rules

SEAT_TIME = 86400.0
"""How long a device keeps its seat in a stage that doesn't take the release, or doesn't tell, in seconds."""

SWITCHED_OFF = 86400.0
"""How much longer a device may stay away that took a release, in seconds: somebody may have switched it off."""

MANY_DEAD = 10_000
"""From so many deadlines of devices that were forgotten on these are swept out."""

_OPEN = frozenset({Outcome.OFFERED, Outcome.DOWNLOADED, Outcome.DRIFTED})


class Attempts:
    """All attempts that aren't settled. `confirmed` is called with each device that took an image it was sent."""

    def __init__(
        self, course: Course, outbox: Outbox, listening: Listening, confirmed: Callable[[Device], None]
    ) -> None:
        self._course = course
        self._outbox = outbox
        self._listening = listening
        self._confirmed = confirmed
        # When to look whether a device has been silent for too long.
        self._deadlines: list[tuple[float, int, Device, Attempt]] = []
        self._order = count()
        self._dead = 0
        self._taken: dict[Taken, Taken] = {}

    def load(self, devices: Iterable[Device], now: float) -> None:
        """Follow the attempts that the ledger told of."""
        for device in devices:
            for attempt in device.attempts:
                # A clock that was ahead must not park a device for years.
                attempt.braked_until = min(attempt.braked_until, now + BRAKE)
                self._watch(device, attempt, now)
                rollout = self._course.find((attempt.channel, attempt.project), attempt.version)
                if rollout is not None and attempt.counted and attempt.outcome in FAILURES:
                    rollout.failing.add(device)

    def see(self, device: Device, check_in: CheckIn, running: tuple[Image, ...], rules: Rules, now: float) -> None:
        """See what a check-in shows of the attempts that it can tell of."""
        kind = Kind.FILESYSTEM if check_in.mode is Mode.FILESYSTEM else Kind.APP
        for attempt in device.attempts:
            if attempt.kind is kind and (attempt.channel, attempt.project) == (check_in.channel, check_in.project):
                shown = judge(attempt, check_in, running)
                before = (attempt.outcome, attempt.fetched, attempt.braked_until)
                self._conclude(device, attempt, shown, numbers_told(check_in, running), rules, now)
                if before != (attempt.outcome, attempt.fetched, attempt.braked_until):
                    self._outbox.attempted(device, attempt)

    def _conclude(
        self,
        device: Device,
        attempt: Attempt,
        shown: Outcome | None,
        runs: Numbers | None,
        rules: Rules,
        now: float,
    ) -> None:
        """Draw the conclusion from what a check-in showed of an attempt, and from the version that it tells."""
        was = attempt.outcome
        if shown is Outcome.CONFIRMED:
            attempt.fetched = False
            if was is Outcome.CONFIRMED:
                if now - attempt.outcome_at >= rules.soak:
                    self._take_for_good(device, attempt)
                return
            if attempt.downloads:
                self._confirmed(device)
            else:
                # It has it from elsewhere, which tells nothing of what was sent.
                self._course.leave(device, attempt)
            self._course.change(device, attempt, Outcome.CONFIRMED, now)
            self._watch(device, attempt, now)
            return
        if attempt.kind is Kind.FILESYSTEM:
            # The version is most often that of the sketch, which tells nothing of the filesystem.
            shown = None
        elif shown is Outcome.DRIFTED:
            if runs is not None and runs > attempt.version:
                if was is not Outcome.CONFIRMED and was not in FAILURES:
                    outcome = Outcome.SUPERSEDED if was is Outcome.OFFERED else Outcome.DRIFTED
                    self._course.change(device, attempt, outcome, now)
                self._course.settle(device, attempt)
                return
            if attempt.downloads > 1:
                # Whatever else it runs each time, it isn't this.
                shown = Outcome.BOUNCED
        fell_back = was is Outcome.CONFIRMED and shown is not None
        if not (attempt.fetched or fell_back or was is Outcome.SILENT):
            return
        attempt.fetched = False
        if shown is None:
            if was is Outcome.SILENT:
                # It is back, and doesn't tell on what.
                self._course.change(device, attempt, Outcome.DOWNLOADED, now)
                self._watch(device, attempt, now)
        elif was is not Outcome.BOUNCED:
            self._course.change(device, attempt, shown, now)
        self._brake(device, attempt, now)

    def _brake(self, device: Device, attempt: Attempt, now: float) -> None:
        """Leave a device in peace that took an image often enough, and still runs another."""
        if attempt.downloads >= MAX_DOWNLOADS and attempt.braked_until <= now:
            attempt.braked_until = now + BRAKE
            version = ".".join(map(str, attempt.version))
            text = f"took {attempt.project} {version} {attempt.downloads} times and still runs another"
            place = (attempt.channel, attempt.project, attempt.version)
            self._outbox.told(Event(now, Actor.SERVER, "braked", text, *place, device.id))

    def _take_for_good(self, device: Device, attempt: Attempt) -> None:
        """Keep no more of a confirmed attempt than that, which is what a whole fleet comes to."""
        self._course.settle(device, attempt)
        if attempt.counted and attempt.kind is Kind.APP:
            taken = Taken(attempt.channel, attempt.project, attempt.version, attempt.image)
            # A fleet takes few releases, which are one object each.
            device.taken = self._taken.setdefault(taken, taken)
            device.taken_downloads = attempt.downloads
            self._outbox.changed(device)

    def look_back(self, device: Device, check_in: CheckIn, running: tuple[Image, ...], now: float) -> None:
        """See whether a device that had taken a release for good fell back from it, since it tells something new."""
        taken = device.taken
        if taken is None or (taken.channel, taken.project) != (check_in.channel, check_in.project):
            return
        runs = numbers_told(check_in, running)
        if runs is None or runs >= taken.version or any(image.facts.core.sha256 == taken.image for image in running):
            return
        if any(self._is_in_slot(attempt, taken.channel, taken.project, Kind.APP) for attempt in device.attempts):
            return
        attempt = Attempt(*taken[:2], Kind.APP, taken.version, taken.image, None, now, Outcome.CONFIRMED, now)
        attempt.downloads, attempt.counted = device.taken_downloads, True
        device.attempts = (*device.attempts, attempt)
        device.taken = None
        self._outbox.changed(device)
        if self._course.find((taken.channel, taken.project), taken.version) is None:
            attempt.counted = False
        self._course.change(device, attempt, Outcome.BOUNCED, now)
        self._brake(device, attempt, now)

    @staticmethod
    def _is_in_slot(attempt: Attempt, channel: str, project: str, kind: Kind) -> bool:
        return (attempt.channel, attempt.project, attempt.kind) == (channel, project, kind)

    def begun(
        self, device: Device, check_in: CheckIn, image: Image, running: tuple[Image, ...], rules: Rules, now: float
    ) -> None:
        """Note that bytes of an image are about to be sent to a device."""
        version, content, kind = numbers_of(image.version), image.facts.core.sha256, image.name.kind
        runs = numbers_told(check_in, running)
        # What the policy alone wants tells nothing of a release: a pin, or the way back from another.
        apart = rules.pin is not None or (runs is not None and runs > version)
        for attempt in device.attempts:
            if not self._is_in_slot(attempt, image.channel, image.project, kind):
                continue
            if attempt.image == content and attempt.version == version:
                attempt.offered_at = now
                if not attempt.counted and not apart and attempt.outcome in _OPEN:
                    attempt.outcome, attempt.outcome_at = Outcome.OFFERED, now
                    self._enter(device, attempt, now)
                    self._outbox.attempted(device, attempt)
                return
            if attempt.outcome in (Outcome.OFFERED, Outcome.DOWNLOADED):
                self._course.change(device, attempt, Outcome.SUPERSEDED, now)
            if attempt.version == version:
                # Another file of the same release: its device counts once.
                self._course.leave(device, attempt)
            self._course.settle(device, attempt)
        self._forget_taken(device, image.channel, image.project, version)
        attempt = Attempt(
            image.channel, image.project, kind, version, content, told_by(check_in), now, Outcome.OFFERED, now
        )
        device.attempts = (*device.attempts, attempt)
        if not apart:
            self._enter(device, attempt, now)
        self._watch(device, attempt, now)
        self._outbox.attempted(device, attempt)

    def _enter(self, device: Device, attempt: Attempt, now: float) -> None:
        """Let an attempt count: of sketch and filesystem of a release the sketch does."""
        if device.taken is not None and device.taken[:3] == (attempt.channel, attempt.project, attempt.version):
            return
        for other in device.attempts:
            place = (other.channel, other.project, other.version)
            if other is attempt or not other.counted or place != (attempt.channel, attempt.project, attempt.version):
                continue
            if other.kind is Kind.APP:
                return
            self._course.leave(device, other)
        self._course.enter(device, attempt, now)

    def _forget_taken(self, device: Device, channel: str, project: str, version: Numbers) -> None:
        """Remember no more what a device had taken for good, since it is sent something else at that place."""
        taken = device.taken
        if taken is None or (taken.channel, taken.project) != (channel, project):
            return
        if taken.version == version:
            self._uncount_taken(device, taken)
        device.taken = None
        self._outbox.changed(device)

    def _uncount_taken(self, device: Device, taken: Taken) -> None:
        attempt = Attempt(*taken[:2], Kind.APP, taken.version, taken.image, None, 0.0, Outcome.CONFIRMED)
        attempt.downloads, attempt.settled, attempt.counted = device.taken_downloads, True, True
        if self._course.find((taken.channel, taken.project), taken.version) is not None:
            self._course.leave(device, attempt)

    def downloaded(self, device: Device, image: Image, now: float) -> None:
        """Note that the last byte of an image has arrived at a device."""
        for attempt in device.attempts:
            if not self._is_in_slot(attempt, image.channel, image.project, image.name.kind):
                continue
            if attempt.image != image.facts.core.sha256 or attempt.fetched:
                continue
            attempt.fetched = True
            attempt.downloads += 1
            attempt.downloaded_at = now
            if attempt.outcome in (Outcome.OFFERED, Outcome.DRIFTED):
                self._course.change(device, attempt, Outcome.DOWNLOADED, now)
            self._watch(device, attempt, now)
            self._outbox.attempted(device, attempt)

    def forget(self, device: Device) -> None:
        """Count nothing of a device any more."""
        for attempt in device.attempts:
            self._course.leave(device, attempt)
            attempt.settled = True
            self._dead += 1
        if device.taken is not None:
            self._uncount_taken(device, device.taken)
        device.attempts = ()
        if self._dead >= MANY_DEAD and 2 * self._dead > len(self._deadlines):
            self._deadlines = [each for each in self._deadlines if not each[3].settled]
            heapq.heapify(self._deadlines)
            self._dead = 0

    def leave_channel(self, device: Device, channel: str, project: str) -> None:
        """Give up what a device was sent in a channel that it is no longer served in."""
        for attempt in device.attempts:
            if (attempt.channel, attempt.project) == (channel, project) and attempt.outcome in _OPEN:
                if attempt.outcome is not Outcome.DRIFTED:
                    self._course.leave(device, attempt)
                self._course.settle(device, attempt)

    def _watch(self, device: Device, attempt: Attempt, now: float) -> None:
        """Look later whether the device has been silent for too long, or keeps a seat in vain."""
        if attempt.outcome not in FAILURES:
            rules = self._course.policy.rules_for(attempt.project, device.id)
            wait = patience(device, rules)
            if self._may_lose_seat(attempt, rules):
                wait = min(wait, _seat_time(device, rules))
            self._look_at(now + wait, device, attempt)

    @staticmethod
    def _may_lose_seat(attempt: Attempt, rules: Rules) -> bool:
        return attempt.counted and attempt.outcome in _OPEN and bool(rules.stages)

    def _look_at(self, when: float, device: Device, attempt: Attempt) -> None:
        heapq.heappush(self._deadlines, (when, next(self._order), device, attempt))

    def tick(self, now: float) -> None:
        """Look at what is due."""
        while self._deadlines and self._deadlines[0][0] <= now:
            if self._listening.is_deaf(now):
                break
            _, _, device, attempt = heapq.heappop(self._deadlines)
            if not attempt.settled and attempt.outcome not in FAILURES:
                self._miss(device, attempt, now)

    def _miss(self, device: Device, attempt: Attempt, now: float) -> None:
        """Look whether a device has been silent for too long, or keeps a seat in vain."""
        rules = self._course.policy.rules_for(attempt.project, device.id)
        wait = patience(device, rules)
        if attempt.outcome is Outcome.CONFIRMED:
            wait += SWITCHED_OFF
        due = max(device.last_seen, attempt.downloaded_at or 0.0, self._listening.since) + wait
        if due <= now:
            self._give_up(device, attempt, rules, now)
            return
        if self._may_lose_seat(attempt, rules):
            end = attempt.outcome_at + _seat_time(device, rules)
            if end <= now:
                attempt.outcome_at = now
                self._course.leave(device, attempt)
            else:
                due = min(due, end)
        self._look_at(max(due, now + 1), device, attempt)

    def _give_up(self, device: Device, attempt: Attempt, rules: Rules, now: float) -> None:
        """Wait no longer for a device."""
        match attempt.outcome:
            case Outcome.DOWNLOADED:
                self._course.change(device, attempt, Outcome.SILENT, now)
            case Outcome.CONFIRMED if rules.stages:
                self._course.change(device, attempt, Outcome.SILENT, now)
            case Outcome.CONFIRMED:
                # It took the release, and was switched off since: without stages nobody waits for whether that lasts.
                self._take_for_good(device, attempt)
            case _:
                # Its place in the stage is another's now.
                self._course.leave(device, attempt)
                self._course.settle(device, attempt)


def _seat_time(device: Device, rules: Rules) -> float:
    """Return how long a device keeps its seat in vain, in seconds: until it must have called again."""
    return max(SEAT_TIME, rules.silent_after * (median_of(device.rhythm) or 0.0))
