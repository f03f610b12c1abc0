"""Publishing to a real process: that is killed again and again, whose memory is measured, and by curl."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.policy import read_policy
from tests.fleet.play import mac
from tests.images import damaged, esp8266_image

KILLED = 20
"""How many times the server is killed."""

SIZE = 300_000
"""How large the images are that come in meanwhile, in bytes."""

LARGE = 200 << 20
"""How large the image is with which memory is measured, in bytes."""

GROWTH = 24 << 20
"""How much the process may grow meanwhile, in bytes."""

PATIENCE = 20.0
"""How long anything may take here, in seconds."""


def content(version: str) -> bytes:
    """Return the image of a version, of no known form."""
    seed = hashlib.sha256(version.encode()).digest()
    return seed * (SIZE // len(seed))


class Client:
    """Speaks with the operator's door of a server."""

    def __init__(self, state: Path) -> None:
        url = json.loads((state / "operator.json").read_text())["url"]
        self._port = int(url.rpartition(":")[2])
        self._token = (state / "operator.token").read_text().strip()

    def ask(self, method: str, path: str, body: Any = None, **fields: str) -> tuple[int, Any]:
        """Return the status of an answer, and its JSON. Raises OSError and HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            if isinstance(body, dict):
                body, fields["Content-Type"] = json.dumps(body), "application/json"
            connection.request(method, path, body, {"Authorization": f"Bearer {self._token}", **fields})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def put(self, version: str, image: bytes | None = None) -> int:
        """Publish a version of the lamp, and return the status."""
        image = content(version) if image is None else image
        return self.ask("PUT", f"/api/v1/projects/lamp/releases/{version}", image)[0]


class ServerCase(SynchronousTestCase):
    """A test with servers in processes of their own, one after the other, of the same folders."""

    def setUp(self) -> None:
        """Make the folders, and start what starts servers."""
        self.folder = Path(self.mktemp()).absolute()
        self.firmware, self.state = self.folder / "firmware", self.folder / "state"
        for each in (self.firmware, self.state):
            each.mkdir(parents=True)
        root = Path(__file__).parent.parent.parent
        self.nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.operator.lives", self.folder],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = 0
        self.addCleanup(self.end)

    def start(self) -> Client:
        """Start the next server, and return what speaks with it."""
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(b"\n")
        self.nursery.stdin.flush()
        self.pid = int(self.nursery.stdout.readline())
        self.assertTrue(self.pid, "the server didn't start")
        client = Client(self.state)
        self.wait_until("folder and ledger are read", lambda: client.ask("GET", "/api/v1/status")[1]["ready"])
        return client

    def kill(self) -> None:
        """Kill the server."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.pid = 0

    def end(self) -> None:
        """End all that was started."""
        self.kill()
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.close()
        self.nursery.wait(PATIENCE)
        self.nursery.stdout.close()

    def wait_until(self, what: str, holds: Any) -> None:
        """Wait until something holds."""
        limit = time.monotonic() + PATIENCE
        while not holds():
            self.assertLess(time.monotonic(), limit, what)
            time.sleep(0.005)

    def parts(self) -> list[Path]:
        """Return what is half."""
        return [*self.folder.rglob(".upload-*"), *self.folder.rglob(".yanking.json"), *self.folder.rglob("*.part")]


