"""What a client certificate proves: the name of the device that it was issued to."""

from __future__ import annotations

from cryptography.x509 import NameOID
from OpenSSL.crypto import X509

from ota_server.fleet.settings import is_common_name


def read_subject(certificate: X509, now: float) -> str | None:
    """Return the common name of a certificate's subject, or None where it proves nothing.

    That is so where there is no such name or more than one, where it can't be printed, and where the certificate has
    ended before `now`, in seconds since 1970: a session may be resumed that began while it was good. Whether its
    authority is the right one is not looked at here: that was checked in the handshake.
    """
    try:
        read = certificate.to_cryptography()
        names = [each.value for each in read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        ends = read.not_valid_after_utc.timestamp()
    except ValueError:
        # OpenSSL takes certificates that the other library doesn't.
        return None
    if len(names) != 1 or now > ends:
        return None
    name = names[0]
    return name if isinstance(name, str) and is_common_name(name) else None
