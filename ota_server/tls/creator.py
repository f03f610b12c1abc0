"""The server's side of TLS connections: made of files that may change while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from zlib import crc32

import attrs
from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from ota_server.tls.certificates import (
    CertificateError,
    Credential,
    load_authorities,
    load_credential,
)
from ota_server.tls.context import CACHE_SIZE, make_context
from ota_server.tls.expiry import Expiry

FileIdentities = tuple[tuple[int, ...] | None, ...]
"""What tells whether files were changed, one entry for each; None for one that isn't there."""


@attrs.frozen
class TlsFiles:
    """The files that a TLS door is made of.

    `credentials` are one or two pairs of a certificate's file and its key's, None where both are in one file.
    `client_authorities` is the file of those that sign the certificates of devices; with `client_optional` a device
    may show none.
    """

    credentials: tuple[tuple[Path, Path | None], ...]
    client_authorities: Path | None = None
    client_optional: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        named = (*chain.from_iterable(self.credentials), self.client_authorities)
        return tuple(path for path in named if path is not None)

    def identify(self) -> FileIdentities:
        """Return what tells whether they were changed. Blocks."""
        identities: list[tuple[int, ...] | None] = []
        for path in self.paths:
            try:
                # Follows links, by which certbot exchanges files. The last change of the mode counts as well: a file
                # may be readable from then on.
                status = os.stat(path)
            except OSError:
                identities.append(None)
            else:
                identities.append(
                    (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
                )
        return tuple(identities)

    def load(self) -> Loaded:
        """Read them. Blocks. Raises CertificateError."""
        identities = self.identify()
        credentials: list[Credential] = []
        expiries: list[Expiry] = []
        for certificate, key in self.credentials:
            credential = load_credential(certificate, key)
            if any(other.kind == credential.kind for other in credentials):
                raise CertificateError(
                    f"{self.credentials[0][0]} and {certificate} are both {credential.kind}; a client chooses between "
                    "one of RSA and one of ECDSA"
                )
            credentials.append(credential)
            expiries += [Expiry.of(each, str(certificate)) for each in credential.chain]
        authorities: tuple[x509.Certificate, ...] = ()
        if self.client_authorities is not None:
            authorities = load_authorities(self.client_authorities)
        others = tuple(Expiry.of(each, str(self.client_authorities)) for each in authorities)
        return Loaded(identities, tuple(credentials), authorities, tuple(expiries), others)


@attrs.frozen
class Loaded:
    """What was read from the files of a TLS door, and which state of them that was."""

    identities: FileIdentities
    credentials: tuple[Credential, ...]
    authorities: tuple[x509.Certificate, ...]
    own_expiries: tuple[Expiry, ...]
    authority_expiries: tuple[Expiry, ...]

    @property
    def expiries(self) -> tuple[Expiry, ...]:
        """When all of the certificates end."""
        return self.own_expiries + self.authority_expiries

    @property
    def first_to_end(self) -> Expiry:
        """The one of the server's own certificates that ends first."""
        return min(self.own_expiries, key=lambda expiry: expiry.ends)


@implementer(IOpenSSLServerConnectionCreator)
class DeviceTls:
    """Makes the server's side of TLS connections.

    Sessions are resumed by ticket and by id. OpenSSL keeps CACHE_SIZE of them by their ids in a context; with more
    `sessions` there are several contexts, and a client's address says which of them is its. `now` is the time in
    seconds since 1970. Raises CertificateError where a file can't be used.
    """

    def __init__(self, files: TlsFiles, sessions: int = CACHE_SIZE, now: Callable[[], float] = time.time) -> None:
        self.files = files
        self._now = now
        self._shares = max(1, -(-sessions // CACHE_SIZE))
        self._share = 0
        self.loaded = files.load()
        """What is in use."""
        self._contexts = self.make_contexts(self.loaded)

    @property
    def shares(self) -> int:
        """How many contexts there are."""
        return self._shares

    @property
    def asks_for_certificates(self) -> bool:
        """Whether a device has to prove itself by a certificate, or may."""
        return bool(self.loaded.authorities)

    @property
    def expiries(self) -> tuple[Expiry, ...]:
        """When the certificates in use end, those of the authorities included."""
        return self.loaded.expiries

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the server's side of a connection that was just accepted; see `expect`."""
        return SSL.Connection(self._contexts[self._share])

    def expect(self, address: IAddress | None) -> None:
        """Note from where the connection comes that is made next, so that it finds the sessions of before."""
        # Python's own hash is another one in each process, which would do; this one also shows the same in tests.
        self._share = crc32(str(getattr(address, "host", "")).encode()) % self._shares

    def make_contexts(self, loaded: Loaded) -> tuple[SSL.Context, ...]:
        """Make contexts that know no sessions yet. Blocks. Raises CertificateError."""
        return tuple(
            make_context(loaded.credentials, loaded.authorities, optional=self.files.client_optional)
            for _ in range(self._shares)
        )

    def load(self) -> tuple[Loaded, tuple[SSL.Context, ...] | None]:
        """Read the files anew, for `take`. Blocks. Raises CertificateError; what is in use stays so.

        Where they hold the certificates that are in use, there are no new contexts.
        """
        loaded = self.files.load()
        now = self._now()
        if loaded.first_to_end.ends <= now < self.loaded.first_to_end.ends:
            raise CertificateError(loaded.first_to_end.tell(now))
        same = (loaded.credentials, loaded.authorities) == (self.loaded.credentials, self.loaded.authorities)
        return loaded, None if same else self.make_contexts(loaded)

    def take(self, loaded: Loaded, contexts: tuple[SSL.Context, ...] | None) -> None:
        """Use what was loaded for all connections from now on; those that are open go on with what they have.

        Without contexts, those that are in use stay so, and the sessions that they know.
        """
        self.loaded = loaded
        if contexts is not None:
            self._contexts = contexts
