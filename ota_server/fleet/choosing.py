"""The first steps of a decision: where the device is served, which release is best for it, and whether it is newer."""

from __future__ import annotations

from semver import Version

from ota_server.firmware.catalog import Choice, Image
from ota_server.firmware.naming import CHIPS
from ota_server.firmware.versions import Numbers, VersionError, compare, numbers_of, read_reported_version
from ota_server.fleet.checkin import Mode
from ota_server.fleet.decision import (
    UNKNOWN_BUILD,
    UNKNOWN_PROJECT,
    UP_TO_DATE,
    WITHHELD,
    Announce,
    Case,
    Decision,
    Refuse,
    highest_version,
)
from ota_server.fleet.device import Outcome
from ota_server.fleet.permitting import hold, look_at_window
from ota_server.fleet.rollout import State, admits

MAX_SKIPPED = 8
"""After so many staged releases that a device isn't in the stage of, it isn't asked for further ones."""


GIVEN_BACK = 86400.0
"""A device that gave its seat in a stage back gets none for so many seconds."""


def find_place(case: Case) -> Decision | None:
    """Find the project."""
    if case.served is None:
        return UNKNOWN_PROJECT
    case.project = case.served
    return None


def read_question(case: Case) -> Decision | None:
    """Read what is asked for."""
    check_in = case.check_in
    if check_in.mode is Mode.UNKNOWN:
        return WITHHELD["unknown-mode"]
    if check_in.chip is not None and check_in.chip not in CHIPS:
        return Refuse("unreadable-chip", f"{check_in.chip[:40]!a} is no chip; write it as in esp8266 or esp32c3")
    return None


def choose_release(case: Case) -> Decision | None:
    """Choose the best image for the device."""
    check_in, rules = case.check_in, case.rules
    chip = check_in.chip or _find_chip(case.running, case.family)
    if rules.pin is not None:
        choice = _choose_pinned(case, rules.pin, chip)
    elif rules.stages or rules.stepping_stones or case.rollouts.barred:
        choice = _choose_allowed(case, chip)
    else:
        choice = case.project.choose(case.kind, chip, case.family)
    case.choice = choice
    if choice.image is None:
        return WITHHELD[case.passed_over[1] if case.passed_over is not None else choice.reason or "no-image"]
    case.best = choice.image
    return None


def _find_chip(running: tuple[Image, ...], family: str) -> str | None:
    """Return the chip that an image runs on, if it says that, and can be right."""
    for image in running:
        chip = image.facts.chip
        if chip is not None and chip.startswith(family):
            return chip
    return None


def _choose_pinned(case: Case, pin: Version, chip: str | None) -> Choice:
    """Choose the release that the device is pinned to."""
    release = case.project.release(pin)
    if release is None:
        case.passed_over = (pin, "pinned")
        return Choice(None)
    if numbers_of(release.version) in case.rollouts.barred:
        case.passed_over = (release.version, _why_barred(case, numbers_of(release.version)))
        return Choice(None)
    picked = release.pick(case.kind, chip, case.family)
    if isinstance(picked, Image):
        return Choice(picked, release.compressed(picked))
    return Choice(None, None, release.version, picked)


def _choose_allowed(case: Case, chip: str | None) -> Choice:
    """Choose the highest release that is neither halted nor staged for others, and not behind a stepping stone."""
    project, current = case.project, case.current
    excluded: frozenset[Numbers] = frozenset()
    ceiling: Numbers | None = None
    skipped = 0
    while True:
        choice = project.choose_among(case.kind, chip, case.family, excluded, ceiling)
        best = choice.image
        if best is None or (current is not None and not _is_above(case, best.version, current)):
            break
        numbers = numbers_of(best.version)
        stone = _find_stone(case, best.version) if ceiling is None else None
        if stone is not None:
            _pass_over(case, best.version, "version-unknown" if current is None else "stepping-stone")
            if current is None:
                return choice
            ceiling = numbers_of(stone)
            continue
        if numbers in case.rollouts.barred:
            reason = _why_barred(case, numbers)
        elif _is_admitted(case, numbers):
            break
        else:
            reason = "stage-full"
            skipped += 1
        _pass_over(case, best.version, reason)
        excluded |= {numbers}
        if skipped == MAX_SKIPPED:
            return Choice(None)
    return _choose_back(case, chip, choice, current)


def _is_above(case: Case, version: Version, current: Version) -> bool:
    """Say whether a release is news for a device: a higher version, or the same where it runs another build."""
    order = compare(version, current)
    return order > 0 or (order == 0 and _runs_other_build(case))


def _runs_other_build(case: Case) -> bool:
    """Say whether the device runs another build, by its hash or else by the name in brackets behind its version."""
    project = case.check_in.project
    if case.running and not case.filesystem:
        return not any(image.project == project for image in case.running)
    reported = case.reported
    name = None if reported is None else reported.build_name
    return name is not None and name.casefold() != project.casefold()


