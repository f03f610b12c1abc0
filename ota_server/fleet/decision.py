"""What a decision is: its kinds, its reasons, and the `Case` that the steps of `fleet/decide.py` work on."""

from __future__ import annotations

from typing import NamedTuple

import attrs
from semver import Version

from ota_server.firmware.catalog import STABLE, Catalog, Choice, Image, Project
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import ReportedVersion, VersionError, numbers_of, read_reported_version
from ota_server.fleet.checkin import FAMILIES, CheckIn, Mode
from ota_server.fleet.device import Device
from ota_server.fleet.rollout import NO_ROLLOUTS, Rollouts
from ota_server.fleet.rules import DEFAULT_RULES, Rules

REASONS = {
    "newer": "the image is newer than what the device runs",
    "no-version": "the device told neither its version nor a known hash, so it gets the best image",
    "other-build": "the device runs another build (by the name in brackets, or by its hash)",
    "pinned": "the policy pins the device to one release: that is sent, or it can't be",
    "rollback": "the device runs a halted release, and the policy leads it back to the one before",
    "version-asked": "the device asked for the number of the best version only",
    "up-to-date": "the device runs the best image already, or a version equal to it or newer",
    "unknown-build": "as up-to-date by its version, but by its hash the device runs a build that no file explains",
    "halted": "the release was halted, since too many devices failed on it, or by the operator",
    "deciding": "a step of the release's rollout is being written down, which takes a moment",
    "stage-full": "the release is being rolled out in stages, and the device isn't in this one",
    "stepping-stone": "the device has to pass through a release first that can't be sent now",
    "version-unknown": "the policy goes by the version that runs, and the device didn't tell it",
    "below-minimum": "the device runs less than the policy's minimum for updates over the air",
    "held": "the policy holds updates for the device or its project",
    "window-closed": "the policy allows updates at other times of the day or week",
    "bounced": "the device took this image three times and still runs the old one, so it is left in peace for a day",
    "busy": "as many devices as the policy allows are downloading; this one gets its turn later",
    "no-space": "the image is larger than the space that the device says is free",
    "flash-size": "the image is built for more flash than the device says it has",
    "wrong-chip": "the image is for another chip than the device's",
    "unknown-chip": "there is an image for each of several chips, and which one the device has isn't known",
    "not-for-ota": "the file can't be an update: a boot loader, a merged factory image, a filesystem named as a sketch",
    "no-image": "the project has no image of the kind asked for (sketch or filesystem)",
    "unknown-mode": "the device asked for something that is neither a sketch nor a filesystem",
    "unknown-project": "no file of this project is in the folder",
    "unreadable-chip": "what the address names with ?chip= is no chip",
    "unreadable-version": "what the device reported as its version holds no version",
    "image-changed": "the file of the image is being changed, so it is not sent",
    "starting": "the server has only just started, and is still reading the folder",
}
"""Every reason, with what it means."""


@attrs.frozen
class Send:
    """Send this image."""

    image: Image
    reason: str


@attrs.frozen
class Announce:
    """Tell the version of this image, and send nothing else."""

    image: Image
    reason: str


@attrs.frozen
class UpToDate:
    """There is nothing newer than what the device runs."""

    reason: str = "up-to-date"


@attrs.frozen
class Withhold:
    """There may be something newer, but this device doesn't get it now."""

    reason: str


@attrs.frozen
class Refuse:
    """The request can't be answered; `detail` says to a person what was read, on one line of ASCII."""

    reason: str
    detail: str


Decision = Send | Announce | UpToDate | Withhold | Refuse

UP_TO_DATE = UpToDate()
UNKNOWN_BUILD = UpToDate("unknown-build")
WITHHELD = {reason: Withhold(reason) for reason in REASONS}
UNKNOWN_PROJECT = Refuse("unknown-project", "unknown project")


