"""Recognising and reading files that are no plain ESP image: wrappings, other chips' images, parts of a flash."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping

import attrs

from ota_server.firmware.esp import APP_DESCRIPTOR, MAGIC, SECTOR, is_esp8266
from ota_server.firmware.facts import Damage, Format, ImageFacts, Scheme, Signature
from ota_server.firmware.stream import CHUNK, Crc32, ImageStream
from ota_server.firmware.trailers import read_trailer

PARTITIONS_AT = range(0x7000, 0x11000, 0x1000)
"""Where a partition table may lie in a merged image; it is at the second, unless that begins with the second sector."""

HEAD = PARTITIONS_AT[-1] + 2
"""How many of a file's first bytes tell what it is."""

MAX_UNPACKED = 64 << 20
"""The largest image that is unpacked to look at it, in bytes: more than any device's flash."""

_GZIP = b"\x1f\x8b\x08"
_PARTITION = b"\xaa\x50"
_PARTITION_TABLE_SIZE = 0x1000
_MERGED = bytes([MAGIC]), b"\xff"
_LITTLEFS = b"littlefs"
_LITTLEFS_AT = 8
# The first entry of `boot_app0.bin`: sequence number 1, no label, no state, and their CRC.
_OTA_DATA = b"\x01\0\0\0" + b"\xff" * 24 + b"\x9a\x98\x43\x47"
_SIGNATURE = 512
_MCUBOOT = struct.Struct("<IIHHIIBBHI")
_MCUBOOT_MAGIC = 0x96F3B83D
_MCUBOOT_TLVS = 0x6907
_MCUBOOT_SHA256 = 0x10
# SHA-256, -384, -512, or a signature of the image itself: one of these has to be there.
_MCUBOOT_HASHES = (_MCUBOOT_SHA256, 0x11, 0x12, 0x25)
# Encrypted (for keys of 128 and of 256 bits), and compressed one way or another.
_MCUBOOT_CHANGED = 0x04 | 0x08 | 0x200 | 0x400
_OTA_HEADER = struct.Struct("<III8s")

OTA_BOARDS: Mapping[int, str | None] = {
    0x45535033: "esp32",
    0x23410070: "esp32s3",
    0x2341005E: "rp2040",
    0x23411002: "esp32s3",
    **dict.fromkeys((0x23418054, 0x23418057, 0x2341025B, 0x2341025F, 0x23410064, 0x23410266, 0x23410068)),
}
"""Boards by their numbers in Arduino's `.ota` form, each with its chip where that has a name here: any ESP32, Nano
ESP32, Nano RP2040 Connect, UNO R4 WiFi; MKR WiFi 1010, Nano 33 IoT, Portenta H7, Nicla Vision, Opta, Giga, Portenta C33
(ArduinoIoTCloud, `bin2ota.py`)."""

Reader = Callable[[ImageStream], ImageFacts]
"""Reads a stream to its end."""


def recognise(head: bytes, size: int | None) -> Format | None:
    """Return the form of a file of `size` bytes that begins with `head`, HEAD bytes where it has so many.

    None stands for a plain ESP image, by its first byte.
    """
    if not head:
        return Format.OPAQUE
    if head[32:36] == APP_DESCRIPTOR and head[0] == MAGIC:
        return None
    if head.startswith(_PARTITION) and size is not None and size <= _PARTITION_TABLE_SIZE:
        return Format.PARTITION_TABLE
    if head.startswith(_OTA_DATA):
        return Format.OTA_DATA
    if head[:1] in _MERGED and _is_merged(head):
        return Format.MERGED
    if head.startswith(_GZIP):
        return Format.GZIP
    if head[_LITTLEFS_AT:].startswith(_LITTLEFS):
        return Format.LITTLEFS
    inside = head[_SIGNATURE:]
    is_app = inside[:1] == bytes([MAGIC]) and inside[32:36] == APP_DESCRIPTOR
    if is_app or inside[_LITTLEFS_AT:].startswith(_LITTLEFS):
        return Format.SIGNED
    if int.from_bytes(head[:4], "little") == _MCUBOOT_MAGIC:
        return Format.MCUBOOT
    if len(head) >= _OTA_HEADER.size:
        length, _, board, _ = _OTA_HEADER.unpack_from(head)
        if board in OTA_BOARDS or length + 8 == size:
            return Format.ARDUINO_OTA
    return None if head[0] == MAGIC or head.startswith(b"\xea\x04") else Format.OPAQUE


def _is_merged(head: bytes) -> bool:
    """Say whether a file holds a flash from its beginning on: boot loader, partition table, application."""
    if head[0] == MAGIC:
        return not is_esp8266(head) and any(head[at : at + 2] == _PARTITION for at in PARTITIONS_AT)
    # The boot loader of some chips begins at the second sector of flash, or at the third.
    return any(head[at : at + 1] == bytes([MAGIC]) and not head[:at].strip(b"\xff") for at in (SECTOR, 2 * SECTOR))


def read_plain(stream: ImageStream, form: Format) -> ImageFacts:
    """Read a file of which there is nothing to check, and return all there is to say of it."""
    signature, _ = read_trailer(stream)
    return ImageFacts(
        stream.position,
        stream.md5.hexdigest(),
        stream.sha256.hexdigest(),
        format=form,
        signatures=(signature,) if signature else (),
    )