class Work:
    """What operators do with one server after the other, and what they were told."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.published: set[str] = set()
        self.begun: set[str] = set()
        self.yanking: set[str] = set()
        self.yanked: set[str] = set()
        self.pins: dict[str, str] = {}
        self.pinning: dict[str, set[str]] = {}
        self.stopped = threading.Event()
        self.unexpected: list[object] = []

    def do(self, client: Client, life: int) -> list[threading.Thread]:
        """Begin to publish, withdraw and pin, until the server is killed."""
        self.stopped.clear()
        return [
            threading.Thread(target=self._until_killed, args=(each, client, life), daemon=True)
            for each in (self._publish, self._publish_too, self._withdraw, self._pin)
        ]

    def _until_killed(self, step: Any, client: Client, life: int) -> None:
        for number in count():
            if self.stopped.is_set():
                return
            try:
                step(client, life, number)
            except (OSError, http.client.HTTPException):
                return

    def _put(self, client: Client, version: str) -> None:
        self.begun.add(version)
        status = client.put(version)
        if status == 201:
            self.published.add(version)
        else:
            self.unexpected.append((version, status))

    def _publish(self, client: Client, life: int, number: int) -> None:
        self._put(client, f"{life}.{number}.0")

    def _publish_too(self, client: Client, life: int, number: int) -> None:
        self._put(client, f"{life}.{number}.1")

    def _withdraw(self, client: Client, life: int, number: int) -> None:
        there = sorted(self.published - self.yanking)
        if not there:
            time.sleep(0.005)
            return
        version = there[0]
        self.yanking.add(version)
        status, told = client.ask("DELETE", f"/api/v1/projects/lamp/releases/{version}")
        if status == 200:
            self.yanked.add(version)
        else:
            self.unexpected.append((version, told))

    def _pin(self, client: Client, life: int, number: int) -> None:
        device, version = mac(number % 5), f"{life}.{number}.0"
        self.pinning.setdefault(device, set()).add(version)
        status, told = client.ask("POST", f"/api/v1/devices/{device}/pin", {"version": version})
        if status == 200:
            self.pins[device] = version
            self.pinning[device].clear()
        else:
            self.unexpected.append(told)


class KilledTests(ServerCase):
    """Whatever the moment at which the server is killed, nothing is half done."""

    def test_killed(self) -> None:
        """What was answered holds, what is there is whole, and nothing else is left at the next start."""
        seed = int(os.environ.get("OTA_CRASH_SEED", random.SystemRandom().randrange(1 << 32)))
        chance = random.Random(seed)
        work = Work(chance)
        self.firmware.joinpath("ota.toml").write_text("# by Bob\n")
        cut_off = 0
        for life in range(1, KILLED + 1):
            client = self.start()
            self.wait_until("the folder is tidied up", lambda: not self.parts())
            self.check(work, f"seed {seed}, life {life}")
            threads = work.do(client, life)
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.02, 0.25))
            self.kill()
            work.stopped.set()
            for thread in threads:
                thread.join(PATIENCE)
            cut_off += bool(self.parts())
            self.check(work, f"seed {seed}, life {life}, killed")
        self.start()
        self.wait_until("the folder is tidied up", lambda: not self.parts())
        self.check(work, f"seed {seed}, at the end")
        self.assertEqual(work.unexpected, [])
        # Otherwise nothing was tried.
        self.assertGreater(cut_off, KILLED // 4)
        self.assertGreater(len(work.published), KILLED)
        self.assertGreater(len(work.yanked), 5)
        self.assertTrue(work.pins)

    @staticmethod
    def versions(paths: Iterable[Path]) -> dict[str, Path]:
        """Return files by their versions."""
        return {path.name.removeprefix("lamp-").removesuffix(".bin"): path for path in paths}

    def check(self, work: Work, when: str) -> None:
        """Look at what is in the folder."""
        there = self.versions(self.firmware.glob("*.bin"))
        for version, path in there.items():
            self.assertIn(version, work.begun, when)
            self.assertEqual(path.read_bytes(), content(version), f"{when}: {version}")
        self.assertLessEqual(work.published - work.yanking, there.keys(), when)
        kept = {
            path.name.removeprefix("lamp-").removesuffix(".bin"): path for path in self.state.glob("yanked/*/*.bin")
        }
        for version, path in kept.items():
            self.assertEqual(path.read_bytes(), content(version), f"{when}: {version}, kept")
        self.assertLessEqual(work.yanked, kept.keys(), when)
        self.assertEqual(there.keys() & kept.keys(), set(), when)
        # What is being withdrawn is in one of the two places.
        self.assertLessEqual(work.yanking, there.keys() | kept.keys(), when)
        text = self.firmware.joinpath("ota.toml").read_text()
        self.assertTrue(text.startswith("# by Bob\n"), when)
        policy = read_policy(text, "ota.toml")
        for device, version in work.pins.items():
            pin = str(policy.rules_for("lamp", device).pin)
            self.assertIn(pin, {version, *work.pinning[device]}, when)


class ManyTests(ServerCase):
    """Many at once."""

    def test_settings_at_once(self) -> None:
        """Of settings that many operators change at the same time none is lost, and nor is what a person wrote."""
        policy = self.firmware / "ota.toml"
        policy.write_text("# by Bob\n[groups.all]  # of them\nmembers = []\n")
        client = self.start()
        answers: list[tuple[int, Any]] = []

        def pin(number: int) -> None:
            path = f"/api/v1/devices/{mac(number)}/pin"
            answers.append(client.ask("POST", path, {"version": f"1.{number}.0"}))

        threads = [threading.Thread(target=pin, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual([status for status, _ in answers], [200] * 20)
        text = policy.read_text()
        self.assertTrue(text.startswith("# by Bob\n[groups.all]  # of them\nmembers = []\n"))
        rules = read_policy(text, "ota.toml")
        pins = [str(rules.rules_for("lamp", mac(number)).pin) for number in range(20)]
        self.assertEqual(pins, [f"1.{number}.0" for number in range(20)])

    def test_same_place_at_once(self) -> None:
        """Of many for one place, with bytes of their own, one wins, and the others are told."""
        client = self.start()
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            answers: list[int] = []

            def put(number: int, version: str = version, answers: list[int] = answers) -> None:
                answers.append(client.put(version, bytes([number]) * SIZE))

            threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            self.assertEqual(sorted(answers), [201, *[409] * 5])
            image = (self.firmware / f"lamp-{version}.bin").read_bytes()
            self.assertEqual((len(image), len(set(image))), (SIZE, 1))
        self.assertEqual(self.parts(), [])


class MemoryTests(ServerCase):
    """What an upload costs."""

    def read_memory(self, what: str) -> int:
        """Return how much memory the server has now (`VmRSS`), or had at most (`VmHWM`), in bytes."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) << 10

    def test_flat(self) -> None:
        """An image of 200 MB goes to the disk, and not to the memory."""
        if not Path("/proc/self/status").exists():
            raise SkipTest("NOT TESTED: the memory of an upload, since this system doesn't tell it")
        self.patch_limit()
        client = self.start()
        self.assertEqual(client.put("1.0.0", b"x" * 1_000_000), 201)
        before = self.read_memory("VmRSS")
        piece = random.Random(1).randbytes(1 << 20)
        digest = hashlib.sha256(piece * (LARGE >> 20)).hexdigest()
        body = iter([piece] * (LARGE >> 20))
        status, told = client.ask("PUT", "/api/v1/projects/lamp/releases/2.0.0", body, **{"Content-Length": str(LARGE)})
        growth = self.read_memory("VmHWM") - before
        self.assertEqual((status, told["image"]["sha256"], told["image"]["size"]), (201, digest, LARGE))
        self.assertLess(growth, GROWTH)

    def patch_limit(self) -> None:
        """Let larger images be taken than by default."""
        (self.folder / "max-image").write_text(str(2 * LARGE))


