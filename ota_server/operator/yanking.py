"""Yanking: a release is withdrawn, and kept where nobody is offered it."""

from __future__ import annotations

from pathlib import Path

from ota_server.firmware.catalog import Image
from ota_server.firmware.versions import numbers_of
from ota_server.fleet.journal import Event
from ota_server.operator.calls import Answer, Call, Operation, Problem
from ota_server.operator.durably import tell_event
from ota_server.operator.house import House
from ota_server.operator.parameters import CHANNEL, PROJECT, VERSION
from ota_server.operator.publishing import LOOKS
from ota_server.operator.reading import find_release
from ota_server.operator.schemas import TEXT, a_list, an_object, described
from ota_server.operator.schemas import VERSION as VERSION_SCHEMA
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import spell_version
from ota_server.operator.yard import YANKED, Yard

YANKED_RELEASE = an_object(
    project=TEXT,
    channel=TEXT,
    version=VERSION_SCHEMA,
    files=described(a_list(TEXT), "the names of its files"),
    kept=described(TEXT, "the folder, among what the server keeps, in which they are now"),
    notes=described(a_list(TEXT), "what else there is to know, for people"),
)


class Yanking:
    """What answers; see the operations."""

    def __init__(self, house: House, yard: Yard) -> None:
        self._house = house
        self._yard = yard

    async def yank(self, call: Call) -> Answer:
        """Withdraw a release."""
        house, channel = self._house, call["channel"]
        house.check_memory()
        _, release = find_release(house.catalog, channel, call["project"], call["version"])
        # Those that the server compressed itself are elsewhere, and go with the plain ones.
        images = [image for image in release.images if image.path == self._path(image)]
        if not images:
            raise Problem(404, "unknown-release", "There is no file of this release")
        kept: Path = await house.in_thread(self._yard.yank, images, call.operator.actor, call.now)
        house.keeper.break_off(release.images)
        files = [image.file_name for image in images]
        place = f"{YANKED}/{kept.name}"
        text = f"{', '.join(files)}; kept in {place}"
        event = Event(
            call.now, call.operator.actor, "yanked", text, channel, call["project"], numbers_of(release.version)
        )
        notes = await tell_event(house, event)
        notes += await self._look(images)
        return Answer(
            {
                "project": call["project"],
                "channel": channel,
                "version": spell_version(release.version),
                "files": files,
                "kept": place,
                "notes": notes,
            }
        )

    def _path(self, image: Image) -> str:
        inbox = self._house.inbox
        assert inbox is not None
        return str(inbox.folder_of(image.channel) / image.file_name)

    async def _look(self, images: list[Image]) -> list[str]:
        """Wait until the images are out of the catalog; return notes for people where that can't be told."""
        watcher = self._house.watcher
        for _ in range(LOOKS):
            try:
                await watcher.look_now()
            except OSError as error:
                return [f"the folder can't be read now, and is served as it was read last: {error}"]
            catalog = self._house.catalog
            if all(catalog.image(image.channel, image.file_name) is not image for image in images):
                return []
        return ["the folder hasn't been read anew yet"]


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    if house.yard is None:
        return ()
    return (
        Operation(
            "delete_release",
            "DELETE",
            "/projects/{project}/releases/{version}",
            Scope.PUBLISH,
            "Withdraw a release: its files are kept where nobody is offered them, and downloads of them end.",
            Yanking(house, house.yard).yank,
            {200: YANKED_RELEASE},
            (PROJECT, VERSION, CHANNEL),
            problems=(409, 507),
        ),
    )
