"""`ota-server make-cert`: a private authority, and certificates of it for a server and for devices."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.internet.endpoints import quoteStringArgument
from twisted.python import usage

from ota_server.arguments import put_options_first
from ota_server.firmware.esp import escape
from ota_server.fleet.settings import SettingError, read_device
from ota_server.tls.making import (
    AUTHORITY_LIFE,
    MAX_COMMON_NAME,
    SERVER_DAYS,
    Authority,
    Kind,
    MakingError,
    PrivateKey,
    belongs,
    decode_certificate,
    decode_key,
    encode_certificate,
    encode_key,
    fingerprint,
    hosts_of,
    is_of_kind,
    make_authority,
    make_client_certificate,
    make_key,
    make_server_certificate,
    pin,
    read_host,
)

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_COMMON_NAME - 1}}}", re.ASCII)
MAX_DAYS = AUTHORITY_LIFE.days


class MakeCertOptions(usage.Options):
    """What `ota-server make-cert` understands."""

    synopsis = "Usage: ota-server make-cert [options] HOST... | ota-server make-cert --client [options] NAME..."
    longdesc = (
        "Makes a private certificate authority, and certificates of it for a server with these host names or IP "
        "addresses: one with a P-256 key and one with an RSA key, which together work with every device. Run again "
        "with the same --out it keeps the authority and all keys and renews the certificates; without hosts for the "
        "ones that it had. With --client it makes certificates by which devices prove who they are; NAME is a MAC "
        "address or a name. docs/https.md tells what to do with them."
    )
    optFlags = [["client", None, "Make certificates for devices; the arguments are their names."]]
    optParameters = [
        ["out", "o", "certificates", "Folder for keys and certificates."],
        [
            "days",
            None,
            None,
            f"Life of the certificates, in days (default: {SERVER_DAYS}; for devices their authority's).",
        ],
        ["kind", None, None, "Kind of a device's new key: p256 or rsa (default: p256)."],
    ]

    def opt_h(self) -> None:
        """Display this help and exit."""
        self.opt_help()

    def parseArgs(self, *names: str) -> None:
        """Take the hosts, or the names of devices."""
        self["names"] = names

    def postOptions(self) -> None:
        """Read the values. Raises UsageError."""
        if self["kind"] is not None and not self["client"]:
            raise usage.UsageError("--kind is for devices (--client); a server gets both kinds")
        if self["kind"] is not None:
            try:
                self["kind"] = Kind(self["kind"])
            except ValueError:
                raise usage.UsageError(f"--kind {self['kind'][:40]!r} can't be; it is p256 or rsa") from None
        days = self["days"]
        if days is not None:
            if not (days.isascii() and days.isdigit()) or not 1 <= int(days[:9]) <= MAX_DAYS:
                raise usage.UsageError(f"--days {days[:40]!r} can't be; it is a number of days from 1 to {MAX_DAYS}")
            self["days"] = int(days)
        try:
            self["names"] = _read_each_once(_read_client if self["client"] else read_host, self["names"])
        except MakingError as problem:
            raise usage.UsageError(str(problem)) from problem
        if self["client"] and not self["names"]:
            raise usage.UsageError("--client: name a device, by its MAC address or as you like")


def make_cert(arguments: Sequence[str]) -> int:
    """Make certificates, or renew them, and print what to do with them; return the exit status."""
    options = MakeCertOptions()
    try:
        options.parseOptions(put_options_first(arguments, options))
    except usage.UsageError as problem:
        print(f"ota-server make-cert: {problem} (see: ota-server make-cert --help)", file=sys.stderr)
        return 2
    folder = CertificateFolder(Path(options["out"]).expanduser(), datetime.now(UTC))
    try:
        if options["client"]:
            print("\n".join(make_clients(folder, options["names"], options["kind"], options["days"])))
        else:
            print("\n".join(make_server(folder, options["names"], options["days"])))
    except BrokenPipeError:
        raise
    except MakingError as problem:
        print(f"ota-server make-cert: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        where = f"{escape(str(problem.filename))}: " if problem.filename else ""
        print(f"ota-server make-cert: {where}{problem.strerror or problem}", file=sys.stderr)
        return 1
    return 0


class CertificateFolder:
    """A folder of keys and certificates; what is in it is never overwritten but by a newer certificate.

    Its methods raise MakingError, which names the file, and OSError. `now` is in UTC.
    """

    def __init__(self, path: Path, now: datetime) -> None:
        self.path = path
        self.now = now
        self.made: list[Path] = []
        self.server = path / "server"
        self.clients = path / "clients"
        self.server_authority = path / "authority"
        self.client_authority = path / "client-authority"
        self.client_ca = self.server / "client-ca.pem"

    def load_server_authorities(self) -> dict[Kind, Authority]:
        """Return the authorities of servers, one for each kind of key; made together when there are none."""
        wanted = {kind.value: (kind, f"Firmware {kind.title}") for kind in Kind}
        self._make_authorities(self.server_authority, wanted, self.server)
        return {kind: _load_authority(self.server_authority, kind.value) for kind in Kind}

    def load_client_authority(self) -> Authority:
        """Return the authority of devices, made if there is none."""
        self._make_authorities(self.client_authority, {"ca": (Kind.P256, "Firmware devices")}, self.clients)
        return _load_authority(self.client_authority, "ca")

    def load_key(self, path: Path, kind: Kind | None) -> PrivateKey:
        """Return the key of a file, made if it isn't there; with a kind, it has to be of that one."""
        if not path.exists():
            if path.with_suffix(".pem").exists():
                raise MakingError(
                    f"{_show(path)} is missing, but its certificate is there: bring it back, or move both"
                )
            _make_folder(path.parent)
            key = make_key(kind or Kind.P256)
            _write(path, encode_key(key), 0o600)
            self.made.append(path)
            return key
        with _named(path):
            key = decode_key(path.read_bytes())
            if kind is not None and not is_of_kind(key, kind):
                raise MakingError(f"is no {kind.title} key, and keys are kept; move it away to have a new one made")
        return key

    def _make_authorities(self, folder: Path, wanted: dict[str, tuple[Kind, str]], signed: Path) -> None:
        """Make authorities in a folder, all or none, unless it is there. `signed` is the folder of what they signed."""
        if folder.exists():
            return
        if any(signed.glob("*.key")):
            raise MakingError(
                f"{_show(signed)} holds keys, but the authority that signed their certificates, {_show(folder)}, is "
                "not there: bring it back, or name another folder (--out) for a new one, which devices then must know"
            )
        _make_folder(self.path)
        # A folder that has its name is complete, whenever the power fails.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=self.path) as temporary:
            inner = Path(temporary) / folder.name
            inner.mkdir(mode=0o700)
            for name, (kind, what) in wanted.items():
                authority = make_authority(kind, what, self.now)
                _write(inner / f"{name}.key", encode_key(authority.key), 0o600)
                _write(inner / f"{name}.pem", encode_certificate(authority.certificate), 0o644)
            inner.rename(folder)
            _sync(self.path)
        self.made.append(folder)

    def port(self) -> str:
        """Return the endpoint string of a server with these certificates, those of it that are there."""
        files: list[tuple[str, Path]] = []
        for number, kind in zip(("", "2"), Kind, strict=True):
            files += [(f"cert{number}", self.certificate(kind)), (f"key{number}", self.certificate(kind, ".key"))]
        files.append(("clientCA", self.client_ca))
        parts = [f"{name}={quoteStringArgument(str(file.absolute()))}" for name, file in files if file.exists()]
        return ":".join(["device-tls:443", *parts])

    def certificate(self, kind: Kind, suffix: str = ".pem") -> Path:
        """Return the file of the server's certificate of a kind, or of its key."""
        return self.server / f"{kind.value}{suffix}"


