"""Tests of what keeps access closed: when the policy changes, and at the next start."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

from twisted.internet import reactor
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.protocols.haproxy import proxyEndpoint
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from ota_server.access_guard import MARK, AccessGuard, asks_for_certificates
from ota_server.doors import StartError
from ota_server.fleet.policy import Policy, PolicyError, read_policy
from ota_server.policy_watch import INTERVAL, IPolicyReactor, PolicyWatcher, load_policy
from ota_server.service import make_ota_service
from ota_server.tap import Options, makeService
from ota_server.tls.endpoint import DeviceTlsParser
from tests.certificates import make_authority, make_pem
from tests.web.memory import MemoryReactor, OwnThreadPool

HASH = f'"sha256:{hashlib.sha256(b"a token").hexdigest()}"'
CLOSED = f'[access]\ndevices = "token"\ntoken = {HASH}\n'
CERTIFICATE = '\n[access]\ndevices = "certificate"\n'
OPEN = '[access]\ndevices = "open"\n'
ADVICE = 'write [access] devices = "open" to open it on purpose'


def write_certificates(folder: Path) -> str:
    """Write what a port needs that asks for client certificates, and return the string of such a port."""
    (folder / "server.pem").write_bytes(make_pem("ota.example"))
    make_authority().cert_pem.write_to_path(str(folder / "ca.pem"))
    return f"device-tls:0:cert={folder}/server.pem:clientCA={folder}/ca.pem:interface=127.0.0.1"


class GuardTests(SynchronousTestCase):
    """What the guard says of policies."""

    def setUp(self) -> None:
        """Make a folder for what a server keeps."""
        self.state = Path(self.mktemp()).absolute()
        self.state.mkdir()
        self.guard = AccessGuard(self.state, asks_for_certificates=False)

    def start(self, text: str) -> Policy:
        """Start with a policy, and keep that in mind. Raises PolicyError."""
        policy = read_policy(text, "ota.toml")
        self.guard.check_start(policy, "ota.toml")
        self.guard.note(policy)
        return policy

    def test_never_closed(self) -> None:
        """Who never closed anything is never asked, and nothing is written."""
        for text in ("", "hold = true", OPEN, ""):
            self.start(text)
        self.assertEqual(list(self.state.iterdir()), [])

    def test_setting_gone(self) -> None:
        """Once closed, a start without the setting is refused, however often, until it is opened on purpose."""
        self.start(CLOSED)
        for text in ("", "hold = true", ""):
            error = self.assertRaises(PolicyError, self.start, text)
            self.assertTrue(str(error).startswith("ota.toml: [access] devices has gone"), error)
            self.assertTrue(str(error).endswith(ADVICE), error)
        self.start(CLOSED)
        self.start(OPEN)
        self.start("")

    def test_mark(self) -> None:
        """The mark tells a person who finds it what it is for, and has nothing of the policy in it."""
        self.start(CLOSED)
        text = (self.state / MARK).read_text()
        self.assertIn('devices = "open"', text)
        self.assertNotIn("sha256", text)
        self.start(CLOSED)
        self.assertEqual((self.state / MARK).read_text(), text)

    def test_mark_unreadable(self) -> None:
        """Where nobody can say whether access was closed the server doesn't start."""
        self.guard.mark = self.state / ("x" * 300)
        error = self.assertRaises(PolicyError, self.start, "")
        self.assertIn("can't be read: File name too long", str(error))

    def test_no_port_asks(self) -> None:
        """Certificates need a port that asks for them."""
        error = self.assertRaises(PolicyError, self.start, CERTIFICATE)
        self.assertTrue(str(error).startswith("ota.toml, line 3, [access] devices: no port asks"), error)
        self.assertIn("clientCA=FILE", str(error))
        self.assertFalse((self.state / MARK).exists())
        self.guard = AccessGuard(self.state, asks_for_certificates=True)
        self.start(CERTIFICATE)
        self.assertRaises(PolicyError, self.start, "")

    def test_doors(self) -> None:
        """A port asks where it names an authority for clients, also where a client may have none."""
        write_certificates(self.state)
        parser = DeviceTlsParser()
        plain = parser.parseStreamServer(reactor, "0", cert=f"{self.state}/server.pem")
        asking = parser.parseStreamServer(
            reactor, "0", cert=f"{self.state}/server.pem", clientCA=f"{self.state}/ca.pem", clientOptional="yes"
        )
        self.assertEqual(
            [asks_for_certificates(doors) for doors in ([], [plain], [plain, asking], [proxyEndpoint(asking)])],
            [False, False, True, True],
        )