def _choose_back(case: Case, chip: str | None, choice: Choice, current: Version | None) -> Choice:
    """Choose the release before the halted one that runs, where the policy leads back; otherwise keep the choice."""
    if not case.rules.rollback or current is None or current.prerelease is not None or _runs_other_build(case):
        return choice
    numbers = numbers_of(current)
    rollout = case.rollouts.by_version.get(numbers)
    if rollout is None or rollout.state is not State.HALTED or rollout.deciding:
        return choice
    if choice.image is not None and compare(choice.image.version, current) > 0:
        return choice
    back = case.project.choose_among(case.kind, chip, case.family, case.rollouts.barred, numbers)
    if back.image is None:
        return choice
    case.rolled_back = True
    return back


def _find_stone(case: Case, best: Version) -> Version | None:
    """Return the stepping stone that lies next above what runs, and below the best; any where that isn't known."""
    current = case.current
    for stone in sorted(case.rules.stepping_stones, key=numbers_of):
        if (current is None or compare(stone, current) > 0) and compare(stone, best) < 0:
            return stone
    return None


def _why_barred(case: Case, numbers: Numbers) -> str:
    return "halted" if case.rollouts.by_version[numbers].state is State.HALTED else "deciding"


def _pass_over(case: Case, version: Version, reason: str) -> None:
    if case.passed_over is None:
        case.passed_over = (version, reason)


def _is_admitted(case: Case, numbers: Numbers) -> bool:
    """Say whether the device is in the stage of a release, or has been offered it before."""
    if not case.rules.stages:
        return True
    check_in, device = case.check_in, case.device
    place = (check_in.channel, check_in.project)
    for attempt in () if device is None else device.attempts:
        if attempt.version == numbers and (attempt.channel, attempt.project) == place:
            if attempt.counted:
                return True
            if case.now - attempt.outcome_at < GIVEN_BACK and attempt.outcome is not Outcome.CONFIRMED:
                # It had its seat, and gave it back: others come first.
                return False
    rollouts = case.rollouts
    return admits(rollouts.by_version.get(numbers), rollouts.fleet, (*place, numbers), case.rules, device, case.now)


def announce(case: Case) -> Decision | None:
    """Tell the number of the best version, if that is all that was asked, and it may be had now."""
    if case.check_in.mode is not Mode.VERSION:
        return None
    return hold(case) or look_at_window(case) or Announce(case.best, "version-asked")


def compare_with_running(case: Case) -> Decision | None:
    """Compare the best image with what runs, known by hash first and by version second."""
    if case.filesystem:
        # The hashes are those of the sketch, and tell nothing of the filesystem.
        return _compare_with_reported(case)
    if case.running:
        return _compare_with_image(case)
    decision = _compare_with_reported(case)
    check_in = case.check_in
    if decision is UP_TO_DATE and (check_in.sketch_md5 or check_in.sketch_sha256):
        return UNKNOWN_BUILD
    return decision


def _compare_with_image(case: Case) -> Decision | None:
    """Decide for a device that runs an image of the catalog."""
    best, running, project = case.best, case.running, case.check_in.project
    if best in running and case.choice.reason is None and case.passed_over is None:
        return UP_TO_DATE
    version = highest_version(running, project)
    if best in running:
        return _stay(case, version)
    order = compare(best.version, version)
    if order == 0 and _runs_other_build(case):
        case.reason = "other-build"
        return None
    return _send_if_higher(case, order, version)


def _compare_with_reported(case: Case) -> Decision | None:
    """Decide by what the device reports as its version, if anything."""
    best, text = case.best, case.check_in.version
    if text is None:
        # Where a newer release leaves open which chip it is for, an older one may be a step back, or for another.
        if case.choice.reason == "unknown-chip":
            return WITHHELD["unknown-chip"]
        if case.passed_over is not None:
            # It may run that, so that any other would be a step back.
            return WITHHELD[case.passed_over[1]]
        if case.rules.pin is not None and not case.rules.downgrade:
            return WITHHELD["version-unknown"]
        case.reason = "no-version" if case.rules.pin is None else "pinned"
        return None
    try:
        reported = read_reported_version(text)
    except VersionError as error:
        return Refuse("unreadable-version", f"version {text[:40]!a}: {error}")
    order = compare(best.version, reported.version)
    if order == 0 and _runs_other_build(case):
        case.reason = "other-build"
        return None
    return _send_if_higher(case, order, reported.version)


def _send_if_higher(case: Case, order: int, version: Version) -> Decision | None:
    """Go on with an image that is higher than what runs, or that the policy wants though it is lower."""
    pinned = case.rules.pin is not None
    if order > 0:
        case.reason = "pinned" if pinned else "newer"
        return None
    if order < 0 and (case.rolled_back or (pinned and case.rules.downgrade)):
        case.reason = "pinned" if pinned else "rollback"
        return None
    return WITHHELD["pinned"] if order < 0 and pinned else _stay(case, version)


def _stay(case: Case, version: Version) -> Decision:
    """Decide for a device that runs the best image for it, or a higher version: there may be one above, not for it."""
    choice = case.choice
    if case.passed_over is not None and _is_above(case, case.passed_over[0], version):
        return WITHHELD[case.passed_over[1]]
    if choice.reason is not None and choice.withheld is not None and compare(choice.withheld, version) > 0:
        return WITHHELD[choice.reason]
    return UP_TO_DATE