class CurlTests(ServerCase):
    """The documented lines for curl."""

    def test_curl(self) -> None:
        """`curl -T` publishes, and exits with an error where that is refused."""
        curl = shutil.which("curl")
        if curl is None:
            raise SkipTest("NOT TESTED: curl, which isn't installed")
        self.start()
        url = json.loads((self.state / "operator.json").read_text())["url"]
        token = (self.state / "operator.token").read_text().strip()
        good, bad = self.folder / "lamp-1.2.3.bin", self.folder / "lamp-1.2.4.bin"
        good.write_bytes(esp8266_image())
        bad.write_bytes(damaged(esp8266_image(), -20))
        for file, path, more, status, code in (
            (good, "/upload/", (), 0, "201"),
            (good, "/upload/", (), 0, "200"),
            (good, "/upload/beta/", ("-H", "Expect: 100-continue"), 0, "201"),
            (bad, "/upload/", (), 22, "422"),
        ):
            done = subprocess.run(
                [curl, "-sS", "--fail-with-body", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {token}", *more,
                 "-T", file, url + path],
                capture_output=True,
                timeout=PATIENCE,
            )  # fmt: skip
            told, _, got = done.stdout.decode().rpartition("\n")
            self.assertEqual((done.returncode, got), (status, code), told)
        self.assertEqual((self.firmware / "beta" / good.name).read_bytes(), good.read_bytes())
        self.assertFalse((self.firmware / bad.name).exists())
