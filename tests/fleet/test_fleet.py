"""Tests for what the fleet remembers, what it infers from that, and what it does about it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet import newcomers
from ota_server.fleet.checkin import Mode
from ota_server.fleet.decision import Send
from ota_server.fleet.device import Outcome
from ota_server.fleet.rollout import LAST_STAGE, State
from tests.firmware.samples import make_catalog, make_image
from tests.fleet.play import DAY, HOUR, Play, mac

FILES = ("lamp-1.0.0.bin", "lamp-1.1.0.bin")
NEW = (1, 1, 0)


class OutcomeTests(SynchronousTestCase):
    """What is inferred from how a device comes back."""

    def test_confirmed(self) -> None:
        """A device that comes back on the new version has confirmed it, by its version or by its hash."""
        play = Play.of(*FILES)
        self.assertEqual(play.update(1, "1.0.0").reason, "newer")
        self.assertEqual(play.outcomes(NEW), {"downloaded": 1})
        play.now += 60
        self.assertEqual(play.check(1, "1.1.0").reason, "up-to-date")
        self.assertEqual(play.outcomes(NEW), {"confirmed": 1})
        play.update(2, "1.0.0")
        [image] = [image for image in play.catalog.channels["stable"].files.values() if image.version.minor == 1]
        play.check(2, "1.0.0", sketch_md5=image.facts.md5)
        self.assertEqual(play.outcomes(NEW), {"confirmed": 2})

    def test_bounced(self) -> None:
        """One that comes back on what it ran before has bounced, if it had downloaded the whole image."""
        play = Play.of(*FILES)
        play.update(1, "1.0.0", whole=False)
        play.check(1, "1.0.0")
        self.assertEqual(play.outcomes(NEW), {"offered": 1})
        play.update(1, "1.0.0")
        play.check(1, "1.0.0")
        self.assertEqual(play.outcomes(NEW), {"bounced": 1})
        play.update(1, "1.0.0")
        play.check(1, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"confirmed": 1})

    def test_drifted(self) -> None:
        """One that comes back on a third version has drifted, and counts neither way."""
        play = Play.of(*FILES)
        play.update(1, "1.0.0")
        play.check(1, "7.0.0")
        self.assertEqual(play.outcomes(NEW), {"drifted": 1})
        self.assertEqual(play.fleet.devices[mac(1)].attempts, ())

    def test_superseded(self) -> None:
        """An attempt whose outcome isn't known when a newer release is offered is superseded."""
        play = Play.of(*FILES)
        play.update(1, "1.0.0", whole=False)
        play.catalog = Play.of(*FILES, "lamp-1.2.0.bin").catalog
        play.update(1, "1.0.0")
        self.assertEqual(play.outcomes(NEW), {"superseded": 1})
        self.assertEqual(play.outcomes((1, 2, 0)), {"downloaded": 1})

    def test_silent(self) -> None:
        """One that doesn't come back within three times its rhythm is silent, until it comes."""
        play = Play.of(*FILES)
        for _ in range(4):
            play.check(1, "1.0.0", project="other")
            play.check(1, "1.1.0")
            play.check(2, "1.1.0")
            play.now += HOUR
        play.update(1, "1.0.0")
        for _ in range(int(2.9 * 6)):
            play.pass_time(HOUR / 6)
            play.check(2, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"downloaded": 1})
        play.pass_time(HOUR / 5)
        self.assertEqual(play.outcomes(NEW), {"silent": 1})
        play.check(1, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"confirmed": 1})

    def test_sleeper(self) -> None:
        """A sleeper that calls once a week isn't dead after three days."""
        play = Play.of(*FILES)
        for _ in range(4):
            play.check(1, "1.1.0")
            play.now += 7 * DAY
        play.update(1, "1.0.0")
        for _ in range(20):
            play.pass_time(DAY, HOUR)
            play.check(2, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"downloaded": 1})
        play.pass_time(2 * DAY, HOUR)
        self.assertEqual(play.outcomes(NEW), {"silent": 1})

    def test_quick_device(self) -> None:
        """However quick its rhythm, a device has ten minutes."""
        play = Play.of(*FILES)
        for _ in range(20):
            play.check(1, "1.1.0")
            play.now += 5
        play.update(1, "1.0.0")
        for _ in range(59):
            play.pass_time(10, 10)
            play.check(2, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"downloaded": 1})
        play.pass_time(20, 10)
        self.assertEqual(play.outcomes(NEW), {"silent": 1})

    def test_outage(self) -> None:
        """When nobody calls any more, it is the server that is cut off, and no device is silent."""
        play = Play.of(*FILES)
        for _ in range(120):
            for number in range(1, 21):
                play.check(number, "1.1.0")
            play.pass_time(60)
        for number in range(1, 6):
            play.update(number, "1.0.0")
        play.pass_time(6 * HOUR)
        self.assertEqual(play.outcomes(NEW), {"downloaded": 5})
        # The first one that gets through is no proof that the others are dead.
        play.check(20, "1.1.0")
        play.pass_time(60)
        self.assertEqual(play.outcomes(NEW), {"downloaded": 5})
        for number in range(1, 6):
            play.check(number, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"confirmed": 5})

    def test_same_download_counts_once(self) -> None:
        """The same download, repeated with no check-in between, is one."""
        play = Play.of(*FILES)
        decision = play.check(1, "1.0.0")
        assert isinstance(decision, Send)
        check_in = play.check_in(1, "1.0.0", mode=Mode.SKETCH, project="lamp")
        for _ in range(3):
            play.download(check_in, decision.image)
        self.assertEqual(play.fleet.devices[mac(1)].attempts[0].downloads, 1)

    def test_flapping(self) -> None:
        """A device that comes up on the new version, and falls back again and again, is braked, too."""
        play = Play.of(*FILES)
        reasons = []
        for _ in range(4):
            reasons.append(play.update(1, "1.0.0").reason)
            play.now += 30
            play.check(1, "1.1.0")
            play.now += 30
        self.assertEqual(reasons, ["newer", "newer", "newer", "bounced"])

    def test_settled(self) -> None:
        """A device that stays on the new version for a while has taken it for good, which costs no memory."""
        play = Play.of(*FILES)
        play.update(1, "1.0.0")
        for _ in range(4):
            play.now += 900
            play.check(1, "1.1.0")
        device = play.fleet.devices[mac(1)]
        assert device.taken is not None
        self.assertEqual((device.attempts, device.taken.version), ((), NEW))
        self.assertEqual(play.outcomes(NEW), {"confirmed": 1})

    def test_fell_back_later(self) -> None:
        """One that took it for good, and falls back after days, has bounced; the brake counts all its downloads."""
        play = Play.of(*FILES)
        reasons = []
        for _ in range(4):
            reasons.append(play.update(1, "1.0.0").reason)
            for _ in range(4):
                play.now += HOUR
                play.check(1, "1.0.0" if reasons[-1] == "bounced" else "1.1.0")
        self.assertEqual(reasons, ["newer"] * 3 + ["bounced"])
        self.assertEqual(play.outcomes(NEW), {"bounced": 1})

    def test_changing_text(self) -> None:
        """A version told in other words each time is the same; one that is another each time is none of ours."""
        play = Play.of(*FILES, policy="halt = { failures = 100 }")
        for before in (lambda n: f"1.0.0+up{n}", lambda n: f"0.{n % 2}.0"):
            reasons = [play.update(1, before(number)).reason for number in range(5)]
            self.assertEqual(reasons, ["newer"] * 3 + ["bounced"] * 2)
            self.assertEqual(play.outcomes(NEW), {"bounced": 1})
            play.order("forget", device=1)

    def test_unknown_hash(self) -> None:
        """A device that tells no version, and a hash that no file has, bounces when it comes back with that."""
        play = Play.of(*FILES)
        for number in range(300):
            for _ in range(2):
                play.update(number, None, sketch_md5=f"{number:032x}")
        self.assertEqual(play.outcomes(NEW), {"bounced": 2})

    def test_replaced_file(self) -> None:
        """A file that is replaced under the same version is another image; its devices count once."""
        play = Play.of(*FILES, policy="halt = { failures = 100 }")
        for _ in range(2):
            play.update(1, "1.0.0")
        self.assertEqual(play.outcomes(NEW), {"bounced": 1})
        play.catalog = make_catalog([make_image("lamp-1.0.0.bin"), make_image("lamp-1.1.0.bin", b"corrected")])
        for _ in range(2):
            play.update(1, "1.0.0")
        self.assertEqual(play.outcomes(NEW), {"bounced": 1})
        play.update(1, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"confirmed": 1})

    def test_two_questions_per_visit(self) -> None:
        """Who asks for filesystem and sketch, seconds apart, and comes every hour, isn't silent after minutes."""
        play = Play.of(*FILES)
        for _ in range(5):
            for number in range(1, 6):
                play.check(number, "1.0.0", mode=Mode.FILESYSTEM)
            play.now += 5
            for number in range(1, 6):
                play.check(number, "1.1.0")
            play.now += HOUR - 5
        for number in range(1, 6):
            play.update(number, "1.0.0")
        for _ in range(16):
            play.pass_time(600)
            play.check(77, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"downloaded": 5})

    def test_has_it_from_elsewhere(self) -> None:
        """A device that runs the release without having downloaded it whole tells nothing of it."""
        play = Play.of(*FILES)
        for number in range(100):
            play.update(number, "1.0.0", whole=False)
            play.check(number, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {})

    def test_filesystem_and_sketch(self) -> None:
        """Sketch and filesystem are two attempts of one device, which counts once: by its sketch."""
        play = Play.of("lamp-1.0.0.bin", "lamp-1.1.0.bin", "lamp-1.1.0.fs.bin")
        self.assertEqual(play.update(1, "1.0.0", mode="spiffs").reason, "newer")
        self.assertEqual(play.update(1, "1.0.0").reason, "newer")
        self.assertEqual(play.outcomes(NEW), {"downloaded": 1})
        play.check(1, "1.0.0")
        self.assertEqual(play.outcomes(NEW), {"bounced": 1})
        play.update(1, "1.0.0")
        play.check(1, "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"confirmed": 1})
        rollout = play.fleet.course.find(("stable", "lamp"), NEW)
        assert rollout is not None
        self.assertEqual(rollout.admitted, 1)


class BrakeTests(SynchronousTestCase):
    """The loop brake."""

    def test_brake(self) -> None:
        """After three downloads in vain a device is left in peace for a day, then it may try once more."""
        play = Play.of(*FILES, policy="halt = { failures = 1000 }")
        for _ in range(3):
            self.assertEqual(play.update(1, "1.0.0").reason, "newer")
            play.now += 60
        for _ in range(24):
            self.assertEqual(play.update(1, "1.0.0").reason, "bounced")
            play.now += HOUR - 1
        play.now += HOUR
        self.assertEqual(play.update(1, "1.0.0").reason, "newer")
        self.assertEqual(play.update(1, "1.0.0").reason, "bounced")
        self.assertEqual(play.kinds().count("braked"), 2)
        # Another release is another matter.
        play.catalog = Play.of(*FILES, "lamp-1.2.0.bin").catalog
        self.assertEqual(play.update(1, "1.0.0").reason, "newer")

    def test_cleared(self) -> None:
        """The operator can clear the brake."""
        play = Play.of(*FILES, policy="halt = { failures = 1000 }")
        for _ in range(4):
            decision = play.update(1, "1.0.0")
        self.assertEqual(decision.reason, "bounced")
        play.order("clear-brake", device=1)
        self.assertEqual(play.update(1, "1.0.0").reason, "newer")

    def test_device_that_tells_nothing(self) -> None:
        """A device that tells neither version nor hash can't confirm, so the brake ends its loop; it is no failure."""
        play = Play.of(*FILES)
        reasons = [play.update(number, None).reason for _ in range(5) for number in range(5)]
        self.assertEqual(reasons, ["no-version"] * 15 + ["bounced"] * 10)
        self.assertEqual(play.outcomes(NEW), {"downloaded": 5})


class HaltTests(SynchronousTestCase):
    """The automatic halt."""

    def test_default(self) -> None:
        """At the default, of 300 devices one after another that all bounce, no more than three have it."""
        play = Play.of(*FILES)
        downloads = set()
        for number in range(300):
            for _ in range(4):
                if isinstance(play.update(number, "1.0.0"), Send):
                    downloads.add(number)
                play.now += 30
        self.assertLessEqual(len(downloads), 3)
        self.assertEqual(play.check(300, "1.0.0").reason, "halted")
        self.assertEqual(play.check(301, None).reason, "halted")

    def test_stages(self) -> None:
        """With a stage of one device, one has it."""
        play = Play.of(*FILES, policy='stages = ["1", "10%", "100%"]')
        downloads = set()
        for number in range(300):
            for _ in range(4):
                if isinstance(play.update(number, "1.0.0"), Send):
                    downloads.add(number)
                play.now += 30
        self.assertEqual(downloads, {0})
        self.assertEqual(play.check(300, "1.0.0").reason, "halted")

    def test_few_of_many(self) -> None:
        """Failures that are no more than a tenth don't halt."""
        play = Play.of(*FILES)
        for number in range(30):
            play.update(number, "1.0.0")
            play.now += 30
            play.check(number, "1.0.0" if number in (10, 29) else "1.1.0")
        self.assertEqual(play.outcomes(NEW), {"confirmed": 28, "bounced": 2})
        self.assertEqual(play.check(300, "1.0.0").reason, "newer")

    def test_older_release_goes_on(self) -> None:
        """Where a release is halted, those who run something older still get the one before."""
        play = Play.of("lamp-1.0.0.bin", *FILES[1:], "lamp-1.2.0.bin")
        play.order("halt", (1, 2, 0))
        self.assertEqual(play.check(1, "1.1.0").reason, "halted")
        decision = play.check(2, "1.0.0")
        assert isinstance(decision, Send)
        self.assertEqual(str(decision.image.version), "1.1.0")
        # On the halted one a device is let alone.
        self.assertEqual(play.check(3, "1.2.0").reason, "up-to-date")

    def test_rollback(self) -> None:
        """If the policy says so, devices on the halted release are led back to the one before."""
        play = Play.of(*FILES, policy="rollback = true")
        play.order("halt", NEW)
        decision = play.update(1, "1.1.0")
        self.assertEqual(decision.reason, "rollback")
        self.assertEqual(play.check(1, "1.0.0").reason, "halted")

    def test_newer_release(self) -> None:
        """A newer release begins a rollout of its own; the halted one stays halted."""
        play = Play.of(*FILES)
        for number in range(2):
            play.update(number, "1.0.0")
            play.check(number, "1.0.0")
        self.assertEqual(play.check(5, "1.0.0").reason, "halted")
        play.catalog = Play.of(*FILES, "lamp-1.2.0.bin").catalog
        decision = play.check(5, "1.0.0")
        assert isinstance(decision, Send)
        self.assertEqual(str(decision.image.version), "1.2.0")
        self.assertEqual(play.fleet.barred(("stable", "lamp")), {NEW})

    def test_written_first(self) -> None:
        """A halt is told only once it is on disk; meanwhile nobody gets the release."""
        play = Play.of(*FILES)
        for number in range(2):
            play.update(number, "1.0.0")
        play.writes = False
        for number in range(2):
            decision = play.check(number, "1.0.0")
        self.assertEqual(decision.reason, "deciding")
        batch = play.fleet.outbox.take(play.now)
        assert batch is not None
        self.assertEqual([row.state for row in batch.rollouts], [State.HALTED])
        self.assertEqual(play.check(7, "1.0.0").reason, "deciding")
        play.fleet.outbox.confirm()
        self.assertEqual(play.check(7, "1.0.0").reason, "halted")

    def test_resume(self) -> None:
        """Resume acknowledges the failures seen so far; further ones halt again."""
        play = Play.of(*FILES)
        for number in range(2):
            play.update(number, "1.0.0")
            play.check(number, "1.0.0")
        play.order("resume", NEW)
        self.assertEqual(play.update(2, "1.0.0").reason, "newer")
        play.check(2, "1.0.0")
        self.assertEqual(play.update(3, "1.0.0").reason, "newer")
        # One that had failed takes it at last: that makes the new failures no fewer.
        play.update(0, "1.0.0")
        play.check(0, "1.1.0")
        play.check(3, "1.0.0")
        self.assertEqual(play.check(3, "1.0.0").reason, "halted")
        self.assertEqual(
            [kind for kind in play.kinds() if kind in ("halted", "resumed")], ["halted", "resumed", "halted"]
        )

    def test_forgotten_device(self) -> None:
        """A device that is forgotten keeps what it counted for."""
        play = Play.of(*FILES)
        for number in range(2):
            play.update(number, "1.0.0")
            play.check(number, "1.0.0")
        play.order("forget", device=1)
        self.assertNotIn(mac(1), play.fleet.devices)
        self.assertEqual(play.check(3, "1.0.0").reason, "halted")
        self.assertEqual(play.fleet.course.rollouts(("stable", "lamp")).fleet, 2)


class StageTests(SynchronousTestCase):
    """Rollouts by stages."""

    def _know(self, play: Play, count: int) -> None:
        """Let devices be known, all on the old version, when there is no newer yet."""
        whole = play.catalog
        play.catalog = Play.of("lamp-1.0.0.bin").catalog
        for _ in range(3):
            for number in range(count):
                play.check(number, "1.0.0")
            play.now += HOUR
        play.catalog = whole

    def test_course(self) -> None:
        """A stage begins when enough of the one before is confirmed, and was good for long enough."""
        play = Play.of(*FILES, policy='stages = ["1", "10%", "100%"]\nsoak = "30m"')
        self._know(play, 200)
        versions = dict.fromkeys(range(200), "1.0.0")
        sizes = []
        for _ in range(30):
            for number in versions:
                if isinstance(play.update(number, versions[number]), Send):
                    versions[number] = "1.1.0"
                    play.check(number, "1.1.0")
            sizes.append(list(versions.values()).count("1.1.0"))
            play.pass_time(600)
        self.assertEqual([size for place, size in enumerate(sizes) if size not in sizes[:place]], [1, 20, 200])
        self.assertEqual(play.kinds(), ["started", "started", "stage", "stage", "complete"])
        rollout = play.fleet.course.find(("stable", "lamp"), NEW)
        assert rollout is not None
        self.assertIs(rollout.state, State.COMPLETE)

    def test_soak(self) -> None:
        """A stage isn't passed while a device that took it is missing."""
        play = Play.of(*FILES, policy='stages = ["10", "100%"]\nsoak = "3d"')
        self._know(play, 100)
        for number in range(100):
            if isinstance(play.update(number, "1.0.0"), Send):
                play.check(number, "1.1.0")
        rollout = play.fleet.course.find(("stable", "lamp"), NEW)
        assert rollout is not None
        self.assertEqual(rollout.confirmed, 10)
        # They die an hour later; the others call on.
        for _ in range(60):
            play.pass_time(HOUR)
            for number in range(50, 100):
                if not play.fleet.devices[mac(number)].attempts:
                    play.check(number, "1.0.0")
        self.assertIs(rollout.state, State.HALTED)
        self.assertEqual(rollout.admitted, 10)

    def test_not_always_the_same(self) -> None:
        """Another release begins with other devices, and the same release with the same."""
        first: list[set[int]] = []
        for version in ("1.1.0", "1.1.0", "1.2.0"):
            play = Play.of("lamp-1.0.0.bin", f"lamp-{version}.bin", policy='stages = ["20", "100%"]')
            self._know(play, 1000)
            first.append({number for number in range(1000) if isinstance(play.update(number, "1.0.0"), Send)})
        self.assertEqual(len(first[0]), 20)
        self.assertEqual(first[0], first[1])
        self.assertLess(len(first[0] & first[2]), 10)

    def test_nobody_comes(self) -> None:
        """Where those who belong to a stage don't come, others do."""
        play = Play.of(*FILES, policy='stages = ["5", "100%"]\nsoak = "1h"')
        self._know(play, 1000)
        chosen: set[int] = set()
        for _ in range(8):
            for number in range(900, 910):
                if isinstance(play.update(number, "1.1.0" if number in chosen else "1.0.0"), Send):
                    chosen.add(number)
            play.pass_time(HOUR)
        self.assertEqual(len(chosen), 5)

    def test_no_identity(self) -> None:
        """A device that tells no identity waits for the last stage."""
        play = Play.of(*FILES, policy='stages = ["1", "100%"]')
        check_in = play.check_in(1, "1.0.0", mode=Mode.SKETCH, project="lamp")
        unknown = type(check_in)("stable", "lamp", "esp8266", "esp8266", None, "1.0.0")
        self.assertEqual(play.fleet.answer(unknown, play.catalog, "", play.now).reason, "stage-full")
        play.order("complete", NEW)
        play.update(1, "1.0.0")
        play.order("complete", NEW)
        self.assertEqual(play.fleet.answer(unknown, play.catalog, "", play.now).reason, "newer")

    def test_seat_given_back(self) -> None:
        """A device that was offered the release, and never took it, loses its seat to another."""
        play = Play.of(*FILES, policy='stages = ["1", "100%"]')
        play.update(1, "1.0.0", whole=False)
        self.assertEqual(play.update(2, "1.0.0").reason, "stage-full")
        reasons = []
        while "newer" not in reasons:
            play.pass_time(HOUR)
            reasons.append(play.update(2, "1.0.0").reason)
        # A day after the last time that anybody was heard of, give or take what counts as an outage at first.
        self.assertIn(len(reasons), range(24, 28))

    def test_policy_changes(self) -> None:
        """Another policy counts for rollouts that are under way."""
        play = Play.of(*FILES, policy='stages = ["1", "100%"]')
        self.assertEqual(play.update(1, "1.0.0").reason, "newer")
        self.assertEqual(play.update(2, "1.0.0").reason, "stage-full")
        play.fleet.take_policy(Play.of(policy='stages = ["2", "100%"]').policy, play.now)
        self.assertEqual(play.update(2, "1.0.0").reason, "newer")
        self.assertEqual(play.update(3, "1.0.0").reason, "stage-full")
        play.fleet.take_policy(Play.of().policy, play.now)
        self.assertEqual(play.update(3, "1.0.0").reason, "newer")


class TurnTests(SynchronousTestCase):
    """How many download at once."""

    def test_turns(self) -> None:
        """No more download than may; who was turned away goes first."""
        play = Play.of(*FILES, policy="max-downloads = 4")

        def begin(number: int) -> str:
            decision = play.check(number, "1.0.0")
            if isinstance(decision, Send):
                play.fleet.begun(
                    mac(number), play.check_in(number, "1.0.0", mode=Mode.SKETCH, project="lamp"), decision.image,
                    play.catalog, play.now,
                )  # fmt: skip
            return decision.reason

        self.assertEqual([begin(number) for number in range(6)], ["newer"] * 4 + ["busy"] * 2)
        [image] = [image for image in play.catalog.channels["stable"].files.values() if image.version.minor == 1]
        play.fleet.ended(image)
        # One place of four is free, which is kept for those who wait.
        self.assertEqual([begin(10), begin(4), begin(5)], ["busy", "newer", "busy"])
        for _ in range(3):
            play.fleet.ended(image)
        self.assertEqual([begin(20), begin(21), begin(5), begin(10)], ["newer", "busy", "newer", "newer"])

    def test_goes_on(self) -> None:
        """A device that fetches its image in pieces isn't turned away between two of them."""
        play = Play.of(*FILES, policy="max-downloads = 1")
        play.update(1, "1.0.0", whole=False)
        check_in = play.check_in(2, "1.0.0", mode=Mode.SKETCH, project="lamp")
        [image] = [image for image in play.catalog.channels["stable"].files.values() if image.version.minor == 1]
        play.fleet.begun(mac(2), check_in, image, play.catalog, play.now)
        self.assertEqual(play.check(1, "1.0.0").reason, "newer")
        self.assertEqual(play.check(3, "1.0.0").reason, "busy")


class NewcomerTests(SynchronousTestCase):
    """Made-up identities."""

    def test_caps(self) -> None:
        """So many ids from one address, and so many in all, are remembered; the oldest go first, those known stay."""
        self.patch(newcomers, "MAX_FROM_ADDRESS", 50)
        self.patch(newcomers, "MAX_NEWCOMERS", 80)
        play = Play.of(*FILES)
        play.check(0, "1.0.0")
        play.now += 2 * newcomers.PROBATION
        play.check(0, "1.0.0")
        for number in range(1, 1001):
            check_in = play.check_in(number, "1.0.0", mode=Mode.SKETCH, project="lamp")
            play.fleet.answer(check_in, play.catalog, "192.0.2.9", play.now)
        self.assertEqual(set(play.fleet.devices), {mac(0), *(mac(number) for number in range(951, 1001))})
        for number in range(1001, 2001):
            check_in = play.check_in(number, "1.0.0", mode=Mode.SKETCH, project="lamp")
            play.fleet.answer(check_in, play.catalog, f"198.51.{number // 200}.{number % 200}", play.now)
        self.assertEqual(len(play.fleet.devices), 81)
        self.assertEqual(play.fleet.course.rollouts(("stable", "lamp")).fleet, 81)

    def test_networks(self) -> None:
        """Addresses of IPv6 count by networks, those of this machine not at all."""
        self.assertEqual(newcomers.network_of("2001:db8::1"), newcomers.network_of("2001:db8:0:ffff::1"))
        self.assertNotEqual(newcomers.network_of("2001:db8::1"), newcomers.network_of("2001:db8:1::1"))
        self.assertEqual(newcomers.network_of("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertIsNone(newcomers.network_of("::1"))
        self.assertIsNone(newcomers.network_of("127.3.4.5"))
        self.assertIsNone(newcomers.network_of("a UNIX socket"))

    def test_unknown_project(self) -> None:
        """Who asks for a project that isn't there isn't remembered."""
        play = Play.of(*FILES)
        self.assertEqual(play.check(1, "1.0.0", project="nothing").reason, "unknown-project")
        self.assertEqual((play.fleet.devices, play.fleet.course.places), ({}, {}))


class OrderTests(SynchronousTestCase):
    """Orders that can't be followed."""

    def test_refused(self) -> None:
        """They become an event that says why."""
        play = Play.of(*FILES)
        play.order("resume", (9, 9, 9))
        play.order("forget", device=5)
        play.order("dance", (1, 1, 0))
        self.assertEqual(play.kinds(), ["refused"] * 3)

    def test_restart(self) -> None:
        """A rollout that is begun anew begins with its first stage."""
        play = Play.of(*FILES, policy='stages = ["1", "100%"]')
        play.update(1, "1.0.0")
        play.order("complete", NEW)
        rollout = play.fleet.course.find(("stable", "lamp"), NEW)
        assert rollout is not None
        self.assertEqual((rollout.stage, rollout.seats), (LAST_STAGE, None))
        play.order("restart", NEW)
        self.assertEqual((rollout.stage, rollout.seats), (0, 1))
        self.assertEqual(play.update(2, "1.0.0").reason, "stage-full")
        self.assertEqual(rollout.outcomes[Outcome.DOWNLOADED], 1)