class WatchTests(SynchronousTestCase):
    """Changes while the server runs."""

    def setUp(self) -> None:
        """Follow a policy that closes access."""
        self.state = Path(self.mktemp()).absolute()
        self.state.mkdir()
        self.path = self.state / "ota.toml"
        self.clock = MemoryReactor()
        self.taken: list[Policy] = []

    def follow(self, text: str, *, asks: bool = False) -> None:
        """Follow a policy file with this text."""
        self.path.write_text(text)
        current = load_policy(self.path, False)
        guard = AccessGuard(self.state, asks_for_certificates=asks)
        guard.note(current)
        self.watcher = PolicyWatcher(
            self.path, False, cast("IPolicyReactor", self.clock), OwnThreadPool(), self.taken.append, current, guard
        )
        self.watcher.startService()
        self.addCleanup(self.watcher.stopService)

    def put(self, text: str | None) -> list[str]:
        """Write the file, or take it away; return what the log tells of it."""
        if text is None:
            self.path.unlink()
        else:
            self.path.write_text(text)
        with capturedLogs() as events:
            for _ in range(4):
                self.clock.advance(INTERVAL)
        return [formatEvent(event) for event in events if event["log_level"] in (LogLevel.warn, LogLevel.error)]

    def test_setting_gone(self) -> None:
        """What lacks the setting is a trouble, and what held before goes on; opening on purpose works."""
        self.follow(CLOSED)
        (told,) = self.put("")
        self.assertIn("[access] devices has gone", told)
        self.assertTrue(told.endswith(f"{ADVICE} (the policy read before stays in force)"), told)
        # The same trouble is told once.
        self.assertEqual(self.put("hold = true"), [])
        self.assertEqual(self.taken, [])
        self.assertTrue(self.watcher.current.access.closed)
        self.assertTrue((self.state / MARK).exists())
        self.put(OPEN)
        self.assertEqual((len(self.taken), self.watcher.trouble), (1, ""))
        self.assertFalse((self.state / MARK).exists())
        self.assertEqual(self.put(""), [])
        self.assertEqual(len(self.taken), 2)

    def test_file_gone(self) -> None:
        """A file that has gone opens nothing."""
        self.follow(CLOSED)
        self.assertIn("has gone", self.put(None)[0])
        self.assertEqual((self.taken, (self.state / MARK).exists()), ([], True))

    def test_closed(self) -> None:
        """What closes access is in force at once, and kept in mind."""
        self.follow("")
        self.assertFalse((self.state / MARK).exists())
        self.assertEqual(self.put(CLOSED), [])
        self.assertTrue(self.taken[0].access.closed)
        self.assertTrue((self.state / MARK).exists())
        self.assertIn("has gone", self.put("")[0])
        self.assertEqual(len(self.taken), 1)

    def test_back_again(self) -> None:
        """The trouble is over when the text is what it was."""
        self.follow(CLOSED)
        self.put("")
        (told,) = self.put(CLOSED)
        self.assertTrue(told.startswith("over: "), told)
        self.assertEqual((self.taken, self.watcher.trouble), ([], ""))

    def test_certificates(self) -> None:
        """Nobody is locked out by a change that no port can fulfil."""
        self.follow(CLOSED)
        (told,) = self.put(CERTIFICATE)
        self.assertIn("no port asks for certificates", told)
        self.assertEqual(self.taken, [])

    def test_certificates_asked_for(self) -> None:
        """Where a port asks, it is taken."""
        self.follow(CLOSED, asks=True)
        self.assertEqual(self.put(CERTIFICATE), [])
        self.assertEqual(len(self.taken), 1)

    def test_mark_cannot_be_written(self) -> None:
        """Then access is closed all the same, and the log says what is lost."""
        self.follow("")
        guard = self.watcher._guard
        assert guard is not None
        guard.mark = self.state / "gone" / MARK
        (told,) = self.put(CLOSED)
        self.assertIn("can't be changed: No such file or directory", told)
        self.assertTrue(self.taken[0].access.closed)


class StartTests(SynchronousTestCase):
    """The start of the whole server."""

    def setUp(self) -> None:
        """Make a firmware folder."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def parse(self, text: str | None, *arguments: str) -> Options:
        """Parse the options of a server with this policy."""
        policy = self.folder / "ota.toml"
        policy.unlink(missing_ok=True)
        if text is not None:
            policy.write_text(text)
        options = Options()
        options.parseOptions(["--dir", str(self.folder), "--database", "none", *arguments])
        return options

    def test_restart(self) -> None:
        """A server that was closed doesn't start open because the file or the setting has gone."""
        makeService(self.parse(CLOSED))
        self.assertTrue((self.folder / ".ota" / MARK).exists())
        for text in (None, "", "hold = true"):
            message = str(self.assertRaises(usage.UsageError, self.parse, text))
            self.assertEqual(message.count("\n"), 0)
            self.assertIn(str(self.folder / "ota.toml"), message)
            self.assertIn(ADVICE, message)
        makeService(self.parse(OPEN))
        makeService(self.parse(None))

    def test_refused_start_changes_nothing(self) -> None:
        """Options that are only looked at leave no mark."""
        self.parse(CLOSED)
        self.assertFalse((self.folder / ".ota" / MARK).exists())

    def test_certificates(self) -> None:
        """Certificates need a port that asks for them, before the start."""
        message = str(self.assertRaises(usage.UsageError, self.parse, CERTIFICATE))
        self.assertIn("ota.toml, line 3, [access] devices: no port asks for certificates", message)
        string = write_certificates(self.folder)
        self.assertTrue(self.parse(CERTIFICATE, "--port", string)["doors"])

    def test_mark_cannot_be_written(self) -> None:
        """Where it can't be kept in mind that access is closed, the server doesn't start."""
        (self.folder / "ota.toml").write_text(CLOSED)
        error = self.assertRaises(StartError, make_ota_service, self.folder, self.folder / "nothing", [])
        self.assertIn("can't be changed: No such file or directory", str(error))
