"""Reading images of the ESP8266.

An Arduino sketch is the boot loader `eboot`, and from offset 4096 on the application, put together by the core's
`elf2bin.py`; Espressif's own boot loader takes images of another form.
"""

from __future__ import annotations

import hashlib
import zlib

import attrs

from ota_server.firmware.esp import (
    APP_DESCRIPTOR,
    HEADER,
    MAGIC,
    SECTOR,
    find_broken_checksum,
    read_app_descriptor,
    read_checksum,
    read_hash,
    read_header,
    walk,
)
from ota_server.firmware.facts import Checked, Damage, Format, ImageFacts, Segment
from ota_server.firmware.marks import ESP8266_DEBUG, Marks
from ota_server.firmware.stream import Crc32, ImageStream, Xor
from ota_server.firmware.trailers import read_trailer

_EBOOT_AT = 0x4010F000
_UNPACKING_EBOOT = 3000
"""The boot loader of the Arduino core has 1,264 to 1,392 bytes of code up to core 2.6, and 3,424 to 3,664 since it
unpacks gzip (2.7)."""


def read_esp8266(stream: ImageStream) -> ImageFacts:
    """Read an ESP8266 image: an Arduino sketch, one of another kind, or a boot loader.

    Those of Espressif's RTOS SDK have a descriptor at byte 16, and then a SHA-256 that nothing announces.
    """
    head = stream.peek(HEADER + 8 + 256)
    marks, xor, crc = Marks(ESP8266_DEBUG), Xor(), _SketchCrc()
    modes = [_ModeMd5(mode) for mode in range(4)]
    stream.sinks += [marks, crc, *(mode for mode in modes if mode.value != head[2:3])]
    segments, damage = walk(stream, HEADER, xor)
    checksum = sketch_crc = appended = None
    app = read_app_descriptor(head[16:]) if head[16:20] == APP_DESCRIPTOR else None
    form, can_unpack = Format.ESP8266_IMAGE, False
    if damage is None:
        checksum, damage = read_checksum(stream, 0, xor)
        damage = damage or find_broken_checksum(checksum, stream.position)
    end = stream.position
    if damage is None and app is not None:
        appended, damage = read_hash(stream)
    elif damage is None and end <= SECTOR:
        # What is so short is the Arduino core's boot loader. Alone it leaves a device with nothing to boot.
        gap = stream.peek(SECTOR - end + 1)
        if not gap:
            form = Format.ESP8266_BOOTLOADER
        elif gap[SECTOR - end :] != bytes([MAGIC]):
            damage = Damage(SECTOR, f"it holds a boot loader, and no sketch behind it at byte {SECTOR}")
        else:
            form = Format.ESP8266_SKETCH
            stream.skip(SECTOR - end)
            can_unpack = segments[0].address == _EBOOT_AT and segments[0].length >= _UNPACKING_EBOOT
            xor = Xor()
            more, damage = walk(stream, HEADER, xor)
            segments += more
            if damage is None:
                own, damage = read_checksum(stream, SECTOR, xor)
            end = stream.position
            if damage is None:
                assert own is not None
                sketch_crc, damage = crc.check(end, stream.size, own)
    hashes: tuple[str, ...] = ()
    signature, trailing = None, 0
    if damage is None and form is not Format.ESP8266_BOOTLOADER:
        hashes = tuple((stream.md5 if mode.value == head[2:3] else mode.md5).hexdigest() for mode in modes)
        stream.sinks.clear()
        signature, trailing = read_trailer(stream)
    # The RTOS SDK took over the ESP32's codes of sizes; those of frequencies are the same.
    header = read_header(head, "esp8266" if app is None else "esp32", segments)
    return ImageFacts(
        0,
        "",
        "",
        chip="esp8266",
        sketch_hashes=hashes,
        format=form,
        damage=damage,
        project=marks.homie_name or (app.project if app else None) or None,
        version=marks.homie_version or (app.version if app else None) or None,
        esp=attrs.evolve(
            header,
            end=end,
            checksum=checksum,
            appended_hash=appended,
            sketch_crc=sketch_crc,
            app=app,
            can_unpack=can_unpack,
        ),
        signatures=(signature,) if signature else (),
        trailing=trailing,
        debug=marks.debug,
    )


