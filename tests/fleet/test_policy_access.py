"""Tests of reading who may ask: `[access]`, and the tokens of devices and groups."""

from __future__ import annotations

import hashlib

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.access import TOKEN_NEEDED, TOKEN_WRONG, WRONG_DEVICE, Access, Mode
from ota_server.fleet.policy import DEFAULT_POLICY, Policy, PolicyError, read_policy

MAC = "5C:CF:7F:00:11:22"
OTHER = "24:6F:28:00:00:01"
TOKEN = 'devices = "token"'


def hash_of(token: str) -> str:
    """Return what stands in the file for a token."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def read(text: str) -> Policy:
    """Read the text of a policy file, in which `<x>` stands for the hash of the token `x`."""
    for token in "abcdef":
        text = text.replace(f"<{token}>", f'"{hash_of(token)}"')
    return read_policy(text, "ota.toml")


class ReadingTests(SynchronousTestCase):
    """What becomes of right texts."""

    def test_unsaid(self) -> None:
        """Without a word of access it is open, and known to be unsaid."""
        for policy in (DEFAULT_POLICY, read(""), read("hold = true")):
            self.assertEqual((policy.access.mode, policy.access.closed), (None, False))
            self.assertIsNone(policy.access.judge({}, b"", None))

    def test_modes(self) -> None:
        """What is asked of devices, and on which line that was said."""
        for text, mode, closed in (
            ("open", Mode.OPEN, False),
            ("token", Mode.TOKEN, True),
            ("certificate", Mode.CERTIFICATE, True),
        ):
            access = read(f'\n[access]\ndevices = "{text}"\ntoken = <a>').access
            self.assertEqual((access.mode, access.closed, access.line), (mode, closed, 3))

    def test_holders(self) -> None:
        """A token belongs to any device, to one, or to the members of a group; each may have several."""
        access = read(
            f'[access]\n{TOKEN}\ntoken = [<a>, <b>]\n[devices."{MAC}"]\nname = "kitchen"\ntoken = <c>\n'
            f'[devices.kitchen]\npin = "1.0"\n[groups.g]\nmembers = ["{OTHER}", "kitchen"]\ntoken = [<d>]'
        ).access
        told = {b"X-Esp32-Sta-Mac": [OTHER.encode()]}
        for token, nobody, other in (
            (b"token=a", None, None),
            (b"token=b", None, None),
            (b"token=c", MAC, WRONG_DEVICE),
            (b"token=d", None, None),
            (b"token=e", TOKEN_WRONG, TOKEN_WRONG),
            (b"", TOKEN_NEEDED, TOKEN_NEEDED),
        ):
            self.assertEqual((token, access.judge({}, token, None)), (token, nobody))
            self.assertEqual((token, access.judge(told, token, None)), (token, other))
        stranger = {b"X-Esp32-Sta-Mac": [b"24:6F:28:00:00:02"]}
        self.assertEqual(access.judge(stranger, b"token=d", None), WRONG_DEVICE)
        self.assertIsNone(access.judge(stranger, b"token=a", None))

    def test_two_groups(self) -> None:
        """A device may be in two groups that have tokens of their own: these don't contradict one another."""
        text = f'[access]\n{TOKEN}\n[groups.g]\nmembers = ["7"]\ntoken = <a>\n[groups.h]\nmembers = ["7"]\ntoken = <b>'
        access = read(text).access
        told = {b"X-Esp8266-Mode": [b"sketch"], b"X-Esp8266-Chip-Id": [b"7"]}
        self.assertEqual([access.judge(told, token, None) for token in (b"token=a", b"token=b")], [None, None])

    def test_tokens_are_no_rules(self) -> None:
        """Rules know nothing of tokens, nor does what is printed of a policy."""
        policy = read(f'[access]\n{TOKEN}\n[devices."{MAC}"]\ntoken = <a>\nhold = true')
        rules = policy.rules_for("lamp", MAC)
        self.assertEqual((rules.hold, list(rules.origins)), (True, ["hold"]))
        digest = hashlib.sha256(b"a").digest()
        for shown in (repr(policy), repr(policy.access), repr(rules)):
            self.assertNotIn(digest.hex(), shown)
            self.assertNotIn(repr(digest)[2:20], shown)

    def test_capital_digits(self) -> None:
        """Hexadecimal digits may be capitals."""
        text = f'[access]\n{TOKEN}\ntoken = "sha256:{hashlib.sha256(b"a").hexdigest().upper()}"'
        self.assertIsNone(read(text).access.judge({}, b"token=a", None))

    def test_names_of_certificates(self) -> None:
        """`CN=` and a name is the id of a device, in tables of its own and as a member."""
        text = (
            '[devices."CN=sensor-17"]\nname = "cellar"\n[groups.g]\nmembers = ["CN=sensor-17", "CN=x y"]\nhold = true'
        )
        policy = read(text)
        self.assertEqual(policy.names, {"CN=sensor-17": "cellar"})
        for device, held in (("CN=sensor-17", True), ("CN=x y", True), ("sensor-17", False)):
            self.assertEqual((device, policy.rules_for("lamp", device).hold), (device, held))
        self.assertEqual(policy.access, Access(ids={"cellar": "CN=sensor-17"}))


