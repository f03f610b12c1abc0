"""Reading: projects, releases, their images, and the files that aren't offered."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator

import attrs
from semver import Version

from ota_server.firmware.catalog import Catalog, Project, Release
from ota_server.firmware.notices import Notice
from ota_server.firmware.versions import numbers_of
from ota_server.fleet.rollout import NO_ROLLOUTS, Rollouts
from ota_server.operator.calls import Answer, Call, Json, Operation, Problem
from ota_server.operator.house import House
from ota_server.operator.image_shapes import (
    FILE,
    PROJECT,
    RELEASE,
    WHOLE_PROJECT,
    WHOLE_RELEASE,
    show_image,
    show_project,
    show_release,
)
from ota_server.operator.listing import Listing, Order, page_schema
from ota_server.operator.parameters import CHANNEL, VERSION, any_name, any_text, flag
from ota_server.operator.parameters import PROJECT as PROJECT_PARAMETER
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import show_rollout, show_settings, spell_version


@attrs.frozen(eq=False)
class _Placed:
    """A release, with its project in its channel."""

    channel: str
    project: Project
    release: Release


_PROJECTS: Listing[str] = Listing({"name": Order(lambda name: (name,), (str,))}, "name")

_RELEASES: Listing[_Placed] = Listing(
    {
        "version": Order(lambda each: (*numbers_of(each.release.version), each.channel), (int, int, int, str)),
        "channel": Order(lambda each: (each.channel, *numbers_of(each.release.version)), (str, int, int, int)),
    },
    "-version",
)

_FILES: Listing[Notice] = Listing(
    {"file": Order(lambda each: (each.file, each.word, _digest(each.reason)), (str, str, str))}, "file"
)


class Reading:
    """What answers; see the operations."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def projects(self, call: Call) -> Answer:
        """List projects."""
        catalog = self._house.catalog
        channel, wanted = call["channel"], call["q"]
        names = {name for each in _channels(catalog, channel) for name in catalog.channels[each].projects}
        return _PROJECTS.whole(
            call,
            names,
            lambda name: self._show(catalog, name),
            lambda name: wanted is None or wanted.lower() in name.lower(),
        )

    async def project(self, call: Call) -> Answer:
        """Show one project."""
        catalog, name = self._house.catalog, call["project"]
        find_project(catalog, name)
        rules = self._house.policy.rules_for(name, None)
        return Answer({**self._show(catalog, name), "settings": show_settings(rules)})

    def _show(self, catalog: Catalog, name: str) -> dict[str, Json]:
        channels = {channel: each.projects[name] for channel, each in catalog.channels.items() if name in each.projects}
        known = self._house.known
        fleets = None if known is None else {each: self._rollouts(each, name).fleet for each in channels}
        return show_project(name, channels, fleets)

    def _rollouts(self, channel: str, project: str) -> Rollouts:
        known = self._house.known
        return NO_ROLLOUTS if known is None else known.course.places.get((channel, project), NO_ROLLOUTS)

    async def releases(self, call: Call) -> Answer:
        """List the releases of a project."""
        catalog, name = self._house.catalog, call["project"]
        find_project(catalog, name)

        def found() -> Iterator[_Placed]:
            for channel in _channels(catalog, call["channel"]):
                project = catalog.project(channel, name)
                if project is not None:
                    yield from (_Placed(channel, project, release) for release in project.releases)

        def show(each: _Placed) -> Json:
            rollout = self._rollouts(each.channel, name).by_version.get(numbers_of(each.release.version))
            return show_release(each.release, each.project, None if rollout is None else rollout.state)

        return _RELEASES.whole(call, found(), show)

    async def release(self, call: Call) -> Answer:
        """Show one release, with all that is known of its images."""
        name, channel, version = call["project"], call["channel"], call["version"]
        project, release = find_release(self._house.catalog, channel, name, version)
        keys = self._house.keys
        images = await self._house.in_thread(lambda: [show_image(each, project, keys) for each in release.images])
        rollouts = self._rollouts(channel, name)
        rollout = rollouts.by_version.get(numbers_of(version))
        rules = self._house.policy.rules_for(name, None)
        return Answer(
            {
                "project": name,
                "channel": channel,
                "version": spell_version(release.version),
                "newest": release is project.releases[0],
                "rollout": None if rollout is None else show_rollout(rollout, rollouts, rules),
                "images": images,
            }
        )

    async def files(self, call: Call) -> Answer:
        """List what there is to know of the folder's files."""
        watcher = self._house.watcher
        unserved = ("not-served", *_UNFIT)
        changing = [Notice(each, "is being written, or may be", "changing", serious=False) for each in watcher.changing]
        wanted, word, served = call["q"], call["word"], call["served"]

        def matches(notice: Notice) -> bool:
            is_served = notice.word not in unserved and notice.word != "changing"
            return (
                (word is None or notice.word == word)
                and (served is None or served == is_served)
                and (wanted is None or wanted.lower() in notice.file.lower())
            )

        return _FILES.whole(call, (*watcher.notices, *changing), _show_notice, matches)


