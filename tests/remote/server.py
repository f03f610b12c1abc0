"""A real server for tests, as a process of its own, with both doors, and commands that ask it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from ota_server.cli import main
from tests.images import esp8266_image

ROOT = Path(__file__).absolute().parents[2]
PATIENCE = 110.0
"""How long anything may take, in seconds."""

LAMP = {seed: esp8266_image(4096, seed) for seed in (1, 2, 3)}
"""Sketches that differ."""


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something holds, and return it. Raises AssertionError when it takes too long."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError("it takes too long")
        time.sleep(0.02)
    return found


def environment(**more: str) -> dict[str, str]:
    """Return the environment for a process of the program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTA_SERVER_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


class ServerCase(SynchronousTestCase):
    """Tests with a server, which ends with the test."""

    files: dict[str, bytes] = {"lamp-1.0.0.bin": LAMP[1]}
    policy = ""
    admin = "tcp:0:interface=127.0.0.1"

    def setUp(self) -> None:
        """Start a server of a folder with some files."""
        self.work = Path(self.mktemp()).absolute()
        self.folder = self.work / "firmware"
        self.folder.mkdir(parents=True)
        self.prepare()
        for name, data in self.files.items():
            (self.folder / name).write_bytes(data)
            os.utime(self.folder / name, (1_700_000_000, 1_700_000_000))
        if self.policy:
            (self.folder / "ota.toml").write_text(self.policy)
        self.port = "tcp:0:interface=127.0.0.1"
        self.process: subprocess.Popen[bytes] | None = None
        self.addCleanup(self.stop)
        self.start()

    def prepare(self) -> None:
        """Do what has to be done before the server starts."""

    def start(self) -> None:
        """Start the server, and wait until both doors are open; a second time at the same ports."""
        words = [sys.executable, "-m", "ota_server", "--dir", str(self.folder), "--log", "info"]
        words += ["--port", self.port, "--admin", self.admin, *self.more_options()]
        with open(self.work / "server.log", "wb") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, cwd=self.work, env=environment(), start_new_session=True
            )
        found = until(lambda: self.find(r"DeviceSite starting on ([0-9]+)"))
        self.device_port = int(found)
        told = until(self.read_door)
        self.url = str(told["url"])
        self.port = f"tcp:{self.device_port}:interface=127.0.0.1"
        self.admin = re.sub(r"tcp:0", f"tcp:{self.url.rpartition(':')[2]}", self.admin)
        until(lambda: self.find(r"images of ([0-9]+) projects"))

    def more_options(self) -> Sequence[str]:
        """Return further options of the server."""
        return ()

    def find(self, pattern: str) -> str | None:
        """Return what the log says in the group of a pattern."""
        assert self.process is not None
        text = (self.work / "server.log").read_text()
        if self.process.poll() is not None:
            raise AssertionError(f"the server has ended: {text}")
        found = re.search(pattern, text)
        return found and found[1]

    def read_door(self) -> Any:
        """Return what the state says of the operator's door, None before it is open."""
        try:
            return json.loads((self.folder / ".ota" / "operator.json").read_text())
        except (OSError, ValueError):
            return None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the server."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
        if number is signal.SIGKILL:
            (self.folder / ".ota" / "operator.json").unlink(missing_ok=True)

    @property
    def token(self) -> str:
        """The token of the state."""
        return (self.folder / ".ota" / "operator.token").read_text().strip()

    def words(self, *arguments: str) -> list[str]:
        """Return the words of a command."""
        return [sys.executable, "-m", "ota_server", *arguments]

    def run_command(self, *arguments: str, local: bool = True, **variables: str) -> tuple[int, str, str]:
        """Run a command; return its exit status and what it printed, also as errors.

        It asks the server by its state, or where that isn't wished by what its arguments and variables say. What waits
        for rollouts runs in a process of its own, since it listens in a thread until it ends; the others run here,
        which spares them the start.
        """
        place = ["--dir", str(self.folder)] if local else []
        if "--wait" not in arguments and "wait" not in arguments:
            return self.run_here(*arguments, *place, **variables)
        done = subprocess.run(
            self.words(*arguments, *place),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment(**variables),
            cwd=self.work,
        )
        return done.returncode, done.stdout, done.stderr

    def run_here(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Run a command in this process; see run_command."""
        out, errors = StringIO(), StringIO()
        with (
            redirect_stdout(out),
            redirect_stderr(errors),
            patch.dict(os.environ, environment(**variables), clear=True),
        ):
            ended = self.assertRaises(SystemExit, main, arguments)
        return int(ended.code), out.getvalue(), errors.getvalue()

    def succeed(self, *arguments: str) -> str:
        """Run a command that has to succeed, and return what it printed."""
        status, out, errors = self.run_command(*arguments)
        self.assertEqual((status, errors), (0, ""), f"{arguments}: {out}")
        return out

    def read(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command with --json, and return the objects on its lines."""
        return [json.loads(line) for line in self.succeed(*arguments, "--json").splitlines()]

    def put_aside(self, name: str, data: bytes) -> Path:
        """Write a file that isn't in the folder, and return its path."""
        path = self.work / name
        path.write_bytes(data)
        return path

    def fleet(self, *options: str) -> None:
        """Start a fleet of devices, which ends with the test."""
        words = [sys.executable, "-m", "tests.remote.fleet", str(self.device_port), *options]
        process = subprocess.Popen(words, env=environment(), cwd=ROOT)

        def end() -> None:
            process.kill()
            process.wait()

        self.addCleanup(end)
