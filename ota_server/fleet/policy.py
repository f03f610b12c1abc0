"""The policy: what the operator wants, read from the text of `ota.toml`.

The keys and what they mean are told in `docs/policy.md`.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from ota_server.fleet.access import ANYBODY, Access, Holder, Mode
from ota_server.fleet.policy_text import TABLES, TOP, PolicyError, parse_toml, title_of
from ota_server.fleet.rules import DEFAULT_RULES, Origin, Rules
from ota_server.fleet.settings import (
    MAKE_TOKEN,
    SettingError,
    read_access_mode,
    read_confirm,
    read_device,
    read_device_name,
    read_downloads,
    read_flag,
    read_halt,
    read_members,
    read_name,
    read_silent_after,
    read_soak,
    read_stages,
    read_tokens,
    read_version,
    read_versions,
    read_windows,
    show,
    show_value,
)
from ota_server.fleet.toml_lines import Path, find_lines, line_of

__all__ = [
    "ACCESS_KEYS",
    "DEFAULT_POLICY",
    "DEVICE_KEYS",
    "GROUP_KEYS",
    "PROJECT_KEYS",
    "TOP",
    "Policy",
    "PolicyError",
    "read_policy",
]

_Readers = Mapping[str, Callable[[Any], Any]]

_PROJECT_READERS: _Readers = {
    "stages": read_stages,
    "soak": read_soak,
    "confirm": read_confirm,
    "halt": read_halt,
    "silent-after": read_silent_after,
    "window": read_windows,
    "stepping-stones": read_versions,
    "minimum": read_version,
    "rollback": read_flag,
    "hold": read_flag,
    "max-downloads": read_downloads,
    "channel": read_name,
}
_SHARED_READERS: _Readers = {
    "channel": read_name,
    "pin": read_version,
    "downgrade": read_flag,
    "hold": read_flag,
    "project": read_name,
    "token": read_tokens,
}
_DEVICE_READERS: _Readers = {"name": read_device_name, **_SHARED_READERS}
_GROUP_READERS: _Readers = {"members": read_members, **_SHARED_READERS}
_ACCESS_READERS: _Readers = {"devices": read_access_mode, "token": read_tokens}

PROJECT_KEYS = tuple(_PROJECT_READERS)
"""The keys at the top, and of `[projects.NAME]`."""

DEVICE_KEYS = tuple(_DEVICE_READERS)
"""The keys of `[devices."ID"]`."""

GROUP_KEYS = tuple(_GROUP_READERS)
"""The keys of `[groups.NAME]`."""

ACCESS_KEYS = tuple(_ACCESS_READERS)
"""The keys of `[access]`."""


@attrs.frozen
class _Own:
    """What a device or its groups set: attributes of Rules, and where they were set."""

    changes: Mapping[str, Any]
    origins: Mapping[str, Origin] = attrs.field(eq=False)


@attrs.frozen
class Policy:
    """What the operator wants.

    `max_downloads` is how many downloads the whole server has at once, None for no bound. `names` are the names of
    devices by their ids. `access` is who may ask. `digest` is the SHA-256 of the text in lower-case hexadecimal, empty
    where there is none.
    """

    max_downloads: int | None = None
    names: Mapping[str, str] = attrs.field(factory=dict)
    access: Access = attrs.field(factory=Access)
    digest: str = attrs.field(default="", eq=False)
    _top: Rules = DEFAULT_RULES
    _projects: Mapping[str, Rules] = attrs.field(factory=dict)
    _devices: Mapping[str, _Own] = attrs.field(factory=dict)
    # The last rules of each device that the policy names, with those that they were made of: devices seldom ask for
    # more than one project, and what they ask for must not fill the memory.
    _made: dict[str, tuple[Rules, Rules]] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def rules_for(self, project: str, device: str | None) -> Rules:
        """Return what holds for a device (its MAC address or chip id, if any) that asks for a project."""
        own = None if device is None else self._devices.get(device)
        if device is None or own is None:
            return self._projects.get(project, self._top)
        base = self._projects.get(own.changes.get("project", project), self._top)
        made = self._made.get(device)
        if made is None or made[0] is not base:
            made = (base, attrs.evolve(base, **own.changes, origins={**base.origins, **own.origins}))
            self._made[device] = made
        return made[1]

    @property
    def projects(self) -> frozenset[str]:
        """The projects that it names."""
        own = (each.changes.get("project") for each in self._devices.values())
        return frozenset(filter(None, (*self._projects, *own)))


DEFAULT_POLICY = Policy()
"""What holds without a file."""


def read_policy(text: str, file: str) -> Policy:
    """Read the text of a policy file, whose path is only for messages. Raises PolicyError, and nothing else."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    # Editors of Windows put it at the beginning, where TOML has no place for it.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        data = parse_toml(text, file)
        return _Reader(file, find_lines(text), digest).read(data)
    except RecursionError:
        raise PolicyError(file, "lists or tables are too deep inside one another; no key needs that") from None


