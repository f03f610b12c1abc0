"""Tests of who may ask: reading the token of a request, and judging what it proves."""

from __future__ import annotations

import base64
import string
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.access import (
    ALL_REFUSALS,
    ANYBODY,
    CERTIFICATE_NEEDED,
    MAX_CREDENTIALS,
    REFUSALS,
    TOKEN_NEEDED,
    TOKEN_WRONG,
    WRONG_DEVICE,
    Access,
    Holder,
    Mode,
    Refusal,
    hash_token,
    read_token,
    strip_token,
)
from ota_server.fleet.checkin import CheckIn, read_check_in, read_claim

MAC = "5C:CF:7F:00:11:22"
OTHER = "24:6F:28:00:00:01"
FLEET = b"fleet-token-0123456789abcdefghij"
NEXT = b"fleet-token-that-is-the-next-one"
OWN = b"own-token-of-A-0123456789abcdefg"
THEIRS = b"own-token-of-B-0123456789abcdefg"
CHIP = b"own-token-of-chip-0123456789abcd"
GROUP = b"group-token-0123456789abcdefghij"


def make_access(mode: Mode | None = Mode.TOKEN) -> Access:
    """Return who may ask where there is a token of each kind."""
    holders = (
        (FLEET, ANYBODY),
        (NEXT, ANYBODY),
        (OWN, Holder(MAC)),
        (THEIRS, Holder(OTHER)),
        (CHIP, Holder("15602487")),
        (GROUP, Holder(members=frozenset((MAC, "7", "CN=sensor-17")))),
    )
    return Access.make(mode, 1, {"kitchen": MAC}, [(hash_token(token), holder) for token, holder in holders])


def bearer(token: bytes) -> dict[bytes, Sequence[bytes]]:
    """Return the header that brings a token."""
    return {b"Authorization": [b"Bearer " + token]}


def basic(text: bytes, scheme: bytes = b"Basic") -> bytes:
    """Return the value of the header of Basic."""
    return scheme + b" " + base64.b64encode(text)


