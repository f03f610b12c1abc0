"""What the owner of a folder should know of its files: those that aren't served, and what is odd about the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from ota_server.firmware.catalog import STABLE, Catalog, Image, Project
from ota_server.firmware.lint import Finding, find_current, find_newest, lint


@attrs.frozen
class Notice:
    """One thing about a file that its owner should know, as a sentence that begins with the file's name.

    `word` is short and stable: `not-served`, or one of `lint`. `serious` ones are likely to be mistakes.
    """

    file: str
    reason: str
    word: str = "not-served"
    serious: bool = True


def place_of(channel: str, file: str) -> str:
    """Return where a file is, as its owner sees it: in the folder itself, or in that of a channel."""
    return file if channel == STABLE else f"{channel}/{file}"


class Findings:
    """What is odd about the images of a catalog, as notices: iterate over it."""

    def __init__(self) -> None:
        self._catalog: Catalog | None = None
        self._found: dict[Image, tuple[Project, tuple[Notice, ...]]] = {}

    def __iter__(self) -> Iterator[Notice]:
        for _, notices in self._found.values():
            yield from notices

    def update(self, catalog: Catalog, come: Iterable[Image]) -> None:
        """Look at images that have come to a catalog; the first time, at those only that devices would be sent."""
        if catalog is self._catalog:
            return
        first, self._catalog = self._catalog is None, catalog
        self._drop(catalog)
        if first:
            for channel in catalog.channels.values():
                for project in channel.projects.values():
                    for image in find_current(project):
                        self._look_at(image, project, new=False)
            return
        together = set(come)
        for image in together:
            beside = catalog.project(image.channel, image.project)
            if beside is not None:
                self._look_at(image, beside, new=find_newest(image, beside) not in together)

    def _drop(self, catalog: Catalog) -> None:
        """Drop what no longer holds: what an image was compared with may have gone, or come only now."""
        for image, (old, before) in list(self._found.items()):
            project = catalog.project(image.channel, image.project)
            if project is old:
                continue
            del self._found[image]
            if project is not None and catalog.image(image.channel, image.file_name) is image:
                # There may be less to say of it, never more.
                holding = set(_make_notices(image, lint(image, project)))
                if still := tuple(notice for notice in before if notice in holding):
                    self._found[image] = project, still

    def _look_at(self, image: Image, project: Project, *, new: bool) -> None:
        if notices := _make_notices(image, lint(image, project, new=new)):
            self._found[image] = project, notices


def _make_notices(image: Image, findings: tuple[Finding, ...]) -> tuple[Notice, ...]:
    place = place_of(image.channel, image.file_name)
    return tuple(Notice(place, each.text, each.word, each.serious) for each in findings)
