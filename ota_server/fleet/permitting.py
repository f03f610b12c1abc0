"""The last steps of a decision: whether the policy, and what the device did before, allow to send an image now."""

from __future__ import annotations

from ota_server.firmware.versions import compare
from ota_server.fleet.decision import WITHHELD, Case, Decision, Send, Traffic
from ota_server.fleet.device import Attempt, Outcome

IN_PIECES = 60.0
"""A device that was sent a part of an image so many seconds ago goes on, whoever else downloads."""


def hold(case: Case) -> Decision | None:
    """Withhold everything where the policy says so."""
    return WITHHELD["held"] if case.rules.hold else None


def keep_minimum(case: Case) -> Decision | None:
    """Withhold the image from a device that runs less than the minimum."""
    minimum = case.rules.minimum
    if minimum is None:
        return None
    current = case.current
    if current is None:
        return WITHHELD["version-unknown"]
    return WITHHELD["below-minimum"] if compare(current, minimum) < 0 else None


def brake(case: Case) -> Decision | None:
    """Withhold an image that the device has been sent in vain."""
    if case.device is None or not case.device.attempts:
        return None
    image = case.best.facts.core.sha256
    for attempt in case.device.attempts:
        if attempt.braked_until > case.now and attempt.image == image and attempt.kind is case.kind:
            return WITHHELD["bounced"]
    return None


def look_at_window(case: Case) -> Decision | None:
    """Withhold the image outside of the policy's windows."""
    windows = case.rules.window
    if windows and not any(window.contains(case.now) for window in windows):
        return WITHHELD["window-closed"]
    return None


def take_turn(case: Case) -> Decision | None:
    """Withhold the image while too many devices download."""
    traffic = case.traffic
    if traffic.limit is None and case.rules.max_downloads is None:
        return None
    if case.device is not None and any(_is_under_way(attempt, case.now) for attempt in case.device.attempts):
        return None
    if _is_full(traffic.limit, traffic.active, traffic) or _is_full(
        case.rules.max_downloads, traffic.of_project, traffic
    ):
        return WITHHELD["busy"]
    return None


def _is_under_way(attempt: Attempt, now: float) -> bool:
    """Say whether a device fetches an image in pieces, be it for the first time, or once more after a failure."""
    if now - attempt.offered_at >= IN_PIECES:
        return False
    whole = attempt.downloaded_at
    return attempt.outcome is Outcome.OFFERED or (whole is not None and whole < attempt.offered_at)


def _is_full(limit: int | None, active: int, traffic: Traffic) -> bool:
    """Say whether a device finds no place among so many; newcomers may take every second one while others wait."""
    if limit is None:
        return False
    if traffic.waiting and not traffic.waited:
        limit = (limit + 1) // 2
    return active >= limit


def send(case: Case) -> Decision:
    """Send the image."""
    return Send(case.packed or case.best, case.reason)
