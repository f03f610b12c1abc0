"""Request headers -> CheckIn: what one request says about the device that sent it.

The update clients of the Arduino cores for ESP8266 (`ESP8266httpUpdate`), ESP32 (`HTTPUpdate`) and RP2040
(`HTTPUpdate` of arduino-pico) say the same things under different prefixes; `DIALECTS` is the table of these.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import parse_qs

import attrs

Headers = Mapping[bytes, Sequence[bytes]]
"""Request headers: canonically capitalised names (`X-Esp8266-Sta-Mac`), to values in order."""


class Mode(enum.Enum):
    """What a device asks for: a sketch, a filesystem image, or the number of the newest version only."""

    SKETCH = "sketch"
    FILESYSTEM = "spiffs"
    VERSION = "version"
    UNKNOWN = "unknown"


# What the clients call the modes. ESP cores say "spiffs" for LittleFS too.
_MODES = {
    b"sketch": Mode.SKETCH,
    b"spiffs": Mode.FILESYSTEM,
    b"littlefs": Mode.FILESYSTEM,
    b"fs": Mode.FILESYSTEM,
    b"version": Mode.VERSION,
}


@attrs.frozen
class Dialect:
    """One family of headers: its name, the chips that speak it, and the names of its headers.

    `family` is how the names of these chips begin; `chip` is the chip where there is only one, or else None.
    """

    name: str
    family: str
    chip: str | None
    version: bytes
    mode: bytes
    mac: bytes
    chip_id: bytes
    free_space: bytes
    sketch_size: bytes
    chip_size: bytes
    sketch_md5: bytes
    sketch_sha256: bytes

    @classmethod
    def with_prefix(cls, name: str, prefix: bytes, family: str, chip: str | None) -> Dialect:
        """Make a dialect whose headers begin with a prefix, such as `X-Esp8266-`."""
        return cls(
            name,
            family,
            chip,
            version=prefix + b"Version",
            mode=prefix + b"Mode",
            mac=prefix + b"Sta-Mac",
            chip_id=prefix + b"Chip-Id",
            free_space=prefix + b"Free-Space",
            sketch_size=prefix + b"Sketch-Size",
            chip_size=prefix + b"Chip-Size",
            sketch_md5=prefix + b"Sketch-Md5",
            sketch_sha256=prefix + b"Sketch-Sha256",
        )


DIALECTS = (
    Dialect.with_prefix("esp8266", b"X-Esp8266-", "esp8266", "esp8266"),
    # Nothing tells an ESP32 from an ESP32-S3 or -C3 here.
    Dialect.with_prefix("esp32", b"X-Esp32-", "esp32", None),
    # Nor does anything tell an RP2040 from an RP2350 here.
    Dialect.with_prefix("pico", b"X-Pico-", "rp2", None),
    # The first releases of arduino-pico lost the name between the dashes.
    Dialect.with_prefix("pico-early", b"X--", "rp2", None),
)

FAMILIES = {dialect.name: dialect.family for dialect in DIALECTS}
"""How the names of the chips begin that speak a dialect, by its name."""


@attrs.frozen
class CheckIn:
    """What one request says about its device. Whatever it doesn't say, or says unreadably, is None.

    `project` and `channel` are those of the address. `chip` is that of the dialect, or else what the address names
    in `?chip=`, which may be no chip at all. `version` is the reported text, not read yet. `device` is what a token or
    a certificate proves, or else the MAC address (`5C:CF:7F:00:11:22`), or else the chip id. `free_space` is the room
    for a new sketch, `sketch_size` the size of the one that runs, `chip_size` that of the flash, all in bytes. The
    hashes are lower-case hexadecimal.
    """

    channel: str
    project: str
    dialect: str | None = None
    chip: str | None = None
    device: str | None = None
    version: str | None = None
    mode: Mode = Mode.SKETCH
    free_space: int | None = None
    sketch_size: int | None = None
    chip_size: int | None = None
    sketch_md5: str | None = None
    sketch_sha256: str | None = None


_MAC = re.compile(rb"[0-9A-F]{2}(?::[0-9A-F]{2}){5}")
_NUMBER = re.compile(rb"[0-9]{1,15}")
_MD5 = re.compile(rb"[0-9a-f]{32}")
_SHA256 = re.compile(rb"[0-9a-f]{64}")


@lru_cache(maxsize=4096)
def _read_number(value: bytes) -> int | None:
    """Return a number, or None. Remembered, since the sizes that a fleet tells are few."""
    return int(value) if _NUMBER.fullmatch(value) else None


@lru_cache(maxsize=1024)
def read_chip(query: bytes) -> str | None:
    """Return what the query of an address names as the chip, in lower case and without dashes, or None."""
    # As text, since of bytes parse_qs takes none but ASCII.
    values = parse_qs(query[:200].decode("latin-1")).get("chip") if query else None
    return values[0].lower().replace("-", "") if values else None


def _find_dialect(headers: Headers) -> Dialect | None:
    for dialect in DIALECTS:
        if dialect.version in headers or dialect.mode in headers or dialect.mac in headers:
            return dialect
    return None


def read_claim(headers: Headers) -> tuple[str | None, str | None]:
    """Return the MAC address and the chip id that a request tells, each None where it doesn't, or unreadably."""
    dialect = _find_dialect(headers)
    if dialect is None:
        return None, None
    mac, chip_id = headers.get(dialect.mac), headers.get(dialect.chip_id)
    return _matching(_MAC, mac[0].upper() if mac else None), _matching(_NUMBER, chip_id[0] if chip_id else None)


def read_check_in(
    channel: str, project: str, headers: Headers, query: bytes = b"", proven: str | None = None
) -> CheckIn:
    """Read what a request for `/{project}` or `/{channel}/{project}` says of its device; never fails.

    `query` is what stands behind the question mark. `proven` is the id of the device where a token or a certificate
    proves it, which then goes before what the request says.
    """
    chip = read_chip(query)
    dialect = _find_dialect(headers)
    if dialect is None:
        return CheckIn(channel, project, chip=chip, device=proven)

    def first(name: bytes) -> bytes | None:
        values = headers.get(name)
        return values[0] if values else None

    mac = first(dialect.mac)
    version = first(dialect.version)
    mode = first(dialect.mode)

    def number(name: bytes) -> int | None:
        value = first(name)
        return None if value is None else _read_number(value)

    return CheckIn(
        channel,
        project,
        dialect.name,
        dialect.chip or chip,
        proven or _matching(_MAC, mac and mac.upper()) or _matching(_NUMBER, first(dialect.chip_id)),
        version.decode("utf-8", "replace") if version else None,
        Mode.SKETCH if mode is None else _MODES.get(mode.lower(), Mode.UNKNOWN),
        number(dialect.free_space),
        number(dialect.sketch_size),
        number(dialect.chip_size),
        _matching(_MD5, first(dialect.sketch_md5), lower=True),
        _matching(_SHA256, first(dialect.sketch_sha256), lower=True),
    )


def _matching(pattern: re.Pattern[bytes], value: bytes | None, *, lower: bool = False) -> str | None:
    if value is None:
        return None
    if lower:
        value = value.lower()
    return value.decode("ascii") if pattern.fullmatch(value) else None