class ReadTokenTests(SynchronousTestCase):
    """Where a request brings its token."""

    def test_authorization(self) -> None:
        """Basic and Bearer, by any case of the scheme; the name before the colon doesn't count."""
        for value, token in (
            (basic(b"ota:secret"), b"secret"),
            (basic(b":secret"), b"secret"),
            (basic(b"ota:a:b"), b"a:b"),
            (basic(b"5C:CF:7F:00:11:22:x"), b"CF:7F:00:11:22:x"),
            (basic(b"ota:secret", b"bAsIc"), b"secret"),
            (basic(b"ota:secret", b"BASIC "), b"secret"),
            (basic("ota:schlüssel".encode()), "schlüssel".encode()),
            (basic(b"ota:\0"), b"\0"),
            (b"Bearer secret", b"secret"),
            (b"bearer  secret ", b"secret"),
        ):
            self.assertEqual((value, read_token({b"Authorization": [value]}, b"")), (value, token))

    def test_malformed(self) -> None:
        """What can't be read is a wrong token, and not a missing one, also where the address has a right one."""
        for values in (
            [b""], [b"Basic"], [b"Basic "], [b"Bearer"], [b"Bearer "], [b"Bearer a b"], [b"Bearer a,b c"], [b"secret"],
            [basic(b"no colon")], [basic(b"ota:")], [b"Basic ???"], [b"Basic YTp"], [b"Basic YT pi"],
            [b"Basic YTp"], [b"Digest username=x"], [b"Basic " + b"QUFB" * 2500], [b"Bearer " + b"a" * 10_000],
            [b"Bearer a\0b"], [b"Bearer secret", b"Bearer secret"], [basic(b"ota:x"), b"Bearer x"],
        ):  # fmt: skip
            self.assertEqual((values, read_token({b"Authorization": values}, b"token=secret")), (values, b""))

    def test_bound(self) -> None:
        """What is as long as the bound is read, and nothing that is longer."""
        for length, expected in ((MAX_CREDENTIALS, MAX_CREDENTIALS - 7), (MAX_CREDENTIALS + 1, 0)):
            token = read_token({b"Authorization": [b"Bearer ".ljust(length, b"x")]}, b"")
            self.assertEqual(len(token or b""), expected)
        self.assertEqual(read_token({}, b"token=" + b"x" * (MAX_CREDENTIALS + 1)), b"")

    def test_query(self) -> None:
        """The parameter, with its escapes, among others; a plus is a plus, since a token may have one."""
        for query, token in (
            (b"token=secret", b"secret"),
            (b"chip=esp32&token=secret&x", b"secret"),
            (b"token=%73ecret", b"secret"),
            (b"token=a%26b%3d%C3%BC", "a&b=ü".encode()),
            (b"token=a+b=", b"a+b="),
            (b"token=%zz", b"%zz"),
            (b"token=", b""),
            (b"token=a&token=a", b""),
            (b"", None),
            (b"chip=esp32", None),
            (b"x=token=secret", None),
            (b"xtoken=secret", None),
            (b"Token=secret", None),
        ):
            self.assertEqual((query, read_token({}, query)), (query, token))

    def test_no_field(self) -> None:
        """A header without values is none."""
        self.assertEqual(read_token({b"Authorization": []}, b"token=x"), b"x")

    def test_strip(self) -> None:
        """A query is kept without its tokens."""
        for query, kept in (
            (b"token=secret", b""),
            (b"a&token=secret&b=token=", b"a&b=token="),
            (b"token=1&x=2&token=3", b"x=2"),
            (b"chip=esp32", b"chip=esp32"),
            (b"", b""),
        ):
            self.assertEqual((query, strip_token(query)), (query, kept))

    @given(st.binary(max_size=80), st.binary(max_size=80))
    def test_anything(self, value: bytes, query: bytes) -> None:
        """Whatever comes, nothing fails, and what is kept of a query brings no token."""
        read_token({b"Authorization": [value]}, query)
        self.assertIsNone(read_token({}, strip_token(query)))


