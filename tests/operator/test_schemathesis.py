"""Every operation of the real server is asked what its description allows, and what it doesn't, by schemathesis."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator.door import DOOR_FILE
from tests.images import esp8266_image
from tests.operator.schemathesis_hooks import ON_HAND
from tests.test_live import PATIENCE, TWISTD, until
from tests.web.memory import write_files

EXAMPLES = int(os.environ.get("OTA_API_EXAMPLES", "5"))
"""How many requests are made up for each operation; `make check-api` makes more."""

SEED = os.environ.get("OTA_API_SEED", "1")

REPORT = os.environ.get("OTA_API_REPORT", "")
"""A file for the report, besides."""

PROGRAM = Path(sys.executable).with_name("schemathesis")

CONFIGURATION = """
[checks]
# Where an image isn't one, or a setting contradicts the policy, no schema can tell.
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429"]
"""

FILES = {"lamp-1.0.0.bin": esp8266_image(seed=1), "lamp-1.1.0.bin": esp8266_image(seed=2)}


class SchemathesisTests(SynchronousTestCase):
    """The API and its description."""

    def setUp(self) -> None:
        """Start a server, at which two devices call."""
        self.folder = Path(self.mktemp()).absolute()
        write_files(self.folder, FILES)
        self.state = self.folder / ".ota"
        log = (self.folder / ".log").open("wb")
        self.addCleanup(log.close)
        endpoint = "tcp:0:interface=127.0.0.1"
        doors = ["--port", endpoint, "--admin", endpoint]
        self.process = subprocess.Popen(
            [TWISTD, "--nodaemon", "--pidfile=", "ota", "--dir", self.folder, *doors, "--log", "info"],
            stdout=log,
            stderr=log,
        )
        self.addCleanup(self.end)
        door = until(self.find_door)
        self.url = door["url"]
        self.token = Path(door["token_file"]).read_text().strip()
        until(lambda: True if self.get("/api/v1/status")["ready"] else None)
        port = until(lambda: re.search(r"DeviceSite starting on ([0-9]+)", self.read_log()))[1]
        for device in ON_HAND["device"]:
            headers = {"x-ESP8266-STA-MAC": device, "x-ESP8266-version": "1.0.0", "x-ESP8266-mode": "sketch"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/lamp", headers=headers)
            urllib.request.urlopen(request, timeout=PATIENCE).close()

    def read_log(self) -> str:
        """Return what the server logged."""
        return (self.folder / ".log").read_text(errors="replace")

    def find_door(self) -> dict[str, str] | None:
        """Return where the operator's door is, once it is open."""
        path = self.state / DOOR_FILE
        found: dict[str, str] | None = json.loads(path.read_text()) if path.exists() else None
        return found

    def get(self, path: str) -> dict[str, object]:
        """Return the JSON of an answer."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            found: dict[str, object] = json.load(answer)
        return found

    def end(self) -> None:
        """End the server."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(PATIENCE)

    @skipUnless(PROGRAM.exists(), "needs schemathesis (pip install schemathesis)")
    def test_all_operations(self) -> None:
        """No answer is a 5xx, none is other than described, and what isn't allowed is refused."""
        description = self.folder.parent / "openapi.json"
        description.write_text(json.dumps(self.get("/api/v1/openapi.json")))
        hooks = self.folder.parent / "schemathesis_hooks.py"
        shutil.copyfile(Path(__file__).with_name(hooks.name), hooks)
        (self.folder.parent / "schemathesis.toml").write_text(CONFIGURATION)
        ran = subprocess.run(
            [
                PROGRAM,
                "run",
                description,
                f"--url={self.url}",
                "--header",
                f"Authorization: Bearer {self.token}",
                f"--seed={SEED}",
                f"--max-examples={EXAMPLES}",
                # It doesn't end; tests of its own follow it.
                "--exclude-path=/api/v1/events/stream",
                "--generation-database=none",
                f"--request-timeout={PATIENCE:.0f}",
                "--no-color",
            ],
            cwd=self.folder.parent,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if REPORT:
            Path(REPORT).write_text(ran.stdout)
        self.assertEqual(ran.returncode, 0, ran.stdout)
        self.assertIsNone(self.process.poll())
        self.assertNotIn("Traceback", self.read_log())
