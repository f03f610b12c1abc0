"""Tests of the command `ota-server`."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from twisted.scripts import twistd
from twisted.trial.unittest import SynchronousTestCase

from ota_server.cli import main
from tests.images import esp32_image, private_key, public_key, secure_boot_v2


class MainTests(SynchronousTestCase):
    """What the command makes of its command line."""

    def setUp(self) -> None:
        """Keep twistd from running, and note with which command line it would."""
        self.seen: list[list[str]] = []
        self.patch(twistd, "run", lambda: self.seen.append(sys.argv[1:]))
        self.patch(sys, "argv", ["ota-server", "--port", "8001"])

    def test_options(self) -> None:
        """Options go to `twistd ota` in the foreground; the word `run` before them is allowed."""
        expected = ["--nodaemon", "--pidfile=", "ota", "--port", "8001"]
        main(["--port", "8001"])
        main(["run", "--port", "8001"])
        self.assertEqual(self.seen, [expected, expected])

    def test_command_line(self) -> None:
        """Without arguments those of the process count."""
        main()
        self.assertEqual(self.seen, [["--nodaemon", "--pidfile=", "ota", "--port", "8001"]])

    def test_module(self) -> None:
        """`python -m ota_server` is the same."""
        runpy.run_module("ota_server", run_name="__main__")
        self.assertEqual(self.seen, [["--nodaemon", "--pidfile=", "ota", "--port", "8001"]])


class EndTests(SynchronousTestCase):
    """How a command ends."""

    def test_threads(self) -> None:
        """A thread that works on keeps the process from being taken apart; status and output are those of the command.

        One that works in OpenSSL meanwhile would end it by SIGSEGV.
        """
        program = (
            "import atexit, sys, threading, time; from ota_server import cli; atexit.register(print, 'taken apart'); "
            "sys.argv = ['ota-server', 'completion', *sys.argv[2:]]; "
            "threading.Thread(target=time.sleep, args=(60,), daemon=True).start() if sys.argv[2:] else None; cli.main()"
        )
        for words, status, printed in ((["bash"], 0, "ota-server"), (["tcsh"], 2, ""), ([], 2, "taken apart")):
            done = subprocess.run(
                [sys.executable, "-c", program, "-", *words], capture_output=True, text=True, timeout=60
            )
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertIn(printed, done.stdout)
            self.assertEqual("taken apart" in done.stdout, not words)


class InspectTests(SynchronousTestCase):
    """`ota-server inspect`."""

    def setUp(self) -> None:
        """Make a folder with some files."""
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        key = private_key()
        for name, data in {
            "lamp-1.0.bin": esp32_image(),
            "signed-1.0.bin": secure_boot_v2(esp32_image(), key),
            "cut-1.0.bin": esp32_image()[:-1],
            "empty-1.0.bin": b"",
            "key.pem": public_key(key),
            "private.pem": key,
        }.items():
            (self.folder / name).write_bytes(data)

    def run_inspect(self, *arguments: str) -> tuple[int, str, str]:
        """Run it in that folder: names with a dot are files there. Return status, output and errors."""
        given = [str(self.folder / each) if "." in each else each for each in arguments]
        output, errors = StringIO(), StringIO()
        with redirect_stdout(output), redirect_stderr(errors), self.assertRaises(SystemExit) as caught:
            main(["inspect", *given])
        return int(caught.exception.code or 0), output.getvalue(), errors.getvalue()

    def test_table(self) -> None:
        """A table for each file; the status tells whether all would be offered."""
        status, output, errors = self.run_inspect("lamp-1.0.bin")
        self.assertEqual((status, errors), (0, ""))
        self.assertTrue(output.startswith("lamp-1.0.bin\n  offered    yes, at /lamp,"))
        status, output, errors = self.run_inspect("lamp-1.0.bin", "cut-1.0.bin", "empty-1.0.bin")
        self.assertEqual((status, errors), (1, ""))
        self.assertIn("\n\ncut-1.0.bin\n  offered    no: it is damaged: it ends inside the SHA-256", output)
        self.assertIn("\n\nempty-1.0.bin\n  offered    no: the file is empty\n", output)

    def test_json(self) -> None:
        """An array with an object for each file; options may stand behind files."""
        status, output, _ = self.run_inspect("lamp-1.0.bin", "cut-1.0.bin", "--json")
        self.assertEqual(status, 1)
        self.assertEqual([each["offered"] for each in json.loads(output)], [True, False])

    def test_keys(self) -> None:
        """With keys, only what one of them signed would be offered."""
        self.assertEqual(self.run_inspect("signed-1.0.bin", "--verify-key", "key.pem")[0], 0)
        status, output, _ = self.run_inspect("--verify-key", "key.pem", "lamp-1.0.bin")
        self.assertEqual(status, 1)
        self.assertIn("  offered    no: it has no signature\n", output)

    def test_status_2(self) -> None:
        """What can't be done is told in one line, with status 2."""
        cases = {
            ("missing.bin",): "missing.bin: No such file or directory",
            (): "name a file",
            ("--verify-key",): "option --verify-key requires argument",
            ("lamp-1.0.bin", "--verify-key", "private.pem"): "holds a private key",
            ("lamp-1.0.bin", "--foo"): "option --foo not recognized",
        }
        for arguments, problem in cases.items():
            status, _, errors = self.run_inspect(*arguments)
            self.assertEqual(status, 2)
            self.assertIn(problem, errors)
            self.assertEqual(errors.count("\n"), 1)

    def test_others_are_shown(self) -> None:
        """One file that can't be read doesn't keep the others from being shown."""
        status, output, _ = self.run_inspect("missing.bin", "lamp-1.0.bin")
        self.assertEqual(status, 2)
        self.assertTrue(output.startswith("lamp-1.0.bin\n"))

    def test_help(self) -> None:
        """The help names the exit statuses and the page that explains the lines."""
        status, output, _ = self.run_inspect("-h")
        self.assertEqual(status, 0)
        self.assertIn("docs/images", output.replace("\n", " "))
