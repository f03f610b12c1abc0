"""Reading the firmware folder: from files to catalogs.

Everything here may block (files, hashing), and runs in a worker thread; the time is an argument.
"""

from __future__ import annotations

import gc
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

import attrs

from ota_server.firmware.catalog import STABLE, Catalog, FileIdentity, Image
from ota_server.firmware.digests import DigestStore, Outcome
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.image import ImageError, read_image
from ota_server.firmware.naming import FileName, NamingError, is_name, parse_file_name
from ota_server.firmware.notices import Findings, Notice, place_of
from ota_server.firmware.packing import Packer
from ota_server.firmware.signatures import VerifyKey, find_signer
from ota_server.firmware.stream import open_without_waiting

SETTLE_TIME = 1.0
"""How long a file must have been seen unchanged before it is read and offered, in seconds."""

OPAQUE_SETTLE_TIME = 2.0
"""The same for a file that doesn't tell by itself whether it is whole, in seconds."""

SMALL = 1 << 16
"""Files of up to so many bytes are read one after the other, since handing each to a thread would cost more."""

MANY = 1000
"""With so many new files at once the garbage collector is left out while they become images."""

QUIET_TIME = 10.0
"""A file that was last changed this long before it is first seen, in seconds, counts as settled at once. The clock
that set its time may be that of another machine, and a little behind."""


MAX_VOUCHED = 1000
"""So many files are vouched for at most that no reading has seen yet."""

POLICY_FILE = "ota.toml"
"""The one file in the folder that is neither an image nor a mistake."""

_IN_ORDER = attrgetter("file", "reason", "word")


@attrs.frozen
class Reading:
    """What one reading of the folder gave.

    `notices` are those not given before, and `standing` all there are. `unsettled` says that some file is still
    changing, and that it is worth reading again after SETTLE_TIME. `folders` are those that were listed, each with its
    inode number. `linked` says that something there has another name, by which it may change unnoticed. `changing` are
    the files that aren't offered yet, since they are being written, or may be.
    """

    catalog: Catalog
    notices: tuple[Notice, ...]
    standing: tuple[Notice, ...]
    unsettled: bool
    folders: frozenset[tuple[Path, int]]
    linked: bool
    changing: tuple[str, ...] = ()


@attrs.define
class _Seen:
    """A file as it was at the last reading, when that was first so, and what came of it."""

    identity: FileIdentity
    since: float
    image: Image | None = None
    quiet: bool = False
    """Whether it has stood still long enough for any file."""
    reason: str | None = None
    """Why it is not offered; empty where nothing is against it, None where that isn't known yet."""


