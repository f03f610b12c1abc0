"""Explaining a decision: the steps that `decide` takes, each with what it found, and what would change the answer."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from datetime import UTC, datetime

import attrs

from ota_server.firmware.facts import Format
from ota_server.firmware.versions import compare
from ota_server.fleet.checkin import Mode
from ota_server.fleet.decide import STEPS
from ota_server.fleet.decision import REASONS, Announce, Case, Decision, Refuse, Send
from ota_server.fleet.rollout import Rollout, State, describe, stage_of

CHANGES = {
    "newer": "a line `hold` in the policy, or `ota-server rollout halt`",
    "no-version": "let the sketch tell its version, so that it is not sent the same image again and again",
    "other-build": "a line `hold` in the policy, or to ask at the project of its own name",
    "pinned": "the line `pin` in the policy; for a lower version also `downgrade = true`; or a file of that version",
    "rollback": "the line `rollback` in the policy, or to resume the rollout",
    "version-asked": "to ask without `mode: version`",
    "up-to-date": "a file of a higher version",
    "unknown-build": "a file of a higher version",
    "halted": "a file of a higher version, with the fault corrected; `ota-server rollout resume`, if it was no fault",
    "deciding": "a moment",
    "stage-full": "time: when enough of the stage is confirmed, the next begins; or `ota-server rollout complete`",
    "stepping-stone": "the file of the stepping stone, or its rollout; or the line `stepping-stones` in the policy",
    "version-unknown": "to let the sketch tell its version",
    "below-minimum": "the line `minimum` in the policy; a device below it has to be updated by cable",
    "held": "the line `hold` in the policy",
    "window-closed": "the time, or the line `window` in the policy",
    "bounced": "a day; a file of a higher version; or `ota-server device clear-brake`",
    "busy": "a moment: it goes before others then; or the line `max-downloads` in the policy",
    "no-space": "a smaller image, or a device with more flash",
    "flash-size": "an image that is built for the device's flash",
    "wrong-chip": "a file for the device's chip in the newest release",
    "unknown-chip": "to name the chip in the address, as in /PROJECT?chip=esp32c3",
    "not-for-ota": "a file that is an application, in the place of this one",
    "no-image": "a file of the kind asked for",
    "unknown-mode": "to ask for `sketch`, `spiffs` or `version`",
    "unknown-project": "a file of the project",
    "unreadable-chip": "to write the chip as in esp8266 or esp32c3",
    "unreadable-version": "to let the sketch tell a version such as 1.2.3",
    "image-changed": "to let the file be as it is for two seconds",
    "starting": "a moment",
}
"""What would change the answer, by its reason."""


@attrs.frozen
class Finding:
    """What one step found; `decided` says that the answer is its."""

    step: str
    text: str
    decided: bool


@attrs.frozen
class Explanation:
    """A decision, what each step found until then, and what would change it."""

    decision: Decision
    findings: tuple[Finding, ...]

    @property
    def answer(self) -> str:
        """The answer as status and image, for people."""
        match self.decision:
            case Send():
                return f"200 with {self.decision.image.file_name}"
            case Announce():
                return f"200 and the number {self.decision.image.version}"
            case Refuse():
                return "404" if self.decision.reason == "unknown-project" else f"400: {self.decision.detail}"
        return "304"

    @property
    def meaning(self) -> str:
        """What the reason means."""
        return REASONS[self.decision.reason]

    @property
    def change(self) -> str:
        """What would change the answer."""
        return CHANGES[self.decision.reason]


def explain(case: Case) -> Explanation:
    """Decide on a case as `decide` does, and tell what each step found."""
    findings = []
    for step in STEPS:
        decision = step.apply(case)
        text = _TELL[step.name](case)
        findings.append(Finding(step.name, text, decision is not None))
        if decision is not None:
            return Explanation(decision, tuple(findings))
    raise AssertionError("the last step always decides")


def spell_time(seconds: float) -> str:
    """Write a time in seconds since 1970 for people: `2026-11-23 22:05:07 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _by(case: Case, key: str) -> str:
    """Say where a rule was set."""
    origin = case.rules.origins.get(key)
    return "by default" if origin is None else f"policy, line {origin.line}, {origin.table}"


def _tell_place(case: Case) -> str:
    moved = [f"{key} ({_by(case, key)})" for key in ("project", "channel") if key in case.rules.origins]
    place = f"project {case.check_in.project} in channel {case.check_in.channel}"
    return f"{place}, by {' and '.join(moved)}" if moved else place


def _tell_question(case: Case) -> str:
    asked = {
        Mode.SKETCH: "it asks for a sketch",
        Mode.FILESYSTEM: "it asks for a filesystem",
        Mode.VERSION: "it asks for the number of the best version",
        Mode.UNKNOWN: "it asks for something unknown",
    }[case.check_in.mode]
    return f"{asked}; its chip is {case.check_in.chip or 'not told'}"


def _tell_release(case: Case) -> str:
    texts = []
    if case.rules.pin is not None:
        texts.append(f"it is pinned to {case.rules.pin} ({_by(case, 'pin')})")
    for version, rollout in sorted(case.rollouts.by_version.items(), reverse=True):
        if rollout.deciding or rollout.state is not State.COMPLETE:
            stage = f"{stage_of(case.rules, rollout.stage).text}, {_by(case, 'stages')}"
            stages = f" of {len(case.rules.stages)} ({stage})" if case.rules.stages else ""
            spelled = ".".join(map(str, version))
            texts.append(f"{spelled} is {tell_rollout(rollout, case.rollouts.fleet, stages)}")
    if case.rules.stepping_stones:
        stones = ", ".join(map(str, case.rules.stepping_stones))
        texts.append(f"stepping stones are {stones} ({_by(case, 'stepping-stones')})")
    if case.passed_over is not None:
        texts.append(f"{case.passed_over[0]} is passed over ({case.passed_over[1]})")
    if case.choice.withheld is not None:
        texts.append(f"{case.choice.withheld} has nothing for it ({case.choice.reason})")
    best = case.choice.image
    texts.append("there is no image for it" if best is None else f"the best for it is {best.file_name}")
    return "; ".join(texts)


def tell_rollout(rollout: Rollout, fleet: int, stages: str = "") -> str:
    """Say how a rollout stands in a fleet of so many devices; `stages` is what the policy says of its stage."""
    if rollout.seats is None:
        reach = "for everybody"
    else:
        reach = f"in stage {rollout.stage + 1}{stages}, {rollout.taken} of {rollout.seats} seats are taken"
    state = "about to be halted" if rollout.deciding else rollout.state.value
    why = f"; {rollout.why}" if rollout.why and state != State.RUNNING.value else ""
    return f"{state}, {reach}, offered to {rollout.admitted} of {fleet} devices: {describe(rollout.outcomes)}{why}"


def _tell_running(case: Case) -> str:
    if case.running and not case.filesystem:
        runs = f"it runs {case.current}, by its hash"
    elif case.check_in.version is None:
        runs = "it doesn't tell what it runs"
    else:
        runs = f"it runs {case.check_in.version}, as it says"
    if case.current is None:
        return runs
    order = compare(case.best.version, case.current)
    relation = "higher" if order > 0 else "lower" if order < 0 else "the same"
    return f"{runs}; {case.best.version} is {relation}"


def _tell_fit(case: Case) -> str:
    esp = case.best.facts.core.esp
    needs = [f"{case.best.size} bytes"]
    needs += sorted(case.best.chips)
    if esp is not None and esp.flash_size is not None:
        needs.append(f"{esp.flash_size >> 10} KB of flash")
    if case.best.facts.format is Format.GZIP:
        needs.append("gzip")
    told = []
    if case.check_in.free_space is not None:
        told.append(f"{case.check_in.free_space} bytes are free")
    if case.check_in.chip_size is not None:
        told.append(f"{case.check_in.chip_size >> 10} KB of flash")
    packed = "" if case.packed is None else f"; compressed to {case.packed.size} bytes"
    if not told and case.device is not None and case.device.key:
        told.append("what it told of its room isn't kept: ask with --free-space and --chip-size")
    return f"the image: {', '.join(needs)}; the device: {', '.join(told) or 'told nothing of its room'}{packed}"


def _tell_hold(case: Case) -> str:
    return f"hold is {str(case.rules.hold).lower()} ({_by(case, 'hold')})"


def _tell_minimum(case: Case) -> str:
    minimum = case.rules.minimum
    return "there is no minimum" if minimum is None else f"the minimum is {minimum} ({_by(case, 'minimum')})"


def _tell_brake(case: Case) -> str:
    if case.device is None:
        return "nothing is known of what it did before"
    content = case.best.facts.core.sha256
    for attempt in case.device.attempts:
        if attempt.image == content and attempt.kind is case.kind:
            text = f"it has downloaded this image {attempt.downloads} times: {attempt.outcome}"
            if attempt.braked_until > case.now:
                text += f"; left in peace until {spell_time(attempt.braked_until)}"
            return text
    return "it has not been sent this image"


def _tell_window(case: Case) -> str:
    if not case.rules.window:
        return "updates are sent at any time"
    windows = ", ".join(str(getattr(window, "text", window)) for window in case.rules.window)
    return f"updates are sent {windows} ({_by(case, 'window')}); it is {spell_time(case.now)}"


def _tell_turn(case: Case) -> str:
    limits = [limit for limit in (case.traffic.limit, case.rules.max_downloads) if limit is not None]
    if not limits:
        return "any number may download at once"
    if case.traffic.counted:
        active, waiting = case.traffic.active, case.traffic.waiting
        return (
            f"{min(limits)} may download at once ({_by(case, 'max-downloads')}); {active} do now, "
            f"{case.traffic.of_project} of them for this project, and {waiting} wait for their turn"
        )
    return (
        f"{min(limits)} may download at once ({_by(case, 'max-downloads')}); how many do, and who waits for a turn, "
        "is known to the running server only, which answers `busy` where that are too many"
    )


def _tell_answer(case: Case) -> str:
    return f"{(case.packed or case.best).file_name} is sent"


_TELL: dict[str, Callable[[Case], str]] = {
    "place": _tell_place,
    "question": _tell_question,
    "release": _tell_release,
    "number": lambda case: "it wants more than the number" if case.check_in.mode is not Mode.VERSION else "only that",
    "comparison": _tell_running,
    "fit": _tell_fit,
    "hold": _tell_hold,
    "minimum": _tell_minimum,
    "brake": _tell_brake,
    "window": _tell_window,
    "turn": _tell_turn,
    "answer": _tell_answer,
}


def describe_steps() -> str:
    """Return the page docs/decisions.md, made of the steps themselves."""
    lines = [
        "# How a decision is made",
        "",
        "<!-- Made of the table of steps by `python -m tests.documents --write`; edit ota_server/fleet/decide.py. -->",
        "",
        "Each check-in goes through these steps in order. A step gives a decision, with its reason, or lets the next",
        "one go on. The same check-in at the same time, with the same folder, policy and memory, gets the same",
        "decision. `ota-server explain DEVICE` shows them for one device.",
        "",
    ]
    for number, step in enumerate(STEPS, 1):
        lines += [f"## {number}. {step.name.capitalize()}", "", *textwrap.wrap(step.rule, 118), ""]
        lines += ["| reason | meaning | what would change it |", "| --- | --- | --- |"]
        lines += [f"| `{reason}` | {REASONS[reason]} | {CHANGES[reason]} |" for reason in step.reasons]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"
