"""Tests of `ota-server explain`, `rollout` and `device`: beside a server that runs, and without one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ota_server import explain as explain_module
from ota_server import orders
from ota_server.explain import run_explain
from ota_server.fleet.decide import STEPS
from ota_server.fleet.decision import REASONS
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.tracing import CHANGES
from ota_server.orders import run_device, run_rollout
from tests.images import esp8266_image
from tests.web.memory import MemoryDoor
from tests.web.test_reasons import device

LAMPS = {"lamp-1.0.0.bin": esp8266_image(seed=1), "lamp-1.1.0.bin": esp8266_image(seed=2)}
FIRST, SECOND = "5C:CF:7F:00:00:01", "5C:CF:7F:00:00:02"


class CommandCase(SynchronousTestCase):
    """A door in memory with a ledger in a file, and commands beside it."""

    def open(self, policy: str = "", files: dict[str, bytes] = LAMPS) -> MemoryDoor:
        """Return a door with this policy."""
        self.door = MemoryDoor(self, files, policy=policy)
        (self.door.folder / "ota.toml").write_text(policy)
        return self.door

    def place(self) -> list[str]:
        """Return the options that name the door's folder and ledger."""
        return ["--dir", str(self.door.folder), "--database", sqlite_url(self.door.folder / "ledger.sqlite")]

    def run_command(self, command: Callable[[Sequence[str]], int], *arguments: str) -> tuple[int, str, str]:
        """Run a command, and return its exit status and what it printed, also as errors."""
        out, errors = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(errors):
            status = command([*arguments, *self.place()])
        return status, out.getvalue(), errors.getvalue()

    def bounce(self, *numbers: int) -> None:
        """Let devices download, and come back on the old version; a second later all is written."""
        for number in numbers:
            self.assertEqual(self.door.ask(b"/lamp", *device(number)).code, 200)
            self.door.hang_up()
            self.door.ask(b"/lamp", *device(number))
        self.door.pass_time(1)


