"""Tests of access with the real program: tokens made by its own command, changes while it runs, and restarts."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from tests.images import esp8266_image
from tests.test_live import PATIENCE, TwistdCase, until

OTA_SERVER = Path(sys.executable).with_name("ota-server")
DEVICE = "5C:CF:7F:00:11:22"


class AccessTests(TwistdCase):
    """A server that asks for tokens."""

    def make_token(self, *arguments: str) -> tuple[str, str]:
        """Make a token; return it, and the hash with its quotes."""
        printed = subprocess.run(
            [OTA_SERVER, "make-token", *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout
        token, digest = re.search(r"token: (\S+)", printed), re.search(r'token = ("sha256:[0-9a-f]{64}")', printed)
        assert token is not None
        assert digest is not None
        return token[1], digest[1]

    def put_policy(self, text: str) -> None:
        """Write the policy as an editor does."""
        aside = self.folder / "ota.toml.new"
        aside.write_text(text)
        aside.rename(self.folder / "ota.toml")

    def test_life(self) -> None:
        """Open, closed while it runs, a token exchanged, a start without the setting refused, opened on purpose."""
        (self.folder / "lamp-1.0.0.bin").write_bytes(esp8266_image(8192))
        fleet, fleet_hash = self.make_token()
        own, own_hash = self.make_token("--device", DEVICE)
        told = {"x_ESP8266_version": "1.0.0", "x_ESP8266_STA_MAC": DEVICE}
        process = self.start("--log", "info")
        self.answer("/lamp", 304, **told)

        kept = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self.addCleanup(kept.close)

        def ask_over_kept(token: str) -> HTTPResponse:
            kept.request("GET", "/lamp.bin.version", headers={"Authorization": f"Bearer {token}"})
            response = kept.getresponse()
            response.read()
            return response

        self.assertEqual(ask_over_kept("anything").status, 200)
        closed = f'[access]\ndevices = "token"\ntoken = {fleet_hash}\n[devices."{DEVICE}"]\ntoken = {own_hash}\n'
        self.put_policy(closed)
        self.answer("/lamp", 401, **told)
        self.assertEqual(ask_over_kept(fleet).status, 200)
        self.answer("/lamp", 304, Authorization=f"Bearer {own}", **told)
        self.answer(f"/lamp?token={own}", 403, x_ESP8266_STA_MAC="24:6F:28:00:00:01")

        next_one, next_hash = self.make_token()
        self.put_policy(closed.replace(fleet_hash, next_hash))
        self.answer("/lamp.bin", 200, Authorization=f"Bearer {next_one}")
        refused = ask_over_kept(fleet)
        self.assertEqual((refused.status, refused.headers["Connection"]), (401, "close"))

        self.put_policy("stages = []\n")
        # It takes two looks, a second apart, to see a change.
        end = time.monotonic() + 4
        while time.monotonic() < end:
            self.assertEqual(ask_over_kept(next_one).status, 200)
        self.answer("/lamp", 401, **told)
        printed = self.end(process)
        self.assertIn("[access] devices has gone", printed)
        for secret in (fleet, own, next_one):
            self.assertNotIn(secret, printed)
        self.assertIn("is refused: token-wrong", printed)
        ledger = (self.folder / ".ota" / "ledger.sqlite").read_bytes()
        self.assertIn(DEVICE.encode(), ledger)
        self.assertNotIn(own.encode(), ledger)

        self.assertIn('write [access] devices = "open" to open it on purpose', self.refused())
        (self.folder / "ota.toml").unlink()
        self.assertIn("[access] devices has gone", self.refused())
        self.put_policy('[access]\ndevices = "open"\n')
        process = self.start()
        self.answer("/lamp", 304, **told)
        self.end(process)

    def test_certificates_need_a_port(self) -> None:
        """A server that would lock all devices out doesn't start."""
        self.put_policy('[access]\ndevices = "certificate"\n')
        self.assertIn("no port asks for certificates", self.refused())

    def test_hammering(self) -> None:
        """A client that repeats what is refused gets a handful of answers in two seconds, and others are served."""
        (self.folder / "lamp-1.0.0.bin").write_bytes(esp8266_image(8192))
        token, digest = self.make_token()
        self.put_policy(f'[access]\ndevices = "token"\ntoken = {digest}\n')
        self.start()
        until(lambda: self.ask("/-/ready"))
        answers, end = 0, time.monotonic() + 2
        while time.monotonic() < end:
            response = self.ask("/lamp.bin")
            assert response is not None
            answers += response.status == 401
        self.assertIn(answers, range(4, 9))
        self.answer("/lamp.bin", 200, Authorization=f"Bearer {token}")
