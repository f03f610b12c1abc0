"""Makes `twistd ota` known. Four strings only, so that `twistd --help` imports nothing of the server."""

from twisted.application.service import ServiceMaker

ota = ServiceMaker(
    "OTA Server",
    "ota_server.tap",
    "Serves firmware updates to ESP8266, ESP32 and Arduino devices.",
    "ota",
)
