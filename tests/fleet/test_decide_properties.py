"""Laws of the decision: what holds for every check-in, whatever the policy says and whatever happened before."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from semver import Version
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import STABLE, Image
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import compare, numbers_of
from ota_server.fleet.checkin import FAMILIES, CheckIn, Mode
from ota_server.fleet.decide import REASONS, STEPS, Decision, Send, Traffic, decide
from ota_server.fleet.decision import Case
from ota_server.fleet.device import Device, Outcome
from ota_server.fleet.rollout import Rollout, Rollouts, State, admits
from ota_server.fleet.rules import Rules, Stage
from tests.firmware.samples import make_catalog, make_image
from tests.fleet.play import NOW
from tests.fleet.situations import Situation, check_ins, images_of_folder, read_version, situations


def _show(decision: Decision) -> tuple[object, ...]:
    """Return what a decision says, without the identity of objects."""
    image = getattr(decision, "image", None)
    return type(decision), decision.reason, image and image.path, getattr(decision, "detail", None)


class PolicyLawTests(SynchronousTestCase):
    """What holds for every decision, whatever the policy says."""

    @settings(deadline=None, max_examples=700)
    @given(situations())
    def test_what_is_sent(self, situation: Situation) -> None:
        """Whatever is sent to whomever, none of the laws below is broken."""
        decision = situation.decide()
        if isinstance(decision, Send):
            for law in (
                self.check_downgrades,
                self.check_barred,
                self.check_stages,
                self.check_stepping_stones,
                self.check_permissions,
                self.check_pinned,
            ):
                law(situation, decision.image, decision.reason)

    def check_downgrades(self, situation: Situation, image: Image, reason: str) -> None:
        """Check that a lower version than runs goes down to a pin only, or back from a halted release."""
        running, rules = situation.running, situation.rules
        if running is None or compare(image.version, running) >= 0:
            return
        if rules.pin is not None:
            self.assertTrue(rules.downgrade)
            return
        self.assertEqual((reason, rules.rollback), ("rollback", True))
        self.assertNotIn("(mini)", situation.check_in.version or "" if not situation.known_by_hash else "")
        self.assertIs(situation.rollouts.by_version[numbers_of(running)].state, State.HALTED)

    def check_barred(self, situation: Situation, image: Image, reason: str) -> None:
        """Check that a release that is halted, or about to be, is sent to nobody, pinned or not."""
        rollout = situation.rollouts.by_version.get(numbers_of(image.version))
        self.assertTrue(rollout is None or (rollout.state is not State.HALTED and not rollout.deciding), reason)

    def check_stages(self, situation: Situation, image: Image, reason: str) -> None:
        """Check that a release in stages goes to its stage only, and to those that had it, are pinned, or led back."""
        rules, device, rollouts = situation.rules, situation.device, situation.rollouts
        if not rules.stages or rules.pin is not None or reason == "rollback":
            return
        release = (image.channel, image.project, numbers_of(image.version))
        if device is not None and any((a.channel, a.project, a.version) == release for a in device.attempts):
            return
        rollout = rollouts.by_version.get(release[2])
        self.assertTrue(admits(rollout, rollouts.fleet, release, rules, device, situation.now), reason)

    def check_stepping_stones(self, situation: Situation, image: Image, reason: str) -> None:
        """Check that nobody unpinned is sent past a stepping stone above what runs, nor past any if that is unknown."""
        running, rules = situation.running, situation.rules
        for stone in rules.stepping_stones if rules.pin is None else ():
            if running is None or compare(running, stone) < 0:
                self.assertLessEqual(compare(image.version, stone), 0, reason)

    def check_permissions(self, situation: Situation, image: Image, reason: str) -> None:
        """Check hold, minimum, brake, window and the bound of downloads."""
        running, rules, traffic = situation.running, situation.rules, situation.traffic
        self.assertFalse(rules.hold)
        self.assertTrue(all(window.contains(situation.now) for window in rules.window))
        if rules.minimum is not None:
            assert running is not None
            self.assertGreaterEqual(compare(running, rules.minimum), 0, reason)
        attempts = () if situation.device is None else situation.device.attempts
        for attempt in attempts:
            if (attempt.image, attempt.kind) == (image.facts.core.sha256, image.name.kind):
                self.assertLessEqual(attempt.braked_until, situation.now)
        if not any(each.outcome is Outcome.OFFERED and situation.now - each.offered_at < 60 for each in attempts):
            for limit, active in ((traffic.limit, traffic.active), (rules.max_downloads, traffic.of_project)):
                if limit is not None:
                    self.assertLess(active, limit if traffic.waited or not traffic.waiting else (limit + 1) // 2)

    def check_pinned(self, situation: Situation, image: Image, reason: str) -> None:
        """Check that a pinned device is only ever sent that release; all devices get what is of their place."""
        rules, check_in = situation.rules, situation.check_in
        if rules.pin is not None:
            self.assertEqual(compare(image.version, rules.pin), 0)
            self.assertIn(reason, ("pinned", "other-build"))
        moved = rules.channel is not None and (rules.own_channel or check_in.channel == STABLE)
        channel = rules.channel if moved else check_in.channel
        if channel is None or situation.catalog.project(channel, rules.project or check_in.project) is None:
            # A channel of the policy that lacks the project is passed over.
            channel = check_in.channel
        self.assertEqual(image.channel, channel)
        self.assertEqual(image.project, rules.project or check_in.project)

    @settings(deadline=None, max_examples=100)
    @given(situations())
    def test_pure(self, situation: Situation) -> None:
        """The same arguments give the same decision, also where they are other objects, and none is changed."""
        shown = repr(situation.arguments()), dict(situation.catalog.by_hash)
        decision = _show(situation.decide())
        self.assertEqual(_show(situation.decide()), decision)
        self.assertEqual(_show(decide(*copy.deepcopy(situation.arguments()))), decision)
        self.assertEqual((repr(situation.arguments()), situation.catalog.by_hash), shown)

    @settings(deadline=None, max_examples=300)
    @given(situations())
    def test_reasons(self, situation: Situation) -> None:
        """Every reason is one of those that the step names which gave it."""
        case = Case(*situation.arguments())
        for step in STEPS:
            decision = step.apply(case)
            if decision is not None:
                self.assertIn(decision.reason, step.reasons)
                self.assertEqual(_show(decision), _show(situation.decide()))
                return
        self.fail("no step decided")

    def test_other_build_of_barred_release(self) -> None:
        """Nor does a device that runs another build of the same version get a halted release, or one in stages."""
        images = [make_image("lamp-1.0.0.bin"), make_image("lamp-1.1.0.bin"), make_image("door-1.1.0.bin")]
        catalog = make_catalog(images)
        rollout = Rollout(STABLE, "lamp", (1, 1, 0), NOW, NOW, seats=1, admitted=1)
        rollouts = Rollouts(10, {rollout.version: rollout})
        for told in ({"version": "1.1.0(mini)"}, {"version": "1.1.0", "sketch_md5": images[2].facts.md5}):
            check_in = CheckIn(STABLE, "lamp", "esp8266", "esp8266", **told)  # type: ignore[arg-type]
            rollout.state = State.RUNNING
            rollouts.update()
            self.assertEqual(decide(check_in, catalog, Rules(), None, rollouts).reason, "other-build")
            self.assertEqual(decide(check_in, catalog, Rules((Stage("1", 1),)), None, rollouts).reason, "stage-full")
            rollout.state = State.HALTED
            rollouts.update()
            for rollback in (False, True):
                # It doesn't run the halted release itself, so there is nothing to lead it back from.
                decision = decide(check_in, catalog, Rules(rollback=rollback), None, rollouts)
                self.assertEqual(decision.reason, "halted")

    def test_all_reasons(self) -> None:
        """Each reason is named by some step, but for two that are given outside of the decision."""
        named = {reason for step in STEPS for reason in step.reasons}
        self.assertEqual(named, set(REASONS) - {"image-changed", "starting"})
        self.assertEqual(len({step.name for step in STEPS}), len(STEPS))
        for step in STEPS:
            self.assertEqual(len(set(step.reasons)), len(step.reasons))


def _pick(images: Iterable[Image], chip: str | None, family: str) -> Image | str:
    """Return the image of a release for a device, or why there is none: the plain rule."""
    images = list(images)
    if not images:
        return "no-image"
    if chip is not None:
        able = [each for each in images if all(own == chip for own in each.chips)]
        return max(able, key=lambda each: (each.name.chip == chip, each.facts.chip == chip), default="wrong-chip")
    able = [each for each in images if len(each.chips) < 2 and all(own.startswith(family) for own in each.chips)]
    for_any = [each for each in able if each.name.chip is None]
    if len(for_any or able) > 1:
        return "unknown-chip"
    return (for_any or able)[0] if able else "wrong-chip"


def _is_plain(image: Image) -> bool:
    return not image.file_name.endswith(".gz")


def _answer(check_in: CheckIn, images: list[Image]) -> str:
    """Return what the rules of serving say: `send FILE because REASON`, or the reason why nothing is sent."""
    mine = [each for each in images if (each.channel, each.project) == (check_in.channel, check_in.project)]
    if not mine:
        return "unknown-project"
    if check_in.mode is Mode.UNKNOWN:
        return "unknown-mode"
    filesystem = check_in.mode is Mode.FILESYSTEM
    family = FAMILIES.get(check_in.dialect or "", "")
    running = [each for each in images if check_in.sketch_md5 in each.facts.sketch_hashes]
    own_chips = [each.facts.chip for each in running if each.facts.chip and each.facts.chip.startswith(family)]
    chip = check_in.chip or (own_chips[0] if own_chips else None)
    above: tuple[Version, str] | None = None
    best: Image | None = None
    for version in sorted({each.version for each in mine}, reverse=True):
        of_kind = [
            each for each in mine
            if each.version == version and (each.name.kind is Kind.FILESYSTEM) == filesystem and _is_plain(each)
        ]  # fmt: skip
        picked = _pick(of_kind, chip, family)
        if isinstance(picked, Image):
            best = picked
            break
        if above is None and picked != "no-image":
            above = (version, picked)
    if best is None:
        return above[1] if above else "no-image"
    if check_in.mode is Mode.VERSION:
        return "version-asked"
    return _compare(check_in, best, [] if filesystem else running, above)


def _compare(check_in: CheckIn, best: Image, running: list[Image], above: tuple[Version, str] | None) -> str:
    other, told_hash = False, check_in.sketch_md5 is not None and check_in.mode is not Mode.FILESYSTEM
    if running:
        own = [each.version for each in running if each.project == check_in.project]
        current = max(own or [each.version for each in running])
        other = not own
    elif check_in.version is None:
        if above is not None and above[1] == "unknown-chip":
            return "unknown-chip"
        return _fit(check_in, best, "no-version")
    else:
        reported = read_version(check_in.version)
        if reported is None:
            return "unreadable-version"
        current, other = reported.version, reported.build_name not in (None, check_in.project)
    if best not in running:
        if best.version > current:
            return _fit(check_in, best, "newer")
        if best.version == current and other:
            return _fit(check_in, best, "other-build")
    if above is not None and above[0] > current:
        return above[1]
    return "unknown-build" if told_hash and not running else "up-to-date"


def _fit(check_in: CheckIn, image: Image, reason: str) -> str:
    family = FAMILIES.get(check_in.dialect or "", "")
    if not all(chip.startswith(family) for chip in image.chips):
        return "wrong-chip"
    size = -(-image.size // 4096) * 4096 if check_in.chip == "esp8266" else image.size
    if check_in.mode is Mode.SKETCH and check_in.free_space is not None and size > check_in.free_space:
        return "no-space"
    return f"send {image.file_name} because {reason}"


class PlainRuleTests(SynchronousTestCase):
    """With no policy and no history there are the rules of serving, and nothing else."""

    @settings(deadline=None, max_examples=400)
    @given(st.data(), images_of_folder())
    def test_oracle(self, data: st.DataObject, images: list[Image]) -> None:
        """The decision is that of the plain rule, written down a second time."""
        check_in = data.draw(check_ins(images))
        expected = _answer(check_in, images)
        decision = decide(check_in, make_catalog(images))
        answer = decision.reason
        if isinstance(decision, Send):
            # Whether it is sent compressed is another matter; where it is, it may fit though it wouldn't otherwise.
            name = decision.image.file_name.removesuffix(".gz")
            answer = f"send {name} because {answer}"
            if not _is_plain(decision.image) and expected == "no-space":
                expected = answer
        self.assertEqual(answer, expected)

    @settings(deadline=None, max_examples=100)
    @given(st.data(), images_of_folder())
    def test_nothing_to_remember(self, data: st.DataObject, images: list[Image]) -> None:
        """A device that is known, and rollouts that are under way, change nothing as long as nothing has happened."""
        check_in, catalog = data.draw(check_ins(images)), make_catalog(images)
        device = Device(1, check_in.device or "1", "esp8266", STABLE, "lamp", NOW - 1000, NOW)
        rollouts = Rollouts(100, {(1, 1, 0): Rollout(STABLE, "lamp", (1, 1, 0), NOW, NOW)})
        decision = decide(check_in, catalog, Rules(), device, rollouts, NOW, Traffic(1000, 1000))
        self.assertEqual(_show(decision), _show(decide(check_in, catalog)))


_PLACE = (STABLE, "lamp", (1, 2, 0))


class AdmissionTests(SynchronousTestCase):
    """Who is in a stage."""

    @settings(deadline=None, max_examples=300)
    @given(
        st.integers(0, 500),
        st.integers(1, 300),
        st.integers(0, 200),
        st.integers(0, 30),
        st.floats(0, 30 * 86400),
        st.floats(0, 30 * 86400),
        st.sampled_from([0.0, 60.0, 1800.0, 86400.0]),
        st.integers(0, 1 << 32),
    )
    def test_monotonous(
        self, fleet: int, seats: int, more: int, admitted: int, lasted: float, longer: float, soak: float, number: int
    ) -> None:
        """More seats and more time never admit fewer; nor does the last stage, nor one that has more seats left."""
        device = Device(1, str(number), None, STABLE, "lamp", NOW, NOW)
        rules = Rules((Stage(str(seats), seats),), soak=soak)

        def asks(of: int | None, after: float, taken: int = admitted) -> bool:
            rollout = Rollout(*_PLACE, NOW, NOW, seats=of, admitted=taken)
            answer = admits(rollout, fleet, _PLACE, rules, device, NOW + after)
            twin = copy.deepcopy(device)
            twin.key, twin.rhythm, twin.last_seen = 7, b"1234", NOW + 1e6
            self.assertIs(admits(rollout, fleet, _PLACE, rules, twin, NOW + after), answer)
            return answer

        self.assertTrue(asks(None, 0.0))
        if asks(seats, lasted):
            self.assertLess(admitted, seats)
            self.assertTrue(asks(seats + more, lasted))
            self.assertTrue(asks(seats, lasted + longer))
            self.assertTrue(asks(seats, lasted, 0))
        self.assertFalse(asks(seats, lasted + longer, seats + more))
        first = admits(None, fleet, _PLACE, rules, device, NOW)
        self.assertIs(first, asks(seats, 0.0, 0))

    def test_no_identity(self) -> None:
        """Who tells no identity is in no stage but the last, since such devices can't be counted."""
        rules = Rules((Stage("10", 10),))
        for fleet in (0, 1, 1000):
            rollout = Rollout(*_PLACE, NOW, NOW, seats=10)
            self.assertFalse(admits(rollout, fleet, _PLACE, rules, None, NOW + 1e9))
            self.assertFalse(admits(None, fleet, _PLACE, rules, None, NOW))
            rollout.seats = None
            self.assertTrue(admits(rollout, fleet, _PLACE, rules, None, NOW))
