"""Makes the images that fuzzing begins with: `python -m tests.fuzz.seeds`. Those with signatures differ each time."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.fuzz.image import CORPUS, LONGEST
from tests.images import (
    app_descriptor,
    arduino_ota,
    compress,
    esp32_image,
    esp32fota_signed,
    esp8266_bootloader,
    esp8266_image,
    esp8266_plain_image,
    esp8266_signed,
    esp8266_v2_image,
    esp8266_v3_image,
    made_bootloader,
    mcuboot_image,
    ota_data,
    partition_table,
    private_key,
    secure_boot_v1,
    secure_boot_v2,
)

_HOMIE = b"\xbf\x84\xe4\x13\x54lamp\x93\x44\x6b\xa7\x75\x6a\x3f\x3e\x0e\xe11.2.3\xb0\x30\x48\xd4\x1a"
_DEBUG = b"[V][%s:%u] %s(): \0D (%lu) %s: \0ESPHome version 2026.1.0"


def _make() -> Iterator[tuple[str, bytes]]:
    """Make one small image of each sort."""
    esp32, sketch = esp32_image(size=64), esp8266_image(size=64)
    rsa2048, rsa3072, rsa4096 = private_key("rsa2048"), private_key("rsa3072"), private_key("rsa4096")
    yield "esp32", esp32
    yield "esp32c6-marks", esp32_image("esp32c6", size=64, embedded=_HOMIE + _DEBUG)
    yield "esp32-without-descriptor", esp32_image(size=64, described=False)
    yield "esp32-without-hash", esp32_image(size=64, flags=("--dont-append-digest",))
    yield "esp32-signed-v1", secure_boot_v1(esp32, private_key("p256"))
    yield "esp32-signed-v2", secure_boot_v2(esp32, rsa3072)
    yield "esp32p4-signed-v2", secure_boot_v2(esp32_image("esp32p4", size=64), private_key("p384"))
    yield "esp32c2-signed-v2", secure_boot_v2(esp32_image("esp32c2", size=64), private_key("p192"), private_key("p256"))
    yield "esp32-signed-esp32fota", esp32fota_signed(esp32, rsa4096)
    yield "esp32-gzip", compress(esp32)
    yield "esp32-bootloader", made_bootloader(size=64)
    yield "esp8266-sketch", sketch
    yield "esp8266-sketch-signed", esp8266_signed(sketch, rsa2048)
    yield "esp8266-sketch-gzip", compress(sketch, name="sketch.bin")
    yield "esp8266-sketch-gzip-signed", esp8266_signed(compress(sketch), rsa2048)
    yield "esp8266-bootloader", esp8266_bootloader()
    yield "esp8266-plain", esp8266_plain_image(size=4096, embedded=_HOMIE)
    yield "esp8266-v2", esp8266_v2_image(size=64)
    yield "esp8266-v3", esp8266_v3_image(size=64)
    yield "arduino-ota", arduino_ota(esp32)
    yield "mcuboot", mcuboot_image(size=64, header=0x20)
    yield "mcuboot-signed", mcuboot_image(size=64, header=0x20, key=private_key("p256"))
    yield "partition-table", partition_table()
    yield "ota-data", ota_data()
    yield "merged", (b"\xff" * 0x1000 + made_bootloader(size=64))[:LONGEST]
    yield "littlefs", struct.pack("<II8s", 1, 0xFFFFF0F0, b"littlefs") + bytes(240)
    yield "descriptor", app_descriptor("lamp", "1.2.3")
    yield "gzip-of-zeros", compress(bytes(1 << 20))
    yield "gzip-twice", compress(compress(esp32))


if __name__ == "__main__":
    CORPUS.mkdir(exist_ok=True)
    for name, image in _make():
        assert len(image) <= LONGEST, name
        (CORPUS / name).write_bytes(image)
