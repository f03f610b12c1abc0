"""What reading an image tells of it: values only, which are kept and passed around.

Offsets and sizes are in bytes, hashes are lower-case hexadecimal.
"""

from __future__ import annotations

import enum

import attrs


class Format(enum.Enum):
    """How a file is laid out, as far as its bytes tell."""

    ESP32_APP = "ESP32 application"
    ESP32_BOOTLOADER = "ESP32 boot loader"
    ESP8266_SKETCH = "ESP8266 sketch of the Arduino core"
    ESP8266_IMAGE = "ESP8266 image without Arduino's boot loader"
    ESP8266_V2 = "ESP8266 image for Espressif's own boot loader"
    ESP8266_BOOTLOADER = "ESP8266 boot loader"
    MERGED = "merged factory image"
    PARTITION_TABLE = "ESP32 partition table"
    OTA_DATA = "ESP32 OTA data"
    GZIP = "gzip"
    SIGNED = "image behind an esp32FOTA signature"
    MCUBOOT = "MCUboot image"
    ARDUINO_OTA = "Arduino .ota image"
    LITTLEFS = "LittleFS filesystem"
    OPAQUE = "opaque"


NOT_FOR_OTA = frozenset(
    {
        Format.ESP32_BOOTLOADER,
        Format.ESP8266_BOOTLOADER,
        Format.MERGED,
        Format.PARTITION_TABLE,
        Format.OTA_DATA,
    }
)
"""What is written to a new device by wire, and would not start where an update is written."""

# As long as they happen to be, so that nothing tells of a part that is missing.
_WITHOUT_END = frozenset({Format.OPAQUE, Format.LITTLEFS, Format.PARTITION_TABLE, Format.OTA_DATA, Format.MERGED})

ESP_APPS = frozenset({Format.ESP32_APP, Format.ESP8266_SKETCH, Format.ESP8266_IMAGE, Format.ESP8266_V2})
"""Programs, which are no filesystem."""

FLASH_MODES = ("qio", "qout", "dio", "dout")
"""The names of the flash-mode byte's values, 0 to 3."""


@attrs.frozen
class Damage:
    """What is wrong with an image first, and the byte where that shows."""

    offset: int
    reason: str

    def __str__(self) -> str:
        return self.reason


@attrs.frozen
class Checked:
    """A check value as an image states it, and as its bytes give it, both in hexadecimal."""

    stated: str
    computed: str

    @property
    def holds(self) -> bool:
        """Whether the image is as it states."""
        return self.stated == self.computed


@attrs.frozen
class Segment:
    """One piece of an ESP image: where its data lies in the file, how long it is, and where it is loaded to."""

    offset: int
    length: int
    address: int


@attrs.frozen
class AppDescriptor:
    """`esp_app_desc_t`: what an application of ESP-IDF says of itself.

    `build_time` is the date and time of the build as text; `elf_sha256` names the program that it was made of.
    """

    project: str
    version: str
    secure_version: int
    idf_version: str
    build_time: str
    elf_sha256: str


@attrs.frozen
class EspFacts:
    """What the header and the parts of an ESP8266 or ESP32 image say.

    `flash_mode` is the byte itself (its names are FLASH_MODES), `flash_size` in bytes and `flash_frequency` in
    hertz are None where their codes are unknown. Revisions are major * 100 + minor. `end` is where the image
    proper ends: behind its checksum, before an appended hash. `checksum` is that of the boot loader in an Arduino
    sketch for the ESP8266 (the sketch's own needs not hold); `appended_hash` and `sketch_crc` are None where there
    are none.
    """

    entry: int
    flash_mode: int
    flash_size: int | None
    flash_frequency: int | None
    segments: tuple[Segment, ...]
    end: int
    checksum: Checked | None = None
    appended_hash: Checked | None = None
    sketch_crc: Checked | None = None
    min_chip_revision: int | None = None
    max_chip_revision: int | None = None
    app: AppDescriptor | None = None
    can_unpack: bool = False
    """Whether the boot loader in it unpacks gzip (an ESP8266 sketch brings its own)."""


class Scheme(enum.Enum):
    """A way to sign an image."""

    SECURE_BOOT_V1 = "Secure Boot v1, ECDSA P-256"
    SECURE_BOOT_V2_RSA = "Secure Boot v2, RSA-3072"
    SECURE_BOOT_V2_ECDSA = "Secure Boot v2, ECDSA"
    ESP8266 = "ESP8266 (signing.py)"
    ESP32FOTA = "esp32FOTA"


@attrs.frozen
class Signature:
    """A signature in a file, whose bytes are not looked at until a key is at hand.

    `offset` and `length` say where it lies; `digest` is that of the bytes it covers, and `value` the signature,
    both in hexadecimal and in the byte order of the file. `key` is the public key that stands beside it, likewise,
    for the schemes that put it there: for RSA the modulus and the exponent, for ECDSA the point's coordinates.
    """

    scheme: Scheme
    offset: int
    length: int
    digest: str
    value: str
    key: str = ""


@attrs.frozen
class ImageFacts:
    """What reading an image once tells of it.

    `chip` is None where the image doesn't say. `sketch_hashes` are all those by which a device that runs this
    image may name it in `x-ESP8266-sketch-md5`, `x-ESP32-sketch-md5` or `x-ESP32-sketch-sha256`; those of an
    ESP8266 image stand in the order of the flash modes. `project` and `version` are those that stand inside, or None.
    `inner` is what a gzip file or a signature is wrapped around; its size and hashes are those of the inner bytes.
    `trailing` counts bytes behind the image that nothing explains. `debug` are marks of a build for debugging.
    `damage` is what is wrong with the image, or None for one that is whole as far as its form tells.
    """

    size: int
    md5: str
    sha256: str
    chip: str | None = None
    sketch_hashes: tuple[str, ...] = ()
    format: Format = Format.OPAQUE
    damage: Damage | None = None
    project: str | None = None
    version: str | None = None
    esp: EspFacts | None = None
    signatures: tuple[Signature, ...] = ()
    trailing: int = 0
    debug: tuple[str, ...] = ()
    inner: ImageFacts | None = None

    @property
    def core(self) -> ImageFacts:
        """What is inside all wrappings."""
        return self if self.inner is None else self.inner.core

    @property
    def not_for_ota(self) -> bool:
        """Whether it is written to a new device by wire, and would not start where an update is written."""
        return self.core.format in NOT_FOR_OTA

    @property
    def tells_its_end(self) -> bool:
        """Whether an incomplete copy of it would show: not where something behind its end may be on its way yet."""
        if self.format is Format.SIGNED and self.inner is not None:
            return self.inner.tells_its_end
        if self.trailing:
            return False
        return self.format not in _WITHOUT_END
