"""Tests of the keys that images are verified with, and of signatures made by `espsecure` and `openssl`."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from unittest import SkipTest

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.facts import Scheme, Signature
from ota_server.firmware.signatures import VerifyKey, VerifyKeyError, find_signer, load_verify_key
from tests.certificates import make_authority, make_pem

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey

_CURVES = {"P-192": ec.SECP192R1(), "P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
_KINDS = ("RSA-2048", "RSA-3072", "RSA-4096", *_CURVES)
_IMAGE = bytes(range(256)) * 20

_PKCS8, _TRADITIONAL, _OPENSSH = (
    serialization.PrivateFormat.PKCS8,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.PrivateFormat.OpenSSH,
)


def private_key(kind: str, number: int = 0) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Return a private key, the same for the same kind and number."""
    return _private_key(kind, number)


@lru_cache
def _private_key(kind: str, _: int) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    return ec.generate_private_key(_CURVES[kind])


def private_pem(key: _PrivateKey, form: serialization.PrivateFormat = _PKCS8, passphrase: bytes = b"") -> bytes:
    """Return a private key as PEM."""
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, lock)


def public_pem(
    key: _PrivateKey, form: serialization.PublicFormat = serialization.PublicFormat.SubjectPublicKeyInfo
) -> bytes:
    """Return the public part of a key as PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


@lru_cache
def fingerprint(key: _PrivateKey) -> str:
    """Return what names the public part of a key."""
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_key().public_bytes(serialization.Encoding.DER, public)).hexdigest()[:16]


class KeyTestCase(SynchronousTestCase):
    """A test with files of keys."""

    def write(self, *parts: bytes) -> Path:
        """Write a file."""
        path = Path(self.mktemp())
        path.write_bytes(b"".join(parts))
        return path

    def verify_key(self, kind: str, number: int = 0) -> VerifyKey:
        """Return the public part of a private key as the server reads it."""
        (key,) = load_verify_key(self.write(public_pem(private_key(kind, number))))
        return key

    def openssl(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run the program `openssl`, and return what it writes."""
        program = shutil.which("openssl")
        if program is None:
            raise SkipTest("there is no openssl here")
        return subprocess.run([program, *arguments], input=given, check=True, capture_output=True).stdout