class TokenTests(SynchronousTestCase):
    """What each token gives."""

    def setUp(self) -> None:
        """Ask for tokens."""
        self.access = make_access()

    def judge(self, token: bytes | None, mac: str | None = None, chip_id: str | None = None) -> str | Refusal | None:
        """Judge a request of an ESP8266 that tells this."""
        headers = {} if token is None else bearer(token)
        if mac is not None:
            headers[b"X-Esp8266-Sta-Mac"] = [mac.encode()]
        if chip_id is not None:
            headers |= {b"X-Esp8266-Mode": [b"sketch"], b"X-Esp8266-Chip-Id": [chip_id.encode()]}
        return self.access.judge(headers, b"", None)

    def test_wrong(self) -> None:
        """Whatever is not a token to the byte is wrong."""
        for token in (OWN[:-1], OWN + b"x", OWN[1:], OWN.upper(), OWN.replace(b"A", b"B1"), b"x",
                      hash_token(OWN).hex().encode(), b"sha256:" + hash_token(OWN).hex().encode()):  # fmt: skip
            self.assertEqual((token, self.judge(token)), (token, TOKEN_WRONG))
        self.assertIs(self.judge(None), TOKEN_NEEDED)
        for text in (b"ota:", b"ota:\0", b"ota:" + OWN + b"\0", b"ota:" + OWN + b"\n"):
            headers = {b"Authorization": [basic(text)]}
            self.assertEqual((text, self.access.judge(headers, b"", None)), (text, TOKEN_WRONG))

    def test_device(self) -> None:
        """A device's token proves it; whoever says to be another one is refused."""
        self.assertEqual(self.judge(OWN), MAC)
        self.assertEqual(self.judge(OWN, MAC), MAC)
        self.assertEqual(self.judge(OWN, MAC.lower()), MAC)
        self.assertEqual(self.judge(OWN, MAC, "15602487"), MAC)
        self.assertEqual(self.judge(OWN, "nonsense"), MAC)
        self.assertIs(self.judge(OWN, OTHER), WRONG_DEVICE)
        self.assertIs(self.judge(THEIRS, MAC), WRONG_DEVICE)

    def test_chip_id(self) -> None:
        """A device known by its chip id, whatever its MAC address."""
        self.assertEqual(self.judge(CHIP), "15602487")
        self.assertEqual(self.judge(CHIP, None, "15602487"), "15602487")
        self.assertEqual(self.judge(CHIP, OTHER, "15602487"), "15602487")
        self.assertIs(self.judge(CHIP, None, "15602488"), WRONG_DEVICE)
        self.assertIs(self.judge(CHIP, MAC, "7"), WRONG_DEVICE)

    def test_group(self) -> None:
        """A group's token lets members in, and those that don't tell who they are."""
        for mac, chip_id, expected in (
            (MAC, None, None),
            (MAC, "9", None),
            (None, "7", None),
            (None, None, None),
            (OTHER, None, WRONG_DEVICE),
            (OTHER, "7", WRONG_DEVICE),
            (None, "8", WRONG_DEVICE),
        ):
            self.assertEqual((mac, chip_id, self.judge(GROUP, mac, chip_id)), (mac, chip_id, expected))

    def test_fleet(self) -> None:
        """A token of the fleet lets any device in, and proves nobody; both of a list do."""
        for token in (FLEET, NEXT):
            for mac in (None, MAC, OTHER):
                self.assertIsNone(self.judge(token, mac))

    def test_other_modes(self) -> None:
        """Tokens, right or wrong, change nothing where none are asked for."""
        for mode, expected in ((None, None), (Mode.OPEN, None), (Mode.CERTIFICATE, CERTIFICATE_NEEDED)):
            self.access = make_access(mode)
            for token in (None, OWN, b"x"):
                self.assertEqual((mode, token, self.judge(token, OTHER)), (mode, token, expected))

    def test_secret_look_up(self) -> None:
        """Nobody can tell from a hash where it is looked up, and nothing that is printed tells a hash."""
        shown = repr(self.access)
        self.assertNotIn("_holders", shown)
        for token in (FLEET, OWN, GROUP):
            self.assertNotIn(hash_token(token), self.access._holders)
            self.assertNotIn(hash_token(token).hex(), shown)

    @given(st.text(string.printable, min_size=1, max_size=40))
    def test_others(self, text: str) -> None:
        """No other text is a token."""
        if text.encode() not in (FLEET, NEXT, OWN, THEIRS, CHIP, GROUP):
            headers = {b"Authorization": [basic(b"x:" + text.encode())]}
            self.assertIs(make_access().judge(headers, b"", None), TOKEN_WRONG)