def read_esp8266_v2(stream: ImageStream) -> ImageFacts:
    """Read an ESP8266 image of the second version: code in flash first, then an image with a header of its own.

    A CRC ends it, which is zlib's, negated one way or another (Espressif's `gen_appbin.py`).
    """
    crc = Crc32()
    stream.sinks.append(crc)
    head = stream.peek(HEADER)
    xor = Xor()
    first, damage = walk(stream, HEADER, Xor(), count=1)
    segments: tuple[Segment, ...] = ()
    checksum = None
    start = stream.position
    if damage is None:
        if stream.peek(1) != bytes([MAGIC]):
            damage = Damage(start, f"it has no second header at byte {start}")
        else:
            head = stream.peek(HEADER)
            segments, damage = walk(stream, HEADER, xor)
    if damage is None:
        checksum, damage = read_checksum(stream, start, xor)
        damage = damage or find_broken_checksum(checksum, stream.position)
    end = stream.position
    if damage is None:
        computed = crc.value
        stated = stream.take(4)
        turned = (~computed if computed & 1 << 31 else computed + 1) & 0xFFFFFFFF
        if len(stated) < 4:
            damage = Damage(stream.position, f"it ends inside the CRC that begins at byte {end}")
        elif int.from_bytes(stated, "little") != turned:
            damage = Damage(end, f"its bytes don't have the CRC that stands at byte {end}")
    esp = attrs.evolve(read_header(head, "esp8266", (*first, *segments)), end=end, checksum=checksum)
    trailing = 0 if damage else stream.skip_rest()
    return ImageFacts(0, "", "", "esp8266", (), Format.ESP8266_V2, damage, esp=esp, trailing=trailing)


class _ModeMd5:
    """MD5 of an image as it is in flash with this flash mode in byte 2: a sink."""

    def __init__(self, mode: int) -> None:
        self.value = bytes([mode])
        self.md5 = hashlib.md5(usedforsecurity=False)
        self._position = 0

    def __call__(self, piece: memoryview) -> None:
        place = 2 - self._position
        self._position += len(piece)
        if 0 <= place < len(piece):
            piece = memoryview(bytes(piece[:place]) + self.value + bytes(piece[place + 1 :]))
        self.md5.update(piece)


class _SketchCrc:
    """The length and the CRC that an ESP8266 sketch states, and the CRC that its bytes have: a sink.

    They stand as two words at 0x1010, and count as zeros in the CRC (`elf2bin.py`), which is CRC-32/MPEG-2: that of
    zlib with the bits of bytes and result mirrored, and without its last step.
    """

    _AT = SECTOR + 16
    _MIRRORED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

    def __init__(self) -> None:
        self._words = bytearray()
        self._position = 0
        self._value = 0

    def __call__(self, piece: memoryview) -> None:
        data = bytes(piece)
        begin, end = self._AT - self._position, self._AT + 8 - self._position
        self._position += len(data)
        if begin < len(data) and end > 0:
            words = data[max(begin, 0) : end]
            self._words += words
            data = data[: max(begin, 0)] + bytes(len(words)) + data[end:]
        self._value = zlib.crc32(data.translate(self._MIRRORED_BITS), self._value)

    def check(self, end: int, size: int | None, checksum: Checked) -> tuple[Checked | None, Damage | None]:
        """Compare with what was read so far, a sketch that ends at byte `end` of a file of `size` bytes.

        Before version 3 the core puts something else there, and the sketch's own checksum counts. Since then it writes
        the words into the first segment after the checksum was made, which holds no more.
        """
        length, crc = int.from_bytes(self._words[:4], "little"), int.from_bytes(self._words[4:], "little")
        mirrored = (self._value ^ 0xFFFFFFFF).to_bytes(4, "little").translate(self._MIRRORED_BITS)
        checked = Checked(f"{crc:08x}", mirrored.hex())
        if checked.holds and length != end:
            return checked, Damage(self._AT, f"it has {end} bytes, and says at byte {self._AT} that it has {length}")
        if checked.holds or length in (end, size):
            at = self._AT + 4
            wrong = Damage(at, f"its bytes don't have the CRC that stands at byte {at}")
            return checked, None if checked.holds else wrong
        return None, find_broken_checksum(checksum, end)
