"""The values of the policy file's keys: what each may be, and what to write where it is something else.

Each reader takes the value as `tomllib` returns it, and raises SettingError.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import date, time
from typing import Any

from semver import Version

from ota_server.firmware.naming import is_name
from ota_server.firmware.versions import VersionError, numbers_of, parse_file_version
from ota_server.fleet.rules import HaltRule, Stage
from ota_server.fleet.window import WeeklyWindow, WindowError, read_window

MAX_COUNT = 10**9
"""The highest count of devices, failures or downloads."""

MAX_SOAK = 366 * 86400.0
"""The longest soak, in seconds."""

MAX_DEVICE_NAME = 64
"""The longest name of a device, in characters."""

MAX_COMMON_NAME = 64
"""The longest name of a certificate's subject, in characters (RFC 5280, appendix A.1)."""

CERTIFICATE_PREFIX = "CN="
"""How the id of a device begins that is known by the name in its certificate alone. No MAC address and no chip id does,
so that no header can tell such an id."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([smhd]?)", re.ASCII)
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,12}", re.ASCII)


class SettingError(ValueError):
    """A value that can't be; its message says what was wrong, and what to write.

    `where` leads from the key to the part of its value that was wrong: keys of tables, and numbers of items of lists.
    """

    def __init__(self, reason: str, *where: str | int) -> None:
        super().__init__(reason)
        self.where = where


def show(text: str) -> str:
    """Write a text of the file for a message: in quotes, on one line, and not too long."""
    cut = text if len(text) <= 40 else text[:39] + "…"
    return f'"{cut}"' if cut.isprintable() else ascii(cut)


def show_value(value: object) -> str:
    """Write a value of the file for a message; of lists and tables only that they are some."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return show(value)
        case int() | float():
            # Digits without end can't be printed, nor need they be.
            return str(value) if isinstance(value, float) or abs(value) < 10**20 else "a huge number"
        case list():
            return "a list"
        case dict():
            return "a table"
        case date() | time():
            return f"the time {value}"
    raise AssertionError(f"no value of TOML: {type(value)}")


def read_flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise SettingError(f"{show_value(value)} is neither true nor false; write one of these, without quotes")
    return value


def _read_count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingError(f"{show_value(value)} is no number of {what}; write one without quotes, such as 10")
    if not 1 <= value <= MAX_COUNT:
        raise SettingError(f"{show_value(value)} is no number of {what}; it is from 1 to {MAX_COUNT:,}")
    return value


def read_downloads(value: object) -> int:
    """Read how many downloads there may be at once."""
    return _read_count(value, "downloads")


def read_version(value: object) -> Version:
    """Read the version of a release, as in a file's name."""
    if not isinstance(value, str):
        hint = f'; write it in quotes: "{value}"' if isinstance(value, float) else '; write one as in "1.2.3"'
        raise SettingError(f"{show_value(value)} is no version{hint}")
    try:
        return parse_file_version(value)
    except VersionError:
        raise SettingError(f'{show(value)} is no version; write one as in a file\'s name, "1.2.3" or "1.2"') from None


def read_versions(value: object) -> tuple[Version, ...]:
    """Read a list of versions, in any order; returned in ascending order, each once."""
    versions = {read for _, read in _read_items(value, read_version, 'versions, such as ["2.0.0"]')}
    return tuple(sorted(versions, key=numbers_of))


def _read_items(value: object, read: Callable[[Any], Any], what: str) -> Iterator[tuple[int, Any]]:
    """Read the items of a list one by one, and say of which item an error is."""
    if not isinstance(value, list):
        raise SettingError(f"{show_value(value)} is no list; write a list of {what}")
    for number, item in enumerate(value):
        try:
            yield number, read(item)
        except SettingError as error:
            raise SettingError(str(error), number, *error.where) from None


def read_name(value: object) -> str:
    """Read what can name a project or a channel."""
    if not isinstance(value, str) or not is_name(value):
        raise SettingError(
            f"{show_value(value)} can't be a name; names are ASCII letters, digits and _ . + -, "
            "and begin with none of . + -"
        )
    return value


def read_share(value: object) -> float:
    """Read a share: `"80%"`, or 0.8; returned from 0 to 1."""
    share = None
    if isinstance(value, float):
        share = value
    elif isinstance(value, str) and (found := _SHARE.fullmatch(value.strip())):
        share = float(found[1]) / 100
    if share is None:
        number = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 100
        raise SettingError(f'{show_value(value)} is no share; write "{value if number else 80}%"')
    if not 0 <= share <= 1:
        raise SettingError(f'{show_value(value)} is no share; it is from "0%" to "100%", or from 0.0 to 1.0')
    return share