class Folder:
    """A firmware folder, and what is known of it since the last reading. One thread at a time may read it.

    With `keys` only images are offered that one of these signed. `packer` compresses images for devices that unpack.
    """

    def __init__(
        self, root: Path, digests: DigestStore, keys: Sequence[VerifyKey] = (), packer: Packer | None = None
    ) -> None:
        self.root = root
        self.catalog = Catalog.empty()
        self._digests = digests
        self._keys = keys
        self._packer = packer
        self._outcomes: dict[FileIdentity, Outcome] | None = None
        self._findings = Findings()
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._names: dict[str, FileName | str] = {}
        self._given: set[Notice] = set()
        self._standing: tuple[Notice, ...] = ()
        self._come: dict[FileIdentity, Outcome] = {}
        self._gone: set[FileIdentity] = set()
        self._unreadable: dict[FileIdentity, str] = {}
        self._linked = False
        self._closing = threading.Event()
        self._vouched: dict[FileIdentity, ImageFacts] = {}

    def vouch(self, identity: FileIdentity, facts: ImageFacts) -> None:
        """Take a file for whole that this process wrote itself, and read. May be called from any thread."""
        if len(self._vouched) >= MAX_VOUCHED:
            self._vouched.clear()
        self._vouched[identity] = facts

    def close(self) -> None:
        """Make a reading that is under way stop soon, with InterruptedError. May be called from any thread."""
        self._closing.set()

    def read(self, now: float, monotonic: float, writing: AbstractSet[str] = frozenset()) -> Reading:
        """Read the folder once and return the new catalog, the very same object where nothing has changed.

        `now` is the time of day and `monotonic` a clock to measure time with, both in seconds. `writing` are the paths
        of files that are known to be written to: they aren't settled, however long they stand still. Raises OSError
        where the folder can't be listed, InterruptedError after `close`.
        """
        if self._outcomes is None:
            with _no_collection(True):
                self._outcomes = self._load()
        notices: set[Notice] = set()
        self._linked = os.path.realpath(self.root) != os.path.abspath(self.root)
        folders = {(self.root, os.stat(self.root).st_ino)}
        seen: dict[tuple[str, str], _Seen] = {}
        unread: dict[tuple[str, str], FileName] = {}
        unsettled = False
        changing: list[str] = []
        for channel, file, identity in self._list(notices, folders):
            name = self._parse(file)
            if isinstance(name, str):
                notices.add(Notice(place_of(channel, file), name))
                continue
            key = (channel, file)
            last = self._seen.get(key)
            if last is not None and last.identity == identity:
                seen[key] = last
                if last.image is not None:
                    continue
            else:
                last = seen[key] = _Seen(identity, monotonic)
            if writing and self._path(key) in writing:
                last.since = monotonic
                changing.append(place_of(*key))
                continue
            # Twisted's clock is the time of day, which may be set back.
            last.since = min(last.since, monotonic)
            quiet = identity in self._vouched or now - max(identity.mtime_ns, identity.ctime_ns) / 1e9 >= QUIET_TIME
            last.quiet = quiet or monotonic - last.since >= OPAQUE_SETTLE_TIME
            if quiet or monotonic - last.since >= SETTLE_TIME:
                unread[key] = name
            else:
                unsettled = True
                changing.append(place_of(*key))
        with _no_collection(len(unread.keys() - self._seen.keys()) > MANY):
            believed = self._believe(seen[key].identity for key in unread)
            found = {**believed, **self._find_out({seen[key].identity: key for key in unread})}
            for key, name in unread.items():
                if not self._shelve(key, name, seen[key], notices):
                    unsettled = True
                    changing.append(place_of(*key))
            self._seen = seen
            come = self._publish()
            self._findings.update(self.catalog, come)
        self._come.update(found)
        self._gone |= self._forget()
        notices.update(self._findings)
        fresh = notices - self._given
        if fresh or len(notices) != len(self._given):
            self._given = notices
            self._standing = tuple(sorted(notices, key=_IN_ORDER))
        return Reading(
            self.catalog,
            tuple(sorted(fresh, key=_IN_ORDER)),
            self._standing,
            unsettled,
            frozenset(folders),
            self._linked,
            tuple(changing),
        )

    @property
    def packs(self) -> bool:
        """Whether images are compressed."""
        return self._packer is not None

    def pack(self) -> tuple[Catalog, bool]:
        """Compress some of what devices may unpack; return the catalog with it, and whether there is more to do.

        Raises InterruptedError after `close`, and OSError where it can't be kept; nothing is lost then.
        """
        more = self._packer is not None and self._packer.pack(self.catalog, self._goes_on)
        self._publish()
        return self.catalog, more

    def _load(self) -> dict[FileIdentity, Outcome]:
        try:
            return self._digests.load()
        except OSError:
            # Then nothing can be kept either, and `keep` will say so; devices are served all the same.
            return {}

    def keep(self) -> None:
        """Keep what readings found out for the next start. Raises OSError where it can't be; nothing is lost then."""
        if self._come or self._gone:
            self._digests.save(self._come, self._gone)
            self._come, self._gone = {}, set()

    def _list(self, notices: set[Notice], listed: set[tuple[Path, int]]) -> Iterator[tuple[str, str, FileIdentity]]:
        """List the files of the folder and of its channels, as (channel, file name, identity)."""
        folders = [(STABLE, self.root)]
        for channel, folder in folders:  # which grows meanwhile
            try:
                entries = os.scandir(folder)
            except OSError as error:
                if folder is self.root:
                    raise
                notices.add(Notice(f"{channel}/", f"can't be listed: {error.strerror}"))
                continue
            with entries:
                for entry in entries:
                    if self._closing.is_set():
                        raise InterruptedError("reading was called off")
                    if entry.name.startswith(".") or (channel == STABLE and entry.name == POLICY_FILE):
                        continue
                    try:
                        status = entry.stat()
                    except OSError as error:
                        notices.add(Notice(place_of(channel, entry.name), f"can't be looked at: {error.strerror}"))
                        continue
                    if entry.is_symlink() or (status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)):
                        self._linked = True
                    if stat.S_ISREG(status.st_mode):
                        yield channel, entry.name, FileIdentity.of(status)
                    elif stat.S_ISDIR(status.st_mode) and channel == STABLE:
                        if is_name(entry.name) and entry.name != STABLE:
                            folders.append((entry.name, Path(entry.path)))
                            listed.add((Path(entry.path), status.st_ino))
                        else:
                            notices.add(Notice(f"{entry.name}/", "is no name for a channel"))

    def _parse(self, file: str) -> FileName | str:
        """Read a file's name, or say what is wrong with it; remembered, since most names stay."""
        try:
            return self._names[file]
        except KeyError:
            try:
                name: FileName | str = parse_file_name(file)
            except NamingError as error:
                name = str(error)
            self._names[file] = name
            return name

    def _path(self, key: tuple[str, str]) -> str:
        return f"{self.root}/{place_of(*key)}"

    def _find_out(self, wanted: dict[FileIdentity, tuple[str, str]]) -> dict[FileIdentity, Outcome]:
        """Read the files of which nothing is known yet, and return what came of it."""
        assert self._outcomes is not None
        unknown = {identity: self._path(key) for identity, key in wanted.items() if identity not in self._outcomes}
        large = {identity: path for identity, path in unknown.items() if identity.size > SMALL}
        results: dict[FileIdentity, Outcome | None] = {}
        self._unreadable.clear()
        if large:
            # Hashing lets other threads run meanwhile, so two or four share the work of a first start.
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as readers:
                results.update(zip(large, readers.map(self._examine, large.values(), large), strict=True))
        for identity in unknown.keys() - large.keys():
            results[identity] = self._examine(unknown[identity], identity)
        found = {identity: outcome for identity, outcome in results.items() if outcome is not None}
        self._outcomes.update(found)
        return found

    def _believe(self, unread: Iterable[FileIdentity]) -> dict[FileIdentity, ImageFacts]:
        """Take over what is known of files that were vouched for."""
        assert self._outcomes is not None
        believed = {}
        for identity in unread:
            facts = self._vouched.pop(identity, None)
            if facts is not None:
                self._outcomes[identity] = believed[identity] = facts
        return believed

    def _examine(self, path: str, identity: FileIdentity) -> Outcome | None:
        """Read one file; None where it changed meanwhile or can't be read now, so that a later reading decides."""
        if self._closing.is_set():
            raise InterruptedError("reading was called off")
        try:
            with open(path, "rb", buffering=0, opener=open_without_waiting) as file:
                try:
                    outcome: Outcome = read_image(file, self._goes_on)
                except ImageError as error:
                    outcome = error
                return outcome if identify(file.fileno()) == identity else None
        except InterruptedError:
            raise
        except OSError as error:
            self._unreadable[identity] = f"can't be read: {error.strerror}"
            return None

    def _goes_on(self) -> bool:
        return not self._closing.is_set()

    def _shelve(self, key: tuple[str, str], name: FileName, seen: _Seen, notices: set[Notice]) -> bool:
        """Make a settled file an image of the catalog, or note why not; False where that isn't known yet."""
        assert self._outcomes is not None
        outcome = self._outcomes.get(seen.identity)
        if outcome is None:
            if seen.identity in self._unreadable:
                notices.add(Notice(place_of(*key), self._unreadable[seen.identity]))
            return seen.identity in self._unreadable
        if seen.reason is None:
            seen.reason = find_reason(outcome, self._keys)
        if seen.reason:
            notices.add(Notice(place_of(*key), f"is not offered: {seen.reason}"))
            return True
        assert isinstance(outcome, ImageFacts)
        if not outcome.tells_its_end and not seen.quiet:
            return False
        seen.image = Image(key[0], self._path(key), key[1], name, seen.identity, outcome)
        return True

    def _publish(self) -> list[Image]:
        """Make a new catalog if any image came or went; return those that came."""
        channels: dict[str, dict[str, Image]] = {}
        for (channel, file), seen in self._seen.items():
            if seen.image is not None:
                channels.setdefault(channel, {})[file] = seen.image
        if self._packer is not None:
            self._packer.add_to(channels)
        old = {name: channel.files for name, channel in self.catalog.channels.items() if channel.files}
        if channels == old:
            return []
        self.catalog = self.catalog.replace(channels)
        return [
            image
            for channel, files in channels.items()
            for file, image in files.items()
            if old.get(channel, {}).get(file) is not image
        ]

    def _forget(self) -> set[FileIdentity]:
        """Drop what is remembered of names and files that are no more; return those of the files."""
        assert self._outcomes is not None
        gone = self._outcomes.keys() - {seen.identity for seen in self._seen.values()}
        for identity in gone:
            del self._outcomes[identity]
        if len(self._names) > 2 * len(self._seen) + 1000:
            self._names.clear()
        return gone


def find_reason(outcome: Outcome, keys: Sequence[VerifyKey]) -> str:
    """Say why a file that was read must not be offered; nothing where nothing is against it."""
    if isinstance(outcome, ImageError):
        return outcome.reason
    if outcome.damage is not None:
        return outcome.damage.reason
    if keys and find_signer(outcome.signatures, keys) is None:
        return "none of its signatures is by a key of --verify-key" if outcome.signatures else "it has no signature"
    return ""


@contextmanager
def _no_collection(wanted: bool) -> Iterator[None]:
    """Switch the garbage collector off, and then let it forget what was made meanwhile.

    It would look through all of a large catalog again and again while that is made, which doubles the time, and
    at every full collection later, which stops the reactor. There are no cycles in it to be found.
    """
    if not wanted:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def identify(descriptor: int) -> FileIdentity:
    """Return the identity of an open file."""
    return FileIdentity.of(os.fstat(descriptor))
