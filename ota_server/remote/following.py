"""Waits for the end of rollouts: `publish --wait`, and `rollout wait`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

import attrs

from ota_server.firmware.catalog import STABLE
from ota_server.remote.client import Door, Json, path_of
from ota_server.remote.failing import CommandError, Refusal, Status
from ota_server.remote.goal import Goal, Verdict, describe_rollout, judge
from ota_server.remote.showing import print_json, print_line, spell

LOOK_TIME = 2.0
"""How often it is looked at how a rollout stands, in seconds. What devices do is no event; each step of a rollout is
one, and is looked at, at once."""

GONE = frozenset({"yanked"})
"""The kinds of events after which there is nothing to wait for."""


@attrs.frozen
class Release:
    """A release of a channel."""

    channel: str
    project: str
    version: str

    def __str__(self) -> str:
        place = self.project if self.channel == STABLE else f"{self.channel}/{self.project}"
        return f"{place} {self.version}"

    def is_of(self, event: Json) -> bool:
        """Say whether an event, or a rollout, is of this release."""
        place = (event.get("channel") or STABLE, event.get("project"), event.get("version"))
        return place == (self.channel, self.project, self.version)


def rollout_of(door: Door, release: Release) -> Json | None:
    """Return how the rollout of a release stands; None where it was offered to no device yet."""
    try:
        return door.get(path_of("projects", release.project, "rollouts", release.version), channel=release.channel)
    except Refusal as refusal:
        if refusal.kind == "no-rollout":
            return None
        raise


class Follower:
    """Follows rollouts from behind an event on (its number), and tells what happens, as JSON lines if that is wished.

    The server may be away for a while: whatever goes wrong on the way is tried again until the time is over.
    """

    def __init__(self, door: Door, after: str, *, as_json: bool = False) -> None:
        self._door = door
        self._after = after
        self._as_json = as_json
        self._events: queue.SimpleQueue[Json | CommandError] = queue.SimpleQueue()
        self._told: dict[Release, str] = {}
        self._lines: set[str] = set()

    def follow(self, releases: Sequence[Release], goal: Goal, seconds: float) -> Status:
        """Wait until all have ended well, one has ended badly, or the time is over; return the exit status."""
        deadline = time.monotonic() + seconds
        threading.Thread(target=self._listen, daemon=True).start()
        left = list(dict.fromkeys(releases))
        trouble: CommandError | None = None
        while True:
            for release in list(left):
                try:
                    verdict = self._look(release, goal)
                    trouble = None
                except CommandError as error:
                    if isinstance(error, Refusal) and error.code < 500 and error.code != 429:
                        raise
                    trouble = error
                    self._tell(release, f"{error}; trying again")
                    continue
                if verdict is not None:
                    self._end(release, verdict)
                    if not verdict.good:
                        return Status.FAILED
                    left.remove(release)
            if not left:
                return Status.DONE
            gone = self._wait(left, deadline)
            if gone is not None:
                self._end(gone, Verdict(good=False, why="taken back"))
                return Status.FAILED
            if time.monotonic() >= deadline:
                if trouble is not None:
                    raise trouble
                for release in left:
                    self._end(release, None)
                return Status.LATE

    def _look(self, release: Release, goal: Goal) -> Verdict | None:
        rollout = rollout_of(self._door, release)
        if rollout is None:
            self._tell(release, "no device has been offered it yet")
            return None
        self._tell(release, describe_rollout(rollout), rollout)
        return judge(rollout, goal)

    def _wait(self, releases: Sequence[Release], deadline: float) -> Release | None:
        """Wait for an event of one of the releases, or a moment; return one that is gone."""
        until = min(deadline, time.monotonic() + LOOK_TIME)
        while (left := until - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                return None
            if isinstance(event, CommandError):
                # Without events it is looked at as often all the same.
                continue
            for release in releases:
                if release.is_of(event):
                    if self._as_json:
                        print_json({"event": event}, lines=True)
                    elif event["kind"] != "published":
                        self._print(f"{release}: {spell(event['kind'])}: {spell(event.get('text'))}")
                    if event["kind"] in GONE:
                        return release
                    return None
        return None

    def _listen(self) -> None:
        """Put events into the queue, in a thread of its own, until the program ends."""
        try:
            with Door(self._door.address) as door:
                for event in door.events(self._after):
                    self._events.put(event)
        except CommandError as error:
            self._events.put(error)

    def _tell(self, release: Release, text: str, rollout: Json | None = None) -> None:
        """Tell how a release stands, if that is news."""
        if self._told.get(release) == text:
            return
        self._told[release] = text
        if not self._as_json:
            self._print(f"{release}: {text}")
        elif rollout is not None:
            print_json({"rollout": rollout}, lines=True)

    def _print(self, line: str) -> None:
        """Print a line, unless it was printed before: a step of a rollout is told by its event, too."""
        if line not in self._lines:
            self._lines.add(line)
            print_line(line)

    def _end(self, release: Release, verdict: Verdict | None) -> None:
        if self._as_json:
            told = {"end": "late" if verdict is None else "good" if verdict.good else "bad"}
            why = {} if verdict is None else {"why": verdict.why}
            print_json({**told, **attrs.asdict(release), **why}, lines=True)
        else:
            self._print(f"{release}: {'the time is over' if verdict is None else spell(verdict.why)}")