def read_confirm(value: object) -> float:
    """Read which share of a stage's downloads must be confirmed."""
    share = read_share(value)
    if not share:
        raise SettingError(f'{show_value(value)} would confirm a stage that nobody confirms; write more, such as "50%"')
    return share


def read_soak(value: object) -> float:
    """Read a time with its unit, such as `"30m"`; returned in seconds."""
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise SettingError(f'{show_value(value)} has no unit; write it in quotes and with s, m, h or d, as in "30m"')
    if found is None:
        raise SettingError(f'{show_value(value)} is no time; write a number and s, m, h or d, as in "30m" or "1.5h"')
    if not found[2]:
        raise SettingError(f'{show_value(value)} has no unit; write "{found[1]}m" for minutes, or s, h or d')
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > MAX_SOAK:
        raise SettingError(f'{show_value(value)} is longer than a year; write "366d" or less')
    return seconds


def read_silent_after(value: object) -> float:
    """Read the multiple of a device's rhythm after which it counts as silent."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingError(f"{show_value(value)} is no number; write one without quotes, such as 3")
    if not 1 <= value <= MAX_COUNT:
        # Also where it is "nan", which is neither.
        raise SettingError(f"{show_value(value)} can't be; it is a multiple of a device's own rhythm, 1 or more")
    return float(value)


def read_halt(value: object) -> HaltRule:
    """Read when a rollout halts by itself."""
    lenient = 'halt = { failures = 100, share = "50%" }'
    if value is False:
        raise SettingError(f"the halt can't be turned off; make it lenient: {lenient}")
    if not isinstance(value, dict):
        raise SettingError(f'{show_value(value)} can\'t be; write halt = {{ failures = 2, share = "10%" }}')
    rule = HaltRule()
    failures, share = rule.failures, rule.share
    for key, item in value.items():
        try:
            if key == "failures":
                failures = _read_count(item, "failures")
            elif key == "share":
                share = read_share(item)
                if share >= 1:
                    raise SettingError(f"more than {show_value(item)} never fail; to be lenient, write {lenient}")
            else:
                raise SettingError("unknown key; halt has the keys failures and share")
        except SettingError as error:
            raise SettingError(str(error), key) from None
    return HaltRule(failures, share)


def read_windows(value: object) -> tuple[WeeklyWindow, ...]:
    """Read a window, or a list of them."""
    if isinstance(value, str):
        return (_read_window(value),)
    return tuple(read for _, read in _read_items(value, _read_window, 'windows, such as ["02:00-05:00 Europe/Berlin"]'))


def _read_window(value: object) -> WeeklyWindow:
    if not isinstance(value, str):
        raise SettingError(f'{show_value(value)} is no window; write one as in "02:00-05:00 Europe/Berlin"')
    try:
        return read_window(value)
    except WindowError as error:
        raise SettingError(f"{show(value)} {error}") from None


def read_stages(value: object) -> tuple[Stage, ...]:
    """Read the stages of a rollout: counts and shares, each in ascending order, "100%" only as the last."""
    stages: list[Stage] = []
    count, share = 0, 0.0
    for number, stage in _read_items(value, _read_stage, 'stages, such as ["1", "1%", "10%", "100%"]'):
        if share >= 1:
            raise SettingError(f'{show(stage.text)} comes after "100%", which is everybody; leave it out', number)
        if (stage.count or count + 1) <= count or (stage.share or 1.1) <= share:
            raise SettingError(
                f"{show(stage.text)} isn't more than a stage before; put them in ascending order", number
            )
        count, share = stage.count or count, stage.share or share
        stages.append(stage)
    return tuple(stages)


def _read_stage(value: object) -> Stage:
    if isinstance(value, int) and not isinstance(value, bool):
        return Stage(show_value(value), count=_read_count(value, "devices"))
    text = value.strip() if isinstance(value, str) else ""
    if _COUNT.fullmatch(text):
        return Stage(text, count=_read_count(int(text), "devices"))
    if not _SHARE.fullmatch(text):
        raise SettingError(f'{show_value(value)} is no stage; write a count as in "10", or a share as in "10%"')
    share = read_share(text)
    if not share:
        raise SettingError(f"{show(text)} is nobody; leave it out")
    return Stage(text, share=share)


_MAC = re.compile(r"([0-9A-Fa-f]{2})([:-]?)([0-9A-Fa-f]{2})(?:\2[0-9A-Fa-f]{2}){4}", re.ASCII)
_CHIP_ID = re.compile(r"[0-9]{1,15}", re.ASCII)
# What can only be meant for a MAC address.
_NEARLY_MAC = re.compile(
    r"[0-9A-Za-z]{1,3}(?: :[0-9A-Za-z]{1,3}){4,7} | [0-9A-Fa-f]{1,3}(?: -[0-9A-Fa-f]{1,3}){4,7} | [0-9A-Fa-f]{11,13}",
    re.ASCII | re.VERBOSE,
)


def read_device(text: str) -> str | None:
    """Return a device's id as check-ins tell it, or None for a text that is none.

    It is a MAC address in either case, with `:`, `-` or nothing between its bytes, returned as `5C:CF:7F:00:11:22`,
    a decimal chip id, or `CN=` and the name in a client certificate. Raises SettingError for what can only be meant
    for one of these, and isn't one.
    """
    if _MAC.fullmatch(text):
        digits = text.replace(":", "").replace("-", "").upper()
        return ":".join(digits[at : at + 2] for at in range(0, 12, 2))
    if _CHIP_ID.fullmatch(text):
        return text
    if text.startswith(CERTIFICATE_PREFIX):
        if not is_common_name(text.removeprefix(CERTIFICATE_PREFIX)):
            raise SettingError(
                f"{show(text)} is no name of a certificate; behind CN= it has from 1 to {MAX_COMMON_NAME} printable "
                "characters, and no blanks around them"
            )
        return text
    if _NEARLY_MAC.fullmatch(text):
        raise SettingError(
            f'{show(text)} is no MAC address; that has six bytes of two hexadecimal digits, as in "5C:CF:7F:00:11:22"'
        )
    return None


def is_common_name(text: str) -> bool:
    """Say whether the name of a certificate's subject can stand for a device."""
    return 0 < len(text) <= MAX_COMMON_NAME and text.isprintable() and text.strip() == text


