"""Tests for `ota-server simulate`: its options, its table, and its plots."""

from __future__ import annotations

import builtins
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.scenario import DAY
from ota_server.simulate import ROWS, simulate, size, span

SMALL = ("--devices", "60", "--days", "3", "--release-after", "1d", "--rhythms", "1h:50%,6h:50%")


class SimulateTests(SynchronousTestCase):
    """What is printed, and what is returned."""

    def simulate(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command; return its status, and what it printed."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = simulate(arguments)
        return status, out.getvalue(), err.getvalue()

    def refuse(self, *arguments: str) -> str:
        """Run the command with options that can't be, and return the one line that it prints."""
        status, out, err = self.simulate(*arguments)
        self.assertEqual((status, out), (2, ""))
        self.assertTrue(err.startswith("ota-server simulate: "), err)
        self.assertEqual(err.count("\n"), 1)
        return err

    def file(self, name: str, text: str) -> str:
        """Make a file."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / name
        path.write_text(text)
        return str(path)

    def test_table(self) -> None:
        """Each server is a column."""
        policy = self.file("staged.toml", 'stages = ["1", "100%"]')
        status, out, _ = self.simulate(*SMALL, "--fault", "dies", "--plain", "--default", "--policy", policy)
        self.assertEqual(status, 0)
        lines = out.splitlines()
        self.assertEqual(lines[0], "60 devices, 3 days, a release with the fault dies after 24.0 h")
        self.assertEqual(lines[1].split(), ["always", "the", "newest", "default", "staged.toml"])
        for name, _ in ROWS:
            self.assertTrue(any(line.startswith(name) for line in lines), name)
        [harmed] = [line for line in lines if line.startswith("devices harmed")]
        self.assertEqual(harmed.split()[-1], "1")
        self.assertIn("1.1.0 halted: 1 of the 1 devices", out)

    def test_json(self) -> None:
        """The same as JSON."""
        status, out, _ = self.simulate(*SMALL, "--json", "--fault", "never-returns", "--fix-after", "6h")
        self.assertEqual(status, 0)
        [result] = json.loads(out)
        self.assertEqual((result["server"], result["devices"]), ("default", 60))
        self.assertEqual(result["harmed"], result["dead"])
        self.assertEqual(result["fixed_at"], result["halt"]["time"] + 6 * 3600)
        self.assertEqual([step["kind"] for step in result["steps"]][:2], ["started", "halted"])

    def test_plot(self) -> None:
        """Plots are PNG or SVG, the same ones for the same numbers."""
        for suffix, begin in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            made = []
            for _ in range(2):
                path = self.file(f"plot.{suffix}", "")
                status, _, err = self.simulate(*SMALL, "--fault", "dies", "--plain", "--default", "--plot", path)
                self.assertEqual((status, err), (0, ""))
                made.append(Path(path).read_bytes())
            self.assertTrue(made[0].startswith(begin))
            self.assertEqual(made[0], made[1])

    def test_no_matplotlib(self) -> None:
        """Without matplotlib the error says how to install it, before anything is played."""
        real: Callable[..., Any] = builtins.__import__

        def without(name: str, *rest: Any) -> Any:
            if name.partition(".")[0] == "matplotlib":
                raise ImportError(name)
            return real(name, *rest)

        self.patch(builtins, "__import__", without)
        self.assertIn("pip install 'ota_server[plot]'", self.refuse("--plot", self.file("plot.png", "")))

    def test_database(self) -> None:
        """The ledger can be kept; it has to be empty."""
        url = sqlite_url(Path(self.mktemp()))
        self.assertEqual(self.simulate(*SMALL, "--database", url)[0], 0)
        ledger = Ledger(url)
        ledger.open_for_reading()
        self.addCleanup(ledger.close)
        self.assertEqual(len(ledger.load(0.0).devices), 60)
        self.assertIn("holds a fleet already", self.refuse(*SMALL, "--database", url))

    def test_refused(self) -> None:
        """Options that can't be are one line and the status 2."""
        policy = self.file("ota.toml", "stages = 5")
        for arguments, part in (
            (["--devices", "many"], "--devices: 'many' is no number"),
            (["--devices", "0"], "0 devices can't be"),
            (["--days", "x"], "--days: "),
            (["--days", "5"], "after the 5 days"),
            (["--fault", "burns"], "--fault: "),
            (["--rhythms", "1h:5%"], "make 5% together"),
            (["--off", "1"], "--off: "),
            (["--old", "2.0.0"], "newer than 2.0.0"),
            (["--new", "latest"], "--new: "),
            (["--project", "a/b"], "--project: "),
            (["--policy", "/nowhere"], "No such file"),
            (["--policy", policy], "line 1"),
            (["--plot", "plot.gif"], "*.png or *.svg"),
            (["--plot", "/nowhere/plot.png"], "no folder"),
            (["--database", "mysql://x/y"], "SQLite or PostgreSQL"),
            (["--default", "--policy", self.file("x.toml", ""), "--database", "sqlite:///x"], "one server only"),
            (["--dance"], "--dance"),
            (["dance"], "'dance'"),
        ):
            self.assertIn(part, self.refuse(*arguments))

    def test_help(self) -> None:
        """There is help."""
        with self.assertRaises(SystemExit):
            self.simulate("-h")

    def test_words(self) -> None:
        """Times and sizes are written for people."""
        self.assertEqual(
            [span(each) for each in (None, 5, 119, 120, 7199, 7200, 47 * 3600, 2 * DAY)],
            ["never", "5 s", "119 s", "2 min", "120 min", "2.0 h", "47.0 h", "2.0 d"],
        )
        self.assertEqual(
            [size(each) for each in (0, 999, 1500, 5e9, 3e16)], ["0 B", "999 B", "1.5 kB", "5.0 GB", "30000 TB"]
        )
