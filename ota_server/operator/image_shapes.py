"""What projects, releases and images look like as JSON, each beside its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ota_server.firmware.catalog import STABLE, Image, Project, Release
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.lint import WORDS, lint
from ota_server.firmware.signatures import VerifyKey
from ota_server.fleet.rollout import State
from ota_server.operator.calls import Json
from ota_server.operator.schemas import (
    BYTES,
    COUNT,
    FLAG,
    SHA256,
    TEXT,
    TIME,
    VERSION,
    a_list,
    an_object,
    described,
    one_of,
    optional,
    schema_of,
)
from ota_server.operator.shapes import KIND, ROLLOUT, SETTINGS, spell_time, spell_version
from ota_server.report import make_report

MD5 = {"type": "string", "pattern": "^[0-9a-f]{32}$"}

FINDING = an_object(
    word=described(one_of(WORDS), "a short stable word"),
    text=described(TEXT, "a sentence that begins behind the name of the file"),
    serious=described(FLAG, "likely to end in devices that don't update, or never stop to"),
)

_NAME = an_object(project=TEXT, version=VERSION, kind=KIND, chip=optional(TEXT), compressed=FLAG)

IMAGE = an_object(
    file=TEXT,
    channel=TEXT,
    address=described(TEXT, "where the door for devices has it"),
    kind=KIND,
    chip=described(optional(TEXT), "the chip of its name, or else of its bytes"),
    size=BYTES,
    md5=MD5,
    sha256=SHA256,
    modified_at=TIME,
    offered=described(FLAG, "whether devices may be sent it, as far as the file goes"),
    reason=described(optional(TEXT), "why it isn't offered"),
    findings=described(a_list(FINDING), "what is odd about it, and blocks nothing"),
    name=described(_NAME, "what its name says"),
    signers=described(a_list(optional(TEXT)), "the key of each signature, null for one by no known key"),
    facts=described(schema_of(ImageFacts), "what its bytes say"),
)

_BLOCKING = ("not-for-ota", "chip-differs")


def show_image(image: Image, project: Project, keys: Sequence[VerifyKey]) -> Json:
    """Return an image of a project as JSON; this takes a few milliseconds."""
    report = make_report(image.file_name, image.facts, None, keys)
    findings = lint(image, project, new=False)
    shown = report.as_json()
    return {
        "file": image.file_name,
        "channel": image.channel,
        "address": address_of(image),
        "kind": image.name.kind.value,
        "chip": image.name.chip or image.facts.chip,
        "size": image.size,
        "md5": image.facts.md5,
        "sha256": image.facts.sha256,
        "modified_at": spell_time(image.identity.mtime_ns / 1e9),
        "offered": report.offered,
        "reason": report.reason,
        # As in `inspect`, what keeps it from being offered is the reason, and no finding.
        "findings": [attrs.asdict(each) for each in findings if report.offered or each.word not in _BLOCKING],
        "name": shown["name"],
        "signers": shown["signers"],
        "facts": shown["facts"],
    }


def address_of(image: Image) -> str:
    """Return the plain address of an image at the door for devices."""
    return f"/{image.file_name}" if image.channel == STABLE else f"/{image.channel}/{image.file_name}"


_FILE = an_object(
    file=TEXT,
    address=TEXT,
    kind=KIND,
    chip=optional(TEXT),
    size=BYTES,
    sha256=SHA256,
)

RELEASE = an_object(
    project=TEXT,
    channel=TEXT,
    version=VERSION,
    newest=described(FLAG, "there is no higher version in its channel"),
    rollout=described(optional(one_of(State)), "how its rollout stands, null before that begins"),
    images=a_list(_FILE),
)


def show_release(release: Release, project: Project, state: State | None) -> dict[str, Json]:
    """Return a release as JSON, as lists have it."""
    first = release.images[0]
    return {
        "project": project.name,
        "channel": first.channel,
        "version": spell_version(release.version),
        "newest": release is project.releases[0],
        "rollout": None if state is None else state.value,
        "images": [
            {
                "file": image.file_name,
                "address": address_of(image),
                "kind": image.name.kind.value,
                "chip": image.name.chip or image.facts.chip,
                "size": image.size,
                "sha256": image.facts.sha256,
            }
            for image in release.images
        ],
    }


WHOLE_RELEASE = an_object(
    project=TEXT,
    channel=TEXT,
    version=VERSION,
    newest=FLAG,
    rollout=described(optional(ROLLOUT), "null before it begins"),
    images=a_list(IMAGE),
)

_CHANNEL = an_object(
    channel=TEXT,
    newest=described(VERSION, "the highest version"),
    releases=COUNT,
    images=COUNT,
    size=described(BYTES, "bytes of all images"),
    fleet=described(optional(COUNT), "devices seen within 30 days, null where the server remembers none"),
)

PROJECT = an_object(name=TEXT, channels=a_list(_CHANNEL))

WHOLE_PROJECT = an_object(name=TEXT, channels=a_list(_CHANNEL), settings=SETTINGS)


def show_project(name: str, channels: Mapping[str, Project], fleets: Mapping[str, int] | None) -> dict[str, Json]:
    """Return a project as JSON, given what it is in each channel, and how many devices there are in each."""
    return {
        "name": name,
        "channels": [
            {
                "channel": channel,
                "newest": spell_version(project.releases[0].version),
                "releases": len(project.releases),
                "images": sum(len(release.images) for release in project.releases),
                "size": sum(image.size for release in project.releases for image in release.images),
                "fleet": None if fleets is None else max(0, fleets.get(channel, 0)),
            }
            for channel, project in sorted(channels.items(), key=lambda each: (each[0] != STABLE, each[0]))
        ],
    }


FILE = an_object(
    file=described(TEXT, "where it is in the folder"),
    word=described(TEXT, "`not-served`, `changing`, or the word of a finding"),
    reason=described(TEXT, "a sentence that begins behind the name of the file"),
    serious=FLAG,
)