class ExplainTests(CommandCase):
    """What is told of a decision."""

    def explain(self, *arguments: str) -> dict[str, object]:
        """Return the explanation as JSON."""
        status, out, errors = self.run_command(run_explain, "--json", *arguments)
        self.assertEqual((status, errors), (0, ""))
        told: dict[str, object] = json.loads(out)
        return told

    def test_same_as_the_door(self) -> None:
        """The reason is the one that the door gives at the same time."""
        for policy in ("", "hold = true", 'minimum = "1.0.1"', 'window = "00:00-00:01"', 'stages = ["1", "100%"]'):
            with self.subTest(policy):
                door = self.open(policy)
                given = [door.ask(b"/lamp", *device(number)).reason for number in (1, 2)]
                door.pass_time(1)
                self.assertEqual([self.explain(each)["reason"] for each in (FIRST, SECOND)], given)

    def test_halted(self) -> None:
        """Of a halted release it tells why, and what would change it."""
        self.open()
        self.bounce(1, 2)
        status, out, _ = self.run_command(run_explain, FIRST)
        self.assertEqual(status, 0)
        self.assertRegex(out, r"(?m)^304  halted: ")
        self.assertRegex(out, r"(?m)^what would change it: .*rollout resume")
        self.assertRegex(
            out,
            r"(?m)^   release +1\.1\.0 is halted, for everybody, offered to 2 of 2 .*: 2 bounced; 2 of the 2 devices ",
        )
        self.assertRegex(out, r"(?m)^=> comparison +it runs 1\.0\.0, as it says")
        self.assertRegex(out, r"lamp 1\.1\.0 app: bounced, 2 downloads")

    def test_stage(self) -> None:
        """Of a stage it tells how far it is."""
        self.open('stages = ["1", "10%", "100%"]')
        self.door.ask(b"/lamp", *device(1))
        self.door.pass_time(1)
        _, out, _ = self.run_command(run_explain, "--project", "lamp", "--version", "1.0.0")
        self.assertRegex(
            out,
            r"is running, in stage 1 of 3 \(1, policy, line 1, top\), 1 of 1 seats are taken, "
            r"offered to 1 of 1 devices: 1 offered",
        )
        self.assertRegex(out, r"(?m)^304  stage-full")

    def test_which_line_won(self) -> None:
        """The policy's line that decided is named, and the most specific wins."""
        self.open(
            'hold = true\n[projects.lamp]\nhold = false\n[devices."5c-cf-7f-00-00-01"]\nname = "kitchen"\nhold = true\n'
        )
        self.door.ask(b"/lamp", *device(1))
        self.door.ask(b"/lamp", *device(2))
        self.door.pass_time(1)
        for who in (FIRST, "5ccf7f000001", "kitchen"):
            _, out, _ = self.run_command(run_explain, who)
            self.assertRegex(out, r"=> hold +hold is true \(policy, line 6, \[devices")
        _, out, _ = self.run_command(run_explain, SECOND)
        self.assertRegex(out, r"   hold +hold is false \(policy, line 3, \[projects\.lamp\]\)")

    def test_by_hash(self) -> None:
        """A device that was known by its hash is explained by it."""
        self.open()
        facts = self.door.read().channels["stable"].files["lamp-1.1.0.bin"].facts
        self.door.ask(b"/lamp", *device(1), b"x-ESP8266-sketch-md5: " + facts.md5.encode())
        self.door.pass_time(1)
        told = self.explain(FIRST)
        self.assertEqual(told["reason"], "up-to-date")
        self.assertIn("by its hash", json.dumps(told["steps"]))

    def test_what_if(self) -> None:
        """What a device would get on another version can be asked."""
        self.open()
        self.door.ask(b"/lamp", *device(1, "1.1.0"))
        self.door.pass_time(1)
        self.assertEqual(self.explain(FIRST)["reason"], "up-to-date")
        self.assertEqual(self.explain(FIRST, "--version", "1.0.0")["reason"], "newer")
        self.assertEqual(self.explain(FIRST, "--version", "1.0.0", "--free-space", "1")["reason"], "no-space")
        self.assertEqual(self.explain(FIRST, "--project", "nothing")["reason"], "unknown-project")
        self.assertEqual(self.explain("--project", "lamp", "--chip", "esp32")["reason"], "wrong-chip")
        self.assertEqual(self.explain("--project", "lamp", "--mode", "version")["reason"], "version-asked")

    def test_newcomer_in_a_stage(self) -> None:
        """A device that was never seen may get a seat, as the server would give it, and nothing is written of it."""
        door = self.open('stages = ["1", "100%"]')
        # Who belongs to a stage depends on how long it has lasted.
        self.patch(explain_module, "time", SimpleNamespace(time=door.clock.seconds))
        self.patch(explain_module, "ALL_SETTLED", 1e9)
        self.assertEqual(self.explain(SECOND, "--project", "lamp", "--version", "1.0.0")["reason"], "newer")
        self.assertEqual(self.explain("--project", "lamp", "--version", "1.0.0")["reason"], "stage-full")
        self.assertEqual(self.run_command(run_explain, SECOND)[0], 1)
        for number in range(3, 30):
            # They run it, so that only the size of the fleet decides on who belongs to the stage.
            door.ask(b"/lamp", *device(number, "1.1.0"))
        door.pass_time(1)
        who = [f"5C:CF:7F:00:00:{number:02X}" for number in range(30, 60)]
        told = [self.explain(each, "--project", "lamp", "--version", "1.0.0")["reason"] for each in who]
        self.assertEqual(set(told), {"newer", "stage-full"})
        for number, reason in zip(range(30, 60), told, strict=True):
            if reason == "newer":
                self.assertEqual(door.ask(b"/lamp", *device(number)).reason, "newer")
                break
        keeping = ["--database", "none", "--project", "lamp", "--version", "1.0.0", "--dir", str(door.folder), "--json"]
        out = StringIO()
        with redirect_stdout(out):
            self.assertEqual(run_explain([SECOND, *keeping]), 0)
        self.assertEqual(json.loads(out.getvalue())["reason"], "newer")

    def test_filesystem(self) -> None:
        """Of the filesystem of a device, what it told as its version counts, unless another is given."""
        files = {**LAMPS, "lamp-1.1.0.fs.bin": b"filesystem" * 100}
        door = self.open(files=files)
        fields = [b"x-ESP8266-mode: spiffs" if b"mode" in each else each for each in device(1, "1.1.0")]
        door.ask(b"/lamp", *device(1, "1.1.0"))
        answer = door.ask(b"/lamp", *fields)
        door.pass_time(1)
        self.assertEqual(answer.reason, "up-to-date")
        self.assertEqual(self.explain(FIRST, "--mode", "spiffs")["reason"], "up-to-date")
        self.assertEqual(self.explain(FIRST, "--mode", "spiffs", "--version", "1.0.0")["reason"], "newer")

    def test_not_kept(self) -> None:
        """What the ledger doesn't keep is told, and can be given."""
        self.open("max-downloads = 1")
        self.door.ask(b"/lamp", *device(1))
        self.door.pass_time(1)
        _, out, _ = self.run_command(run_explain, FIRST)
        self.assertRegex(out, r"isn't kept: ask with --free-space and --chip-size")
        self.assertRegex(out, r"turn +1 may download at once .* is known to the running server only")
        self.assertRegex(out, r"(?m)^5C:CF:7F:00:00:01: project lamp, channel stable\n  as it was served last; its own")
        _, out, _ = self.run_command(run_explain, FIRST, "--free-space", "500000", "--chip-size", str(4 << 20))
        self.assertRegex(out, r"the device: 500000 bytes are free, 4096 KB of flash")
        _, out, _ = self.run_command(run_explain, FIRST, "--project", "lamp", "--channel", "stable")
        self.assertNotIn("served last", out)
        esp = self.door.read().channels["stable"].files["lamp-1.1.0.bin"].facts.core.esp
        assert esp is not None
        assert esp.flash_size is not None
        self.assertEqual(self.explain(FIRST, "--chip-size", str(esp.flash_size // 2))["reason"], "flash-size")

    def test_moved_by_the_policy(self) -> None:
        """Where the policy doesn't move a device any more, its own place can be given."""
        files = {**LAMPS, "bell-1.0.0.bin": esp8266_image(seed=3)}
        self.open('[devices."5C:CF:7F:00:00:01"]\nproject = "bell"\n', files)
        self.door.ask(b"/lamp", *device(1))
        self.door.pass_time(1)
        (self.door.folder / "ota.toml").write_text("")
        self.assertEqual(self.explain(FIRST)["project"], "bell")
        self.assertEqual(self.explain(FIRST, "--project", "lamp")["reason"], "newer")

    def test_broken_policy(self) -> None:
        """A fault in the folder's policy is told first, and that the defaults stand in; a named one must be right."""
        self.open("hold = true")
        self.door.ask(b"/lamp", *device(1))
        self.door.pass_time(1)
        broken = self.door.folder / "ota.toml"
        broken.write_text("hold = maybe\n")
        status, out, errors = self.run_command(run_explain, FIRST)
        self.assertEqual((status, errors.count("\n")), (0, 1))
        self.assertRegex(
            errors, r"warning: .*/ota\.toml, line 1.*; a running server goes by the policy that it read last"
        )
        self.assertRegex(out, r"(?m)^  by the default policy, since ")
        self.assertRegex(out, r"(?m)^200 .* newer: ")
        _, out, _ = self.run_command(run_explain, "--json", FIRST)
        self.assertIn("line 1", json.loads(out)["policy_trouble"])
        status, out, errors = self.run_command(run_explain, FIRST, "--policy", str(broken))
        self.assertEqual((status, out, errors.count("\n")), (2, "", 1))
        self.assertIn("line 1", errors)

    def test_without_a_ledger(self) -> None:
        """Where no server has run yet, a project and a version can be asked for, and nothing is made."""
        self.open()
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "lamp-1.1.0.bin").write_bytes(LAMPS["lamp-1.1.0.bin"])
        out = StringIO()
        with redirect_stdout(out):
            status = run_explain(["--project", "lamp", "--version", "1.0", "--dir", str(folder)])
        self.assertEqual(status, 0)
        self.assertRegex(out.getvalue(), r"(?m)^200 with lamp-1\.1\.0\.bin  newer")
        self.assertEqual([path.name for path in folder.iterdir()], ["lamp-1.1.0.bin"])

    def test_refused(self) -> None:
        """What can't be explained ends with one line that says what to do."""
        self.open()
        for arguments, status, text in (
            ((), 2, "name a device"),
            (("kitchen",), 2, "no device has this name"),
            (("5C:CF:7F:00:00",), 2, "no MAC address"),
            (("--mode", "dance", "--project", "lamp"), 2, "sketch, spiffs and version"),
            (("--policy", "/nowhere.toml", "--project", "lamp"), 2, "/nowhere.toml"),
            ((FIRST,), 1, "--project"),
        ):
            with self.subTest(arguments):
                code, out, errors = self.run_command(run_explain, *arguments)
                self.assertEqual((code, out), (status, ""))
                self.assertIn(text, errors)
                self.assertEqual(errors.count("\n"), 1)

    def test_tables_are_whole(self) -> None:
        """Each reason has a word on what would change it; each step of a decision is explained."""
        self.assertEqual(CHANGES.keys(), REASONS.keys())
        self.open('max-downloads = 5\nwindow = "00:00-24:00"\nminimum = "0.1"\nstepping-stones = ["1.0.0"]')
        told = self.explain("--project", "lamp", "--version", "1.0.0", "--free-space", "500000")
        steps = told["steps"]
        assert isinstance(steps, list)
        self.assertEqual([step["step"] for step in steps], [step.name for step in STEPS])
        self.assertEqual([step["decided"] for step in steps], [False] * (len(STEPS) - 1) + [True])


class OrderTests(CommandCase):
    """Orders that the server follows."""

    def setUp(self) -> None:
        """Wait for no server: the one here moves with the test's clock."""
        self.patch(orders, "PATIENCE", 0.0)

    def test_rollout(self) -> None:
        """A rollout is halted, and goes on, as the operator says."""
        self.open()
        self.door.ask(b"/lamp", *device(1))
        self.door.pass_time(1)
        status, out, _ = self.run_command(run_rollout)
        self.assertEqual(status, 0)
        self.assertEqual(out, "lamp 1.1.0: running, for everybody, offered to 1 of 1 devices: 1 offered\n")
        self.assertEqual(self.run_command(run_rollout, "halt", "lamp", "1.1")[0], 0)
        self.door.pass_time(3)
        self.assertEqual(self.door.ask(b"/lamp", *device(1)).reason, "halted")
        self.assertRegex(self.run_command(run_rollout, "status", "lamp")[1], r"^lamp 1\.1\.0: halted, .*by operator:")
        self.run_command(run_rollout, "resume", "lamp", "1.1.0")
        self.door.pass_time(3)
        self.assertEqual(self.door.ask(b"/lamp", *device(1)).reason, "newer")

    def test_halted_before_it_begins(self) -> None:
        """A release that nobody has got yet can be halted, too."""
        self.open()
        self.run_command(run_rollout, "halt", "lamp", "1.1.0")
        self.door.pass_time(3)
        self.assertEqual(self.door.ask(b"/lamp", *device(1)).reason, "halted")

    def test_misspelled(self) -> None:
        """What isn't there is not halted: the order is refused with what was likely meant, and nothing begins."""
        files = {**LAMPS, "beta/lamp-2.0.0.bin": esp8266_image(seed=3), "lava-1.0.0.bin": esp8266_image(seed=4)}
        self.open(files=files)
        beside = Ledger(self.place()[-1])
        beside.open_for_reading()
        self.addCleanup(beside.close)
        for arguments, text in (
            (("lmap", "1.1.0"), "there is no project 'lmap' in channel stable; did you mean lamp?"),
            (("doorbell", "1.1.0"), "there is no project 'doorbell' in channel stable; there are lamp, lava"),
            (("lamp", "1.1.1"), "lamp has no release 1.1.1; there are 1.1.0, 1.0.0"),
            (("lamp", "2.0"), "lamp has no release 2.0.0; there are 1.1.0, 1.0.0; it is in channel beta (--channel)"),
            (
                ("lamp", "2.0", "--channel", "bata"),
                "there is no channel 'bata'; did you mean beta?; it is in",
            ),
            (
                ("lava", "1.0.0", "--channel", "beta"),
                "there is no project 'lava' in channel beta; there are lamp",
            ),
        ):
            with self.subTest(arguments):
                self.run_command(run_rollout, "halt", *arguments)
                self.door.pass_time(3)
                ((_, event),) = beside.events(1)
                self.assertEqual((event.kind, event.text.partition(": ")[0]), ("refused", "halt"))
                self.assertIn(text, event.text)
        self.assertEqual(self.run_command(run_rollout)[1], "nothing has been offered to any device yet\n")

    def test_device_by_name(self) -> None:
        """A device is found by its name in the policy, of the folder or another; ids need no policy."""
        policy = '[devices."5C:CF:7F:00:00:01"]\nname = "kitchen"\n'
        self.open(policy)
        self.door.ask(b"/lamp", *device(1))
        self.door.pass_time(1)
        other = self.door.folder / "other.toml"
        other.write_text(policy.replace("kitchen", "cellar"))
        for who, more in (("kitchen", ()), ("cellar", ("--policy", str(other)))):
            self.assertEqual(self.run_command(run_device, "clear-brake", who, *more)[0], 0)
            self.door.pass_time(3)
        (self.door.folder / "ota.toml").write_text("hold = maybe")
        self.assertEqual(self.run_command(run_device, "forget", FIRST)[0], 0)
        status, out, errors = self.run_command(run_device, "forget", "kitchen")
        self.assertEqual((status, out, errors.count("\n")), (2, "", 1))
        self.assertIn("line 1", errors)
        self.door.pass_time(3)
        self.assertEqual(self.run_command(run_explain, FIRST)[0], 1)

    def test_device(self) -> None:
        """The loop brake is cleared, and a device forgotten."""
        self.open("halt = { failures = 100 }")
        self.bounce(1)
        self.bounce(1)
        self.bounce(1)
        self.assertEqual(self.door.ask(b"/lamp", *device(1)).reason, "bounced")
        self.run_command(run_device, "clear-brake", FIRST)
        self.door.pass_time(3)
        self.assertEqual(self.door.ask(b"/lamp", *device(1)).reason, "newer")
        self.run_command(run_device, "forget", FIRST)
        self.door.pass_time(3)
        self.assertEqual(self.run_command(run_explain, FIRST)[0], 1)

    def test_refused(self) -> None:
        """Orders that can't be, are refused with one line."""
        self.open()
        for command, arguments, text in (
            (run_rollout, ("dance",), "no order"),
            (run_rollout, ("halt", "lamp"), "name a project and a version"),
            (run_rollout, ("halt", "lamp", "latest"), "latest"),
            (run_device, (), "give an order"),
            (run_device, ("forget", "kitchen"), "no MAC address"),
            (run_device, ("forget", "5C:CF"), "5C:CF"),
        ):
            with self.subTest(arguments):
                status, out, errors = self.run_command(command, *arguments)
                self.assertEqual((status, out), (2, ""))
                self.assertIn(text, errors)
                self.assertEqual(errors.count("\n"), 1)

    def test_nothing_to_order(self) -> None:
        """Where there is no ledger, there is nothing to show, and none is made."""
        self.open()
        folder = Path(self.mktemp())
        folder.mkdir()
        for arguments, text in ((["--database", "none"], "nothing to ask"), ([], "ledger.sqlite")):
            errors = StringIO()
            with redirect_stderr(errors):
                status = run_rollout(["status", "--dir", str(folder), *arguments])
            self.assertIn(status, (1, 2))
            self.assertIn(text, errors.getvalue())
        self.assertEqual(list(folder.iterdir()), [])


class WaitingTests(TestCase):
    """An order is waited for, if a server follows it soon."""

    async def test_done(self) -> None:
        """What the server has done is told; what it refuses, too, with the exit status 1."""
        door = MemoryDoor(self, LAMPS, policy="")
        url = sqlite_url(door.folder / "ledger.sqlite")
        missing = "there is no project 'lamb' in channel stable; did you mean lamp?"
        for arguments, expected in (
            (["halt", "lamp", "1.1.0"], (0, "done\n", "")),
            (["halt", "lamb", "1.1.0"], (1, "", f"refused: halt: {missing}\n")),
            (["resume", "lamp", "7.0.0"], (1, "", "refused: resume: this release was never offered to any device\n")),
        ):
            out, errors = StringIO(), StringIO()
            with redirect_stdout(out), redirect_stderr(errors):
                command = deferToThread(run_rollout, [*arguments, "--database", url])
                waiting = Ledger(url)
                waiting.open_for_reading()
                # The thread leaves its order, and the server follows it as its clock moves.
                while not command.called:
                    await deferToThread(waiting.orders)
                    door.pass_time(1)
                status = await command
            waiting.close()
            self.assertEqual((status, out.getvalue(), errors.getvalue()), expected)
            self.assertIsNone(re.search("Traceback", errors.getvalue()))
