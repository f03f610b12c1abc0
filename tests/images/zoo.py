"""One image of each sort."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from types import MappingProxyType

from tests.images.esp32 import (
    ESP32_CHIPS,
    bootloader,
    esp32_image,
    made_bootloader,
    merged_image,
    ota_data,
    partition_table,
)
from tests.images.esp8266 import (
    esp8266_bootloader,
    esp8266_image,
    esp8266_plain_image,
    esp8266_v2_image,
    esp8266_v3_image,
)
from tests.images.signing import (
    esp32fota_signed,
    esp8266_signed,
    private_key,
    secure_boot_v1,
    secure_boot_v2,
)
from tests.images.wrapping import arduino_ota, compress, mcuboot_image

_MARKS = b"\xbf\x84\xe4\x13\x54lamp\x93\x44\x6b\xa7\x75\x6a\x3f\x3e\x0e\xe11.2.3\xb0\x30\x48\xd4\x1a"


def _makers() -> Mapping[str, Callable[[], bytes]]:
    # Keys come first: two threads that want the same one at once would get different ones.
    rsa2048, rsa3072, rsa4096 = private_key("rsa2048"), private_key("rsa3072"), private_key("rsa4096")
    p192, p256, p384 = private_key("p192"), private_key("p256"), private_key("p384")
    rsa = (rsa3072, private_key("rsa3072", 1))
    ecdsa = (p256, private_key("p256", 1), private_key("p256", 2))
    apps: dict[str, Callable[[], bytes]] = {f"{chip}-app": partial(esp32_image, chip) for chip in ESP32_CHIPS}
    return apps | {
        "esp32-app-without-hash": lambda: esp32_image(flags=("--dont-append-digest",)),
        "esp32-app-without-descriptor": lambda: esp32_image(described=False),
        "esp32-app-homie": lambda: esp32_image(embedded=_MARKS),
        "esp32-app-code-in-flash": lambda: esp32_image(size=65536, flash_code=20000),
        "esp32c6-app-code-in-flash": lambda: esp32_image("esp32c6", flash_code=20000),
        "esp32-app-signed-v1": lambda: secure_boot_v1(esp32_image(), p256),
        "esp32-app-signed-v2-rsa": lambda: secure_boot_v2(esp32_image(), rsa3072),
        "esp32c3-app-signed-v2-rsa-twice": lambda: secure_boot_v2(esp32_image("esp32c3"), *rsa, append=True),
        "esp32c6-app-signed-v2-p256": lambda: secure_boot_v2(esp32_image("esp32c6"), p256),
        "esp32c6-app-signed-v2-p256-thrice": lambda: secure_boot_v2(esp32_image("esp32c6"), *ecdsa),
        "esp32c2-app-signed-v2-p192": lambda: secure_boot_v2(esp32_image("esp32c2"), p192),
        "esp32p4-app-signed-v2-p384": lambda: secure_boot_v2(esp32_image("esp32p4"), p384),
        "esp32-app-signed-esp32fota": lambda: esp32fota_signed(esp32_image(), rsa4096),
        "esp32-app-gzip": lambda: compress(esp32_image()),
        "esp32-bootloader": bootloader,
        "esp32-bootloader-without-descriptor": lambda: made_bootloader(described=False),
        "esp32c3-bootloader": lambda: made_bootloader("esp32c3"),
        "esp32-partition-table": partition_table,
        "esp32-ota-data": ota_data,
        "esp32-merged": merged_image,
        "esp32c3-merged": lambda: merged_image("esp32c3"),
        "esp32s3-merged": lambda: merged_image("esp32s3"),
        "esp32p4-merged": lambda: merged_image("esp32p4"),
        "esp8266-sketch": esp8266_image,
        "esp8266-sketch-homie": lambda: esp8266_image(embedded=_MARKS),
        "esp8266-sketch-gzip": lambda: compress(esp8266_image()),
        "esp8266-sketch-signed": lambda: esp8266_signed(esp8266_image(), rsa2048),
        "esp8266-sketch-signed-legacy": lambda: esp8266_signed(esp8266_image(), rsa2048, legacy=True),
        "esp8266-sketch-gzip-signed": lambda: esp8266_signed(compress(esp8266_image()), rsa2048),
        "esp8266-bootloader": esp8266_bootloader,
        "esp8266-plain": esp8266_plain_image,
        "esp8266-v2": esp8266_v2_image,
        "esp8266-v3": esp8266_v3_image,
        "mcuboot": lambda: mcuboot_image("1.2.3+4"),
        "mcuboot-signed": lambda: mcuboot_image("1.2.3+4", key=p256),
        "arduino-ota": lambda: arduino_ota(esp32_image(), version=bytes(8)),
    }


@lru_cache
def zoo() -> Mapping[str, bytes]:
    """Return one image of each sort by a name that says what it is, as in `esp32c6-app-signed-v2-p256`.

    The programs that make them take a third of a second each, so they are run several at a time.
    """
    makers = _makers()
    with ThreadPoolExecutor() as pool:
        return MappingProxyType(dict(zip(makers, pool.map(lambda make: make(), makers.values()), strict=True)))
