"""Tests of `ota-server make-cert`: what it makes, keeps, renews and refuses; `openssl` is a judge."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Set as AbstractSet
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from unittest import skipIf, skipUnless

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ota_server.cli import main
from ota_server.make_cert import CertificateFolder, make_cert
from ota_server.tls.endpoint import DeviceTlsEndpoint
from ota_server.tls.making import (
    Kind,
    MakingError,
    decode_certificate,
    decode_key,
    encode_certificate,
    hosts_of,
    make_authority,
    make_key,
    make_server_certificate,
    pin,
    read_host,
)

OPENSSL = shutil.which("openssl")
NOW = datetime(2026, 11, 24, 12, 0, 0, 999, tzinfo=UTC)
LARGEST_IN_512 = 502
"""The largest certificate, in bytes, whose message fits into a record of 512: beside it that has 4 bytes of the
handshake's head and twice 3 of lengths (RFC 5246, section 7.4.2)."""


class MakeCertCase(SynchronousTestCase):
    """The command, in a folder of its own."""

    def setUp(self) -> None:
        """Choose a folder that isn't there yet."""
        self.folder = Path(self.mktemp()).absolute()

    def run_command(self, *arguments: str) -> tuple[int, str, str]:
        """Return the status of the command with these arguments, what it printed, and its errors."""
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = make_cert([*arguments, "--out", str(self.folder)])
        return status, out.getvalue(), err.getvalue()

    def make(self, *arguments: str) -> str:
        """Return what the command prints where all is well."""
        status, out, err = self.run_command(*arguments)
        self.assertEqual((status, err), (0, ""))
        return out

    def refusal(self, *arguments: str, status: int = 1, made: AbstractSet[str] = frozenset()) -> str:
        """Return the one line of an error; nothing in the folder is changed by it, and only what is told is made."""
        before = self.contents()
        found, out, err = self.run_command(*arguments)
        self.assertEqual((found, out), (status, ""), err)
        self.assertEqual(err.count("\n"), 1, err)
        after = self.contents()
        self.assertEqual(after.keys() - before.keys(), made)
        self.assertEqual({name: after.get(name) for name in before}, before)
        return err

    def contents(self) -> dict[str, bytes]:
        """Return the files of the folder and what is in them."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    def certificate(self, name: str) -> x509.Certificate:
        """Read a certificate."""
        return decode_certificate((self.folder / name).read_bytes())

    def openssl(self, *arguments: str) -> str:
        """Return what `openssl` prints; it has to end with status 0."""
        assert OPENSSL is not None
        done = subprocess.run([OPENSSL, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


class ServerTests(MakeCertCase):
    """Certificates of servers."""

    def test_files(self) -> None:
        """Keys are for their owner alone, and there is nothing beside what is told."""
        self.make("ota.local")
        modes = {name: stat.S_IMODE((self.folder / name).stat().st_mode) for name in self.contents()}
        expected: dict[str, int] = {}
        for folder in ("authority", "server"):
            for kind in Kind:
                expected |= {f"{folder}/{kind.value}.key": 0o600, f"{folder}/{kind.value}.pem": 0o644}
        self.assertEqual(modes, expected)
        self.assertEqual(stat.S_IMODE((self.folder / "authority").stat().st_mode), 0o700)

    @skipUnless(OPENSSL, "there is no openssl")
    def test_foreign_judge(self) -> None:
        """OpenSSL takes both certificates for a server's, for each of its names, by the strict rules of RFC 5280."""
        self.make("ota.local", "192.168.1.10", "fd00::10")
        for kind in Kind:
            trusted = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", f"authority/{kind.value}.pem"]
            for check in (
                ["-verify_hostname", "ota.local"],
                ["-verify_ip", "192.168.1.10"],
                ["-verify_ip", "fd00::10"],
            ):
                self.openssl(*trusted, *check, f"server/{kind.value}.pem")

    def test_names(self) -> None:
        """An address is there as one and as a DNS name, since small clients look for it among these only."""
        self.make("OTA.local", "192.168.1.10", "[fd00:0::10]", "*.example.org", "ota.local")
        for kind in Kind:
            certificate = self.certificate(f"server/{kind.value}.pem")
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            self.assertEqual(
                names.get_values_for_type(x509.DNSName), ["ota.local", "192.168.1.10", "fd00::10", "*.example.org"]
            )
            self.assertEqual(list(map(str, names.get_values_for_type(x509.IPAddress))), ["192.168.1.10", "fd00::10"])
            self.assertEqual(_common_name(certificate), "ota.local")

    def test_long_name(self) -> None:
        """A name that is longer than a common name can be is one of the DNS names all the same."""
        long = ".".join(["a" * 40, "b" * 40, "local"])
        self.make(long)
        certificate = self.certificate("server/p256.pem")
        self.assertEqual((_common_name(certificate), hosts_of(certificate)), ("server", [long]))

    def test_usages(self) -> None:
        """An RSA key may be encrypted to, as clients without forward secrecy do; nobody may sign with a leaf."""
        self.make("ota.local")
        for kind in Kind:
            extensions = self.certificate(f"server/{kind.value}.pem").extensions
            usage = extensions.get_extension_for_class(x509.KeyUsage)
            self.assertTrue(usage.critical)
            self.assertTrue(usage.value.digital_signature)
            self.assertEqual(usage.value.key_encipherment, kind is Kind.RSA)
            self.assertFalse(usage.value.key_cert_sign)
            self.assertFalse(extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
            purposes = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
            self.assertEqual(purposes, [ExtendedKeyUsageOID.SERVER_AUTH])

    def test_small(self) -> None:
        """The P-256 certificate of a server with a name and an address fits into a record of 512 bytes."""
        self.make("firmware.home.example.org", "192.168.100.100")
        size = len(self.certificate("server/p256.pem").public_bytes(Encoding.DER))
        self.assertLessEqual(size, LARGEST_IN_512)

    def test_life(self) -> None:
        """Certificates began some time ago, for devices whose clock is wrong, and end when it is said."""
        out = self.make("ota.local", "--days", "100")
        now = datetime.now(UTC)
        certificate = self.certificate("server/rsa.pem")
        self.assertLess(certificate.not_valid_before_utc, now - timedelta(days=29))
        self.assertLess(abs(certificate.not_valid_after_utc - now - timedelta(days=100)), timedelta(minutes=1))
        self.assertIn(f"good until {now + timedelta(days=100):%Y-%m-%d}", out)

    def test_default_life(self) -> None:
        """Without --days it is less than the 825 days that Apple's devices accept, the grace at the begin included."""
        self.make("ota.local")
        certificate = self.certificate("server/p256.pem")
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        self.assertEqual(life.days, 820)

    def test_printed(self) -> None:
        """The option can be given to the server as it is printed; the authorities can be pasted; pins are right."""
        self.folder = self.folder.with_name("it's a: folder")
        out = self.make("ota.local")
        option = _option(out)
        endpoint = serverFromString(MemoryReactorClock(), option)
        assert isinstance(endpoint, DeviceTlsEndpoint)
        self.assertEqual([each.kind for each in endpoint.tls.loaded.credentials], ["ECDSA", "RSA"])
        pasted = _literals(out)["AUTHORITY"]
        self.assertEqual(pasted, b"".join((self.folder / f"authority/{kind.value}.pem").read_bytes() for kind in Kind))
        for kind in Kind:
            self.assertIn(pin(self.certificate(f"server/{kind.value}.pem")), out)

    @skipUnless(OPENSSL, "there is no openssl")
    def test_pins(self) -> None:
        """Pins and fingerprints are those that OpenSSL finds."""
        out = self.make("ota.local")
        for kind in Kind:
            public = self.openssl("x509", "-in", f"server/{kind.value}.pem", "-noout", "-pubkey")
            done = subprocess.run(
                f"{OPENSSL} pkey -pubin -outform der | {OPENSSL} dgst -sha256 -binary | {OPENSSL} base64",
                shell=True,
                input=public,
                text=True,
                capture_output=True,
                check=True,
            )
            self.assertIn(f"sha256//{done.stdout.strip()}", out)
            for algorithm in ("sha1", "sha256"):
                told = self.openssl(
                    "x509", "-in", f"server/{kind.value}.pem", "-noout", "-fingerprint", f"-{algorithm}"
                )
                self.assertIn(told.strip().partition("=")[2], out)

    def test_command(self) -> None:
        """`ota-server` knows the command."""
        out = StringIO()
        with redirect_stdout(out):
            error = self.assertRaises(SystemExit, main, ["make-cert", "ota.local", "--out", str(self.folder)])
        self.assertEqual(error.code, 0)
        self.assertIn("AUTHORITY", out.getvalue())


class RenewalTests(MakeCertCase):
    """A second run in the same folder."""

    def test_renewal(self) -> None:
        """It keeps the authority and all keys, so that pins stay, and makes new certificates for the same hosts."""
        self.make("ota.local", "192.168.1.10")
        before = self.contents()
        old = self.certificate("server/p256.pem")
        out = self.make()
        after = self.contents()
        changed = {name for name in after if after[name] != before.get(name)}
        self.assertEqual(changed, {"server/p256.pem", "server/rsa.pem"})
        new = self.certificate("server/p256.pem")
        self.assertEqual((pin(new), hosts_of(new)), (pin(old), ["ota.local", "192.168.1.10"]))
        self.assertNotEqual(new.serial_number, old.serial_number)
        self.assertIn("Renewed", out)
        self.assertIn("keys are kept", out)

    def test_other_hosts(self) -> None:
        """Other hosts are said so."""
        self.make("ota.local")
        out = self.make("lamp.local")
        self.assertIn("They were for ota.local.", out)
        self.assertEqual(hosts_of(self.certificate("server/rsa.pem")), ["lamp.local"])

    def test_no_hosts(self) -> None:
        """The first time hosts are needed."""
        self.assertIn("name the server's hosts", self.refusal())

    def test_authority_is_away(self) -> None:
        """An authority that was moved off the server is asked for, and no other one is made in its place."""
        self.make("ota.local")
        (self.folder / "authority").rename(self.folder.with_suffix(".away"))
        self.assertIn("authority, is not there: bring it back", self.refusal("ota.local"))

    def test_damaged_authority(self) -> None:
        """A file of the authority that is missing, damaged, or another one's is named, and nothing is changed."""
        self.make("ota.local")
        authority = self.folder / "authority"
        key, certificate = authority / "rsa.key", authority / "rsa.pem"
        whole = key.read_bytes(), certificate.read_bytes()
        key.write_bytes(whole[0][:200])
        self.assertIn("rsa.key: is no private key, or damaged", self.refusal("ota.local"))
        key.write_bytes((authority / "p256.key").read_bytes())
        self.assertIn("rsa.pem: is not the certificate of", self.refusal("ota.local"))
        key.write_bytes(whole[0])
        certificate.write_bytes(whole[1][:200])
        self.assertIn("rsa.pem: is no certificate, or damaged", self.refusal("ota.local"))
        certificate.unlink()
        self.assertIn("rsa.pem is missing", self.refusal("ota.local"))

    def test_damaged_server(self) -> None:
        """So is a damaged, missing or wrong key of the server."""
        self.make("ota.local")
        key = self.folder / "server" / "rsa.key"
        key.write_bytes((self.folder / "server" / "p256.key").read_bytes())
        self.assertIn("rsa.key: is no RSA-2048 key", self.refusal("ota.local"))
        key.write_bytes(b"")
        self.assertIn("rsa.key: is no private key", self.refusal("ota.local"))
        key.unlink()
        self.assertIn("rsa.key is missing, but its certificate is there", self.refusal("ota.local"))

    def test_readable_by_others(self) -> None:
        """A key that others may read is pointed out, with what to do."""
        self.make("ota.local")
        key = self.folder / "server" / "rsa.key"
        key.chmod(0o644)
        self.assertIn(f"chmod 600 {key}", self.make())

    def test_longer_than_the_authority(self) -> None:
        """A certificate can't outlive its authority; how long that lives is said."""
        CertificateFolder(self.folder, datetime.now(UTC) - timedelta(days=100.5)).load_server_authorities()
        refused = self.refusal("ota.local", "--days", "7300", made={"server/p256.key", "server/rsa.key"})
        self.assertIn("p256.pem: its authority lives for 7199 more days", refused)
        self.assertIn("It is of the authority", self.make("ota.local", "--days", "7199"))

    @skipIf(os.geteuid() == 0, "the superuser may write everywhere")
    def test_no_permission(self) -> None:
        """A folder that can't be written to is named."""
        self.folder.mkdir(mode=0o500)
        self.assertIn("Permission denied", self.refusal("ota.local"))

    def test_no_folder(self) -> None:
        """A file in the place of the folder is named."""
        self.folder.write_bytes(b"")
        status, _, err = self.run_command("ota.local")
        self.assertEqual((status, err), (1, f"ota-server make-cert: {self.folder}: File exists\n"))


class ClientTests(MakeCertCase):
    """Certificates of devices."""

    def test_files(self) -> None:
        """A MAC address in any form is the common name as check-ins have it; the server gets its authority's file."""
        out = self.make("--client", "5c-cf-7f-00-11-22", "kitchen")
        files = ["client-authority/ca.key", "client-authority/ca.pem", "clients/5C-CF-7F-00-11-22.key"]
        files += ["clients/5C-CF-7F-00-11-22.pem", "clients/kitchen.key", "clients/kitchen.pem", "server/client-ca.pem"]
        self.assertEqual(list(self.contents()), files)
        names = [_common_name(self.certificate(f"clients/{name}.pem")) for name in ("5C-CF-7F-00-11-22", "kitchen")]
        self.assertEqual(names, ["5C:CF:7F:00:11:22", "kitchen"])
        self.assertEqual(self.contents()["server/client-ca.pem"], self.contents()["client-authority/ca.pem"])
        self.assertEqual(stat.S_IMODE((self.folder / "clients/kitchen.key").stat().st_mode), 0o600)
        self.assertIn(b"PRIVATE KEY", _literals(out)["DEVICE_KEY"])

    @skipUnless(OPENSSL, "there is no openssl")
    def test_foreign_judge(self) -> None:
        """OpenSSL takes a certificate of either kind for a client's, as the server does, and not for a server's."""
        self.make("--client", "kitchen")
        self.make("--client", "hall", "--kind", "rsa")
        trusted = ["verify", "-x509_strict", "-CAfile", "server/client-ca.pem", "-purpose"]
        for name in ("kitchen", "hall"):
            self.openssl(*trusted, "sslclient", f"clients/{name}.pem")
            refused = subprocess.run([OPENSSL or "", *trusted, "sslserver", f"clients/{name}.pem"], cwd=self.folder)
            self.assertNotEqual(refused.returncode, 0)

    def test_with_a_server(self) -> None:
        """Beside a server's certificates the printed option is complete; the server's are as they were."""
        self.make("ota.local")
        before = self.contents()
        out = self.make("--client", "kitchen")
        after = self.contents()
        self.assertEqual({name: after[name] for name in before}, before)
        endpoint = serverFromString(MemoryReactorClock(), _option(out))
        assert isinstance(endpoint, DeviceTlsEndpoint)
        self.assertEqual((len(endpoint.tls.loaded.credentials), len(endpoint.tls.loaded.authorities)), (2, 1))

    def test_server_afterwards(self) -> None:
        """A server's certificates can be made after those of devices."""
        self.make("--client", "kitchen")
        self.assertIn("client-ca.pem", _option(self.make("ota.local")))

    def test_renewal(self) -> None:
        """A device's key is kept when its certificate is renewed, and of its kind unless another one is asked for."""
        self.make("--client", "kitchen", "--kind", "rsa", "--days", "10")
        before = self.contents()
        self.assertIn("Renewed the certificate of kitchen", self.make("--client", "kitchen"))
        after = self.contents()
        self.assertEqual({name for name in after if after[name] != before[name]}, {"clients/kitchen.pem"})
        self.assertIn("is no P-256 key", self.refusal("--client", "kitchen", "--kind", "p256"))

    def test_life(self) -> None:
        """Without --days a device's certificate lives as long as its authority, since it can't be renewed easily."""
        self.make("--client", "kitchen")
        end, last = (
            self.certificate(f).not_valid_after_utc for f in ("clients/kitchen.pem", "client-authority/ca.pem")
        )
        self.assertLess(last - end, timedelta(days=2))

    def test_authority_is_away(self) -> None:
        """Without its authority nothing is made."""
        self.make("--client", "kitchen")
        shutil.rmtree(self.folder / "client-authority")
        self.assertIn("client-authority, is not there", self.refusal("--client", "hall"))


class RefusalTests(MakeCertCase):
    """Arguments that can't be."""

    def test_hosts(self) -> None:
        """What is no host name is refused with what to write instead."""
        for text, told in {
            "https://ota.local/": "leave out https://",
            "ota.local/firmware": "leave out https:// and what comes after",
            "ota.local:443": "leave out the port",
            "ota_server.local": "is no host name; it is made of letters",
            "": "is no host name",
            "ota.local.": "is no host name",
            "a..b": "is no host name",
            "*": "is no host name",
            "ota.*.org": "is no host name",
            "lämp.local": "begins with xn--",
            "192.168.1.300": "is no IP address",
            "192.168.1": "is no IP address",
            "fe80::1%eth0": "has a zone",
            "a\nb": "is no host name",
            "-lamp.local": "is no host name",
            "x" * 64: "is no host name",
        }.items():
            arguments = [text] if not text.startswith("-") else ["--", text]
            out, err = StringIO(), StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                status = make_cert(["--out", str(self.folder), *arguments])
            self.assertEqual((status, out.getvalue()), (2, ""), text)
            self.assertIn(told, err.getvalue())
            self.assertEqual(err.getvalue().count("\n"), 1)
        self.assertFalse(self.folder.exists())

    def test_devices(self) -> None:
        """What can't be a device's name is refused."""
        for name in ("", "../x", "a/b", ".x", "a b", "x" * 65, "lämp", "5C:CF:7F:00:11", "5C:CF:7F:00:11:2Z"):
            self.refusal("--client", name, status=2)
        self.assertIn("name a device", self.refusal("--client", status=2))

    def test_options(self) -> None:
        """So are values and options that there aren't."""
        for days in ("0", "-1", "7301", "x", "1.5", "٣", "9" * 5000):
            self.assertIn("--days", self.refusal("ota.local", "--days", days, status=2))
        self.assertIn("p256 or rsa", self.refusal("--client", "lamp", "--kind", "dsa", status=2))
        self.assertIn("--kind is for devices", self.refusal("ota.local", "--kind", "rsa", status=2))
        self.assertIn("frobnicate", self.refusal("ota.local", "--frobnicate", status=2))

    @given(st.text(max_size=70))
    def test_any_host(self, text: str) -> None:
        """Whatever is given as a host is refused in one line, or can be put into a certificate and found there."""
        try:
            host = read_host(text)
        except MakingError as problem:
            self.assertNotIn("\n", str(problem))
        else:
            certificate = make_server_certificate(AUTHORITY, KEY.public_key(), [host], NOW, 1)
            self.assertEqual(hosts_of(decode_certificate(encode_certificate(certificate))), [host])


class MakingTests(SynchronousTestCase):
    """What is made, apart from the command."""

    def test_far_future(self) -> None:
        """A date beyond 2049 has four digits for its year (RFC 5280, section 4.1.2.5); one before has two."""
        later = NOW + timedelta(days=365 * 15)
        der = make_authority(Kind.P256, "Test", later).certificate.public_bytes(Encoding.DER)
        self.assertRegex(der, rb"\x17\x0d41[0-9]{10}Z\x18\x0f2061[0-9]{10}Z")

    def test_names_of_authorities(self) -> None:
        """Two authorities never have the same name, by which clients look for them."""
        names = {make_authority(Kind.P256, "Test", NOW).certificate.subject for _ in range(3)}
        self.assertEqual(len(names), 3)

    def test_keys(self) -> None:
        """Keys with a passphrase, and those of other kinds, are refused."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, PrivateFormat

        locked = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        self.assertIn("openssl pkey", str(self.assertRaises(MakingError, decode_key, locked)))
        other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.assertIn("neither", str(self.assertRaises(MakingError, decode_key, other)))

    def test_no_secret_in_repr(self) -> None:
        """An authority doesn't tell its key when it is printed."""
        self.assertNotIn("key", repr(AUTHORITY))


AUTHORITY = make_authority(Kind.P256, "Test", NOW)
KEY = make_key(Kind.P256)


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _option(printed: str) -> str:
    """Return the value of the option that is printed, as a shell reads it."""
    line = next(line for line in printed.splitlines() if line.startswith("--port "))
    name, value = shlex.split(line)
    assert name == "--port"
    return value


def _literals(printed: str) -> dict[str, bytes]:
    """Return the strings of C++ that are printed."""
    found = re.findall(r'static const char ([A-Z_]+)\[\] PROGMEM = R"PEM\(\n(.*?)\)PEM";', printed, re.DOTALL)
    return {name: text.encode() for name, text in found}
