"""Tests of install.sh and of the units, as far as nothing has to be installed for them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).absolute().parent.parent
UNITS = ROOT / "contrib" / "systemd"

MAX_EXPOSURE = 20
"""The worst score of `systemd-analyze security` that is allowed, in tenths."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command, and return how it ended and what it wrote."""
    return subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


class ScriptTests(SynchronousTestCase):
    """What install.sh says before it does anything."""

    def test_refusals(self) -> None:
        """What it doesn't know, and values that are missing, end it with one line."""
        for arguments, problem in (
            (["--nonsense"], "--nonsense is not an option (see --help)"),
            (["firmware"], "firmware is not an option (see --help)"),
            (["--dir"], "--dir needs a value (see --help)"),
            (["--port="], "--port needs a value (see --help)"),
            (["--uninstall", "--port", "80"], "--uninstall takes no other option"),
        ):
            done = run(str(ROOT / "install.sh"), *arguments)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (1, "", f"install.sh: {problem}\n"))

    def test_help(self) -> None:
        """The help tells of each option that the script takes."""
        done = run(str(ROOT / "install.sh"), "--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        script = (ROOT / "install.sh").read_text()
        taken = set(re.findall(r"(?m)^    (--[a-z-]+)\)", script)) | {"--help"}
        self.assertEqual(set(re.findall(r"(?m)^  (--[a-z-]+)", done.stdout)), taken)
        self.assertGreater(len(taken), 5)

    @skipUnless(shutil.which("shellcheck"), "there is no shellcheck here")
    def test_shellcheck(self) -> None:
        """The script has none of the faults that shellcheck knows."""
        self.assertEqual(run("shellcheck", str(ROOT / "install.sh")).stdout, "")


class UnitTests(SynchronousTestCase):
    """What the units say."""

    def test_settings(self) -> None:
        """Each setting of the file is used by the unit, and has the same default there."""
        unit = (UNITS / "ota-server.service").read_text()
        settings = dict(re.findall(r'(?m)^([A-Z_]+)="(.*)"$', (UNITS / "ota-server.default").read_text()))
        defaults = dict(re.findall(r"(?m)^Environment=([A-Z_]+)=(.*)$", unit))
        self.assertEqual({**defaults, **settings}, {**settings, **defaults})
        used = set(re.findall(r"\$\{?(OTA_[A-Z_]+)", unit))
        self.assertEqual(used, settings.keys() | defaults.keys())

    @skipUnless(shutil.which("systemd-analyze"), "there is no systemd here")
    def test_verify(self) -> None:
        """`systemd-analyze verify` has nothing to say; its status is 0 even for keys that it doesn't know."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        for name in ("ota-server.service", "ota-server.socket"):
            # What isn't installed can't be executed.
            text = (UNITS / name).read_text().replace("/opt/ota-server/current/bin/twistd", "/bin/true")
            (folder / name).write_text(text)
        done = run("systemd-analyze", "verify", "--man=no", *map(str, sorted(folder.iterdir())))
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    @skipUnless(shutil.which("systemd-analyze"), "there is no systemd here")
    def test_sandbox(self) -> None:
        """The sandbox is as tight as it was meant to be."""
        done = run(
            *("systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager"),
            str(UNITS / "ota-server.service"),
        )
        self.assertEqual(done.returncode, 0, done.stdout)
