"""Editing the text of `ota.toml` for a person: what was asked for changes, and everything else stays to the byte.

Text in, text out. Only the lines of the tables that are touched go through `tomlkit`, which keeps what a person wrote
there; the others are never taken apart. Whatever comes of it is read once more, and has to say what was meant.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ota_server.fleet.settings import SettingError, read_device, show
from ota_server.fleet.toml_lines import Section, find_sections

BOM = "\ufeff"
"""What editors of Windows put at the beginning, where TOML has no place for it."""

Changes = Mapping[str, str | bool | None]
"""Keys of a device's table, each with its new value; None takes the key away."""

_HEADER = re.compile(
    r"""(\s*\[\s*(?:devices|"devices"|'devices')\s*\.\s*)(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)(\s*\].*)""",
    re.DOTALL,
)


class EditError(Exception):
    """A text that can't be edited; its message says why and what to do, on one line."""


def set_device(text: str, device: str, changes: Changes) -> str:
    """Change what a device's own tables say, and return the new text; `device` is the id, as read_device returns it.

    A key that is there is changed where it stands, another is put into the device's table, which is made if there is
    none. The text is one that read_policy takes. Raises EditError.
    """
    edited = _Text(text)
    own = list(edited.tables_of(device))
    meant = deepcopy(edited.data)
    todo: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        having = [table for table in own if key in edited.data["devices"][table]]
        for table in having if value is None else (having or own or [device])[:1]:
            todo.setdefault(table, {})[key] = value
    for table, changed in todo.items():
        said = meant.setdefault("devices", {}).setdefault(table, {})
        for key, value in changed.items():
            if value is None:
                del said[key]
            else:
                said[key] = value
        if table in own:
            edited.change(table, changed)
        else:
            edited.add(table, {key: value for key, value in changed.items() if value is not None})
    return edited.finish(meant)


def rename_device(text: str, device: str, name: str | None) -> str:
    """Give a device another name, or none, also where the text calls it by its old one; return the new text.

    Raises EditError.
    """
    edited = _Text(text)
    old = edited.name_of(device)
    if old is not None and name is not None and old != name:
        edited = _Text(_call_otherwise(edited, old, name))
    # The name stands in a table with the id, which tells whose it is.
    own = [table for table in edited.tables_of(device) if _is_id(table, device)]
    if name is None and not own:
        return text
    meant = deepcopy(edited.data)
    having = [table for table in own if "name" in edited.data["devices"][table]]
    table = (having or own or [device])[0]
    said = meant.setdefault("devices", {}).setdefault(table, {})
    if name is not None:
        said["name"] = name
    elif said.pop("name", None) is None:
        return text
    if table in own:
        edited.change(table, {"name": name})
    else:
        edited.add(table, {"name": name})
    return edited.finish(meant)


def _call_otherwise(edited: _Text, old: str, new: str) -> str:
    """Write another name wherever a device is called by its old one: tables of its own, and members of groups."""
    meant = deepcopy(edited.data)
    devices = meant.get("devices", {})
    if old in devices:
        if new in devices:
            raise EditError(f"there is a table [devices.{show(new)}] already; choose another name")
        devices[new] = devices.pop(old)
        edited.rename_table(old, new)
    for group, table in meant.get("groups", {}).items():
        members = table.get("members", [])
        if old in members:
            table["members"] = [new if each == old else each for each in members]
            edited.rename_member(group, old, new)
    return edited.finish(meant)


def _is_id(key: str, device: str) -> bool:
    try:
        return read_device(key) == device
    except SettingError:
        return False


