"""Publishing: an image comes in as the body of a request, and is offered to devices when that is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from ota_server.firmware.catalog import Catalog, Image
from ota_server.firmware.lint import lint
from ota_server.firmware.naming import CHIPS, FileName, Kind, NamingError, parse_file_name
from ota_server.firmware.notices import place_of
from ota_server.firmware.versions import numbers_of
from ota_server.fleet.journal import Event
from ota_server.fleet.rollout import State
from ota_server.operator.calls import Answer, BodySink, Call, Json, Operation, Parameter, Place, Problem
from ota_server.operator.durably import tell_event
from ota_server.operator.house import House
from ota_server.operator.image_shapes import FINDING, IMAGE, show_image
from ota_server.operator.parameters import CHANNEL, LONGEST, PROJECT, VERSION, one_of, read_text
from ota_server.operator.receiving import MAX_UPLOADS, Inbox, Incoming, Outcome, Placed, Target, read_content_digest
from ota_server.operator.schemas import TEXT, a_list, an_object, described
from ota_server.operator.schemas import one_of as one_of_schema
from ota_server.operator.scopes import Scope

GATHERED = 256 * 1024
"""How much of a body is handed to a thread at a time, in bytes; twice as much is in memory at most."""

LOOKS = 3
"""How many readings of the folder may miss an image that has just come."""

PUBLISHED = an_object(
    outcome=described(one_of_schema(Outcome), "`same`: these bytes were there already"),
    image=IMAGE,
    findings=described(a_list(FINDING), "what is odd about it as it comes, and blocks nothing"),
    notes=described(a_list(TEXT), "what else there is to know, for people"),
)

log = Logger()


class ImageSink:
    """Takes the body of an upload, and hands it to threads in large pieces."""

    def __init__(self, press: Press, call: Call, incoming: Incoming) -> None:
        self._press = press
        self._call = call
        self._incoming = incoming
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> Deferred[None] | None:
        """Take a piece; see BodySink."""
        self._pieces.append(data)
        self._size += len(data)
        return self._flush() if self._size >= GATHERED else None

    def _flush(self) -> Deferred[None]:
        data, self._pieces, self._size = b"".join(self._pieces), [], 0
        return self._press.in_thread(self._incoming.write, data)

    async def _finish(self) -> Answer:
        try:
            await self._flush()
            placed = await self._press.in_thread(partial(self._incoming.finish, replace=self._call["replace"]))
        except BaseException:
            self._press.drop(self._incoming)
            raise
        self._press.uploads -= 1
        return await self._press.offer(self._call, self._incoming.target, placed)

    def finished(self) -> Awaitable[Answer]:
        """Put the image into the folder, and answer when it is offered."""
        return self._finish()

    def failed(self) -> None:
        """Leave nothing behind."""
        self._press.drop(self._incoming)


class Press:
    """What receives images; see the operations."""

    def __init__(self, house: House, inbox: Inbox) -> None:
        self._house = house
        self._inbox = inbox
        self.uploads = 0
        """How many images are on their way in."""

    def in_thread(self, function: Any, *arguments: Any) -> Deferred[Any]:
        """Return what a function that blocks returns."""
        return deferToThreadPool(self._house.reactor, self._house.pool, function, *arguments)

    def drop(self, incoming: Incoming) -> None:
        """Leave nothing of an image behind."""
        self.uploads -= 1
        self.in_thread(incoming.abort).addErrback(
            lambda failure: log.failure("what was left of an upload can't be removed", failure)
        )

    async def put(self, call: Call) -> BodySink:
        """Take an image that is named by its project, version, kind and chip."""
        name = FileName(
            call["project"],
            call["version"],
            Kind(call["kind"]),
            call["chip"],
            call["compressed"],
        )
        if parse_file_name(name.spell()) != name:
            raise _bad_name("such a project can't be told from its version in the name of a file")
        return await self._begin(call, name, name.spell())

    async def upload(self, call: Call) -> BodySink:
        """Take an image that is named by a file name."""
        try:
            name = parse_file_name(call["file"])
        except NamingError as error:
            raise _bad_name(f"{call['file']!a} {error}") from None
        return await self._begin(call, name, call["file"])

    async def _begin(self, call: Call, name: FileName, file: str) -> BodySink:
        self._house.check_memory()
        target = find_target(self._house.catalog, call["channel"], name, file)
        if self.uploads >= MAX_UPLOADS:
            raise Problem(503, "busy", "Too many uploads at once", f"{self.uploads} are under way; try again")
        self.uploads += 1
        try:
            incoming = await self.in_thread(self._inbox.begin, target, call.length, call["Content-Digest"])
        except BaseException:
            self.uploads -= 1
            raise
        return ImageSink(self, call, incoming)

    async def offer(self, call: Call, target: Target, placed: Placed) -> Answer:
        """Answer for an image that is in its place, once devices are offered it. Raises Problem."""
        before = self._house.catalog.image(target.channel, target.file)
        self._house.watcher.vouch(placed.identity, placed.facts)
        notes = []
        if placed.outcome is not Outcome.SAME:
            # Told first: the file is in its place by now, whether or not it is found there before the process ends.
            notes += await self._tell(call, target, placed)
        image = await self._look(target, placed)
        if placed.outcome is not Outcome.SAME and before is not None and before.identity != placed.identity:
            # A device that has half of the bytes before would be left with them.
            self._house.keeper.break_off([before])
        shown, findings = await self.in_thread(self._show, image)
        notes += self._note_rollout(image)
        address = f"/api/v1/projects/{image.project}/releases/{image.version}?channel={image.channel}"
        return Answer(
            {"outcome": placed.outcome.value, "image": shown, "findings": findings, "notes": notes},
            200 if placed.outcome is Outcome.SAME else 201,
            [("Location", address)],
        )

    async def _tell(self, call: Call, target: Target, placed: Placed) -> list[str]:
        """Write down who published what; return notes for people where that can't be now."""
        text = f"{target.place}, {placed.facts.size:,} bytes, SHA-256 {placed.facts.sha256}"
        if placed.outcome is Outcome.REPLACED:
            text += ", in the place of other bytes"
        place = (target.channel, target.name.project, numbers_of(target.name.version))
        return await tell_event(self._house, Event(call.now, call.operator.actor, "published", text, *place))

    async def _look(self, target: Target, placed: Placed) -> Image:
        """Wait until the image is in the catalog. Raises Problem."""
        watcher = self._house.watcher
        for _ in range(LOOKS):
            try:
                await watcher.look_now()
            except OSError as error:
                raise _not_offered(f"{target.place} is in the folder, which can't be read now: {error}") from error
            image = self._house.catalog.image(target.channel, target.file)
            if image is not None and image.identity == placed.identity:
                return image
        why = next((each.reason for each in watcher.notices if each.file == target.place), "it has changed since")
        raise _not_offered(f"{target.place} was put into the folder, and isn't offered: {why}")

    def _show(self, image: Image) -> tuple[Json, Json]:
        project = self._house.catalog.project(image.channel, image.project)
        if project is None:
            raise _not_offered(f"{place_of(image.channel, image.file_name)} was removed meanwhile")
        findings = lint(image, project, new=True)
        return show_image(image, project, self._house.keys), [attrs.asdict(each) for each in findings]

    def _note_rollout(self, image: Image) -> list[str]:
        fleet = self._house.known
        if fleet is None:
            return []
        rollout = fleet.course.find((image.channel, image.project), numbers_of(image.version))
        if rollout is None or rollout.state is not State.HALTED:
            return []
        return [f"the rollout of {image.version} is halted, so that nobody gets it: {rollout.why}"]


