"""Tests of reading private keys and certificate chains."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import skipIf

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.trial.unittest import SynchronousTestCase

from ota_server.tls.certificates import (
    MAX_FILE_SIZE,
    CertificateError,
    Credential,
    describe,
    load_authorities,
    load_credential,
)
from tests.certificates import FAR, Authority, pem

ROOT = Authority.root("Root")
MIDDLE = ROOT.below("Middle")
LOWER = MIDDLE.below("Lower", kind="RSA")
ISSUED = LOWER.issue("ota.example")
KEY, LEAF = ISSUED.key_pem, pem(ISSUED.certificate)


class FilesCase(SynchronousTestCase):
    """A test that writes PEM files."""

    def write(self, *parts: bytes) -> Path:
        """Write a PEM file."""
        path = Path(self.mktemp())
        path.write_bytes(b"".join(parts))
        return path

    def load(self, *parts: bytes) -> Credential:
        """Load a file that holds all."""
        return load_credential(self.write(*parts))

    def refusal(self, *parts: bytes, key: Path | None = None) -> str:
        """Return why a PEM file is refused, which is one line that names the file and holds no key."""
        path = self.write(*parts)
        message = str(self.assertRaises(CertificateError, load_credential, path, key))
        self.assertNotIn("\n", message)
        self.assertIn(str(path) if key is None or str(key) not in message else str(key), message)
        self.assertNotIn("PRIVATE", message)
        return message


class ChainTests(FilesCase):
    """The order of a chain, and what belongs to it."""

    def test_any_order(self) -> None:
        """Key, certificate and chain may stand in any order; the chain begins with the certificate of the key."""
        middle, lower = MIDDLE.pem, LOWER.pem
        for parts in ((KEY, LEAF, lower, middle), (middle, lower, LEAF, KEY), (lower, KEY, middle, LEAF)):
            credential = self.load(*parts)
            self.assertEqual(credential.chain, (ISSUED.certificate, LOWER.certificate, MIDDLE.certificate))
            self.assertEqual((credential.unused, credential.kind), ((), "ECDSA"))

    def test_root_is_left_out(self) -> None:
        """The root isn't sent, though it is in the file: a client has it, or doesn't trust it."""
        credential = self.load(KEY, ROOT.pem, LEAF, MIDDLE.pem, LOWER.pem)
        self.assertEqual(credential.chain, (ISSUED.certificate, LOWER.certificate, MIDDLE.certificate))
        self.assertEqual(credential.unused, ())

    def test_signed_by_the_root(self) -> None:
        """Under a root alone, the certificate alone is sent."""
        issued = ROOT.issue("ota.example")
        self.assertEqual(self.load(issued.key_pem, pem(issued.certificate), ROOT.pem).chain, (issued.certificate,))

    def test_self_signed(self) -> None:
        """A certificate that signs itself is a chain of its own."""
        credential = self.load(ROOT.pem, Path(self.key_file()).read_bytes())
        self.assertEqual(credential.chain, (ROOT.certificate,))

    def key_file(self) -> str:
        """Write the key of the root."""
        return str(self.write(ROOT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())))

    def test_unused(self) -> None:
        """What leads nowhere is not sent, and is told of; a gap in the chain ends it."""
        stranger = Authority.root("Elsewhere").below("Stranger").certificate
        credential = self.load(KEY, LEAF, pem(stranger), MIDDLE.pem)
        self.assertEqual(credential.chain, (ISSUED.certificate,))
        self.assertEqual(credential.unused, (stranger, MIDDLE.certificate))

    def test_twice(self) -> None:
        """A certificate that stands there twice counts once."""
        credential = self.load(KEY, LEAF, LEAF, LOWER.pem, LOWER.pem)
        self.assertEqual((credential.chain, credential.unused), ((ISSUED.certificate, LOWER.certificate), ()))

    def test_namesake(self) -> None:
        """An authority of the right name that has another key is not the issuer."""
        namesake = Authority.root("Elsewhere").issue("Lower", number=99)
        credential = self.load(KEY, LEAF, pem(namesake.certificate), LOWER.pem)
        self.assertEqual(credential.chain, (ISSUED.certificate, LOWER.certificate))
        self.assertEqual(credential.unused, (namesake.certificate,))

    def test_kinds(self) -> None:
        """Keys are RSA or ECDSA, in the forms that programs write them."""
        for kind in ("RSA", "ECDSA"):
            issued = MIDDLE.issue("ota.example", kind)
            for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
                key = issued.key.private_bytes(Encoding.PEM, form, NoEncryption())
                self.assertEqual(self.load(key, issued.full_chain).kind, kind)

    def test_other_blocks(self) -> None:
        """Text between the blocks, line ends of Windows, and the parameters of a curve are no trouble."""
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        text = b"\xef\xbb\xbfsubject=CN = ota.example\n" + parameters + KEY + b"issuer=...\n" + LEAF + LOWER.pem
        for data in (text, text.replace(b"\n", b"\r\n")):
            self.assertEqual(len(self.load(data).chain), 2)

    def test_ended(self) -> None:
        """A certificate that has ended is loaded: it is for others to warn, and a device may know no time."""
        issued = LOWER.issue("ota.example", ends=FAR - 2000 * 86400)
        self.assertEqual(self.load(issued.both).chain[0], issued.certificate)


class SeparateKeyTests(FilesCase):
    """The key in a file of its own, as certbot writes it."""

    def test_separate(self) -> None:
        """The key is that of its own file, whatever stands beside the certificate."""
        credential = load_credential(self.write(ISSUED.full_chain), self.write(KEY))
        self.assertEqual(credential.chain, (ISSUED.certificate, LOWER.certificate, MIDDLE.certificate))
        other = MIDDLE.issue("other.example", number=1)
        self.assertEqual(
            load_credential(self.write(other.both, ISSUED.full_chain), self.write(KEY)).chain[0], ISSUED.certificate
        )

    def test_foreign_key(self) -> None:
        """A key that belongs to none of the certificates is refused, with the names of both files."""
        key = self.write(MIDDLE.issue("other.example", number=1).key_pem)
        path = self.write(ISSUED.full_chain)
        error = self.assertRaises(CertificateError, load_credential, path, key)
        self.assertEqual(str(error), f"no certificate in {path} belongs to the private key in {key}")

    def test_incomplete(self) -> None:
        """Without a certificate, without a key, or with several keys, it is said in which file."""
        key = self.write(KEY)
        self.assertIn("holds no certificate; name the file with the chain", self.refusal(KEY, key=key))
        for content, count in ((b"", 0), (KEY + KEY, 2), (ISSUED.full_chain, 0)):
            message = self.refusal(ISSUED.full_chain, key=self.write(content))
            self.assertIn(f"holds {count} private keys; it must hold one, such as privkey.pem", message)

    def test_missing(self) -> None:
        """A key that isn't there is named."""
        error = self.assertRaises(CertificateError, load_credential, self.write(LEAF), Path("/nowhere.pem"))
        self.assertEqual(str(error), "/nowhere.pem can't be read: No such file or directory")


