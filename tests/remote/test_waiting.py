"""Tests of `publish --wait` with a real server and a fleet that calls it over HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from typing import Any

from tests.remote.server import LAMP, PATIENCE, ServerCase, environment, until

DEVICES = 50


class WaitingTests(ServerCase):
    """What comes of releases, as a script sees it."""

    def devices_known(self) -> int:
        """Return how many devices the server knows."""
        return int(self.read("releases")[0]["channels"][0]["fleet"])

    def test_good_release(self) -> None:
        """A release that all devices confirm ends with 0, and every one of them has it."""
        self.fleet("--devices", str(DEVICES))
        until(lambda: self.devices_known() == DEVICES)
        status, out, errors = self.run_command(
            "publish", "--wait", "--timeout", "1m", str(self.put_aside("lamp-1.1.0.bin", LAMP[2]))
        )
        self.assertEqual((status, errors), (0, ""), out)
        self.assertRegex(out, rf"(?m)^lamp 1\.1\.0: .*{DEVICES} confirmed")
        self.assertRegex(out, r"(?m)^lamp 1\.1\.0: complete: ")
        versions = {device["version"] for device in self.read("devices", "--limit", "all")}
        self.assertEqual(versions, {"1.1.0"})

    def test_bad_release(self) -> None:
        """One from which devices bounce halts, and ends with 1; nearly all of the fleet stays on what works."""
        self.fleet("--devices", str(DEVICES), "--bad", "1.1.0")
        until(lambda: self.devices_known() == DEVICES)
        status, out, errors = self.run_command(
            "publish", "--wait", "--timeout", "1m", str(self.put_aside("lamp-1.1.0.bin", LAMP[2]))
        )
        self.assertEqual((status, errors), (1, ""), out)
        self.assertRegex(out, r"(?m)^lamp 1\.1\.0: halted: .*[0-9]+ bounced")
        [rollout] = self.rollouts()
        self.assertEqual((rollout["state"], rollout["version"]), ("halted", "1.1.0"))

    def rollouts(self) -> list[dict[str, Any]]:
        """Return how rollouts stand, as the door says."""
        _, out, _ = self.run_command(
            "rollout", "status", "--json", local=False, OTA_SERVER_URL=self.url, OTA_SERVER_TOKEN=self.token
        )
        return [json.loads(line) for line in out.splitlines()]

    def test_confirmed(self) -> None:
        """It needn't be waited for all: some devices that confirm it are enough, if that is said."""
        self.fleet("--devices", "4")
        until(lambda: self.devices_known() == 4)
        status, out, _ = self.run_command(
            "publish",
            "--wait",
            "--until=confirmed:2",
            "--json",
            str(self.put_aside("lamp-1.1.0.bin", LAMP[2])),
        )
        told = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(status, 0)
        self.assertEqual(told[0]["published"]["outcome"], "new")
        self.assertEqual(told[0]["published"]["image"]["name"]["version"], "1.1.0")
        self.assertEqual((told[-1]["end"], told[-1]["version"]), ("good", "1.1.0"))

    def test_late(self) -> None:
        """Without devices the time is over first: 3."""
        status, out, _ = self.run_command(
            "publish", "--wait", "--timeout", "1s", str(self.put_aside("lamp-1.1.0.bin", LAMP[2]))
        )
        self.assertEqual(status, 3)
        self.assertIn("no device has been offered it yet", out)
        self.assertIn("the time is over", out)

    def test_taken_back(self) -> None:
        """A release that is taken back meanwhile has ended badly."""
        waiting = subprocess.Popen(
            self.words("publish", "--wait", "--dir", str(self.folder), str(self.put_aside("lamp-1.1.0.bin", LAMP[2]))),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert waiting.stdout is not None
        lines = iter(waiting.stdout.readline, "")
        self.assertTrue(any("no device has been offered" in line for line in lines))
        self.succeed("yank", "lamp", "1.1.0")
        self.assertEqual(waiting.wait(PATIENCE), 1)
        self.assertIn("taken back", waiting.stdout.read())
        waiting.stdout.close()

    def test_server_started_anew(self) -> None:
        """A server that is killed and started again meanwhile is waited for, and the end is the same."""
        waiting = subprocess.Popen(
            self.words(
                "publish",
                "--wait",
                "--timeout=50s",
                "--dir",
                str(self.folder),
                str(self.put_aside("lamp-1.1.0.bin", LAMP[2])),
            ),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert waiting.stdout is not None
        seen: list[str] = []
        reader = threading.Thread(target=lambda: seen.extend(iter(waiting.stdout.readline, "")))  # type: ignore[union-attr]
        reader.start()
        until(lambda: any("no device has been offered" in line for line in seen))
        self.stop(signal.SIGKILL)
        until(lambda: any("can't be reached" in line for line in seen))
        self.start()
        self.fleet("--devices", "5")
        self.assertEqual(waiting.wait(PATIENCE), 0)
        reader.join()
        waiting.stdout.close()
        self.assertIn("complete", seen[-1])


class StageTests(ServerCase):
    """Stages, as a script sees them."""

    policy = 'stages = ["1", "100%"]\nsoak = "1s"\n'

    def test_stages(self) -> None:
        """Each step of the rollout is told, and it ends when all have it."""
        self.fleet("--devices", "10")
        until(lambda: int(self.read("releases")[0]["channels"][0]["fleet"]) == 10)
        status, out, errors = self.run_command(
            "publish", "--wait", "--timeout", "1m", str(self.put_aside("lamp-1.1.0.bin", LAMP[2]))
        )
        self.assertEqual((status, errors), (0, ""), out)
        self.assertRegex(out, r"(?m)^lamp 1\.1\.0: started: the rollout begins with one device")
        self.assertRegex(out, r"(?m)^lamp 1\.1\.0: stage: stage 2 of 2 begins")
        self.assertRegex(out, r"(?m)^lamp 1\.1\.0: complete: ")