class Traffic(NamedTuple):
    """How much is being downloaded: in all and of the project.

    `limit` is how many downloads the server allows in all. `waiting` is how many devices were turned away and have not
    had their turn since, and `waited` says that this device is one of them. `counted` says that these are numbers of
    a running server.
    """

    active: int = 0
    of_project: int = 0
    limit: int | None = None
    waiting: int = 0
    waited: bool = False
    counted: bool = False


NO_TRAFFIC = Traffic()


class Case:
    """One check-in with all that is decided by, and what the steps have found out so far.

    `check_in` is at the place that the rules send it to, `served` the project there, if there is one, and `running`
    are the images that a hash named. `choice` is the best image for the device, `best` its plain form, `packed` the
    compressed one that is sent in its place, and `reason` why it is sent. `passed_over` is the highest release that
    the device doesn't get, with the reason.
    """

    project: Project
    choice: Choice
    best: Image
    reason: str = ""
    passed_over: tuple[Version, str] | None = None
    rolled_back = False
    packed: Image | None = None
    _current: Version | None = None
    _current_known = False

    def __init__(
        self,
        check_in: CheckIn,
        catalog: Catalog,
        rules: Rules = DEFAULT_RULES,
        device: Device | None = None,
        rollouts: Rollouts = NO_ROLLOUTS,
        now: float = 0.0,
        traffic: Traffic = NO_TRAFFIC,
    ) -> None:
        placed = place_by(check_in, rules)
        self.served = catalog.project(placed.channel, placed.project)
        if self.served is None and placed.channel != check_in.channel:
            # The channel that the policy names may have some projects only.
            placed = attrs.evolve(placed, channel=check_in.channel)
            self.served = catalog.project(placed.channel, placed.project)
        self.check_in = check_in = placed
        self.catalog = catalog
        self.rules = rules
        self.device = device
        self.rollouts = rollouts
        self.now = now
        self.traffic = traffic
        self.running = find_running(check_in, catalog)
        self.filesystem = check_in.mode is Mode.FILESYSTEM
        self.kind = Kind.FILESYSTEM if self.filesystem else Kind.APP
        self.family = "" if check_in.dialect is None else FAMILIES[check_in.dialect]

    @property
    def current(self) -> Version | None:
        """The version that runs: that of the image which a hash named, or else what was reported; None if unknown."""
        if not self._current_known:
            self._current_known = True
            self._current = self._find_current()
        return self._current

    def _find_current(self) -> Version | None:
        if self.running and not self.filesystem:
            return highest_version(self.running, self.check_in.project)
        reported = self.reported
        return None if reported is None else reported.version

    @property
    def reported(self) -> ReportedVersion | None:
        """What the device reported as its version, if that can be read."""
        if self.check_in.version is None:
            return None
        try:
            return read_reported_version(self.check_in.version)
        except VersionError:
            return None


def place_by(check_in: CheckIn, rules: Rules) -> CheckIn:
    """Return a check-in at the project and channel that the rules send it to."""
    if rules.project is None and rules.channel is None:
        return check_in
    channel = check_in.channel
    if rules.channel is not None and (rules.own_channel or channel == STABLE):
        channel = rules.channel
    return attrs.evolve(check_in, project=rules.project or check_in.project, channel=channel)


def find_running(check_in: CheckIn, catalog: Catalog) -> tuple[Image, ...]:
    """Return the images that a device may be running by the hashes it told; several may have the same bytes."""
    for sketch_hash in (check_in.sketch_sha256, check_in.sketch_md5):
        if sketch_hash is not None and (images := catalog.by_hash.get(sketch_hash)):
            return images
    return ()


def highest_version(running: tuple[Image, ...], project: str) -> Version:
    """Return the version that runs, where the same bytes stand under several: the highest, those of the project first.

    So that no device is ever offered a downgrade.
    """
    own = [image for image in running if image.project == project]
    return max((image.version for image in own or running), key=numbers_of)