_UNFIT = ("not-for-ota", "chip-differs")


def _digest(reason: str) -> str:
    """Return what tells reasons of one word apart: they may be long, and a cursor holds it."""
    return hashlib.blake2b(reason.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _show_notice(notice: Notice) -> Json:
    return {"file": notice.file, "word": notice.word, "reason": notice.reason, "serious": notice.serious}


def _channels(catalog: Catalog, channel: str | None) -> list[str]:
    return list(catalog.channels) if channel is None else [channel] if channel in catalog.channels else []


def find_project(catalog: Catalog, name: str) -> None:
    """Make sure that there is a project of this name in some channel. Raises Problem."""
    names = sorted({each for channel in catalog.channels.values() for each in channel.projects})
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else "see /api/v1/projects"
        raise Problem(404, "unknown-project", "There is no such project", hint)


def find_release(catalog: Catalog, channel: str, name: str, version: Version) -> tuple[Project, Release]:
    """Return a project and its release. Raises Problem, which says where else it is."""
    find_project(catalog, name)
    project = catalog.project(channel, name)
    release = None if project is None else project.release(version)
    if project is None or release is None:
        others = [
            each
            for each in catalog.channels
            if (other := catalog.project(each, name)) is not None and other.release(version) is not None
        ]
        where = f"it is in channel {', '.join(sorted(others))}" if others else f"see /api/v1/projects/{name}/releases"
        raise Problem(404, "unknown-release", f"Channel {channel} has no such release", where)
    return project, release


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    reading = Reading(house)
    read = Scope.READ
    of_channel = any_name("channel", "Only what is in this channel.")
    return (
        Operation(
            "list_projects",
            "GET",
            "/projects",
            read,
            "List the projects in the folder.",
            reading.projects,
            {200: page_schema(PROJECT)},
            (any_text("q", "Only projects whose name has this in it."), of_channel, *_PROJECTS.parameters),
        ),
        Operation(
            "get_project",
            "GET",
            "/projects/{project}",
            read,
            "Show one project, and the settings that hold for it.",
            reading.project,
            {200: WHOLE_PROJECT},
            (PROJECT_PARAMETER,),
        ),
        Operation(
            "list_releases",
            "GET",
            "/projects/{project}/releases",
            read,
            "List the releases of a project, those of all channels.",
            reading.releases,
            {200: page_schema(RELEASE)},
            (PROJECT_PARAMETER, of_channel, *_RELEASES.parameters),
        ),
        Operation(
            "get_release",
            "GET",
            "/projects/{project}/releases/{version}",
            read,
            "Show one release with its rollout, and its images with what their bytes say and what is odd about them.",
            reading.release,
            {200: WHOLE_RELEASE},
            (PROJECT_PARAMETER, VERSION, CHANNEL),
        ),
        Operation(
            "list_files",
            "GET",
            "/files",
            read,
            "List the files that aren't offered, with the reasons; or with served=true what is odd about the others.",
            reading.files,
            {200: page_schema(FILE)},
            (
                any_text("q", "Only files whose path in the folder has this in it."),
                any_text("word", "Only what is noted by this word."),
                flag("served", "Whether the files are offered to devices.", default=False),
                *_FILES.parameters,
            ),
        ),
    )
