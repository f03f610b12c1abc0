"""Real images for tests and examples: made by the vendors' own programs from small ELF files made here.

Run as a program it makes the examples: `python -m tests.images FOLDER`.
"""

from tests.images.esp32 import (
    ESP32_CHIPS,
    app_descriptor,
    bootloader,
    esp32_image,
    made_bootloader,
    merged_image,
    ota_data,
    partition_table,
)
from tests.images.esp8266 import (
    add_arduino_crc,
    esp8266_bootloader,
    esp8266_image,
    esp8266_plain_image,
    esp8266_v2_image,
    esp8266_v3_image,
)
from tests.images.signing import (
    KeyKind,
    esp32fota_signed,
    esp8266_signed,
    private_key,
    public_key,
    secure_boot_v1,
    secure_boot_v2,
)
from tests.images.tools import make_elf
from tests.images.wrapping import (
    ARDUINO_MAGICS,
    arduino_ota,
    compress,
    cuts,
    damaged,
    mcuboot_image,
    rehashed,
)
from tests.images.zoo import zoo

__all__ = [
    "ARDUINO_MAGICS",
    "ESP32_CHIPS",
    "KeyKind",
    "add_arduino_crc",
    "app_descriptor",
    "arduino_ota",
    "bootloader",
    "compress",
    "cuts",
    "damaged",
    "esp32_image",
    "esp32fota_signed",
    "esp8266_bootloader",
    "esp8266_image",
    "esp8266_plain_image",
    "esp8266_signed",
    "esp8266_v2_image",
    "esp8266_v3_image",
    "made_bootloader",
    "make_elf",
    "mcuboot_image",
    "merged_image",
    "ota_data",
    "partition_table",
    "private_key",
    "public_key",
    "rehashed",
    "secure_boot_v1",
    "secure_boot_v2",
    "zoo",
]
