"""Tests of the commands with a real server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import tomllib
from typing import Any

from ota_server.remote.failing import Status
from tests.remote.fleet import ask
from tests.remote.server import LAMP, PATIENCE, ServerCase, environment, until

MAC = "5C:CF:7F:00:00:00"
"""The first device of the fleet."""


class CommandTests(ServerCase):
    """Commands that ask a server on this machine."""

    def check_in(self, version: str, number: int = 0) -> tuple[int, str | None]:
        """Let a device ask; return the status, and the version that it was sent."""
        return asyncio.run(ask(self.device_port, "lamp", number, version))

    def refuse(self, *arguments: str, **more: Any) -> str:
        """Run a command that the server refuses, and return the line that says why."""
        status, out, errors = self.run_command(*arguments, **more)
        self.assertEqual((status, out), (Status.FAILED, ""), errors)
        self.assertEqual(errors.count("\n"), 1, errors)
        return errors

    def test_publish_and_check(self) -> None:
        """What is published is offered at once."""
        out = self.succeed("publish", str(self.put_aside("lamp-1.1.0.bin", LAMP[2])))
        self.assertRegex(out, r"^lamp-1\.1\.0\.bin: published: lamp 1\.1\.0, [0-9,]+ bytes\n")
        self.assertEqual(self.check_in("1.0.0"), (200, "1.1.0"))
        self.assertEqual(self.check_in("1.1.0"), (304, None))

    def test_publish_by_another_name(self) -> None:
        """A file of any name is published as the options say."""
        file = self.put_aside("firmware.bin", LAMP[2])
        status, _, errors = self.run_command("publish", str(file))
        self.assertEqual(status, Status.USAGE)
        self.assertIn("--project and --version", errors)
        self.succeed("publish", "--project", "lamp", "--version=1.2", "--channel", "beta", "--chip=esp8266", str(file))
        [release] = self.read("releases", "lamp", "--channel", "beta")
        self.assertEqual((release["version"], release["channel"]), ("1.2.0", "beta"))
        self.assertEqual(release["images"][0]["chip"], "esp8266")

    def test_publish_again(self) -> None:
        """The same bytes again change nothing; others are refused, unless they are to replace the first."""
        file = self.put_aside("lamp-1.1.0.bin", LAMP[2])
        self.succeed("publish", str(file))
        self.assertIn("was there already", self.succeed("publish", str(file)))
        file.write_bytes(LAMP[3])
        self.assertIn("lamp-1.1.0.bin", self.refuse("publish", str(file)))
        self.succeed("publish", "--replace", str(file))
        self.assertEqual(self.check_in("1.0.0"), (200, "1.1.0"))

    def test_wait_for_replaced(self) -> None:
        """Nobody can tell whether what is confirmed of a version is of the bytes that took the place of others."""
        file = self.put_aside("lamp-1.1.0.bin", LAMP[2])
        self.succeed("publish", str(file))
        file.write_bytes(LAMP[3])
        status, out, errors = self.run_command("publish", "--replace", "--wait", str(file))
        self.assertEqual(status, Status.FAILED)
        self.assertIn("published in the place of another", out)
        self.assertIn("publish them as a new version", errors)

    def test_publish_several(self) -> None:
        """Of several files those are published that can be; the status tells of the others."""
        good, bad = self.put_aside("lamp-1.1.0.bin", LAMP[2]), self.put_aside("lamp-1.2.0.bin", LAMP[3][:-100])
        status, out, errors = self.run_command("publish", str(bad), str(good))
        self.assertEqual(status, Status.FAILED)
        self.assertRegex(errors, r"^ota-server publish: .*/lamp-1\.2\.0\.bin: [^\n]+\n$")
        self.assertRegex(out, r"^lamp-1\.1\.0\.bin: published")
        self.assertEqual(sorted(path.name for path in self.folder.glob("*.bin")), ["lamp-1.0.0.bin", "lamp-1.1.0.bin"])

    def test_publish_nothing(self) -> None:
        """A file that isn't there is named, and no server is asked."""
        status, _, errors = self.run_command("publish", str(self.work / "lamp-1.1.0.bin"))
        self.assertEqual(status, Status.USAGE)
        self.assertIn("lamp-1.1.0.bin: No such file", errors)

    def test_devices(self) -> None:
        """Devices are listed and found; what they say of themselves can't reach the terminal."""
        self.check_in("1.0.0")
        self.check_in("1.0.0\x1b[31mred", 1)
        self.assertEqual([device["id"] for device in self.read("devices")], [MAC, "5C:CF:7F:00:00:01"])
        self.assertEqual([device["id"] for device in self.read("devices", "00:01")], ["5C:CF:7F:00:00:01"])
        self.assertEqual([device["id"] for device in self.read("devices", "--sort=-id", "-n1")], ["5C:CF:7F:00:00:01"])
        self.assertEqual(self.read("devices", "--runs", "1.0.0", "--project", "lamp")[0]["id"], MAC)
        out = self.succeed("devices")
        self.assertEqual(out.splitlines()[0].split("\t")[:5], [MAC, "-", "lamp", "stable", "1.0.0"])
        self.assertNotIn("\x1b", out)
        self.assertNotIn("\x1b", self.succeed("device", "5C:CF:7F:00:00:01"))

    def test_orders_for_a_device(self) -> None:
        """Settings of a device hold for its next check-in, and are in the policy's file, with its comments."""
        (self.folder / "ota.toml").write_text("# mine\n")
        self.check_in("1.0.0")
        self.succeed("publish", str(self.put_aside("lamp-1.1.0.bin", LAMP[2])))
        self.succeed("publish", str(self.put_aside("lamp-1.2.0.bin", LAMP[3])))
        self.succeed("hold", MAC)
        self.assertEqual(self.check_in("1.0.0"), (304, None))
        self.assertIn("hold = yes  (policy, line ", self.succeed("device", MAC))
        self.succeed("release", MAC)
        self.succeed("rename", MAC, "kitchen")
        self.succeed("pin", "kitchen", "1.1")
        self.assertEqual(self.check_in("1.0.0"), (200, "1.1.0"))
        told = self.policy_text()
        self.assertTrue(told.startswith("# mine\n"))
        self.assertEqual(tomllib.loads(told)["devices"][MAC], {"name": "kitchen", "pin": "1.1.0"})
        self.succeed("unpin", "kitchen")
        self.assertEqual(self.check_in("1.0.0"), (200, "1.2.0"))
        self.succeed("device", "clear-brake", MAC)
        told = json.loads(self.succeed("device", "kitchen", "--json"))
        self.assertEqual((told["id"], told["name"], told["version"]), (MAC, "kitchen", "1.0.0"))
        shown = self.succeed("device", "kitchen")
        self.assertRegex(shown, r"(?m)^name +kitchen$")
        self.assertRegex(
            shown, r"(?m)^what it was sent:\n  [0-9: -]+ UTC  lamp 1\.[12]\.0 app: [a-z]+, [01] downloads$"
        )
        self.assertIn("changed", json.loads(self.succeed("hold", "kitchen", "--json")))
        self.assertIn("set so already", self.succeed("hold", "kitchen"))
        kinds = [line.split("\t")[3] for line in self.succeed("events", "--limit", "all").splitlines()]
        self.assertEqual(kinds.count("published"), 2)
        self.assertEqual({event["kind"] for event in self.read("events", "--kind", "published")}, {"published"})
        status, out, errors = self.ask("device", "forget", MAC, "--json")
        self.assertEqual((status, json.loads(out)["device"], errors), (0, MAC, ""))
        self.assertEqual(self.ask("devices"), (0, "", "there are no such devices\n"))
        self.assertIn("no such device", self.refuse("pin", "nobody", "9.9"))

    def policy_text(self) -> str:
        """Return the text of the policy."""
        return (self.folder / "ota.toml").read_text()

    def ask(self, *arguments: str, **more: str) -> tuple[int, str, str]:
        """Run a command that asks by the environment."""
        variables = {"OTA_SERVER_URL": self.url, "OTA_SERVER_TOKEN": self.token, **more}
        return self.run_command(*arguments, local=False, **variables)

    def test_rollout(self) -> None:
        """A rollout is halted and resumed by the door."""
        self.succeed("publish", str(self.put_aside("lamp-1.1.0.bin", LAMP[2])))
        self.assertEqual(self.check_in("1.0.0")[0], 200)
        for order, state, answer in (("halt", "halted", 304), ("resume", "running", 200), ("restart", "running", 200)):
            status, out, errors = self.ask("rollout", order, "lamp", "1.1")
            self.assertEqual((status, errors), (0, ""))
            self.assertIn(f"lamp 1.1.0: {state}", out)
            self.assertEqual(self.check_in("1.0.0", 1)[0], answer, order)
        status, out, _ = self.ask("rollout", "status", "lamp", "--json")
        self.assertEqual([json.loads(line)["version"] for line in out.splitlines()], ["1.1.0"])
        status, _, errors = self.ask("rollout", "halt", "lamp", "7.7")
        self.assertEqual(status, Status.FAILED)
        self.assertEqual(errors.count("\n"), 1)
        status, out, _ = self.ask("rollout", "halt", "lamp", "1.1.0", "--json")
        self.assertEqual((status, json.loads(out)["rollout"]["state"]), (0, "halted"))
        self.assertEqual(self.ask("rollout", "wait", "lamp", "1.1.0", "--timeout", "20s")[0], Status.FAILED)
        self.assertEqual(self.run_command("rollout", "wait", "lamp", "1.1.0", "--timeout", "20s")[0], Status.FAILED)

    def test_explain(self) -> None:
        """The door explains as the command does beside it."""
        self.check_in("1.0.0")
        status, out, errors = self.ask("explain", MAC)
        self.assertEqual((status, errors), (0, ""))
        self.assertRegex(out, r"(?m)^304.*  up-to-date: ")
        status, told, _ = self.ask("explain", "--project", "lamp", "--version", "0.1", "--json")
        self.assertEqual((status, json.loads(told)["reason"]), (0, "newer"))

    def test_yank(self) -> None:
        """A release that is taken back is kept, but offered no more."""
        self.succeed("publish", str(self.put_aside("lamp-1.1.0.bin", LAMP[2])))
        self.assertRegex(self.succeed("yank", "lamp", "1.1"), r"^taken back: lamp 1\.1\.0; kept .* in yanked/[^\n]+\n$")
        self.assertEqual(self.check_in("1.0.0"), (304, None))
        kept = list((self.folder / ".ota" / "yanked").rglob("lamp-1.1.0.bin"))
        self.assertEqual([path.read_bytes() for path in kept], [LAMP[2]])
        self.refuse("yank", "lamp", "1.1")

    def test_tokens(self) -> None:
        """A token allows what it was made for, and nothing once it is revoked."""
        made = self.succeed("token", "create", "ci", "--scope", "publish", "--scope", "read").strip()
        self.assertEqual(
            {each["name"]: each["scopes"] for each in self.read("token", "list")}["ci"], ["publish", "read"]
        )
        file = self.put_aside("lamp-1.1.0.bin", LAMP[2])
        self.assertEqual(self.ask("publish", str(file), OTA_SERVER_TOKEN=made)[0], 0)
        status, _, errors = self.ask("token", "list", OTA_SERVER_TOKEN=made)
        self.assertEqual(status, Status.FAILED)
        self.assertIn("operate", errors)
        self.assertRegex(self.succeed("token", "list"), r"(?m)^ci\tpublish, read\t[0-9: -]+ UTC\t[0-9: -]+ UTC$")
        self.succeed("token", "revoke", "ci")
        told = json.loads(self.succeed("token", "create", "other", "--scope", "read", "--json"))
        self.assertEqual((told["name"], told["scopes"]), ("other", ["read"]))
        self.assertEqual(json.loads(self.succeed("token", "revoke", "other", "--json")), {"revoked": "other"})
        status, _, errors = self.ask("releases", OTA_SERVER_TOKEN=made)
        self.assertEqual(status, Status.FAILED)
        self.assertIn("doesn't know this token", errors)
        self.assertNotIn(made, errors)

    def test_events(self) -> None:
        """Events are followed across a restart of the server: each once, in their order."""
        following = subprocess.Popen(
            self.words("events", "--follow", "--json", "--after", "0-0", "--dir", str(self.folder)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        self.addCleanup(following.wait)
        self.addCleanup(following.kill)
        assert following.stdout is not None
        self.addCleanup(following.stdout.close)
        self.succeed("publish", str(self.put_aside("lamp-1.1.0.bin", LAMP[2])))
        told = [json.loads(following.stdout.readline())]
        self.stop()
        self.start()
        self.succeed("yank", "lamp", "1.1.0")
        listed = list(reversed(self.read("events", "--limit", "all")))
        self.assertGreaterEqual(len(listed), 2)
        told += [json.loads(following.stdout.readline()) for _ in listed[1:]]
        self.assertEqual(told, listed)
        self.assertEqual([event["kind"] for event in told], ["published", "yanked"])

    def test_events_for_people(self) -> None:
        """Followed without --json they are lines; those that were before come first, by what is asked for."""
        self.succeed("publish", str(self.put_aside("lamp-1.1.0.bin", LAMP[2])))
        self.succeed("publish", "--channel", "beta", str(self.put_aside("lamp-1.2.0.bin", LAMP[3])))
        following = subprocess.Popen(
            self.words("events", "--follow", "--kind", "published", "--dir", str(self.folder)),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.addCleanup(following.wait)
        self.addCleanup(following.kill)
        assert following.stdout is not None
        self.addCleanup(following.stdout.close)
        told = [following.stdout.readline(), following.stdout.readline()]
        self.succeed("yank", "lamp", "1.1.0")
        self.succeed("publish", str(self.put_aside("lamp-1.3.0.bin", LAMP[3])))
        told.append(following.stdout.readline())
        for line, release in zip(told, (r"lamp 1\.1\.0", r"beta/lamp 1\.2\.0", r"lamp 1\.3\.0"), strict=True):
            self.assertRegex(line, rf"^[0-9: -]+ UTC  operator:\S+  published  {release}  ")

    def test_unreachable(self) -> None:
        """Where nobody answers, or somebody else, the status is another one."""
        self.succeed("releases")
        for url in ("http://127.0.0.1:1", f"http://127.0.0.1:{self.device_port}"):
            status, _, errors = self.ask("releases", OTA_SERVER_URL=url)
            self.assertEqual(status, Status.UNREACHABLE, errors)
            self.assertEqual(errors.count("\n"), 1)
            self.assertNotIn(self.token, errors)
        self.stop()
        status, _, errors = self.run_command("releases")
        self.assertEqual(status, Status.UNREACHABLE)

    def test_proxy(self) -> None:
        """A proxy of the environment isn't asked for what is on this machine."""
        status, out, _ = self.ask("releases", HTTP_PROXY="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1")
        self.assertEqual(status, 0)
        self.assertIn("lamp", out)

    def on_terminal(self, *arguments: str, **variables: str) -> str:
        """Run a command at a terminal, and return what it shows."""
        main, end = pty.openpty()
        words = self.words(*arguments, "--dir", str(self.folder))
        told = environment(TERM="xterm-256color", COLUMNS="200", **variables)
        for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            if name not in variables:
                told.pop(name, None)
        process = subprocess.Popen(words, stdin=end, stdout=end, stderr=end, env=told)
        os.close(end)
        shown = b""
        try:
            while piece := os.read(main, 65536):
                shown += piece
        except OSError:
            # The other end is closed.
            pass
        os.close(main)
        self.assertEqual(process.wait(PATIENCE), 0, shown)
        return shown.decode()

    def test_terminal(self) -> None:
        """On a terminal there are tables with heads, and colours unless they aren't wanted."""
        self.succeed("publish", str(self.put_aside("lamp-1.1.0.bin", LAMP[2])))
        self.check_in("1.0.0")
        until(lambda: self.read("releases", "lamp")[0]["rollout"] == "running")
        shown = self.on_terminal("releases", "lamp")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        self.assertRegex(plain, r"version +channel +rollout +for +bytes")
        self.assertIn("\x1b[36mrunning", shown)
        self.assertNotIn("\x1b[36m", self.on_terminal("releases", "lamp", NO_COLOR="1"))
        bar = self.on_terminal("publish", str(self.put_aside("lamp-1.3.0.bin", LAMP[3])))
        self.assertIn("━", bar)
        self.assertIn("published: lamp 1.3.0", bar)
