"""Tests of the command `ota-server`."""

from __future__ import annotations

import runpy
import sys

from twisted.scripts import twistd
from twisted.trial.unittest import SynchronousTestCase

from ota_server.cli import main


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
