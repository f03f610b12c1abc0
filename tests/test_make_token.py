"""Tests of `ota-server make-token`."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper

from twisted.trial.unittest import SynchronousTestCase

from ota_server.cli import main
from ota_server.fleet.policy import Policy, read_policy
from ota_server.make_token import MAX_LENGTH, MIN_LENGTH

MAC = "5C:CF:7F:00:11:22"
OWN = "a token of my own"


class MakeTokenTests(SynchronousTestCase):
    """What is printed, and that it works."""

    def run_command(self, *arguments: str, typed: bytes | None = None) -> tuple[int, str, str]:
        """Run the command with this as standard input; return its exit status, and what it printed on both streams."""
        if typed is not None:
            self.patch(sys, "stdin", TextIOWrapper(BytesIO(typed)))
        printed, errors = StringIO(), StringIO()
        with redirect_stdout(printed), redirect_stderr(errors):
            status = self.assertRaises(SystemExit, main, ["make-token", *arguments]).code
        assert isinstance(status, int)
        return status, printed.getvalue(), errors.getvalue()

    def make(self, *arguments: str, typed: bytes | None = None) -> str:
        """Return what is printed where all is right."""
        status, printed, errors = self.run_command(*arguments, typed=typed)
        self.assertEqual((status, errors), (0, ""))
        return printed

    def read(self, printed: str, more: str = "") -> Policy:
        """Read the lines for ota.toml as a policy, with more behind."""
        lines = printed.partition("In ota.toml, where each table stands once:\n")[2].partition("In the device")[0]
        return read_policy(lines + more, "ota.toml")

    def token_in(self, printed: str) -> bytes:
        """Return the new token."""
        found = re.search(r"(?m)^token: (.*)$", printed)
        assert found is not None
        return found[1].encode()

    def test_fleet(self) -> None:
        """A token of 32 characters that any address can hold, a new one each time, which the lines let in."""
        tokens = set()
        for arguments in ((), ("--fleet",)):
            printed = self.make(*arguments)
            token = self.token_in(printed)
            self.assertRegex(token, rb"\A[A-Za-z0-9_-]{32}\Z")
            access = self.read(printed).access
            self.assertIsNone(access.judge({}, b"token=" + token, None))
            self.assertIsNone(access.judge({b"Authorization": [b"Bearer " + token]}, b"", None))
            tokens.add(token)
        self.assertEqual(len(tokens), 2)

    def test_device(self) -> None:
        """For a device, however it is written; one that is told by its name has to have that in the policy."""
        for device, expected, more in (
            (MAC, MAC, ""),
            ("5ccf7f001122", MAC, ""),
            ("15602487", "15602487", ""),
            ("CN=sensor-17", "CN=sensor-17", ""),
            ("kitchen", MAC, f'[devices."{MAC}"]\nname = "kitchen"'),
            ('the "cellar"\\', MAC, f'[devices."{MAC}"]\nname = \'the "cellar"\\\''),
            ("küche", MAC, f'[devices."{MAC}"]\nname = "küche"'),
        ):
            printed = self.make("--device", device)
            access = self.read(printed, more).access
            self.assertEqual((device, access.judge({}, b"token=" + self.token_in(printed), None)), (device, expected))

    def test_group(self) -> None:
        """For a group's members, which have to be in the policy."""
        printed = self.make("--group", "show.room+1")
        access = self.read(printed, f'members = ["{MAC}"]').access
        told = {b"X-Esp32-Sta-Mac": [MAC.encode()]}
        self.assertIsNone(access.judge(told, b"token=" + self.token_in(printed), None))

    def test_in_the_device(self) -> None:
        """The lines for the device have the token in them."""
        printed = self.make()
        token = self.token_in(printed).decode()
        usage = printed.partition("In the device")[2]
        for line in (f'setAuthorization("ota", "{token}")', f'.password = "{token}"', f"https://ota:{token}@HOST",
                     f"?token={token}", f"Authorization: Bearer {token}"):  # fmt: skip
            self.assertIn(line, usage)

    def test_own(self) -> None:
        """A token of one's own is hashed, with any end of line, and is not shown."""
        for typed in (OWN, f"{OWN}\n", f"{OWN}\r\n"):
            printed = self.make("--stdin", typed=typed.encode())
            self.assertNotIn(OWN, printed)
            access = self.read(printed).access
            self.assertIsNone(access.judge({}, b"token=" + OWN.encode(), None))
        for length in (MIN_LENGTH, MAX_LENGTH):
            self.make("--stdin", "--device", "7", typed=b"x" * length)

    def test_weak(self) -> None:
        """What is short or odd is refused without being shown."""
        for typed, reason in (
            (b"", "has 0 characters"),
            (b"\n", "has 0 characters"),
            (b"SECRET" + b"x" * (MIN_LENGTH - 7), "has 15 characters"),
            ("SECRETÜÜÜÜ".encode(), "has 10 characters"),
            (b"SECRET" * 90, "of 512 bytes at most"),
            (b"SECRETsecretSECRET\nSECRETsecretSECRET\n", "one token on one line"),
            (b"SECRETsecretSECRET\xff", "is no UTF-8"),
            (b" SECRETsecretSECRET", "blanks around it"),
            (b"SECRETsecret\0SECRET", "can't be printed"),
        ):
            status, printed, errors = self.run_command("--stdin", typed=typed)
            self.assertEqual((typed, status, printed, errors.count("\n")), (typed, 2, "", 1))
            self.assertIn(reason, errors)
            self.assertNotIn("SECRET", errors)

    def test_wrong_options(self) -> None:
        """Each mistake is told on one line."""
        for arguments, reason in (
            (("--device", "7", "--fleet"), "--device and --fleet: a token is for one of them"),
            (("--group", "g", "--device", "7"), "--device and --group: a token"),
            (("--device", "5C:CF:7F:00:11"), "--device: \"5C:CF:7F:00:11\" is no MAC address"),
            (("--device", ""), "--device: "),
            (("--group", "a b"), "--group: \"a b\" can't be a name"),
            (("--fleets",), "option --fleets not recognized"),
            (("7",), "Wrong number of arguments"),
        ):  # fmt: skip
            status, printed, errors = self.run_command(*arguments)
            self.assertEqual((arguments, status, printed, errors.count("\n")), (arguments, 2, "", 1))
            self.assertTrue(errors.startswith("ota-server make-token: "))
            self.assertIn(reason, errors)

    def test_help(self) -> None:
        """Help is to be had."""
        for option in ("--help", "-h"):
            status, printed, _ = self.run_command(option)
            self.assertEqual(status, 0)
            self.assertIn("--stdin", printed)
