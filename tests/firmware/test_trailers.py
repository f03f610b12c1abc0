"""Tests of finding signatures, made by espsecure and openssl, where they lie."""

from __future__ import annotations

import hashlib
import struct

import attrs
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.facts import Format, Scheme, Signature
from ota_server.firmware.image import read_image
from tests.firmware.reading import flipped, rechecked, sha256
from tests.images import (
    compress,
    esp32_image,
    esp32fota_signed,
    esp8266_image,
    esp8266_plain_image,
    esp8266_signed,
    private_key,
    secure_boot_v1,
    secure_boot_v2,
)

_SECTOR, _BLOCK = 4096, 1216


def _places(image: bytes) -> list[tuple[Scheme, int, int]]:
    return [(each.scheme, each.offset, each.length) for each in read_image(image).signatures]


class SecureBootV2Tests(SynchronousTestCase):
    """The sector of signature blocks behind an image that is filled up to whole sectors."""

    def test_places(self) -> None:
        """Up to three blocks are found, of each kind of key, signed at once or one after another."""
        rsa = Scheme.SECURE_BOOT_V2_RSA
        ecdsa = Scheme.SECURE_BOOT_V2_ECDSA
        p256 = [private_key("p256", number) for number in range(3)]
        for chip, scheme, keys in (
            ("esp32", rsa, [private_key("rsa3072")]),
            ("esp32s3", rsa, [private_key("rsa3072"), private_key("rsa3072", 1)]),
            ("esp32c2", ecdsa, [private_key("p192")]),
            ("esp32c6", ecdsa, p256),
            ("esp32p4", ecdsa, [private_key("p384")]),
        ):
            image = esp32_image(chip)
            for append in (False, True) if len(keys) == 2 else (False,):
                with self.subTest(chip, append=append):
                    signed = secure_boot_v2(image, *keys, append=append)
                    places = [(scheme, 8192 + number * _BLOCK, _BLOCK) for number in range(len(keys))]
                    self.assertEqual(_places(signed), places)
                    facts = read_image(signed)
                    self.assertEqual((facts.damage, facts.trailing), (None, 0))

    def test_contents(self) -> None:
        """Digest, signature and key are those in the block, and the digest is that of all bytes before the sector."""
        signed = secure_boot_v2(esp32_image("esp32c6"), private_key("p256"))
        block = signed[8192 : 8192 + _BLOCK]
        self.assertEqual(
            read_image(signed).signatures,
            (
                Signature(
                    Scheme.SECURE_BOOT_V2_ECDSA,
                    8192,
                    _BLOCK,
                    sha256(signed[:8192]),
                    block[101:165].hex(),
                    block[37:101].hex(),
                ),
            ),
        )
        signed = secure_boot_v2(esp32_image(), private_key("rsa3072"))
        (signature,) = read_image(signed).signatures
        self.assertEqual(signature.digest, sha256(signed[:8192]))
        self.assertEqual(signature.value, signed[8192 + 812 : 8192 + 1196].hex())
        self.assertEqual(signature.key, signed[8192 + 36 : 8192 + 424].hex())

    def test_p384(self) -> None:
        """A P-384 signature is over the SHA-384 of the image, on chips that know it."""
        for chip in ("esp32p4", "esp32c5", "esp32c61", "esp32h21", "esp32h4"):
            signed = secure_boot_v2(esp32_image(chip), private_key("p384"))
            (signature,) = read_image(signed).signatures
            self.assertEqual(signature.digest, hashlib.sha384(signed[:8192]).hexdigest())
            self.assertEqual((len(signature.value), len(signature.key)), (192, 192))

    def test_for_other_bytes(self) -> None:
        """A block whose own checksum holds but that was made for another image is damage, where its digest stands."""
        for chip, key in (("esp32", private_key("rsa3072")), ("esp32p4", private_key("p384"))):
            signed, other = (secure_boot_v2(esp32_image(chip, seed=seed), key) for seed in (1, 2))
            facts = read_image(signed[:8192] + other[8192:])
            assert facts.damage is not None
            self.assertEqual(facts.damage.reason, "the signature block at byte 8192 is for other bytes")
            self.assertEqual((facts.damage.offset, facts.signatures), (8196, ()))
            mixed = signed[: 8192 + _BLOCK] + other[8192 : 8192 + _BLOCK] + signed[8192 + 2 * _BLOCK :]
            facts = read_image(mixed)
            assert facts.damage is not None
            self.assertEqual(facts.damage.offset, 8196 + _BLOCK)
            self.assertEqual(len(facts.signatures), 1)

    def test_changed_filler(self) -> None:
        """What fills the last sector up is covered: other filler is no place for signatures."""
        signed = secure_boot_v2(esp32_image(), private_key("rsa3072"))
        facts = read_image(flipped(signed, 5000))
        self.assertEqual((facts.signatures, facts.trailing), ((), len(signed) - len(esp32_image())))

    def test_broken_block(self) -> None:
        """A block whose own checksum doesn't hold is damage, whatever stands before it."""
        signed = secure_boot_v2(esp32_image("esp32c6"), *(private_key("p256", number) for number in range(3)))
        for number in range(3):
            facts = read_image(flipped(signed, 8192 + number * _BLOCK + 500))
            assert facts.damage is not None
            offset = 8192 + number * _BLOCK
            self.assertEqual((len(facts.signatures), facts.damage.offset), (number, offset))
            self.assertEqual(facts.damage.reason, f"the signature block at byte {offset} doesn't have its CRC")

    def test_unknown_kind(self) -> None:
        """A block of a curve that nobody knows is passed over."""
        signed = secure_boot_v2(esp32_image("esp32c6"), private_key("p256"), private_key("p256", 1))
        signed = rechecked(flipped(signed, 8192 + 36), 8192)
        self.assertEqual(_places(signed), [(Scheme.SECURE_BOOT_V2_ECDSA, 8192 + _BLOCK, _BLOCK)])

    def test_trailing(self) -> None:
        """Bytes behind the sector are counted; behind unknown bytes a sector is not looked for."""
        image = esp32_image()
        signed = secure_boot_v2(image, private_key("rsa3072"))
        facts = read_image(signed + b"unknown")
        self.assertEqual((len(facts.signatures), facts.trailing, facts.damage), (1, 7, None))
        behind = secure_boot_v2(image + b"unknown bytes", private_key("rsa3072"))
        facts = read_image(behind)
        self.assertEqual((facts.signatures, facts.trailing), ((), len(behind) - len(image)))
        facts = read_image(image + b"\xff" * 5000)
        self.assertEqual((facts.signatures, facts.trailing), ((), 5000))

    def test_hardly_a_sector(self) -> None:
        """A sector that isn't whole holds no signatures, and counts as unknown."""
        image = esp32_image()
        signed = secure_boot_v2(image, private_key("rsa3072"))
        for length in (8191, 8192, 8193, 8192 + _BLOCK, len(signed) - 1):
            facts = read_image(signed[:length])
            self.assertEqual((facts.signatures, facts.trailing), ((), length - len(image)))

    def test_padded_image(self) -> None:
        """An image made for signing, by `--secure-pad-v2`, ends where its signatures begin."""
        image = esp32_image(size=256, flags=("--secure-pad-v2",))
        facts = read_image(image)
        self.assertEqual((facts.damage, len(image) % _SECTOR, facts.trailing), (None, 0, 0))
        signed = secure_boot_v2(image, private_key("rsa3072"))
        self.assertEqual(_places(signed), [(Scheme.SECURE_BOOT_V2_RSA, len(image), _BLOCK)])