def read_gzip(stream: ImageStream, read: Reader) -> ImageFacts:
    """Read a gzip file (RFC 1952) and what is in it; an ESP8266 signature may stand behind it."""
    unpacker = zlib.decompressobj(31)
    damage: Damage | None = None
    too_large = False

    def unpack() -> Iterator[bytes]:
        nonlocal damage, too_large, unpacker
        size, bytewise = 0, False
        while not unpacker.eof:
            ahead = stream.ahead()[: 1 if bytewise else None]
            here = stream.position
            before = None if bytewise else unpacker.copy()
            try:
                piece = unpacker.decompress(ahead, CHUNK)
            except zlib.error as error:
                if before is None:
                    damage = Damage(here, f"its gzip data doesn't hold at byte {here}: {error}")
                    return
                # Once more, to find the byte.
                unpacker, bytewise = before, True
                continue
            stream.advance(len(ahead) - len(unpacker.unconsumed_tail) - len(unpacker.unused_data))
            if not piece and not ahead and not unpacker.eof:
                damage = Damage(here, f"it ends at byte {here}, inside its gzip data")
                return
            size += len(piece)
            if size > MAX_UNPACKED:
                too_large = True
                return
            if piece:
                yield piece

    inner = read(ImageStream(unpack(), None))
    if not damage and not inner.size:
        damage = Damage(stream.position, "there is nothing inside")
    facts = ImageFacts(0, "", "", format=Format.GZIP, damage=damage)
    if too_large:
        # Then it isn't for a device that unpacks, and is nobody's business.
        return facts
    if damage is not None:
        return attrs.evolve(facts, inner=inner)
    signature, trailing = read_trailer(stream)
    return attrs.evolve(_wrap(facts, inner), signatures=(signature,) if signature else (), trailing=trailing)


def read_signed(stream: ImageStream, read: Reader) -> ImageFacts:
    """Read an image behind the signature that esp32FOTA takes: 512 bytes, of an RSA key of 4096 bits."""
    value = stream.take(_SIGNATURE)
    size = None if stream.size is None else stream.size - _SIGNATURE
    inner = read(ImageStream(stream.pieces(), size))
    signature = Signature(Scheme.ESP32FOTA, 0, _SIGNATURE, inner.sha256, value.hex())
    return _wrap(ImageFacts(0, "", "", format=Format.SIGNED, signatures=(signature,)), inner)


def _wrap(facts: ImageFacts, inner: ImageFacts) -> ImageFacts:
    """Say of a wrapping what is to be said of what is inside."""
    damage = inner.damage
    return attrs.evolve(
        facts,
        chip=inner.chip,
        sketch_hashes=inner.sketch_hashes,
        project=inner.project,
        version=inner.version,
        debug=inner.debug,
        damage=Damage(damage.offset, f"inside, {damage.reason}") if damage else None,
        inner=inner,
    )


def read_mcuboot(stream: ImageStream) -> ImageFacts:
    """Read an image for MCUboot: header, program, and type-length-value entries, one of which is its SHA-256.

    https://docs.mcuboot.com/design.html, "Image format".
    """
    facts = ImageFacts(0, "", "", format=Format.MCUBOOT)
    head = stream.peek(_MCUBOOT.size)
    if len(head) < _MCUBOOT.size:
        return attrs.evolve(facts, damage=_ends(len(head), "its header"))
    _, _, header, protected, length, flags, major, minor, revision, build = _MCUBOOT.unpack(head)
    facts = attrs.evolve(facts, version=f"{major}.{minor}.{revision}" + (f"+{build}" if build else ""))
    covered = header + length + protected
    if stream.skip(covered) < covered:
        return attrs.evolve(facts, damage=_ends(stream.position, f"the {covered} bytes that its header announces"))
    digest = stream.sha256.digest()
    start = stream.position
    kind, total = struct.unpack("<HH", stream.peek(4).ljust(4, b"\0"))
    if kind != _MCUBOOT_TLVS or total < 4:
        return attrs.evolve(facts, damage=Damage(start, f"it has no entries (TLV) at byte {start}"))
    entries = stream.take(total)[4:]
    if len(entries) < total - 4:
        return attrs.evolve(facts, damage=_ends(stream.position, "the entries behind the image"))
    damage, hashed = None, False
    while len(entries) >= 4 and not damage:
        kind, size = struct.unpack_from("<HH", entries)
        if 4 + size > len(entries):
            damage = Damage(start, "an entry behind the image reaches beyond the last of them")
        elif kind == _MCUBOOT_SHA256 and not flags & _MCUBOOT_CHANGED and entries[4 : 4 + size] != digest:
            damage = Damage(start, "the SHA-256 among its entries is not that of its bytes")
        entries = entries[4 + size :]
        hashed |= kind in _MCUBOOT_HASHES
    if not hashed:
        damage = damage or Damage(start, "it has no hash among its entries")
    # `imgtool sign --pad` fills up a whole slot.
    return attrs.evolve(facts, damage=damage)


def read_arduino_ota(stream: ImageStream) -> ImageFacts:
    """Read an image in Arduino's `.ota` form: length, CRC-32 of all behind it, number of the board, version, data."""
    length, crc, board, _ = _OTA_HEADER.unpack(stream.peek(_OTA_HEADER.size))
    facts = ImageFacts(0, "", "", OTA_BOARDS.get(board), format=Format.ARDUINO_OTA)
    stream.take(8)
    computed = Crc32()
    if stream.skip(length, computed) < length:
        return attrs.evolve(facts, damage=_ends(stream.position, f"the {length + 8} bytes that it announces"))
    if computed.value != crc and board not in OTA_BOARDS:
        # Then its first word is a length by chance.
        return attrs.evolve(facts, format=Format.OPAQUE)
    if computed.value != crc:
        return attrs.evolve(facts, damage=Damage(4, "its bytes don't have the CRC that stands at byte 4"))
    return attrs.evolve(facts, trailing=stream.skip_rest())


def _ends(at: int, where: str) -> Damage:
    return Damage(at, f"it ends at byte {at}, inside {where}")
