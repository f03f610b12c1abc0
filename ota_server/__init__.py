"""A firmware update server for ESP8266, ESP32 and Arduino devices, built on Twisted."""

from ota_server._version import __version__

__all__ = ["__version__"]