class _Text:
    """A text that is edited table by table. Lines keep their ends, whichever they are."""

    def __init__(self, text: str) -> None:
        self._bom = BOM if text.startswith(BOM) else ""
        self._lines = _split(text.removeprefix(BOM))
        windows = sum(line.endswith("\r\n") for line in self._lines)
        self._end = "\r\n" if windows * 2 > len(self._lines) else "\n"
        self.data = _load("".join(self._lines))

    def name_of(self, device: str) -> str | None:
        """Return the name that a device has."""
        for key, table in self.data.get("devices", {}).items():
            if "name" in table and _is_id(key, device):
                return str(table["name"])
        return None

    def tables_of(self, device: str) -> Iterator[str]:
        """Yield the keys of the tables of a device: by its id in whatever spelling, then by its name."""
        devices = self.data.get("devices", {})
        yield from (key for key in devices if _is_id(key, device))
        name = self.name_of(device)
        if name is not None and name in devices:
            yield name

    def change(self, key: str, changes: Changes) -> None:
        """Change what one table of a device says."""

        def edit(document: tomlkit.TOMLDocument) -> None:
            table: Any = document["devices"]
            table = table[key]
            for name, value in changes.items():
                if value is None:
                    table.remove(name)
                else:
                    table[name] = value

        keys = {name for name in changes if name in self.data["devices"][key]}
        # A table may be in several pieces: the key is where it is, or else in the first of them.
        for section in self._sections_with("devices", key, keys):
            self._edit(section, edit, drop=True)
            return
        raise EditError(f"the table of device {show(key)} isn't where it was looked for; {_BY_HAND}")

    def add(self, key: str, values: Mapping[str, Any]) -> None:
        """Add a table for a device, behind those of other devices."""
        if not values:
            return
        table = tomlkit.table()
        for name, value in values.items():
            table.add(name, value)
        inside = self._inline_devices()
        if inside is not None:

            def edit(document: tomlkit.TOMLDocument) -> None:
                inline = tomlkit.inline_table()
                inline.update(values)
                devices: Any = document["devices"]
                devices[key] = inline

            self._edit(inside, edit)
            return
        sections = self._sections()
        last = max((each.last for each in sections if each.path[:1] == ("devices",)), default=len(self._lines))
        written = f"[devices.{_spell_key(key)}]\n{table.as_string()}".splitlines()
        if last and not self._lines[last - 1].endswith("\n"):
            self._lines[last - 1] += self._end
        gap = [self._end] if last and self._lines[last - 1].strip() else []
        behind = [self._end] if last < len(self._lines) and self._lines[last].strip() else []
        self._lines[last:last] = [*gap, *(line + self._end for line in written), *behind]

    def rename_table(self, old: str, new: str) -> None:
        """Change the name in the header of a device's table."""
        for section in self._sections():
            if section.path == ("devices", old):
                found = _HEADER.fullmatch(self._lines[section.first - 1])
                if found is not None:
                    self._lines[section.first - 1] = found[1] + _spell_key(new) + found[2]
                    return
        raise EditError(f"the settings of device {show(old)} stand under this name without a header; {_BY_HAND}")

    def rename_member(self, group: str, old: str, new: str) -> None:
        """Change a name among the members of a group."""

        def edit(document: tomlkit.TOMLDocument) -> None:
            groups: Any = document["groups"]
            members = groups[group]["members"]
            for place, member in enumerate(list(members)):
                if member == old:
                    members[place] = new

        for section in self._sections_with("groups", group, {"members"}):
            self._edit(section, edit)
            return
        raise EditError(f"the members of group {show(group)} aren't where they were looked for; {_BY_HAND}")

    def finish(self, meant: dict[str, Any]) -> str:
        """Return the new text. Raises EditError where it doesn't say what was meant."""
        text = "".join(self._lines)
        try:
            said = _load(text)
        except EditError:
            said = {}
        if _without_empty(said) != _without_empty(meant):
            raise EditError(f"it is written in a way that this program can't change safely; {_BY_HAND}")
        return self._bom + text

    def _sections(self) -> tuple[Section, ...]:
        return find_sections("".join(self._lines).replace("\r\n", "\n"))

    def _sections_with(self, kind: str, key: str, names: set[str]) -> Iterator[Section]:
        """Yield the pieces of the text that hold the keys of a table, or at least something of it."""
        some = []
        for section in self._sections():
            path = section.path
            if path != (kind, key)[: len(path)]:
                continue
            try:
                table: Any = tomllib.loads(self._piece(section).replace("\r\n", "\n"))
                table = table[kind][key]
            except (tomllib.TOMLDecodeError, KeyError):
                continue
            if names <= table.keys():
                yield section
            some.append(section)
        yield from some

    def _inline_devices(self) -> Section | None:
        """Return the piece in which `devices` is an inline table, to which no header can add one."""
        for section in self._sections():
            if section.path == ():
                document: Any = tomlkit.parse(self._piece(section))
                if isinstance(document.get("devices"), tomlkit.items.InlineTable):
                    return section
        return None

    def _piece(self, section: Section) -> str:
        return "".join(self._lines[section.first - 1 : section.last])

    def _edit(self, section: Section, edit: Callable[[tomlkit.TOMLDocument], None], *, drop: bool = False) -> None:
        """Let a table be edited, and put it back in its place; with `drop` a header that nothing stands under goes."""
        before = self._lines[section.first - 1 : section.last]
        try:
            document = tomlkit.parse("".join(before))
            edit(document)
            after = _split(document.as_string())
        except (TOMLKitError, ValueError, KeyError, TypeError) as error:
            raise EditError(f"it is written in a way that this program can't change ({error}); {_BY_HAND}") from None
        kept = set(before)
        after = [line if line in kept else line.rstrip("\r\n") + self._end for line in after]
        start = section.first - 1
        if drop and section.path and len(after) == 1 and "#" not in after[0]:
            above = self._lines[start - 1].strip() if start else ""
            below = self._lines[section.last].strip() if section.last < len(self._lines) else ""
            # A comment may be about it.
            if not above.startswith("#") and not below.startswith("#"):
                after = []
                if start and not above:
                    start -= 1
        self._lines[start : section.last] = after


_BY_HAND = "change it by hand"


def _split(text: str) -> list[str]:
    """Split a text into lines with their ends; `str.splitlines` knows more ends of lines than TOML does."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", text)


def _load(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise EditError(f"it is no TOML: {error}; {_BY_HAND}") from None


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out tables of devices that say nothing."""
    devices = {key: table for key, table in data.get("devices", {}).items() if table}
    return {**{key: value for key, value in data.items() if key != "devices"}, "devices": devices}


def _spell_key(key: str) -> str:
    return tomlkit.key(key).as_string() if re.fullmatch(r"[A-Za-z0-9_-]+", key) else tomlkit.string(key).as_string()
