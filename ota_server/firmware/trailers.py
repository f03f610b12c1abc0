"""Signatures behind an image: where they lie, and what they were made of. Whether they hold is `signatures.py`'s part.

Layouts: the signature sector of Secure Boot v2 and the signature of v1 (ESP-IDF, "Secure Boot" of each chip; esptool's
`espsecure`), and the trailer of the Arduino core for ESP8266 (`signing.py`: signature, then its length in 4 bytes).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from ota_server.firmware.esp import SECTOR
from ota_server.firmware.facts import Damage, Scheme, Signature
from ota_server.firmware.stream import ImageStream

if TYPE_CHECKING:
    from hashlib import _Hash

_BLOCK = 1216
_BLOCKS = 3
_BLOCK_MAGIC = 0xE7
_RSA, _ECDSA = 2, 3
_BLOCK_CRC = 1196
_RSA_LENGTH = 384
# By the number of the curve: P-192, P-256, P-384.
_CURVE_LENGTHS = {1: 24, 2: 32, 3: 48}

_V1_LENGTH = 68
_SHA384 = 48

_TRAILER_LENGTHS = (512, 384, 256, 128)


def read_secure_boot(stream: ImageStream, sha384: _Hash | None) -> tuple[tuple[Signature, ...], Damage | None]:
    """Read the signatures of Secure Boot that stand where a stream is, behind an image; nothing where there are none.

    `sha384` is that of all that was read so far, and goes on with the stream; None for chips that have no use for it,
    whose signatures with that are left out. A block that was made for other bytes
    counts as damage, since a device would refuse it.
    """
    start = stream.position
    room = -start % SECTOR
    ahead = stream.peek(room + SECTOR)
    if len(ahead) == _V1_LENGTH and not any(ahead[:4]):
        digest = stream.sha256.hexdigest()
        value = stream.take(_V1_LENGTH)[4:].hex()
        return (Signature(Scheme.SECURE_BOOT_V1, start, _V1_LENGTH, digest, value),), None
    if (
        len(ahead) < room + SECTOR
        or ahead[:room] != b"\xff" * room
        or ahead[room] != _BLOCK_MAGIC
        or ahead[room + 1] not in (_RSA, _ECDSA)
    ):
        return (), None
    stream.take(room)
    at = stream.position
    digests = {stream.sha256.digest(), *(() if sha384 is None else (sha384.digest(),))}
    sector = stream.take(SECTOR)
    signatures: list[Signature] = []
    for number in range(_BLOCKS):
        block = sector[number * _BLOCK : (number + 1) * _BLOCK]
        stated = int.from_bytes(block[_BLOCK_CRC : _BLOCK_CRC + 4], "little")
        offset = at + number * _BLOCK
        if block[0] != _BLOCK_MAGIC:
            break
        if zlib.crc32(block[:_BLOCK_CRC]) != stated:
            return tuple(signatures), Damage(offset, f"the signature block at byte {offset} doesn't have its CRC")
        made_for, signature = _read_block(block, offset)
        if signature is None or (sha384 is None and len(made_for) == _SHA384):
            continue
        if made_for not in digests:
            return tuple(signatures), Damage(offset + 4, f"the signature block at byte {offset} is for other bytes")
        signatures.append(signature)
    return tuple(signatures), None


def _read_block(block: bytes, offset: int) -> tuple[bytes, Signature | None]:
    """Take a signature block apart: the digest it was made for, and the signature, unless its kind is unknown."""
    if block[1] == _RSA:
        digest, modulus, exponent = block[4:36], block[36:420], block[420:424]
        value = block[812 : 812 + _RSA_LENGTH].hex()
        key = (modulus + exponent).hex()
        return digest, Signature(Scheme.SECURE_BOOT_V2_RSA, offset, _BLOCK, digest.hex(), value, key)
    # Behind a digest of 48 bytes, where the hash is SHA-384, everything stands later.
    size, room = (48, 96) if block[2] == 1 else (32, 64)
    digest, curve = block[4 : 4 + size], block[4 + size]
    length = _CURVE_LENGTHS.get(curve)
    if block[1] != _ECDSA or length is None or 2 * length > room:
        return digest, None
    at = 4 + size + 1
    key = block[at : at + 2 * length].hex()
    value = block[at + room : at + room + 2 * length].hex()
    return digest, Signature(Scheme.SECURE_BOOT_V2_ECDSA, offset, _BLOCK, digest.hex(), value, key)


def read_trailer(stream: ImageStream) -> tuple[Signature | None, int]:
    """Read a file to its end; return the ESP8266 signature that ends it, and how many other bytes there were."""
    start, size = stream.position, stream.size
    if size is None or size - start < _TRAILER_LENGTHS[-1] + 4:
        return None, stream.skip_rest()
    lengths = [length for length in _TRAILER_LENGTHS if start + length + 4 <= size]
    digests: dict[int, str] = {}
    tail = b""
    for length in lengths:
        begin = size - 4 - length
        if not digests:
            stream.skip(begin - stream.position)
        else:
            tail += stream.take(begin - stream.position)
        digests[length] = stream.sha256.hexdigest()
    tail += stream.take(size - stream.position) if digests else b""
    length = int.from_bytes(tail[-4:], "little")
    stream.skip_rest()
    if length not in digests:
        return None, stream.position - start
    offset = size - 4 - length
    signature = Signature(Scheme.ESP8266, offset, length + 4, digests[length], tail[-4 - length : -4].hex())
    return signature, offset - start