def _load_authority(folder: Path, name: str) -> Authority:
    key_file, certificate_file = folder / f"{name}.key", folder / f"{name}.pem"
    for path in (key_file, certificate_file):
        if not path.exists():
            raise MakingError(f"{_show(path)} is missing, without which nothing can be signed: bring it back")
    with _named(key_file):
        key = decode_key(key_file.read_bytes())
    with _named(certificate_file):
        certificate = decode_certificate(certificate_file.read_bytes())
        if not belongs(certificate, key):
            raise MakingError(f"is not the certificate of {_show(key_file)}; bring the right one back")
    return Authority(key=key, certificate=certificate)


def make_server(folder: CertificateFolder, hosts: Sequence[str], days: int | None) -> Iterator[str]:
    """Make or renew the certificates of a server; return the lines to print."""
    before = _known_hosts(folder)
    hosts = hosts or before
    if not hosts:
        raise MakingError(
            f"name the server's hosts, as devices will; there are no certificates in {_show(folder.server)}"
        )
    authorities = folder.load_server_authorities()
    keys = {kind: folder.load_key(folder.certificate(kind, ".key"), kind) for kind in Kind}
    certificates = {}
    for kind in Kind:
        with _named(folder.certificate(kind)):
            certificates[kind] = make_server_certificate(
                authorities[kind], keys[kind].public_key(), hosts, folder.now, days or SERVER_DAYS
            )
    for kind in Kind:
        _write(folder.certificate(kind), encode_certificate(certificates[kind]), 0o644)
    done = "Renewed the" if before else "Made"
    yield f"{done} certificates in {_show(folder.server)}, for {', '.join(hosts)}; {_ends(certificates[Kind.P256])}."
    if before:
        if before != hosts:
            yield f"They were for {', '.join(before)}."
        yield "The authority and the server's keys are kept: devices need no change, unless they go by fingerprint."
    else:
        made = "Made" if folder.server_authority in folder.made else "It is of"
        yield f"{made} the authority in {_show(folder.server_authority)}; {_ends(authorities[Kind.P256].certificate)}."
    yield from _warn(folder.server_authority, "your server", folder.server)
    yield "\nThe server's option:\n"
    yield f"--port {shlex.quote(folder.port())}"
    yield "\nWhat a sketch has to trust (both, since the server chooses which of its certificates it shows):\n"
    yield _literal("AUTHORITY", *(authorities[kind].certificate for kind in Kind))
    yield "\nPins of the server's public keys, which stay:\n"
    for kind in Kind:
        yield f"{kind.title:9} {pin(certificates[kind])}"
    yield "\nFingerprints of its certificates, which are others after each renewal:\n"
    for kind in Kind:
        # BearSSL's setFingerprint knows SHA-1 only.
        yield f"{kind.title:9} SHA-1   {fingerprint(certificates[kind], hashes.SHA1())}"  # noqa: S303
        yield f"{'':9} SHA-256 {fingerprint(certificates[kind], hashes.SHA256())}"