class CertificateTests(SynchronousTestCase):
    """What the name in a certificate gives."""

    def test_names(self) -> None:
        """An id, a name of the policy, or a name of its own."""
        for mode in (None, Mode.OPEN, Mode.CERTIFICATE):
            access = make_access(mode)
            for subject, device in (
                (MAC, MAC),
                ("5ccf7f001122", MAC),
                ("5c-cf-7f-00-11-22", MAC),
                ("15602487", "15602487"),
                ("kitchen", MAC),
                ("Kitchen", "CN=Kitchen"),
                ("sensor-17", "CN=sensor-17"),
                ("CN=sensor-17", "CN=CN=sensor-17"),
                ("5C:CF:7F:00:11", "CN=5C:CF:7F:00:11"),
                ("1" * 16, "CN=" + "1" * 16),
            ):
                self.assertEqual((subject, access.judge({}, b"", subject)), (subject, device))

    def test_claims(self) -> None:
        """Who is proven to be one device and says to be another is refused, whatever is asked for."""
        for mode in (None, Mode.OPEN, Mode.CERTIFICATE):
            access = make_access(mode)
            told = {b"X-Esp32-Sta-Mac": [OTHER.encode()]}
            self.assertIs(access.judge(told, b"", MAC), WRONG_DEVICE)
            self.assertIs(access.judge(told, b"", "kitchen"), WRONG_DEVICE)
            self.assertEqual(access.judge(told, b"", "7"), "7")
            self.assertEqual(access.judge(told, b"", "sensor:17"), "CN=sensor:17")

    def test_needed(self) -> None:
        """Without a name nobody comes in where one is asked for."""
        self.assertIs(make_access(Mode.CERTIFICATE).judge({}, b"", None), CERTIFICATE_NEEDED)

    def test_with_tokens(self) -> None:
        """Where tokens are asked for one is needed besides, and both name the same device."""
        access = make_access()
        self.assertIs(access.judge({}, b"", MAC), TOKEN_NEEDED)
        self.assertIs(access.judge(bearer(b"x"), b"", MAC), TOKEN_WRONG)
        self.assertEqual(access.judge(bearer(FLEET), b"", MAC), MAC)
        self.assertEqual(access.judge(bearer(OWN), b"", MAC), MAC)
        self.assertIs(access.judge(bearer(OWN), b"", "sensor-17"), WRONG_DEVICE)
        self.assertEqual(access.judge(bearer(GROUP), b"", "sensor-17"), "CN=sensor-17")
        self.assertIs(access.judge(bearer(GROUP), b"", "sensor-18"), WRONG_DEVICE)
        told = {**bearer(FLEET), b"X-Esp32-Sta-Mac": [OTHER.encode()]}
        self.assertIs(access.judge(told, b"", MAC), WRONG_DEVICE)


class ClaimTests(SynchronousTestCase):
    """What a request claims, and what becomes of its check-in."""

    def test_claim(self) -> None:
        """The same is read as by the check-in, whose device is the first of both."""
        requests: tuple[dict[bytes, list[bytes]], ...] = (
            {},
            {b"X-Esp32-Sta-Mac": [MAC.lower().encode()]},
            {b"X-Esp32-Sta-Mac": [b"x"]},
            {b"X-Esp32-Sta-Mac": []},
            {b"X-Esp8266-Version": [b"1"], b"X-Esp8266-Chip-Id": [b"7"]},
            {b"X-Esp8266-Version": [b"1"], b"X-Esp32-Sta-Mac": [MAC.encode()]},
            {b"X-Esp8266-Sta-Mac": [MAC.encode(), OTHER.encode()], b"X-Esp8266-Chip-Id": [b"7"]},
        )
        for headers in requests:
            mac, chip_id = read_claim(headers)
            self.assertEqual((headers, mac or chip_id), (headers, read_check_in("stable", "lamp", headers).device))

    def test_proven(self) -> None:
        """Who is proven goes before what is told, and is a device without any header."""
        headers = {b"X-Esp32-Sta-Mac": [OTHER.encode()], b"X-Esp32-Version": [b"1.0"]}
        check_in = read_check_in("stable", "lamp", headers, b"", "CN=x")
        self.assertEqual((check_in.device, check_in.version), ("CN=x", "1.0"))
        self.assertEqual(read_check_in("stable", "lamp", {}, b"", "7"), CheckIn("stable", "lamp", device="7"))


class RefusalTests(SynchronousTestCase):
    """What is answered."""

    def test_texts(self) -> None:
        """Each is one line, too short to be taken for an MD5, and begins as no image does."""
        self.assertEqual([refusal.reason for refusal in ALL_REFUSALS], list(REFUSALS))
        for refusal in ALL_REFUSALS:
            self.assertRegex(refusal.text, rb"\A[a-z ]{1,30}\n\Z")
