"""What OpenSSL is told: versions, suites, certificates, sessions, and which clients are let in."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from ota_server.tls.certificates import CertificateError, Credential

SUITES = (
    # Small devices compute AES-128 and ChaCha20 quickest, and elliptic curves quicker than RSA.
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-RSA-AES256-SHA384",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    # All that BearSSL has in its smallest profile (BEARSSL_SSL_BASIC, setCiphersLessSecure).
    "AES128-SHA256",
    "AES256-SHA256",
    "AES128-SHA",
    "AES256-SHA",
)
"""The suites of TLS 1.2, by OpenSSL's names, in the order of preference; those of 1.3 are OpenSSL's own."""

SESSION_LIFETIME = 24 * 60 * 60
"""How long a session can be resumed, in seconds, and how long the keys of tickets are used: a day, since a device
asks some times a day, and a full handshake takes an ESP8266 seconds. RFC 5246 (F.1.4) names it as the upper limit."""

CACHE_SIZE = 20_480
"""How many sessions one context of OpenSSL keeps by their ids, which is all that BearSSL knows."""

# SSL_OP_PRIORITIZE_CHACHA, which pyOpenSSL doesn't name: a client that prefers ChaCha20 has no AES in hardware.
_PRIORITIZE_CHACHA = 0x200000


def make_context(
    credentials: Sequence[Credential], authorities: Sequence[x509.Certificate] = (), *, optional: bool = False
) -> SSL.Context:
    """Make a context that proves itself by each of the credentials, which are of different kinds.

    With `authorities` a client has to show a certificate that one of them signed; where that is `optional`, it may
    show none instead. Sessions are resumed by ticket and by id, under both versions of TLS, and never those of
    another context. Raises CertificateError.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_CIPHER_SERVER_PREFERENCE
        | SSL.OP_NO_COMPRESSION
        | SSL.OP_NO_RENEGOTIATION
        | _PRIORITIZE_CHACHA
        # Many devices end a connection without a word of TLS. OpenSSL would forget the session then, which nobody has
        # to do since TLS 1.1 (RFC 5246, 7.2.1); requests tell their own length.
        | SSL.OP_IGNORE_UNEXPECTED_EOF
    )
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    for credential in credentials:
        _use(context, credential)
    if authorities:
        _ask_for_certificates(context, authorities, optional=optional)
    context.set_session_id(secrets.token_hex(8).encode())
    context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    context.set_timeout(SESSION_LIFETIME)
    # Last, since it makes a connection to see whether there are any.
    context.set_cipher_list(":".join(SUITES).encode("ascii"))
    return context


def _use(context: SSL.Context, credential: Credential) -> None:
    """Prove oneself by a credential. Raises CertificateError."""
    chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in credential.chain)
    try:
        # OpenSSL keeps a chain for each certificate only where it reads the file itself.
        with _as_file(chain) as name:
            context.use_certificate_chain_file(name)
        context.use_privatekey(crypto.PKey.from_cryptography_key(credential.key))
        context.check_privatekey()
    except SSL.Error as error:
        raise CertificateError(f"OpenSSL refuses the certificate in {credential.file}: {_explain(error)}") from None
    except OSError as error:
        raise CertificateError(f"{credential.file} can't be handed to OpenSSL: {error.strerror or error}") from None


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Give bytes a name by which they can be opened. Raises OSError."""
    name = ""
    if hasattr(os, "memfd_create"):
        # In memory: there may be no folder to write to, as in a container that is read-only.
        with open(os.memfd_create("chain"), "wb") as memory:
            memory.write(data)
            memory.flush()
            name = f"/proc/self/fd/{memory.fileno()}"
            if os.path.exists(name):
                yield name
                return
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(data)
        file.flush()
        yield file.name


def _ask_for_certificates(context: SSL.Context, authorities: Sequence[x509.Certificate], *, optional: bool) -> None:
    store = context.get_cert_store()
    if store is None:
        raise CertificateError("OpenSSL keeps no store of authorities")
    # An authority below another is one as well, though the root isn't named.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
        context.add_client_ca(crypto.X509.from_cryptography(authority))
    context.set_verify(SSL.VERIFY_PEER | (0 if optional else SSL.VERIFY_FAIL_IF_NO_PEER_CERT))


def _explain(error: SSL.Error) -> str:
    """Return what OpenSSL says, such as `ee key too small`."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in entries) or "for no reason that it tells"