class RefusalTests(FilesCase):
    """Files that can't be used: each gets one line."""

    def test_missing_file(self) -> None:
        """A file that isn't there is named."""
        error = self.assertRaises(CertificateError, load_credential, Path("/nowhere.pem"))
        self.assertEqual(str(error), "/nowhere.pem can't be read: No such file or directory")

    def test_incomplete(self) -> None:
        """Without a key, without a certificate, or with two keys, it is said what there is and what must be."""
        self.assertIn("holds 1 private keys and 0 certificates", self.refusal(KEY))
        self.assertIn("holds 0 private keys and 2 certificates", self.refusal(LEAF, LOWER.pem))
        self.assertIn("holds 2 private keys and 1 certificates", self.refusal(KEY, KEY, LEAF))
        self.assertIn("holds 0 private keys and 0 certificates", self.refusal(b"nonsense"))
        self.assertIn("holds 0 private keys and 0 certificates", self.refusal())

    def test_foreign_key(self) -> None:
        """A key that belongs to none of the certificates is refused."""
        other = MIDDLE.issue("other.example", number=1)
        self.assertIn("belongs to its private key", self.refusal(other.key_pem, LEAF, LOWER.pem))

    def test_damaged(self) -> None:
        """A damaged key, and a damaged certificate, are told apart; nothing of the key is quoted."""
        self.assertIn("the private key in", self.refusal(KEY.replace(b"\nM", b"\nX", 1), LEAF))
        self.assertIn("a certificate in", self.refusal(KEY, LEAF.replace(b"\nM", b"\nX", 1)))
        self.assertIn("is damaged", self.refusal(KEY[:60] + b"\n-----END PRIVATE KEY-----\n", LEAF))

    def test_passphrase(self) -> None:
        """A key with a passphrase is refused, with the command that removes it, and nobody is asked for it."""
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            locked = ISSUED.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
            self.assertIn("openssl pkey", self.refusal(locked, LEAF))

    def test_other_kinds(self) -> None:
        """A key of Ed25519 is refused: no update client knows it."""
        key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.assertIn("neither RSA nor ECDSA", self.refusal(key, LEAF))

    def test_no_plain_file(self) -> None:
        """Folders and devices are refused, and nobody waits for a pipe."""
        folder, pipe = Path(self.mktemp()), Path(self.mktemp())
        folder.mkdir()
        error = self.assertRaises(CertificateError, load_credential, folder)
        self.assertEqual(str(error), f"{folder} can't be read: Is a directory")
        os.mkfifo(pipe)
        for path in (pipe, Path("/dev/zero")):
            error = self.assertRaises(CertificateError, load_credential, path)
            self.assertEqual(str(error), f"{path} is no plain file; name a PEM file")

    def test_large_file(self) -> None:
        """A file is read up to MAX_FILE_SIZE, and refused beyond it."""
        both = ISSUED.both
        self.assertEqual(len(self.load(both.ljust(MAX_FILE_SIZE, b" ")).chain), 3)
        self.assertIn("more than 1,000,000 bytes", self.refusal(both.ljust(MAX_FILE_SIZE + 1, b" ")))

    def test_endless_beginnings(self) -> None:
        """A file full of beginnings without an end is read in a moment, not in minutes."""
        self.assertIn("0 certificates", self.refusal(b"-----BEGIN CERTIFICATE-----\n" * (MAX_FILE_SIZE // 28)))

    @skipIf(os.geteuid() == 0, "root reads everything")
    def test_unreadable(self) -> None:
        """A file that this user may not read is refused with the system's reason."""
        path = self.write(KEY, LEAF)
        path.chmod(0)
        error = self.assertRaises(CertificateError, load_credential, path)
        self.assertEqual(str(error), f"{path} can't be read: Permission denied")

    def test_loop_of_links(self) -> None:
        """A link that leads to itself is refused with the system's reason."""
        path = Path(self.mktemp()).absolute()
        path.symlink_to(path)
        error = self.assertRaises(CertificateError, load_credential, path)
        self.assertEqual(str(error), f"{path} can't be read: Too many levels of symbolic links")

    def test_repr(self) -> None:
        """The key isn't shown where a credential is."""
        credential = self.load(KEY, LEAF)
        self.assertNotIn("key", repr(credential).lower())


class AuthorityTests(FilesCase):
    """Files of the authorities of clients."""

    def test_several(self) -> None:
        """All certificates of the file count, in their order, once each."""
        path = self.write(ROOT.pem, b"text\n", MIDDLE.pem, ROOT.pem)
        self.assertEqual(load_authorities(path), (ROOT.certificate, MIDDLE.certificate))

    def test_none(self) -> None:
        """A file without any is refused: it would let nobody in, or everybody."""
        for content in (b"", KEY):
            path = self.write(content)
            error = self.assertRaises(CertificateError, load_authorities, path)
            self.assertIn(f"{path} holds no certificate", str(error))

    def test_damaged(self) -> None:
        """A damaged certificate is refused, though others are good."""
        path = self.write(ROOT.pem, MIDDLE.pem.replace(b"\nM", b"\nX", 1))
        error = self.assertRaises(CertificateError, load_authorities, path)
        self.assertEqual(str(error), f"a certificate in {path} is damaged")


def with_name_twice(certificate: x509.Certificate) -> x509.Certificate:
    """Return a certificate whose extension with the names is there twice, which no program should make.

    The second one was that of the purposes; their numbers (RFC 5280, 4.2.1.6 and 4.2.1.12) differ by one byte.
    """
    der = certificate.public_bytes(Encoding.DER)
    return x509.load_der_x509_certificate(der.replace(bytes.fromhex("0603551d25"), bytes.fromhex("0603551d11")))


class DescribeTests(FilesCase):
    """How certificates are named for people."""

    def test_names(self) -> None:
        """The first DNS name counts, or else the common name."""
        self.assertEqual(describe(ISSUED.certificate), "ota.example")
        self.assertEqual(describe(MIDDLE.certificate), "Middle")

    def test_odd_names(self) -> None:
        """A name that would forge lines of the log is escaped, and a long one cut."""
        self.assertEqual(describe(Authority.root("a\nb").certificate), r"'a\nb'")
        self.assertLessEqual(len(describe(Authority.root("x" * 64).certificate)), 202)

    def test_broken_extensions(self) -> None:
        """A certificate whose extensions can't be told apart is still named, and loaded."""
        broken = with_name_twice(ISSUED.certificate)
        self.assertEqual(describe(broken), "ota.example")
        self.assertEqual(self.load(KEY, pem(broken)).chain, (broken,))