class RefusingTests(SynchronousTestCase):
    """What is told of wrong texts, and that it never shows what may be a token."""

    def refusal(self, text: str) -> str:
        """Return why a text is refused."""
        return str(self.assertRaises(PolicyError, read, text))

    def test_no_hash(self) -> None:
        """What isn't a hash is refused without being shown."""
        secret = "SECRETsecretSECRETsecret"
        for value in (f'"{secret}"', f'"sha256:{secret}"', f'["{secret}"]', f'"sha1:{"0" * 40}"',
                      f'{{ x = "{secret}" }}', '"sha256:"',
                      f'"sha256:{"0" * 63}"', f'"sha256:{"0" * 65}"', f'"sha256:{"g" * 64}"',
                      f'" sha256:{"0" * 64}"', "7", "true", "[]", "[7]", f'[["{secret}"]]'):  # fmt: skip
            for table in ("[access]", "[devices.7]", '[groups.g]\nmembers = ["7"]'):
                message = self.refusal(f"{table}\ntoken = {value}")
                self.assertIn("ota-server make-token", message)
                self.assertNotIn("SECRET", message)
                self.assertNotIn("0000", message)
                self.assertRegex(message, r"\Aota\.toml, line [23], \[[a-z.7]+\] token: ")

    def test_empty_token(self) -> None:
        """The hash of nothing is refused: a program that hashes a missing variable makes it."""
        self.assertIn("empty token", self.refusal(f'[access]\ntoken = "{hash_of("")}"'))

    def test_same_token(self) -> None:
        """One token in two places, or twice in one, is an error that names both lines."""
        for text, line, other in (
            (f"[access]\n{TOKEN}\ntoken = [<a>,\n<b>,\n<a>]", 5, 3),
            (f"[access]\n{TOKEN}\ntoken = <a>\n[devices.7]\ntoken = <a>", 3, 5),
            (f"[access]\n{TOKEN}\n[devices.7]\ntoken = <a>\n[devices.8]\ntoken = <a>", 6, 4),
            (f'[access]\n{TOKEN}\n[devices.7]\ntoken = <a>\n[groups.g]\nmembers = ["7"]\ntoken = <a>', 7, 4),
        ):
            message = self.refusal(text)
            self.assertIn(f"ota.toml, line {line}, ", message)
            self.assertIn(f"the same token as in line {other}", message)
            self.assertNotIn(hash_of("a")[10:], message)

    def test_open_by_mistake(self) -> None:
        """Nothing is open because a setting is missing."""
        for text, place in (
            ("[access]", "line 1, [access]"),
            ("[access]\ntoken = <a>", "line 1, [access]"),
            ("[devices.7]\ntoken = <a>", "line 2, [devices.7] token"),
            ('[groups.g]\nmembers = ["7"]\ntoken = [<a>]', "line 3, [groups.g] token"),
        ):
            message = self.refusal(text)
            self.assertTrue(message.startswith(f"ota.toml, {place}: "), message)
            self.assertIn('write [access] devices = "token"', message)

    def test_nobody_has_one(self) -> None:
        """Asking for tokens of which there is none would lock all devices out."""
        self.assertIn("nobody has a token", self.refusal(f"[access]\n{TOKEN}"))

    def test_misplaced(self) -> None:
        """What was meant is told."""
        own = 'in [devices."ID"] or in [groups.NAME]'
        modes = 'write "open", "token" or "certificate"'
        for text, message in (
            ("access = true", "[access]: true can't be; write a table [access]"),
            ("[access]\nx = 1", "[access] x: unknown key; known are devices, token"),
            ("[access]\ntokens = 1", "[access] tokens: unknown key; did you mean token?"),
            ("[acess]\nx = 1", "acess: unknown table; did you mean access?"),
            ("[projects.x]\ntoken = 1", f"[projects.x] token: unknown key; it belongs in [access] or {own}"),
            (
                "[access]\nhold = true",
                f"[access] hold: unknown key; it belongs at the top or in [projects.NAME] or {own}",
            ),
            ("[access]\ndevices = true", f"[access] devices: true can't be; {modes}"),
            ("[access.devices.x]\ntoken = 1", f"[access] devices: a table can't be; {modes}"),
        ):
            with self.subTest(text):
                self.assertEqual(self.refusal(text).partition(", ")[2].partition(", ")[2], message)

    def test_names_like_certificates(self) -> None:
        """No device is called as if it were one known by its certificate, and such an id has a printable name."""
        self.assertIn("looks like an id", self.refusal('[devices.7]\nname = "CN=x"'))
        for name in ("", " x", "x ", "a\\u0007b", "x" * 65):
            self.assertIn("is no name of a certificate", self.refusal(f'[devices."CN={name}"]\nhold = true'))
        read(f'[devices."CN={"x" * 64}"]\nhold = true')