class SecureBootV1Tests(SynchronousTestCase):
    """Four zeros and 64 bytes behind an image."""

    def test_place(self) -> None:
        """It is found, with the digest of the image with its own hash."""
        image = esp32_image()
        signed = secure_boot_v1(image, private_key("p256"))
        self.assertEqual(
            read_image(signed).signatures,
            (Signature(Scheme.SECURE_BOOT_V1, len(image), 68, sha256(image), signed[-64:].hex()),),
        )

    def test_like_one(self) -> None:
        """Bytes of another length, or that begin otherwise, are no signature and are counted."""
        image = esp32_image()
        for trailing in (bytes(67), bytes(69), b"\0\0\0\1" + bytes(64), bytes(4)):
            facts = read_image(image + trailing)
            self.assertEqual((facts.signatures, facts.trailing), ((), len(trailing)))


class Esp8266Tests(SynchronousTestCase):
    """A signature and its length in four bytes at the end of a file."""

    def test_every_length(self) -> None:
        """Signatures of keys of 2048 to 4096 bits are found, legacy ones too."""
        image = esp8266_image()
        for kind, length in (("rsa2048", 256), ("rsa3072", 384), ("rsa4096", 512)):
            for legacy in (False, True):
                signed = esp8266_signed(image, private_key(kind), legacy=legacy)  # type: ignore[arg-type]
                value = signed[len(image) : -4].hex()
                signature = Signature(Scheme.ESP8266, len(image), length + 4, sha256(image), value)
                facts = read_image(signed)
                self.assertEqual((facts.signatures, facts.trailing, facts.damage), ((signature,), 0, None))

    def test_kinds_of_files(self) -> None:
        """It is found behind sketches, plain images, gzip and files of any other kind."""
        key = private_key("rsa2048")
        for image in (esp8266_image(), esp8266_plain_image(), compress(esp8266_image()), b"opaque" + bytes(5000)):
            self.assertEqual(_places(esp8266_signed(image, key)), [(Scheme.ESP8266, len(image), 260)])

    def test_unknown_bytes_before(self) -> None:
        """It covers all bytes before it; those that nothing explains are counted."""
        image = esp8266_image() + b"unknown"
        facts = read_image(esp8266_signed(image, private_key("rsa2048")))
        self.assertEqual(facts.trailing, 7)
        self.assertEqual([each.digest for each in facts.signatures], [sha256(image)])

    def test_no_room(self) -> None:
        """A length that reaches back into the image is none, and neither is one that no key has."""
        image = esp8266_image()
        for trailing in (struct.pack("<I", 256), bytes(255) + struct.pack("<I", 256), bytes(100) + b"\x64\0\0\0"):
            facts = read_image(image + trailing)
            self.assertEqual((facts.signatures, facts.trailing), ((), len(trailing)))