def find_target(catalog: Catalog, channel: str, name: FileName, file: str) -> Target:
    """Return where an image goes: `file`, or the file that says the same in another spelling (1.2 and 1.2.0)."""
    project = catalog.project(channel, name.project)
    release = None if project is None else project.release(name.version)
    spelled = [image.file_name for image in release.images if image.name == name] if release is not None else []
    return Target(channel, file if file in spelled else (spelled or [file])[0], name)


def _bad_name(why: str) -> Problem:
    return Problem(400, "bad-name", "The name can't be an image's", why)


def _not_offered(why: str) -> Problem:
    return Problem(503, "not-offered", "The image isn't offered yet", why)


def _read_chip(text: str) -> str:
    if text not in CHIPS:
        raise ValueError(f"write one of {', '.join(sorted(CHIPS))}")
    return text


def _read_coding(text: str) -> str:
    if text.lower() != "identity":
        raise ValueError("send the bytes of the image as they are; for a gzip file say compressed=yes")
    return text


def _refuse_range(text: str) -> str:
    raise ValueError("an image can't be sent in parts; send it whole")


_YES = {"yes": True, "true": True, "no": False, "false": False}


def _read_yes(text: str) -> bool:
    if text not in _YES:
        raise ValueError("write yes or no")
    return _YES[text]


