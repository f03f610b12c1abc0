"""Tests of command lines that are wrong: one line says so, the status is 2, and no server is asked."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ota_server.cli import _ALSO_REMOTE, _COMMANDS
from ota_server.completion import run_completion
from ota_server.remote import explaining, listing, ordering, publish, tokens
from ota_server.remote.failing import Status
from tests.remote.commands import run_here
from tests.remote.server import ROOT

MAC = "5C:CF:7F:00:00:00"

CASES = (
    (publish.publish, "", "name a file"),
    (publish.publish, "lamp.bin", "has no version"),
    (publish.publish, "--project lamp lamp.bin", "say --project and --version"),
    (publish.publish, "--version 1 lamp.bin", "--version: '1' is not"),
    (publish.publish, "--channel ../x lamp-1.0.bin", "can't be the name of a channel"),
    (publish.publish, "--project .x lamp-1.0.bin", "can't be the name of a project"),
    (publish.publish, "--kind sketch lamp-1.0.bin", "there are app and filesystem"),
    (publish.publish, "--chip z80 lamp-1.0.bin", "--chip z80: there are"),
    (publish.publish, "--until done lamp-1.0.bin", "--until: 'done' is nothing to wait for"),
    (publish.publish, "--timeout 10 lamp-1.0.bin", '--timeout: "10" has no unit'),
    (publish.publish, "--nonsense lamp-1.0.bin", "nonsense not recognized"),
    (listing.list_releases, "a/b", "can't be the name of a project"),
    (listing.list_releases, "--limit 0", "--limit 0"),
    (listing.list_releases, "--limit many", "--limit many"),
    (listing.list_devices, "a b", "Wrong number of arguments"),
    (listing.show_device, "", "name a device"),
    (listing.show_device, "forget", "name a device"),
    (listing.show_device, f"halt {MAC}", "name a device"),
    (listing.list_events, "--after 1-0", "--after is for --follow"),
    (ordering.run_rollout, "stop lamp 1.0", "'stop' is no order"),
    (ordering.run_rollout, "halt lamp", "name a project and a version"),
    (ordering.run_rollout, "status lamp 1.0", "name a project, or none"),
    (ordering.run_rollout, "halt lamp 1.x", "1.x"),
    (ordering.run_rollout, "halt a/b 1.0", "can't be the name"),
    (ordering.run_rollout, "wait lamp 1.0 --until x", "--until"),
    (ordering.pin, MAC, "name DEVICE and VERSION"),
    (ordering.pin, f"{MAC} newest", "newest"),
    (ordering.unpin, "", "name DEVICE"),
    (ordering.rename, f"{MAC} a\x1bb", "ota-server rename: "),
    (ordering.yank, "lamp", "name PROJECT and VERSION"),
    (ordering.yank, "lamp 1.0.0.0", "1.0.0.0"),
    (explaining.run_explain, "", "name a device, or a project"),
    (explaining.run_explain, "--project lamp --mode x", "--mode x"),
    (tokens.run_token, "make", "'make' is no order"),
    (tokens.run_token, "create", "name the token"),
    (tokens.run_token, "create ci", "say what it allows"),
    (tokens.run_token, "create ci --scope all", "--scope all"),
    (tokens.run_token, "list ci", "takes no name"),
    (tokens.run_token, "revoke ci --scope read", "--scope is for create"),
    (run_completion, "tcsh", "name a shell"),
)


class UsageTests(SynchronousTestCase):
    """What is refused before any server is asked."""

    def test_refused(self) -> None:
        """Each is refused by one line, which says what was wrong."""
        for command, line, reason in CASES:
            with self.subTest(line):
                status, out, errors = run_here(command, *line.split(" ")) if line else run_here(command)
                self.assertEqual((status, out), (Status.USAGE, ""), errors)
                self.assertIn(reason, errors)
                self.assertEqual(errors.count("\n"), 1)
                self.assertTrue(errors.removesuffix("\n").isprintable())

    def test_help(self) -> None:
        """Each command has help, and a short way to it."""
        for command in {command for command, _, _ in CASES}:
            for option in ("--help", "-h"):
                ended: SystemExit = self.assertRaises(SystemExit, run_here, command, option)
                self.assertEqual(ended.code, 0)

    def test_no_state(self) -> None:
        """Where no server runs, and none is named, that is told."""
        status, _, errors = run_here(listing.list_releases, "--dir", str(Path(self.mktemp())))
        self.assertEqual(status, Status.UNREACHABLE)
        self.assertIn("--url", errors)


class DocumentTests(SynchronousTestCase):
    """The page says what the program does."""

    def test_page(self) -> None:
        """All commands, the options of publishing, and the exit statuses are in docs/ci.md."""
        page = (ROOT / "docs" / "ci.md").read_text()
        for kind in (publish.PublishOptions, listing.DevicesOptions):
            for name in set(kind().longOpt) - {"help"}:
                self.assertIn(f"--{name.rstrip('=')}", page)
        for name, (module, _) in {**_COMMANDS, **_ALSO_REMOTE}.items():
            if module.startswith("ota_server.remote."):
                self.assertRegex(page, rf"(?m)^\| `.*\b{name}\b|ota-server {name} ", name)
        for status in Status:
            self.assertRegex(page, rf"(?m)^\| {status.value} \| ")

    def test_recipes(self) -> None:
        """The step that the page shows is that of the recipe."""
        page = (ROOT / "docs" / "ci.md").read_text()
        recipe = (ROOT / "examples" / "ci" / "github" / "firmware.yml").read_text()
        shown = page.partition("```yaml\n")[2].partition("```")[0]
        self.assertIn("".join(f"      {line}" for line in shown.splitlines(keepends=True)), recipe)