def make_clients(folder: CertificateFolder, names: Sequence[str], kind: Kind | None, days: int | None) -> Iterator[str]:
    """Make or renew the certificates of devices; return the lines to print."""
    authority = folder.load_client_authority()
    _make_folder(folder.server)
    _write(folder.client_ca, encode_certificate(authority.certificate), 0o644)
    life = days or (authority.end - folder.now).days
    for name in names:
        file = folder.clients / f"{name.replace(':', '-')}.pem"
        renewed = file.exists()
        key = folder.load_key(file.with_suffix(".key"), kind)
        with _named(file):
            certificate = make_client_certificate(authority, key.public_key(), name, folder.now, life)
        _write(file, encode_certificate(certificate), 0o644)
        done = "Renewed the certificate of" if renewed else "Made key and certificate of"
        yield f"{done} {name} in {_show(file)}; {_ends(certificate)}. For its sketch:\n"
        yield _literal("DEVICE_CERTIFICATE", certificate)
        yield ""
        yield _literal("DEVICE_KEY", key)
        yield ""
    yield from _warn(folder.client_authority, "any device", folder.clients)
    yield f"\nDevices are asked for it by a server that has {_show(folder.client_ca)}:\n"
    yield f"--port {shlex.quote(folder.port())}"


def _read_client(text: str) -> str:
    """Read a MAC address, in any form, or another name of a device that a file can have too. Raises MakingError."""
    try:
        device = read_device(text)
    except SettingError as problem:
        raise MakingError(str(problem)) from problem
    if device is not None:
        return device
    if not _NAME.fullmatch(text):
        raise MakingError(
            f"{escape(text[:80])!r} can't be a device's name; that has up to {MAX_COMMON_NAME} ASCII letters, digits "
            "and . _ -, and begins with a letter or a digit"
        )
    return text


def _known_hosts(folder: CertificateFolder) -> list[str]:
    """Return the hosts of the certificates that there are."""
    for kind in Kind:
        path = folder.certificate(kind)
        if path.exists():
            with _named(path):
                return hosts_of(decode_certificate(path.read_bytes()))
    return []


def _warn(authority: Path, who: str, keys: Path) -> Iterator[str]:
    yield f"Keep {_show(authority)} off the server, and a copy safe: whoever has its keys can pose as {who}."
    for path in sorted([*authority.glob("*.key"), *keys.glob("*.key")]):
        if path.stat().st_mode & 0o077:
            yield f"Others may read {_show(path)}: chmod 600 {shlex.quote(str(path))}"


def _ends(certificate: x509.Certificate) -> str:
    return f"good until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _literal(name: str, *what: x509.Certificate | PrivateKey) -> str:
    """Write keys or certificates as a string of C++, as sketches for ESP8266 and ESP32 have them."""
    texts = [encode_certificate(one) if isinstance(one, x509.Certificate) else encode_key(one) for one in what]
    return f'static const char {name}[] PROGMEM = R"PEM(\n{b"".join(texts).decode("ascii")})PEM";'


def _read_each_once(read: Callable[[str], str], texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(read, texts)))


def _show(path: Path) -> str:
    return escape(str(path))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say of which file a MakingError is."""
    try:
        yield
    except MakingError as problem:
        raise MakingError(f"{_show(path)}: {problem}") from problem


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file beside, and rename it, so that whoever reads finds the old one or the new one, and whole."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make what was renamed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