def _yes(name: str, summary: str) -> Parameter:
    """Return a parameter that is yes or no, and no where it is left out."""
    return Parameter(name, Place.QUERY, summary, _read_yes, {"type": "string", "enum": list(_YES)}, default=False)


_DIGEST_SCHEMA: Mapping[str, Json] = {
    "type": "string",
    "pattern": "^(sha-256=:[A-Za-z0-9+/]{43}=:|sha-512=:[A-Za-z0-9+/]{86}==:)$",
    "examples": ["sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"],
}

_BODY = (
    _yes("replace", "Put it in the place of other bytes of the same name."),
    Parameter(
        "Content-Digest",
        Place.HEADER,
        "Digest of the body (RFC 9530), which is checked: sha-256, sha-512.",
        read_content_digest,
        _DIGEST_SCHEMA,
    ),
    Parameter(
        "Content-Encoding", Place.HEADER, "Only identity.", _read_coding, {"type": "string", "enum": ["identity"]}
    ),
    Parameter("Content-Range", Place.HEADER, "Not taken.", _refuse_range, {"type": "string"}),
)

_CHIP_SCHEMA: Mapping[str, Json] = {"type": "string", "enum": sorted(CHIPS)}

_CHIP = Parameter("chip", Place.QUERY, "The only chip it is for.", _read_chip, _CHIP_SCHEMA)

_FILE = Parameter(
    "file",
    Place.PATH,
    "Name of the file, such as lamp-1.2.3.bin.",
    read_text,
    {"type": "string", "minLength": 1, "maxLength": LONGEST, "examples": ["lamp-1.2.3.bin"]},
    required=True,
)

_CHANNEL_IN_PATH = attrs.evolve(CHANNEL, place=Place.PATH, required=True, default=None)


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    inbox = house.inbox
    if inbox is None:
        return ()
    press = Press(house, inbox)

    def upload(name: str, method: str, path: str, *own: Parameter) -> Operation:
        return Operation(
            name,
            method,
            path,
            Scope.PUBLISH,
            "Publish an image by the name of its file; the body is its bytes.",
            None,
            {200: PUBLISHED, 201: PUBLISHED},
            (*own, *_BODY),
            problems=(409, 422, 507),
            receive=press.upload,
            max_body=inbox.max_size,
            base="",
        )

    return (
        Operation(
            "put_release",
            "PUT",
            "/projects/{project}/releases/{version}",
            Scope.PUBLISH,
            "Publish an image, which is the body: answered once devices are offered it.",
            None,
            {200: PUBLISHED, 201: PUBLISHED},
            (
                PROJECT,
                VERSION,
                CHANNEL,
                one_of("kind", [kind.value for kind in Kind], "What it holds.", Kind.APP.value),
                _CHIP,
                _yes("compressed", "Whether it is a gzip file, beside the plain one."),
                *_BODY,
            ),
            problems=(409, 422, 507),
            receive=press.put,
            max_body=inbox.max_size,
        ),
        upload("upload", "PUT", "/upload/{file}", _FILE, CHANNEL),
        upload("upload_by_post", "POST", "/upload/{file}", _FILE, CHANNEL),
        upload("upload_to_channel", "PUT", "/upload/{channel}/{file}", _CHANNEL_IN_PATH, _FILE),
        upload("upload_to_channel_by_post", "POST", "/upload/{channel}/{file}", _CHANNEL_IN_PATH, _FILE),
    )
