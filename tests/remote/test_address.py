"""Tests of which door is asked, and with which token."""

from __future__ import annotations

import json
import os
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from ota_server.remote.address import Address, DoorOptions, find_address, is_remote
from ota_server.remote.failing import CommandError, Status
from ota_server.remote.listing import list_releases
from tests.remote.commands import run_here

URL = "https://ota.example.org:8001"
TOKEN = "the-token-of-an-operator"


class AddressTests(SynchronousTestCase):
    """What options, environment and state say."""

    def setUp(self) -> None:
        """Have a server's state, and a file with a token."""
        self.folder = Path(self.mktemp()).absolute()
        self.state = self.folder / ".ota"
        self.state.mkdir(parents=True)
        (self.state / "operator.json").write_text(
            json.dumps({"url": "http://127.0.0.1:8001", "token_file": str(self.state / "operator.token")})
        )
        (self.state / "operator.token").write_text("token-of-the-state\n")
        self.file = self.folder / "token"
        self.file.write_text(f"  {TOKEN}\n")

    def find(self, *arguments: str, **environment: str) -> Address:
        """Return what these options and variables lead to."""
        options = DoorOptions()
        options.parseOptions(arguments)
        return find_address(options, environment)

    def refuse(self, *arguments: str, **environment: str) -> tuple[str, Status]:
        """Return how the door is refused."""
        error = self.assertRaises(CommandError, self.find, *arguments, **environment)
        return str(error), error.status

    def test_options(self) -> None:
        """Options win over the environment."""
        found = self.find(
            "--url", f"{URL}/", "--token-file", str(self.file), OTA_SERVER_URL="http://x", OTA_SERVER_TOKEN="y"
        )
        self.assertEqual(found, Address(URL, TOKEN))

    def test_environment(self) -> None:
        """The environment wins over the state that is looked at by default."""
        found = self.find(OTA_SERVER_URL=URL, OTA_SERVER_TOKEN=TOKEN, OTA_SERVER_CA=str(self.file))
        self.assertEqual(found, Address(URL, TOKEN, self.file))

    def test_state(self) -> None:
        """A folder leads to the server there, whatever the environment says; it has a token of its own."""
        for option, folder in (("--dir", self.folder), ("--state", self.state)):
            found = self.find(option, str(folder), OTA_SERVER_URL=URL)
            self.assertEqual(found, Address("http://127.0.0.1:8001", "token-of-the-state"))

    def test_token_of_the_state_stays(self) -> None:
        """The token of the state is never shown to another server."""
        told, status = self.refuse("--url", URL)
        self.assertIn("there is no token", told)
        self.assertEqual(status, Status.USAGE)

    def test_both(self) -> None:
        """Two servers are one too many."""
        self.assertIn("give one of them", self.refuse("--url", URL, "--dir", str(self.folder))[0])

    def test_token_as_argument(self) -> None:
        """A token is no argument, however it is written; the message doesn't repeat it."""
        for arguments in (["--token", TOKEN], [f"--token={TOKEN}"]):
            error = self.assertRaises(usage.UsageError, self.find, *arguments)
            self.assertIn("--token-file", str(error))
            self.assertNotIn(TOKEN, str(error))

    def test_token_in_url(self) -> None:
        """Nor has it a place in a URL."""
        for url in (f"https://x:{TOKEN}@ota.example.org", f"https://{TOKEN}@ota.example.org"):
            told, _ = self.refuse("--url", url, "--token-file", str(self.file))
            self.assertIn("--token-file", told)
            self.assertNotIn(TOKEN, told)

    def test_bad_urls(self) -> None:
        """What is no address of a door is refused before anything is sent."""
        for url in (
            "ota.example.org",
            "ftp://x",
            "https://",
            "https://x?y",
            "https://x#y",
            "https://x:99999",
            "http://[x",
        ):
            told, status = self.refuse("--url", url, "--token-file", str(self.file))
            self.assertIn("--url", told, url)
            self.assertEqual(status, Status.USAGE)

    def test_bad_tokens(self) -> None:
        """What can be no token is refused, and not repeated."""
        for text in ("", "\n", "two words", "two\nlines", "x" * 5000, "caf\u00e9", "a\x1bb"):
            self.file.write_text(text)
            told, status = self.refuse("--url", URL, "--token-file", str(self.file))
            self.assertIn("this is no token", told)
            self.assertEqual(status, Status.USAGE)
            if text.strip():
                self.assertNotIn(text, told)

    def test_missing_files(self) -> None:
        """The file that isn't there is named."""
        missing = str(self.folder / "missing")
        self.assertIn(missing, self.refuse("--url", URL, "--token-file", missing)[0])
        self.assertIn(missing, self.refuse("--url", URL, "--token-file", str(self.file), "--ca", missing)[0])
        told, status = self.refuse("--dir", missing)
        self.assertIn(f"{missing}/.ota/operator.json isn't there", told)
        self.assertEqual(status, Status.UNREACHABLE)

    def test_bad_state(self) -> None:
        """A damaged file of the state is named, too."""
        for text in ("", "[]", "{}", '{"url": 8001}', '{"url": "http://127.0.0.1:8001"}'):
            (self.state / "operator.json").write_text(text)
            self.assertIn("operator.json", self.refuse("--dir", str(self.folder))[0])

    def test_no_token_in_state(self) -> None:
        """Where the server's token can't be read, one's own can be used."""
        os.unlink(self.state / "operator.token")
        self.assertIn("operator.token", self.refuse("--dir", str(self.folder))[0])
        found = self.find("--dir", str(self.folder), "--token-file", str(self.file))
        self.assertEqual(found.token, TOKEN)

    def test_secret(self) -> None:
        """A token isn't shown by accident."""
        self.assertNotIn(TOKEN, repr(Address(URL, TOKEN)))

    def test_open(self) -> None:
        """Plain HTTP is only secret on this machine."""
        for url, is_open in (
            ("http://127.0.0.1:8001", False),
            ("http://127.1.2.3", False),
            ("http://[::1]:8001", False),
            ("http://localhost:8001", False),
            ("unix:/run/ota/door", False),
            ("https://ota.example.org", False),
            ("http://ota.example.org", True),
            ("http://192.168.1.10:8001", True),
            ("http://127.0.0.1.example.org", True),
        ):
            self.assertEqual(Address(url, TOKEN).is_open, is_open, url)

    def test_remote(self) -> None:
        """Commands of both forms ask a door where one is named, unless a server on this machine is."""
        there = {"OTA_SERVER_URL": URL}
        self.assertTrue(is_remote(["--url", URL], {}))
        self.assertTrue(is_remote([f"--url={URL}"], {}))
        self.assertTrue(is_remote(["status"], there))
        self.assertFalse(is_remote(["status"], {}))
        for local in (["--dir", "x"], ["--dir=x"], ["-d", "x"], ["-dx"], ["--state=x"], ["--database", "none"]):
            self.assertFalse(is_remote(["status", *local], there), local)

    def test_warning(self) -> None:
        """Who sends a token in the clear is told; nothing answers at this address."""
        status, _, errors = run_here(list_releases, "--url", "http://192.0.2.1:9", "--token-file", "missing")
        self.assertEqual((status, errors.count("\n")), (Status.USAGE, 1))

    def test_token_from_standard_input(self) -> None:
        """A dash is standard input."""
        self.patch(__import__("sys"), "stdin", StringIO(f"{TOKEN}\n"))
        with redirect_stderr(StringIO()):
            self.assertEqual(self.find("--url", URL, "--token-file", "-").token, TOKEN)