def read_device_name(value: object) -> str:
    """Read what people call a device."""
    if not isinstance(value, str):
        raise SettingError(f'{show_value(value)} is no name; write a text in quotes, such as "kitchen"')
    if not value.strip() or not value.isprintable() or len(value) > MAX_DEVICE_NAME:
        raise SettingError(f"{show(value)} can't be a name; it has from 1 to {MAX_DEVICE_NAME} printable characters")
    forms = (_MAC, _CHIP_ID, _NEARLY_MAC)
    if value.startswith(CERTIFICATE_PREFIX) or any(form.fullmatch(value) for form in forms):
        raise SettingError(f"{show(value)} can't be a name, since it looks like an id of a device; choose another")
    return value


MAKE_TOKEN = "make one with: ota-server make-token"  # noqa: S105 - no token, but advice
"""What to do where a token is missing or wrong."""

_TOKEN_HASH = re.compile(r"sha256:([0-9A-Fa-f]{64})", re.ASCII)
_EMPTY_HASH = hashlib.sha256(b"").digest()


def read_tokens(value: object) -> tuple[bytes, ...]:
    """Read the hash of a token, or a list of them; returned as the 32 bytes of each SHA-256.

    No error shows the value, since it may be a token that was written there by mistake.
    """
    if isinstance(value, str):
        return (_read_token_hash(value),)
    if not isinstance(value, list) or not value:
        raise SettingError('is no hash of a token and no list of some; write one as in "sha256:…"; ' + MAKE_TOKEN)
    return tuple(read for _, read in _read_items(value, _read_token_hash, "hashes of tokens"))


def _read_token_hash(value: object) -> bytes:
    found = _TOKEN_HASH.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise SettingError(f'is no hash of a token, which is "sha256:" and 64 hexadecimal digits; {MAKE_TOKEN}')
    digest = bytes.fromhex(found[1])
    if digest == _EMPTY_HASH:
        raise SettingError(f"is the hash of an empty token; {MAKE_TOKEN}")
    return digest


ACCESS_MODES = ("open", "token", "certificate")
"""What may be asked of devices."""


def read_access_mode(value: object) -> str:
    """Read what is asked of devices: `open`, `token` or `certificate`."""
    if not isinstance(value, str) or value not in ACCESS_MODES:
        raise SettingError(f'{show_value(value)} can\'t be; write "open", "token" or "certificate"')
    return value


def read_members(value: object) -> tuple[str, ...]:
    """Read the list of a group's members, each an id or a name of a device; which one is not looked at here."""
    return tuple(read for _, read in _read_items(value, _read_text, 'devices, such as ["5C:CF:7F:00:11:22"]'))


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise SettingError(f'{show_value(value)} is no device; write one in quotes, such as "5C:CF:7F:00:11:22"')
    return value
