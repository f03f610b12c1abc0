"""Situations to decide in, for the laws of the decision: folders, check-ins, policies, and what happened before."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st
from semver import Version

from ota_server.firmware.catalog import STABLE, Catalog, Image
from ota_server.firmware.facts import EspFacts, Format
from ota_server.firmware.versions import ReportedVersion, VersionError, numbers_of, read_reported_version
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.decide import Decision, Traffic, decide
from ota_server.fleet.device import Attempt, Device, Outcome
from ota_server.fleet.rollout import Rollout, Rollouts, State
from ota_server.fleet.rules import Rules, Stage
from tests.firmware.samples import make_catalog, make_image
from tests.fleet.play import NOW

_VERSIONS = [Version(1, minor, 0) for minor in range(4)]
_versions = st.sampled_from(_VERSIONS)
_seldom = st.sampled_from([False] * 9 + [True])


@attrs.frozen
class _Hours:
    """A window from one time up to another."""

    begin: float
    end: float

    def contains(self, now: float) -> bool:
        """Say whether a time is inside."""
        return self.begin <= now < self.end


def _sketch(image: Image) -> Image:
    """Return an image as a sketch for the ESP8266 that its boot loader can unpack."""
    facts = attrs.evolve(
        image.facts, chip="esp8266", format=Format.ESP8266_SKETCH, sketch_hashes=(image.facts.md5,) * 4,
        esp=EspFacts(0, 0, 1 << 20, None, (), 8000, can_unpack=True),
    )  # fmt: skip
    return attrs.evolve(image, facts=facts)


def _pack(image: Image) -> Image:
    """Return the gzip file of an image."""
    packed = make_image(f"{image.file_name}.gz", channel=image.channel, size=max(1, image.size // 3))
    facts = attrs.evolve(
        packed.facts, format=Format.GZIP, inner=image.facts, chip=image.facts.chip,
        sketch_hashes=image.facts.sketch_hashes,
    )  # fmt: skip
    return attrs.evolve(packed, facts=facts)


@st.composite
def images_of_folder(draw: st.DrawFn) -> list[Image]:
    """Draw the files of two projects in two channels: several releases, kinds and chips, some of the same bytes."""
    images = {}
    for version in draw(st.lists(_versions, min_size=1, max_size=4, unique=True)):
        for tag in draw(st.sampled_from([("",)] * 6 + [("", ".fs"), (".esp8266", ".esp32"), (".fs",)])):
            project, channel = draw(st.sampled_from([("lamp", STABLE)] * 10 + [("lamp", "beta"), ("door", STABLE)]))
            content = draw(st.sampled_from([None, None, None, b"same"]))
            chip = draw(st.sampled_from([None, None, "esp8266", "esp32"]))
            name = f"{project}-{version}{tag}.bin"
            size = draw(st.sampled_from([1000, 8192, 20_000]))
            image = make_image(name, content, channel=channel, chip=chip, size=size)
            if chip == "esp8266" and tag == "":
                image = _sketch(image)
                if draw(st.booleans()):
                    images[channel, f"{name}.gz"] = _pack(image)
            images[channel, name] = image
    return list(images.values())


_texts = st.one_of(
    st.none(),
    st.sampled_from([f"1.{minor}.0{more}" for minor in range(5) for more in ("", "", "-rc.1", "(lamp)", "(mini)")]),
    st.sampled_from(["0.9", "0.9", "nonsense", "2.0"]),
)


@st.composite
def check_ins(draw: st.DrawFn, images: list[Image]) -> CheckIn:
    """Draw a check-in that has often to do with what is in the folder."""
    hashes = st.sampled_from([None, None, "0" * 32, *(each.facts.md5 for each in images)])
    places = [(each.channel, each.project) for each in images]
    channel, project = draw(st.sampled_from([*places * 3, ("beta", "fan")]))
    dialect, chip = draw(
        st.sampled_from([("esp8266", "esp8266")] * 4 + [("esp32", None), ("esp32", "esp32"), (None, None)])
    )
    return CheckIn(
        channel,
        project,
        dialect,
        chip,
        draw(st.sampled_from(["5C:CF:7F:00:00:01", "5C:CF:7F:00:00:01", None])),
        draw(_texts),
        draw(st.sampled_from([*[Mode.SKETCH] * 12, *Mode])),
        draw(st.sampled_from([None, None, None, 9000, 30_000])),
        sketch_md5=draw(hashes),
    )


_stages = st.sampled_from([Stage("1", 1), Stage("10", 10), Stage("10%", share=0.1), Stage("100%", share=1.0)])
_rules = st.builds(
    Rules,
    stages=st.just(()) | st.lists(_stages, max_size=3).map(tuple),
    window=st.just(()) | st.just((_Hours(NOW - 10, NOW + 10),)),
    stepping_stones=st.just(()) | st.lists(_versions, max_size=2).map(tuple),
    minimum=st.sampled_from([*[None] * 8, *_VERSIONS]),
    rollback=st.booleans(),
    hold=_seldom,
    max_downloads=st.sampled_from([None, None, None, 1, 3]),
    channel=st.sampled_from([*[None] * 12, STABLE, "beta"]),
    own_channel=st.booleans(),
    pin=st.sampled_from([*[None] * 12, *_VERSIONS]),
    downgrade=st.booleans(),
    project=st.sampled_from([*[None] * 15, "lamp", "door"]),
)


@st.composite
def _devices(draw: st.DrawFn, check_in: CheckIn, images: list[Image]) -> Device | None:
    if check_in.device is None or draw(_seldom):
        return None
    device = Device(1, check_in.device, "esp8266", check_in.channel, check_in.project, NOW - 1000, NOW)
    for image in draw(st.lists(st.sampled_from(images), max_size=2, unique=True)):
        attempt = Attempt(
            image.channel, image.project, image.name.kind, numbers_of(image.version), image.facts.core.sha256, "1.0",
            NOW - draw(st.sampled_from([5.0, 5000.0])), draw(st.sampled_from(Outcome)),
            braked_until=draw(st.sampled_from([0.0, NOW - 1, NOW, NOW + 1])),
        )  # fmt: skip
        device.attempts = (*device.attempts, attempt)
    return device


@st.composite
def _rollouts(draw: st.DrawFn, check_in: CheckIn) -> Rollouts:
    rollouts = Rollouts(draw(st.integers(0, 40)))
    for version in draw(st.lists(_versions, max_size=4, unique=True)):
        rollout = Rollout(
            check_in.channel, check_in.project, numbers_of(version), NOW - 5000, NOW - 5000,
            draw(st.sampled_from([State.RUNNING, State.HALTED, State.HALTED, State.COMPLETE])),
            seats=draw(st.sampled_from([None, None, 1, 10])),
            admitted=draw(st.integers(0, 12)),
            deciding=draw(st.sampled_from([False, False, True])),
        )  # fmt: skip
        rollouts.by_version[rollout.version] = rollout
    rollouts.update()
    return rollouts


@attrs.frozen
class Situation:
    """All that a decision is made of."""

    check_in: CheckIn
    catalog: Catalog
    rules: Rules
    device: Device | None
    rollouts: Rollouts
    now: float
    traffic: Traffic

    @property
    def known_by_hash(self) -> bool:
        """Whether a hash tells what runs."""
        return self.check_in.mode is not Mode.FILESYSTEM and (self.check_in.sketch_md5 or "") in self.catalog.by_hash

    def decide(self) -> Decision:
        """Return the decision."""
        return decide(*self.arguments())

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments of `decide`."""
        return tuple(getattr(self, each.name) for each in attrs.fields(Situation))

    @property
    def running(self) -> Version | None:
        """The version that runs, by the hash of a sketch or else as reported; None where that isn't known."""
        rules, check_in = self.rules, self.check_in
        if self.known_by_hash:
            found = self.catalog.by_hash[check_in.sketch_md5 or ""]
            project = rules.project or check_in.project
            own = [each.version for each in found if each.project == project]
            return max(own or [each.version for each in found])
        reported = read_version(check_in.version)
        return None if reported is None else reported.version


def read_version(text: str | None) -> ReportedVersion | None:
    """Return what a device reports as its version, None where that can't be read."""
    try:
        return None if text is None else read_reported_version(text)
    except VersionError:
        return None


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Draw a situation."""
    images = draw(images_of_folder())
    check_in = draw(check_ins(images))
    traffic = Traffic(
        draw(st.sampled_from([0, 1, 3])),
        draw(st.sampled_from([0, 0, 1, 2])),
        draw(st.sampled_from([None, None, 2, 4])),
        draw(st.sampled_from([0, 0, 1])),
        draw(st.booleans()),
    )
    return Situation(
        check_in,
        make_catalog(images),
        draw(_rules),
        draw(_devices(check_in, images)),
        draw(_rollouts(check_in)),
        NOW + draw(st.sampled_from([0.0, 0.0, 0.0, 60.0])),
        traffic,
    )