class Esp32fotaTests(SynchronousTestCase):
    """A signature of 512 bytes before an image."""

    def test_place(self) -> None:
        """It is found before an application and before a filesystem, with the digest of what is behind it."""
        key = private_key("rsa4096")
        filesystem = struct.pack("<II8s", 1, 0xFFFFF0F0, b"littlefs") + bytes(4096)
        for image, inner in ((esp32_image(), Format.ESP32_APP), (filesystem, Format.LITTLEFS)):
            signed = esp32fota_signed(image, key)
            facts = read_image(signed)
            self.assertEqual(
                facts.signatures, (Signature(Scheme.ESP32FOTA, 0, 512, sha256(image), signed[:512].hex()),)
            )
            self.assertEqual((facts.format, facts.core.format, facts.damage), (Format.SIGNED, inner, None))

    def test_with_secure_boot(self) -> None:
        """Signatures of both kinds are told, each of the file that it is in."""
        image = secure_boot_v2(esp32_image(), private_key("rsa3072"))
        facts = read_image(esp32fota_signed(image, private_key("rsa4096")))
        self.assertEqual([each.scheme for each in facts.signatures], [Scheme.ESP32FOTA])
        self.assertEqual(facts.core.signatures, read_image(image).signatures)

    def test_damage_inside(self) -> None:
        """Harm to the image shows, with the offset inside of it; what the signature says is not looked at."""
        image = esp32_image()
        signed = esp32fota_signed(image, private_key("rsa4096"))
        facts = read_image(flipped(signed, 2000))
        damage = read_image(flipped(image, 2000 - 512)).damage
        assert damage is not None
        self.assertEqual(facts.damage, attrs.evolve(damage, reason=f"inside, {damage.reason}"))
        self.assertIsNone(read_image(flipped(signed, 100)).damage)
