"""Who may ask for updates, and whose name a request proves: by a token, or by a client certificate.

A token is 32 random characters (192 bits). What is kept of one is its SHA-256. A slow hash with salt, as passwords
need, would only slow down the server, since nobody can try out 2**192 tokens: NIST SP 800-63B (2017), section 5.1.2.2,
asks for one only below 112 bits.
"""

from __future__ import annotations

import binascii
import enum
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_to_bytes

import attrs

from ota_server.fleet.checkin import Headers, read_claim
from ota_server.fleet.settings import CERTIFICATE_PREFIX, SettingError, read_device

MAX_CREDENTIALS = 1024
"""What is longer than so many bytes holds no token, and is not looked at."""


class Mode(enum.Enum):
    """What is asked of devices: nothing, a token, or a certificate; ACCESS_MODES of the settings."""

    OPEN = "open"
    TOKEN = "token"  # noqa: S105 - the mode's name
    CERTIFICATE = "certificate"


@attrs.frozen
class Refusal:
    """Why a request isn't served: status, the reason's word, and a line for people of less than 32 bytes.

    `missing` says that nothing was brought, rather than something wrong.
    """

    code: int
    reason: str
    text: bytes
    missing: bool = False


TOKEN_NEEDED = Refusal(401, "token-needed", b"a token is needed\n", missing=True)
TOKEN_WRONG = Refusal(401, "token-wrong", b"this token is wrong\n")
CERTIFICATE_NEEDED = Refusal(403, "certificate-needed", b"a certificate is needed\n", missing=True)
WRONG_DEVICE = Refusal(403, "wrong-device", b"that is another device\n")
ALL_REFUSALS = (TOKEN_NEEDED, TOKEN_WRONG, CERTIFICATE_NEEDED, WRONG_DEVICE)

REFUSALS = {
    TOKEN_NEEDED.reason: "the policy asks for a token, and the request brings none",
    TOKEN_WRONG.reason: "the token is none of the policy's, or can't be read",
    CERTIFICATE_NEEDED.reason: "the policy asks for a certificate, and the connection has none that names a device",
    WRONG_DEVICE.reason: "the device says that it is another one than its token or certificate proves",
}
"""The reasons of all refusals, with what they mean."""


@attrs.frozen
class Holder:
    """Whose token it is: that of one device, of the members of a group, or, with neither, of any device."""

    device: str | None = None
    members: frozenset[str] | None = None


ANYBODY = Holder()

# Nobody outside can know where in a dictionary a hash leads, so that the time of a look-up tells nothing.
_SECRET = secrets.token_bytes(32)


def hash_token(token: bytes) -> bytes:
    """Return what is kept of a token: its SHA-256, 32 bytes."""
    return hashlib.sha256(token).digest()


def _shuffle(digest: bytes) -> bytes:
    return hashlib.blake2b(digest, digest_size=16, key=_SECRET).digest()


@attrs.frozen
class Access:
    """Who may ask, as the policy has it. `mode` is None where that says nothing, which counts as open.

    `line` is that of the mode in the policy. `ids` are the ids of devices by their names.
    """

    mode: Mode | None = None
    line: int | None = attrs.field(default=None, eq=False)
    ids: Mapping[str, str] = attrs.field(factory=dict)
    _holders: Mapping[bytes, tuple[bytes, Holder]] = attrs.field(factory=dict, repr=False)

    @classmethod
    def make(
        cls, mode: Mode | None, line: int | None, ids: Mapping[str, str], tokens: Iterable[tuple[bytes, Holder]]
    ) -> Access:
        """Return who may ask, given the hashes of tokens, each with its holder."""
        return cls(mode, line, ids, {_shuffle(digest): (digest, holder) for digest, holder in tokens})

    @property
    def closed(self) -> bool:
        """Whether devices have to bring something."""
        return self.mode in (Mode.TOKEN, Mode.CERTIFICATE)

    def judge(self, headers: Headers, query: bytes, subject: str | None) -> str | Refusal | None:
        """Return the id of the device that a request proves to come from, None for nobody in particular, or a Refusal.

        `query` is what stands behind the question mark of the address. `subject` is the name that the connection's
        certificate proves, if any.
        """
        proven = None if subject is None else self._identify(subject)
        if self.mode is Mode.TOKEN:
            token = read_token(headers, query)
            if token is None:
                return TOKEN_NEEDED
            holder = self._find(token)
            if holder is None:
                return TOKEN_WRONG
            if holder.device is not None:
                if proven is not None and proven != holder.device:
                    return WRONG_DEVICE
                proven = holder.device
            elif holder.members is not None:
                mac, chip_id = read_claim(headers)
                who = proven or mac or chip_id
                if who is not None and who not in holder.members:
                    return WRONG_DEVICE
        elif proven is None:
            return CERTIFICATE_NEEDED if self.mode is Mode.CERTIFICATE else None
        if proven is not None and _contradicts(headers, proven):
            return WRONG_DEVICE
        return proven

    def _identify(self, subject: str) -> str:
        """Return the id of the device that a certificate names."""
        try:
            device = None if subject.startswith(CERTIFICATE_PREFIX) else read_device(subject)
        except SettingError:
            # Nearly a MAC address, and yet none.
            device = None
        return device or self.ids.get(subject) or f"{CERTIFICATE_PREFIX}{subject}"

    def _find(self, token: bytes) -> Holder | None:
        if not token:
            return None
        digest = hash_token(token)
        found = self._holders.get(_shuffle(digest))
        return found[1] if found is not None and hmac.compare_digest(found[0], digest) else None


def _contradicts(headers: Headers, proven: str) -> bool:
    """Say whether a request tells a MAC address or a chip id, of which another one is proven."""
    mac, chip_id = read_claim(headers)
    if ":" in proven and not proven.startswith(CERTIFICATE_PREFIX):
        return mac is not None and mac != proven
    return chip_id is not None and proven.isdigit() and chip_id != proven


_BASIC = re.compile(rb"basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)
_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)
_PARAMETER = b"token="


def read_token(headers: Headers, query: bytes) -> bytes | None:
    """Return the token that a request brings: None without any, and b"" for what can't be one.

    Where there is an `Authorization` field it alone counts: Basic (RFC 7617), where the password is the token and the
    user's name is not looked at, or Bearer (RFC 6750). Otherwise it is the parameter `token` of the query.
    """
    fields = headers.get(b"Authorization")
    if fields:
        if len(fields) > 1 or len(fields[0]) > MAX_CREDENTIALS:
            return b""
        basic = _BASIC.fullmatch(fields[0])
        if basic is not None:
            try:
                return binascii.a2b_base64(basic[1], strict_mode=True).partition(b":")[2]
            except binascii.Error:
                return b""
        bearer = _BEARER.fullmatch(fields[0])
        return b"" if bearer is None else bearer[1]
    if _PARAMETER not in query:
        return None
    values = [part[len(_PARAMETER) :] for part in query.split(b"&") if part.startswith(_PARAMETER)]
    if not values:
        return None
    return unquote_to_bytes(values[0]) if len(values) == 1 and len(values[0]) <= MAX_CREDENTIALS else b""


def strip_token(query: bytes) -> bytes:
    """Return a query without the token in it, so that it can be kept and shown."""
    if _PARAMETER not in query:
        return query
    return b"&".join([part for part in query.split(b"&") if not part.startswith(_PARAMETER)])
