"""Marks that a build leaves among the strings of a program: Homie's name and version, and traces of debugging."""

from __future__ import annotations

from collections.abc import Mapping

# Homie for ESP8266 and ESP32, the macro Homie_setFirmware.
_HOMIE_NAME = b"\xbf\x84\xe4\x13\x54", b"\x93\x44\x6b\xa7\x75"
_HOMIE_VERSION = b"\x6a\x3f\x3e\x0e\xe1", b"\xb0\x30\x48\xd4\x1a"

_ESPHOME = b"ESPHome version "

ESP32_DEBUG = {
    # arduino-esp32, esp32-hal-log.h: the format of a line of each level.
    b"[D][%s:%u] %s(): ": "log level debug (CORE_DEBUG_LEVEL 4)",
    b"[V][%s:%u] %s(): ": "log level verbose (CORE_DEBUG_LEVEL 5)",
    # ESP-IDF, esp_log.h, of versions 5 and 4.
    b"\0D (%lu) %s: ": "log level debug",
    b"\0D (%u) %s: ": "log level debug",
    b"Entering gdb stub now.\r\n": "GDB stub",
}
"""Strings that are only in programs built for debugging, with what they show; these for the ESP32 family."""

ESP8266_DEBUG = {
    # The Arduino core with a debug port.
    b"[HTTP-Client]": "debug output of the HTTP client",
    b"[httpUpdate]": "debug output of the updater",
    b":oom(%d)@": "debug output of the allocator",
}
"""The same for the ESP8266."""

_LONGEST = 160
"""A mark is at most so long, in bytes, so that one that falls between two pieces is found."""


class Marks:
    """The marks in all that is put in: a sink. `debug` are the strings to look for, with what they show."""

    def __init__(self, debug: Mapping[bytes, str]) -> None:
        self._wanted = debug
        self.homie_name: str | None = None
        self.homie_version: str | None = None
        self.esphome = False
        self._debug: set[str] = set()
        self._before = b""

    @property
    def debug(self) -> tuple[str, ...]:
        """What shows that this was built for debugging, for people."""
        return tuple(sorted(self._debug))

    def __call__(self, piece: memoryview) -> None:
        """Look through a piece of the program."""
        data = self._before + piece
        self._before = data[-_LONGEST:]
        self.homie_name = self.homie_name or _find_between(data, *_HOMIE_NAME)
        self.homie_version = self.homie_version or _find_between(data, *_HOMIE_VERSION)
        self.esphome = self.esphome or _ESPHOME in data
        for mark, meaning in self._wanted.items():
            if mark in data:
                self._debug.add(meaning)


def _find_between(data: bytes, begin: bytes, end: bytes) -> str | None:
    start = data.find(begin)
    while start >= 0:
        # No further than what is sure to be kept, lest it depend on where a piece ends.
        stop = data.find(end, start + len(begin), start + _LONGEST)
        text = data[start + len(begin) : stop].decode("utf-8", "replace") if stop > 0 else ""
        if text and text.isprintable():
            return text
        start = data.find(begin, start + 1)
    return None