@attrs.frozen
class _Setting:
    """A value that was read, and the path to it."""

    value: Any
    path: Path


_Settings = dict[str, _Setting]


class _Reader:
    """Makes a policy of the data of one file."""

    def __init__(self, file: str, lines: Mapping[Path, int], digest: str) -> None:
        self._file = file
        self._lines = lines
        self._digest = digest
        self._tokens: dict[bytes, tuple[Path, Holder]] = {}

    def read(self, data: Mapping[str, Any]) -> Policy:
        """Return the policy. Raises PolicyError."""
        tables = {name: data.get(name, {}) for name in TABLES}
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise self._error((name,), f"{show_value(table)} can't be; write tables {TABLES[name]}")
        access = data.get("access", {})
        if not isinstance(access, dict):
            raise self._error(("access",), f"{show_value(access)} can't be; write a table [access]")
        plain = {key: data[key] for key in data if key not in TABLES and key != "access"}
        top = self._settings((), plain, _PROJECT_READERS)
        downloads = top.get("max-downloads")
        # That of the top is for the whole server, and not for each project.
        general = _values({key: setting for key, setting in top.items() if key != "max-downloads"})
        origins = self._origins(top)
        projects = {}
        for name, path, table in self._tables("projects", tables["projects"]):
            self._check_name(name, path)
            own = self._settings(path, table, _PROJECT_READERS)
            projects[name] = Rules(**{**general, **_values(own)}, origins={**origins, **self._origins(own)})
        devices, names = self._devices(tables["devices"])
        ids = {name: device for device, name in names.items()}
        for device, settings in devices.items():
            self._take_tokens(settings.pop("token", None), Holder(device))
        groups = self._groups(tables["groups"], devices, ids)
        return Policy(
            None if downloads is None else downloads.value,
            names,
            self._access(access if "access" in data else None, ids),
            self._digest,
            Rules(**general, origins=origins),
            projects,
            {
                device: self._own({**groups.get(device, {}), **devices.get(device, {})})
                for device in [*devices, *(each for each in groups if each not in devices)]
            },
        )

    def _access(self, table: Mapping[str, Any] | None, ids: Mapping[str, str]) -> Access:
        """Read who may ask; `table` is `[access]`, if it is there, and `ids` are those of devices by their names."""
        settings = self._settings(("access",), table or {}, _ACCESS_READERS)
        self._take_tokens(settings.get("token"), ANYBODY)
        setting = settings.get("devices")
        if setting is None:
            if table is None and not self._tokens:
                return Access(ids=ids)
            path = ("access",) if table is not None else next(iter(self._tokens.values()))[0]
            raise self._error(path, 'nothing says whether tokens are asked for; write [access] devices = "token"')
        mode = Mode(setting.value)
        if mode is Mode.TOKEN and not self._tokens:
            raise self._error(setting.path, "nobody has a token, so that nobody could ask; " + MAKE_TOKEN)
        tokens = ((digest, holder) for digest, (_, holder) in self._tokens.items())
        return Access.make(mode, line_of(self._lines, setting.path), ids, tokens)

    def _take_tokens(self, setting: _Setting | None, holder: Holder) -> None:
        """Note to whom tokens belong, which may be nobody else's."""
        if setting is None:
            return
        for number, digest in enumerate(setting.value):
            path: Path = (*setting.path, number)
            other = self._tokens.get(digest)
            if other is not None:
                line = line_of(self._lines, other[0])
                raise self._error(path, f"is the same token as in line {line}, and each is for one use; {MAKE_TOKEN}")
            self._tokens[digest] = (path, holder)

    def _error(self, path: Path, reason: str) -> PolicyError:
        table, key = title_of(path)
        place = " ".join(part for part in (table, key) if part and part != TOP)
        return PolicyError(self._file, reason, line_of(self._lines, path), place)

    def _check_name(self, name: str, path: Path) -> None:
        try:
            read_name(name)
        except SettingError as error:
            raise self._error(path, str(error)) from None

    def _tables(self, kind: str, tables: Mapping[str, Any]) -> Iterator[tuple[str, Path, dict[str, Any]]]:
        """Go through the tables of one kind: the name of each, its path, and what is in it."""
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise self._error((kind, name), f"{show_value(table)} can't be; write a table {TABLES[kind]}")
            yield name, (kind, name), table

    def _settings(self, path: Path, table: Mapping[str, Any], readers: _Readers) -> _Settings:
        """Read the keys of one table."""
        settings = {}
        for key, value in table.items():
            read = readers.get(key)
            if read is None:
                what = "table" if isinstance(value, dict) else "key"
                raise self._error((*path, key), f"unknown {what}; {_advise(key, value, readers, bool(path))}")
            try:
                settings[key] = _Setting(read(value), (*path, key))
            except SettingError as error:
                raise self._error((*path, key, *error.where), str(error)) from None
        return settings

    def _origins(self, settings: _Settings) -> dict[str, Origin]:
        return {
            key: Origin(title_of(setting.path)[0], line_of(self._lines, setting.path))
            for key, setting in settings.items()
        }

    def _devices(self, tables: Mapping[str, Any]) -> tuple[dict[str, _Settings], dict[str, str]]:
        """Read the tables of devices: what each sets, and its name, by its id."""
        devices: dict[str, _Settings] = {}
        named: dict[str, str] = {}
        others = []
        for key, path, table in self._tables("devices", tables):
            device = self._read_device(key, path)
            if device is None:
                others.append((key, path, table))
                continue
            settings = self._settings(path, table, _DEVICE_READERS)
            self._add(devices.setdefault(device, {}), settings)
            if (name := settings.get("name")) is not None:
                other = named.setdefault(name.value, device)
                if other != device:
                    line = line_of(self._lines, devices[other]["name"].path)
                    raise self._error(name.path, f"{show(name.value)} is the name of {other} (line {line}) already")
        for key, path, table in others:
            device = self._find_device(key, path, named)
            self._add(devices[device], self._settings(path, table, _DEVICE_READERS))
        return devices, {device: name for name, device in named.items()}

    def _add(self, settings: _Settings, more: _Settings) -> None:
        """Add what another table of the same device sets."""
        for key, setting in more.items():
            other = settings.setdefault(key, setting)
            if other is not setting:
                line = line_of(self._lines, other.path)
                raise self._error(setting.path, f"is set for the same device in line {line}; leave one of them out")

    def _read_device(self, text: str, path: Path) -> str | None:
        try:
            return read_device(text)
        except SettingError as error:
            raise self._error(path, str(error)) from None

    def _find_device(self, text: str, path: Path, named: Mapping[str, str]) -> str:
        """Return the id of a device, given that or its name."""
        device = self._read_device(text, path) or named.get(text)
        if device is None:
            close = difflib.get_close_matches(text[:40], named, 1)
            advice = (
                f"did you mean {show(close[0])}?" if close else "write its MAC address, or name it in its own table"
            )
            raise self._error(path, f"no device is named {show(text)}; {advice}")
        return device

    def _groups(
        self, tables: Mapping[str, Any], devices: Mapping[str, _Settings], named: Mapping[str, str]
    ) -> dict[str, _Settings]:
        """Read the tables of groups; return what they set for each member, by its id."""
        groups: dict[str, _Settings] = {}
        for name, path, table in self._tables("groups", tables):
            self._check_name(name, path)
            settings = self._settings(path, table, _GROUP_READERS)
            members = settings.pop("members", None)
            if members is None:
                raise self._error(path, 'has no members; write members = ["5C:CF:7F:00:11:22"]')
            tokens = settings.pop("token", None)
            found: list[str] = []
            for number, text in enumerate(members.value):
                device = self._find_device(text, (*members.path, number), named)
                found.append(device)
                self._join(groups.setdefault(device, {}), settings, device, devices.get(device, {}))
            self._take_tokens(tokens, Holder(members=frozenset(found)))
        return groups

    def _join(self, joined: _Settings, settings: _Settings, device: str, own: _Settings) -> None:
        """Add what another group sets for a device; what its own table sets can't contradict."""
        for key, setting in settings.items():
            other = joined.setdefault(key, setting)
            if other.value != setting.value and key not in own:
                raise self._error(
                    setting.path,
                    f"contradicts {title_of(other.path)[0]} (line {line_of(self._lines, other.path)}), "
                    f'where {device} is a member, too; say what holds in [devices."{device}"]',
                )

    def _own(self, settings: _Settings) -> _Own:
        """Return what holds for one device."""
        downgrade = settings.get("downgrade")
        if downgrade is not None and downgrade.value and "pin" not in settings:
            raise self._error(downgrade.path, 'needs a pin to go down to; write one, such as pin = "1.2.3"')
        changes = _values(settings)
        if "channel" in changes:
            changes["own_channel"] = True
        return _Own(changes, self._origins(settings))


def _values(settings: _Settings) -> dict[str, Any]:
    """Return the values by the names that they have in Rules."""
    return {key.replace("-", "_"): setting.value for key, setting in settings.items()}


def _advise(key: str, value: object, known: Iterable[str], inside: bool) -> str:
    """Say what was meant by an unknown key; `inside` is whether it stands in a table."""
    places = {
        "at the top": _PROJECT_READERS,
        "in [projects.NAME]": _PROJECT_READERS,
        "in [access]": _ACCESS_READERS,
        'in [devices."ID"]': _DEVICE_READERS,
        "in [groups.NAME]": _GROUP_READERS,
    }
    table = isinstance(value, dict)
    right = [place for place, readers in places.items() if key in readers and not table]
    if right:
        return f"it belongs {' or '.join(right)}"
    if inside and key in TABLES:
        return f"write {TABLES[key]}"
    names = [*TABLES, "access"] if table and not inside else list(known)
    close = difflib.get_close_matches(key[:40].lower().replace("_", "-"), names, 1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