class LoadTests(KeyTestCase):
    """Reading files of public keys."""

    def fingerprints(self, *parts: bytes) -> list[str]:
        """Return the fingerprints of the keys in a file."""
        return [key.fingerprint for key in load_verify_key(self.write(*parts))]

    def refusal(self, *parts: bytes) -> str:
        """Return why a file is refused, without the path before it."""
        path = self.write(*parts)
        text = str(self.assertRaises(VerifyKeyError, load_verify_key, path))
        self.assertTrue(text.startswith(str(path)), text)
        return text.removeprefix(str(path))

    def test_kinds(self) -> None:
        """Every kind of key that devices verify with is read, and says for people what it is."""
        for kind in _KINDS:
            with self.subTest(kind):
                path = self.write(public_pem(private_key(kind)))
                (key,) = load_verify_key(path)
                self.assertEqual((key.name, key.kind), (path.name, kind.replace("P-", "ECDSA P-")))
                self.assertEqual(key.fingerprint, fingerprint(private_key(kind)))
                self.assertEqual(str(key), f"{path.name} ({key.kind}, {key.fingerprint})")

    def test_values(self) -> None:
        """The same file gives equal keys, which can be members of a set; another key is unequal."""
        path = self.write(public_pem(private_key("P-256")))
        self.assertEqual({*load_verify_key(path), *load_verify_key(path)}, set(load_verify_key(path)))
        self.assertNotEqual(self.verify_key("P-256"), self.verify_key("P-256", 1))

    def test_fingerprint_by_openssl(self) -> None:
        """What `openssl pkey -pubout` writes is read, and its fingerprint is what the documented command prints."""
        for kind in ("RSA-2048", "P-256"):
            private = str(self.write(private_pem(private_key(kind), _TRADITIONAL)))
            public = self.openssl("pkey", "-in", private, "-pubout")
            der = self.openssl("pkey", "-pubin", "-outform", "DER", given=public)
            self.assertEqual(self.fingerprints(public), [hashlib.sha256(der).hexdigest()[:16]])

    def test_rsa_public_key(self) -> None:
        """The older form for RSA alone is read, and is the same key."""
        pem = public_pem(private_key("RSA-2048"), serialization.PublicFormat.PKCS1)
        self.assertTrue(pem.startswith(b"-----BEGIN RSA PUBLIC KEY-----"))
        self.assertEqual(self.fingerprints(pem), [fingerprint(private_key("RSA-2048"))])

    def test_certificate(self) -> None:
        """Of a certificate its key is taken."""
        for is_rsa in (False, True):
            private, _, rest = make_pem("localhost", rsa=is_rsa).partition(b"-----BEGIN CERT")
            leaf = b"-----BEGIN CERT" + rest.partition(b"-----BEGIN CERT")[0]
            key = serialization.load_pem_private_key(private, None)
            assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
            self.assertEqual(self.fingerprints(leaf), [fingerprint(key)])

    def test_several(self) -> None:
        """All keys of a file are taken, in its order, whatever form each has, with text and any line ends between."""
        old = public_pem(private_key("RSA-2048"), serialization.PublicFormat.PKCS1)
        new = public_pem(private_key("P-256"))
        authority = make_authority().cert_pem.bytes()
        wanted = [
            fingerprint(private_key("RSA-2048")),
            fingerprint(private_key("P-256")),
            *self.fingerprints(authority),
        ]
        self.assertEqual(self.fingerprints(old, new, authority), wanted)
        parts = b"\xef\xbb\xbfthe old one - until 2027:\n", old, b"\n\nthe new one:\n", new, authority
        self.assertEqual(self.fingerprints(*parts), wanted)
        self.assertEqual(self.fingerprints(*(part.replace(b"\n", b"\r\n") for part in parts)), wanted)

    def test_private(self) -> None:
        """A private key in whatever form, and wherever in the file, refuses the file and nothing of it is told."""
        rsa_key, ec_key, public = private_key("RSA-2048"), private_key("P-256"), public_pem(private_key("P-256"))
        for pem in (
            private_pem(rsa_key),
            private_pem(rsa_key, _TRADITIONAL),
            private_pem(ec_key, _TRADITIONAL),
            private_pem(ec_key, _OPENSSH),
            private_pem(ec_key, passphrase=b"secret"),
            private_pem(ec_key, _TRADITIONAL, passphrase=b"secret"),
            private_pem(ed25519.Ed25519PrivateKey.generate()),
            public + private_pem(ec_key),
            private_pem(ec_key) + public,
            private_pem(ec_key)[:-30],
        ):
            self.assertEqual(
                self.refusal(pem),
                " holds a private key, which has no place on the server: whoever gets it signs as you do. "
                "Keep it where images are signed, and give the server its public part: "
                "openssl pkey -in KEY -pubout -out PUBLIC",
            )

    def test_not_accepted(self) -> None:
        """Keys of kinds that no device verifies with, or too weak, are refused, with what they are and what to do."""
        for key, kind in (
            (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
            (x25519.X25519PrivateKey.generate(), "X25519"),
            (rsa.generate_private_key(65537, 1024), "RSA-1024"),
            (rsa.generate_private_key(65537, 2040), "RSA-2040"),
            (ec.generate_private_key(ec.SECP224R1()), "ECDSA secp224r1"),
            (ec.generate_private_key(ec.SECP256K1()), "ECDSA secp256k1"),
            (ec.generate_private_key(ec.SECP521R1()), "ECDSA secp521r1"),
        ):
            with self.subTest(kind):
                assert isinstance(key, _PrivateKey)
                good = public_pem(private_key("P-256"))
                self.assertEqual(
                    self.refusal(good, public_pem(key)),
                    f", line {len(good.splitlines()) + 1}: this PUBLIC KEY is for {kind}, which is "
                    "not accepted; sign with RSA of 2048 bits or more, or ECDSA on P-192, P-256 or P-384",
                )

    def test_missing(self) -> None:
        """A file that isn't there, or is a folder, is named, with the system's reason."""
        missing, folder = Path("/nowhere.pem"), Path(self.mktemp())
        folder.mkdir()
        for path, reason in ((missing, "No such file or directory"), (folder, "Is a directory")):
            error = self.assertRaises(VerifyKeyError, load_verify_key, path)
            self.assertEqual(str(error), f"{path} can't be read: {reason}")

    def test_without_key(self) -> None:
        """An empty file, and one that is no PEM, are told apart, and it is said how to write a right one."""
        advice = (
            "; it must have a block from -----BEGIN PUBLIC KEY----- to -----END PUBLIC KEY-----, which this writes: "
            "openssl pkey -in KEY -pubout -out PUBLIC"
        )
        key = private_key("P-256").public_key()
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        ssh = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        for content in (b"", b"\n \r\n"):
            self.assertEqual(self.refusal(content), f" is empty{advice}")
        for content in (b"nonsense", der, ssh, bytes(1000), public_pem(private_key("P-256")).decode().encode("utf-16")):
            self.assertEqual(self.refusal(content), f" holds no public key in PEM form{advice}")

    def test_cut(self) -> None:
        """A key that was cut short, at the end of the file or before another one, is told with its line."""
        pem = public_pem(private_key("P-256"))
        wanted = ": this PUBLIC KEY has no end that belongs to it; copy the file anew"
        self.assertEqual(self.refusal(pem[:-40]), f", line 1{wanted}")
        self.assertEqual(self.refusal(b"text\n\n", pem[:-40], b"\n", pem), f", line 3{wanted}")
        self.assertEqual(self.refusal(pem.replace(b"END PUBLIC KEY", b"END CERTIFICATE")), f", line 1{wanted}")

    def test_damaged(self) -> None:
        """A damaged key or certificate is told with its line."""
        ours, authority = public_pem(private_key("P-256")), make_authority().cert_pem.bytes()
        advice = (
            "is damaged, or of a kind that is not known here; copy the file anew, "
            "or sign with RSA of 2048 bits or more, or ECDSA on P-192, P-256 or P-384"
        )
        for pem in (ours.replace(b"\nM", b"\nX", 1), ours.replace(b"\nM", b"\n!", 1), ours.replace(b"=", b"")):
            self.assertEqual(self.refusal(pem), f", line 1: this PUBLIC KEY {advice}")
        parts = ours, authority.replace(b"\nM", b"\nX", 1)
        self.assertEqual(self.refusal(*parts), f", line {len(ours.splitlines()) + 1}: this CERTIFICATE {advice}")
        mislabelled = ours.replace(b"PUBLIC KEY", b"RSA PUBLIC KEY")
        self.assertEqual(self.refusal(mislabelled), f", line 1: this RSA PUBLIC KEY {advice}")

    def test_other_blocks(self) -> None:
        """A block that is something else is told with its line."""
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        self.assertEqual(
            self.refusal(parameters, public_pem(private_key("P-256"))),
            ", line 1: this EC PARAMETERS is neither PUBLIC KEY, RSA PUBLIC KEY nor CERTIFICATE; "
            "take it out of the file",
        )

    @settings(deadline=None, max_examples=50)
    @given(st.data())
    def test_any_content(self, data: st.DataObject) -> None:
        """Whatever a file holds, it gives keys or a VerifyKeyError."""
        pem = public_pem(private_key("P-256"))
        at = data.draw(st.integers(0, len(pem)))
        content = pem[:at] + data.draw(st.binary(max_size=50)) + pem[data.draw(st.integers(at, len(pem))) :]
        path = self.write(content)
        try:
            self.assertNotEqual(load_verify_key(path), ())
        except VerifyKeyError as error:
            self.assertIn(str(path), str(error))


def signatures_v2(image: bytes) -> list[Signature]:
    """Take the signature blocks of Secure Boot v2 out of an image, which is signed as a whole."""
    content, sector = image[:-4096], image[-4096:]
    signatures = []
    for at in range(0, 3 * 1216, 1216):
        block = sector[at : at + 1216]
        if block[0] != 0xE7:
            break
        if block[1] == 2:
            scheme = Scheme.SECURE_BOOT_V2_RSA
            digest, modulus, exponent, _, _, value, _ = struct.unpack("<4x32s384sI384sI384sI16x", block)
            key = modulus.hex() + exponent.to_bytes(4, "little").hex()
        else:
            scheme = Scheme.SECURE_BOOT_V2_ECDSA
            layout = "<4x48sB96s96s971x" if block[2] else "<4x32sB64s64s1051x"
            digest, curve, point, value = struct.unpack(layout, block)
            size = {1: 48, 2: 64, 3: 96}[curve]
            key, value = point[:size].hex(), value[:size]
        computed = hashlib.new("sha384" if len(digest) == 48 else "sha256", content).digest()
        assert digest == computed
        signatures.append(Signature(scheme, len(content) + at, 1216, digest.hex(), value.hex(), key))
    return signatures


def signature_v1(image: bytes) -> Signature:
    """Take the signature of Secure Boot v1 out of an image, which is signed as a whole."""
    content, (version, value) = image[:-68], struct.unpack("<I64s", image[-68:])
    assert version == 0
    return Signature(Scheme.SECURE_BOOT_V1, len(content), 68, hashlib.sha256(content).hexdigest(), value.hex())


def flip(text: str, bit: int) -> str:
    """Return hexadecimal digits with one bit of what they stand for flipped."""
    value = bytearray.fromhex(text)
    value[bit // 8] ^= 1 << bit % 8
    return value.hex()


_TOOLS = {
    "RSA-2048": (Scheme.ESP8266,),
    "RSA-3072": (Scheme.SECURE_BOOT_V2_RSA, Scheme.ESP8266),
    "RSA-4096": (Scheme.ESP32FOTA, Scheme.ESP8266),
    "P-192": (Scheme.SECURE_BOOT_V2_ECDSA,),
    "P-256": (Scheme.SECURE_BOOT_V1, Scheme.SECURE_BOOT_V2_ECDSA),
    "P-384": (Scheme.SECURE_BOOT_V2_ECDSA,),
}
"""Which ways to sign there are for a kind of key."""

_WAYS = [(kind, scheme) for kind, schemes in _TOOLS.items() for scheme in schemes]


class SignerTests(KeyTestCase):
    """Signatures made by the vendor's tool and by OpenSSL are verified with the keys that made them, and no others."""

    def espsecure(self, version: int, image: bytes, *keys: _PrivateKey) -> bytes:
        """Return an image signed by the vendor's tool."""
        source, target = self.write(image), Path(self.mktemp())
        files = [str(self.write(private_pem(key, _TRADITIONAL))) for key in keys]
        # --keyfile takes all that comes before the next option.
        arguments = ["--version", str(version), "--keyfile", *files, "--output", str(target), str(source)]
        command = [sys.executable, "-m", "espsecure", "sign-data", *arguments]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TERM": "dumb"})
        return target.read_bytes()

    _made: dict[tuple[str, Scheme], Signature] = {}

    def signature(self, kind: str, scheme: Scheme) -> Signature:
        """Return a signature of an image, made by the program that signs this way."""
        if (kind, scheme) in self._made:
            return self._made[kind, scheme]
        key = private_key(kind)
        if scheme in (Scheme.SECURE_BOOT_V2_RSA, Scheme.SECURE_BOOT_V2_ECDSA):
            (signature,) = signatures_v2(self.espsecure(2, _IMAGE, key))
        elif scheme is Scheme.SECURE_BOOT_V1:
            signature = signature_v1(self.espsecure(1, _IMAGE, key))
        else:
            # As signing.py of the ESP8266's Arduino core does, and the manual of esp32FOTA says.
            path = str(self.write(private_pem(key)))
            value = self.openssl("dgst", "-sha256", "-sign", path, given=_IMAGE)
            signature = Signature(scheme, 0, len(value), hashlib.sha256(_IMAGE).hexdigest(), value.hex())
        self.assertIs(signature.scheme, scheme)
        self._made[kind, scheme] = signature
        return signature

    def test_verified(self) -> None:
        """A signature verifies with its own key, wherever that stands, and not with the others or another like it."""
        for kind, scheme in _WAYS:
            with self.subTest(kind=kind, scheme=scheme):
                signature, own = self.signature(kind, scheme), self.verify_key(kind)
                others = [self.verify_key(other) for other in _KINDS if other != kind]
                others.append(self.verify_key(kind, 1))
                self.assertEqual(find_signer([signature], [own]), own)
                self.assertEqual(find_signer([signature], [*others, own]), own)
                self.assertIsNone(find_signer([signature], others))

    def test_own_scheme_only(self) -> None:
        """A signature counts for its own scheme only; with RSA-4096, ESP8266's and esp32FOTA's are the same."""
        for kind, scheme in _WAYS:
            signature, own = self.signature(kind, scheme), self.verify_key(kind)
            for other in set(Scheme) - {scheme}:
                with self.subTest(kind=kind, scheme=scheme, other=other):
                    same = kind == "RSA-4096" and {scheme, other} == {Scheme.ESP8266, Scheme.ESP32FOTA}
                    found = find_signer([attrs.evolve(signature, scheme=other)], [own])
                    self.assertEqual(found, own if same else None)

    def test_key_in_the_file(self) -> None:
        """The key beside a signature makes nothing of it: a stranger's signature comes with a key that fits."""
        for kind in ("RSA-3072", "P-256"):
            (signature,) = signatures_v2(self.espsecure(2, _IMAGE, private_key(kind, 1)))
            self.assertNotEqual(signature.key, "")
            stranger, own = self.verify_key(kind, 1), self.verify_key(kind)
            self.assertEqual(find_signer([signature], [own, stranger]), stranger)
            self.assertIsNone(find_signer([signature], [own]))
            forged = attrs.evolve(signature, key=self.signature(kind, _TOOLS[kind][-1]).key)
            self.assertIsNone(find_signer([forged], [own]))

    def test_several_signatures(self) -> None:
        """Of an image signed by three keys any one is enough, and the first in the operator's order is named."""
        keys = [private_key("RSA-3072", number) for number in range(3)]
        signatures = signatures_v2(self.espsecure(2, _IMAGE, *keys))
        self.assertEqual(len(signatures), 3)
        trusted = [self.verify_key("RSA-3072", number) for number in range(3)]
        for key in trusted:
            self.assertEqual(find_signer(signatures, [key]), key)
        self.assertEqual(find_signer(signatures, trusted), trusted[0])
        self.assertEqual(find_signer(signatures, trusted[::-1]), trusted[2])
        self.assertEqual(find_signer(signatures[1:], trusted), trusted[1])

    def test_nothing_to_verify(self) -> None:
        """Without signatures, and without keys, there is no signer."""
        signature, key = self.signature("P-256", Scheme.SECURE_BOOT_V1), self.verify_key("P-256")
        self.assertIsNone(find_signer([], [key]))
        self.assertIsNone(find_signer([signature], []))

    def test_pss(self) -> None:
        """For Secure Boot v2 a signature by OpenSSL is as good; the key's length and the salt's are prescribed."""
        for kind, salt, good in (
            ("RSA-3072", 32, True),
            ("RSA-3072", 20, False),
            ("RSA-3072", 0, False),
            ("RSA-2048", 32, False),
            ("RSA-4096", 32, False),
        ):
            with self.subTest(kind=kind, salt=salt):
                options = "-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{salt}"
                path, key = str(self.write(private_pem(private_key(kind)))), self.verify_key(kind)
                value = self.openssl("dgst", "-sha256", *options, "-sign", path, given=_IMAGE)[::-1]
                digest = hashlib.sha256(_IMAGE).hexdigest()
                signature = Signature(Scheme.SECURE_BOOT_V2_RSA, 0, 1216, digest, value.hex())
                self.assertEqual(find_signer([signature], [key]), key if good else None)

    def test_pkcs1(self) -> None:
        """Without the name of the hash in it, as in `.legacy_sig` of old ESP8266 cores, or with another, it's none."""
        path, key = str(self.write(private_pem(private_key("RSA-2048")))), self.verify_key("RSA-2048")
        digest = hashlib.sha256(_IMAGE)
        legacy = self.openssl("pkeyutl", "-sign", "-inkey", path, given=digest.digest())
        sha512 = self.openssl("dgst", "-sha512", "-sign", path, given=_IMAGE)
        for value in (legacy, sha512):
            signature = Signature(Scheme.ESP8266, 0, 260, digest.hexdigest(), value.hex())
            self.assertIsNone(find_signer([signature], [key]))

    def test_curve_of_v1(self) -> None:
        """Secure Boot v1 has the numbers of v2 the other way round, and P-256 only."""
        for kind in _CURVES:
            signature, key = self.signature(kind, Scheme.SECURE_BOOT_V2_ECDSA), self.verify_key(kind)
            value = bytes.fromhex(signature.value)
            half = len(value) // 2
            turned = value[:half][::-1] + value[half:][::-1]
            v1 = attrs.evolve(signature, scheme=Scheme.SECURE_BOOT_V1, value=turned.hex())
            self.assertEqual(find_signer([v1], [key]), key if kind == "P-256" else None)

    def test_foreign_kind_of_key(self) -> None:
        """A key on a curve that load_verify_key would refuse verifies nothing."""
        key = VerifyKey("p521.pem", ec.generate_private_key(ec.SECP521R1()).public_key(), "0" * 16)
        self.assertEqual(key.kind, "ECDSA secp521r1")
        signature = Signature(Scheme.SECURE_BOOT_V2_ECDSA, 0, 0, "00" * 32, "01" * 132)
        self.assertIsNone(find_signer([signature], [key]))

    def test_length(self) -> None:
        """A signature with bytes missing or too many, zeros even, isn't one; nor is a digest of another length."""
        for kind, scheme in _WAYS:
            signature, key = self.signature(kind, scheme), self.verify_key(kind)
            self.assertEqual(find_signer([signature], [key]), key)
            value, digest = signature.value, signature.digest
            for other in ("", value[2:], value[:-2], "00" + value, value + "00", value + value, value[:-1]):
                with self.subTest(kind=kind, scheme=scheme, value=other[:8], length=len(other)):
                    self.assertIsNone(find_signer([attrs.evolve(signature, value=other)], [key]))
            for other in ("", digest[:-2], digest + "00", digest * 2, hashlib.sha384(_IMAGE).hexdigest() + "00"):
                with self.subTest(kind=kind, scheme=scheme, digest=other[:8], length=len(other)):
                    self.assertIsNone(find_signer([attrs.evolve(signature, digest=other)], [key]))

    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from(_WAYS), st.data())
    def test_one_bit(self, way: tuple[str, Scheme], data: st.DataObject) -> None:
        """One bit flipped in the digest or in the signature, whichever, and it doesn't verify."""
        signature, key = self.signature(*way), self.verify_key(way[0])
        # ECDSA takes as many bits of the digest as the curve has (FIPS 186-5, section 6.4.1), with P-192 not all.
        bits = 192 if way[0] == "P-192" else len(signature.digest) * 4
        bit = data.draw(st.integers(0, bits - 1))
        self.assertIsNone(find_signer([attrs.evolve(signature, digest=flip(signature.digest, bit))], [key]))
        bit = data.draw(st.integers(0, len(signature.value) * 4 - 1))
        self.assertIsNone(find_signer([attrs.evolve(signature, value=flip(signature.value, bit))], [key]))

    @settings(deadline=None, max_examples=300)
    @given(st.data())
    def test_any_bytes(self, data: st.DataObject) -> None:
        """Whatever stands for a signature, find_signer raises nothing and finds nobody."""
        lengths = st.sampled_from([0, 1, 20, 24, 32, 48, 64, 96, 256, 384, 512])
        extremes = st.builds(lambda byte, length: bytes([byte]) * length, st.sampled_from([0, 1, 255]), lengths)
        numbers = st.builds(lambda n, length: n.to_bytes(length + 1, "little"), st.integers(0, 255), lengths)
        drawn = lengths.flatmap(lambda length: st.binary(min_size=length, max_size=length))
        texts = st.one_of(drawn, extremes, numbers).map(bytes.hex) | st.text(max_size=20)
        signatures = st.lists(
            st.builds(Signature, st.sampled_from(Scheme), st.integers(), st.integers(), texts, texts, texts), max_size=3
        )
        keys = [self.verify_key(kind) for kind in _KINDS]
        self.assertIsNone(find_signer(data.draw(signatures), keys))
