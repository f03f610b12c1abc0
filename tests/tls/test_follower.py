"""Tests of following certificate files: when renewed ones are taken up, SIGHUP, the end, the keys of tickets."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import TestCase

from ota_server import signals
from ota_server.tls.context import SESSION_LIFETIME
from ota_server.tls.creator import DeviceTls, Loaded, TlsFiles
from ota_server.tls.follower import INTERVAL, TlsFollower
from tests.certificates import Authority, pem
from tests.tls.following import NOW, ROOT, FollowerCase, HeldThreadPool, exchange, in_use


class RenewalTests(FollowerCase):
    """What is taken up, and when."""

    def test_nothing_happens(self) -> None:
        """For as long as nothing changes, nothing is logged and nothing is loaded."""
        self.assertEqual(self.start(), [])
        contexts = self.tls._contexts
        self.assertEqual(self.advance(1000), [])
        self.assertIs(self.tls._contexts, contexts)

    def test_renewed(self) -> None:
        """A renewed certificate is taken up after two looks that saw the same, which is within ten seconds."""
        self.assertLessEqual(3 * INTERVAL, 10)
        self.start()
        second = self.issue(number=1)
        self.advance(5)
        self.put(second)
        self.assertEqual(self.advance(1), [])
        self.assertEqual(self.used, [self.first.certificate])
        self.assertEqual(self.advance(1), [in_use(second)])
        self.assertEqual(self.used, [second.certificate])
        self.assertEqual(self.advance(10), [])

    def test_changed_before_the_start(self) -> None:
        """A change between reading the options and the start is not lost."""
        tls = DeviceTls(self.files)
        self.put(second := self.issue(number=1))
        self.start(tls)
        self.assertEqual(self.used, [self.first.certificate])
        self.assertEqual(self.advance(2), [in_use(second)])

    def test_being_written(self) -> None:
        """While files change from look to look nothing is read of them."""
        self.start()
        second = self.issue(number=1)
        whole = second.full_chain
        self.key.write_bytes(second.key_pem)
        for end in range(100, len(whole), 100):
            self.certificate.write_bytes(whole[:end])
            self.assertEqual(self.advance(), [])
        self.certificate.write_bytes(whole)
        self.assertEqual(self.advance(2), [in_use(second)])

    def test_key_first(self) -> None:
        """A key that is exchanged a moment before its certificate is no trouble when both have settled together."""
        self.start()
        second = self.issue(number=1)
        self.key.write_bytes(second.key_pem)
        self.assertEqual(self.advance(1), [])
        self.certificate.write_bytes(second.full_chain)
        self.assertEqual(self.advance(3), [in_use(second)])

    def test_live_folder(self) -> None:
        """Links that lead elsewhere, as certbot exchanges them, are a change, though the times are the same."""
        archive = Path(self.mktemp()).absolute()
        archive.mkdir()
        second = self.issue("ota.example", number=1)
        for number, issued in ((1, self.first), (2, second)):
            for name, data in (("fullchain", issued.full_chain), ("privkey", issued.key_pem)):
                path = archive / f"{name}{number}.pem"
                path.write_bytes(data)
                os.utime(path, (NOW, NOW))
        for path, name in ((self.certificate, "fullchain"), (self.key, "privkey")):
            exchange(path, archive / f"{name}1.pem")
        self.start()
        self.assertEqual(self.advance(3), [])
        for path, name in ((self.certificate, "fullchain"), (self.key, "privkey")):
            exchange(path, archive / f"{name}2.pem")
        self.assertEqual(self.advance(3), [in_use(second)])

    def test_live_folder_is_exchanged(self) -> None:
        """A link in the middle of the path, as container platforms exchange whole folders, is followed as well."""
        base = Path(self.mktemp()).absolute()
        second = self.issue(number=1)
        for name, issued in (("one", self.first), ("two", second)):
            (base / name).mkdir(parents=True)
            (base / name / "tls.crt").write_bytes(issued.full_chain)
            (base / name / "tls.key").write_bytes(issued.key_pem)
        (base / "data").symlink_to(base / "one")
        self.files = TlsFiles(((base / "data" / "tls.crt", base / "data" / "tls.key"),))
        self.start()
        exchange(base / "data", base / "two")
        self.assertEqual(self.advance(3), [in_use(second)])

    def test_same_certificate(self) -> None:
        """Files that are written anew with the same certificate are nothing new, and the sessions stay."""
        self.start()
        contexts = self.tls._contexts
        for change in (lambda: self.put(self.first), lambda: self.key.chmod(0o600), lambda: os.utime(self.key, (1, 1))):
            change()
            self.assertEqual(self.advance(3), [])
        self.certificate.write_bytes(self.first.full_chain + b"\n" + ROOT.pem)
        self.assertEqual(self.advance(3), [])
        self.assertIs(self.tls._contexts, contexts)

    def test_other_chain(self) -> None:
        """The same certificate with a longer chain is a change."""
        middle = ROOT.below("Middle")
        issued = middle.issue("ota.example", ends=NOW + 90 * 86_400)
        self.key.write_bytes(issued.key_pem)
        self.certificate.write_bytes(pem(issued.certificate))
        self.start()
        self.certificate.write_bytes(issued.full_chain)
        self.assertEqual(self.advance(3), [in_use(issued)])
        self.assertEqual(self.tls.loaded.credentials[0].chain, (issued.certificate, middle.certificate))

    def test_same_time_and_size(self) -> None:
        """A file that another one is renamed to is taken up, though time and size are the same."""
        both = Path(self.mktemp()).absolute()
        first = self.first.both
        both.write_bytes(first.ljust(4000))
        self.files = TlsFiles(((both, None),))
        self.start()
        second = self.issue(number=1)
        other = Path(self.mktemp())
        other.write_bytes(second.both.ljust(4000))
        os.utime(other, ns=(1, both.stat().st_mtime_ns))
        other.rename(both)
        self.assertEqual(self.advance(3), [in_use(second)])

    def test_two_certificates(self) -> None:
        """Of two certificates one may be renewed; both are told of."""
        rsa = ROOT.issue("ota.example", "RSA", ends=NOW + 90 * 86_400)
        both = Path(self.mktemp()).absolute()
        both.write_bytes(rsa.both)
        self.files = TlsFiles((*self.files.credentials, (both, None)))
        self.start()
        self.put(second := self.issue(number=1))
        self.assertEqual(self.advance(3), [in_use(second), in_use(rsa, "RSA")])
        self.assertEqual(self.used, [second.certificate, rsa.certificate])

    def test_authorities(self) -> None:
        """The authorities of clients are followed as well."""
        file = Path(self.mktemp()).absolute()
        file.write_bytes(ROOT.pem)
        self.files = TlsFiles(self.files.credentials, file)
        self.start()
        other = Authority.root("Other")
        file.write_bytes(ROOT.pem + other.pem)
        self.assertEqual(self.advance(3), [in_use(self.first)])
        self.assertEqual(self.tls.loaded.authorities, (ROOT.certificate, other.certificate))

    def test_unused(self) -> None:
        """A certificate of the file that is not sent is named at the start."""
        self.certificate.write_bytes(self.first.full_chain + Authority.root("X").below("Stranger").pem)
        words = "the certificate of Stranger is not sent: it isn't the issuer of any other in the file"
        self.assertEqual(self.start(), [f"warn: {words}"])
        self.assertEqual(self.advance(10), [])


class HangupTests(FollowerCase):
    """SIGHUP."""

    def test_at_once(self) -> None:
        """A renewed file is taken up at once, without a second look."""
        self.start()
        self.put(second := self.issue(number=1))
        self.assertEqual(self.hang_up(), [in_use(second)])
        self.assertEqual(self.used, [second.certificate])
        self.assertEqual(self.advance(10), [])

    def test_unchanged(self) -> None:
        """The files are read though nothing changed, and that is told; sessions stay."""
        self.start()
        contexts = self.tls._contexts
        self.assertEqual(self.hang_up(), [in_use(self.first)])
        self.assertIs(self.tls._contexts, contexts)
        self.put(second := self.issue(number=1))
        self.assertEqual(self.advance(2), [in_use(second)])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_broken(self) -> None:
        """A file that is still broken is told of again: the one who sends the signal wants to know."""
        self.start()
        self.certificate.write_bytes(b"nonsense")
        (line,) = self.advance(3)
        self.assertEqual(self.hang_up(), [line])
        self.assertEqual(self.advance(3), [])

    def test_half_written(self) -> None:
        """A file that was half written at the signal is taken up when it is whole."""
        self.start()
        second = self.issue(number=1)
        self.key.write_bytes(second.key_pem)
        (line,) = self.hang_up()
        self.assertIn("critical: ", line)
        self.certificate.write_bytes(second.full_chain)
        self.assertEqual(self.advance(3)[1:], [in_use(second)])

    def test_during_a_look(self) -> None:
        """A signal while a thread reads lets it read once more: it may have read what was there before."""
        self.pool = pool = HeldThreadPool()
        self.start()
        self.put(second := self.issue(number=1))
        self.advance()
        self.assertEqual(self.hang_up(), [])
        pool.release()
        # The look that was under way is over, and the next began at once.
        pool.release()
        self.assertEqual(self.used, [self.first.certificate])
        self.assertEqual(self.logged(pool.release), [in_use(second)])
        self.assertEqual((len(pool.held), len(self.clock.getDelayedCalls())), (0, 1))

    def test_after_the_end(self) -> None:
        """Once it has stopped, a signal means nothing."""
        self.start()
        self.follower.stop()
        self.put(self.issue(number=1))
        self.assertEqual(self.hang_up(), [])
        self.assertEqual(self.used, [self.first.certificate])


class EndTests(FollowerCase):
    """The end of following."""

    def test_idle(self) -> None:
        """Stopped between two looks, nothing is left on the clock or on the list for SIGHUP."""
        before = list(signals._reloads)
        self.start()
        self.advance(2)
        self.follower.stop()
        self.assertEqual((self.clock.getDelayedCalls(), signals._reloads), ([], before))

    def test_while_a_thread_works(self) -> None:
        """Stopped while a thread looks or reads, the end waits for it, and nothing is taken up or said any more."""
        for reading in (False, True):
            self.pool = pool = HeldThreadPool()
            self.put(self.first)
            self.start()
            self.put(self.issue(number=1 + reading))
            if reading:
                for _ in range(2):
                    self.advance()
                    pool.release()
            else:
                self.advance()
            ended: list[object] = []
            looking = self.follower.stop()
            assert looking is not None
            looking.addCallback(ended.append)
            self.assertEqual((len(pool.held), ended), (1, []))
            self.assertEqual(self.logged(pool.release), [])
            self.assertEqual((ended, pool.held, self.clock.getDelayedCalls()), ([None], [], []))
            self.assertEqual(self.used, [self.first.certificate])

    def test_again(self) -> None:
        """It can be started again."""
        self.start()
        self.follower.stop()
        self.put(second := self.issue(number=1))
        self.follower.start()
        self.assertEqual(self.advance(2), [in_use(second)])


class RotationTests(FollowerCase):
    """The keys of tickets."""

    def test_rotation(self) -> None:
        """After SESSION_LIFETIME there are new contexts of the same certificate, silently."""
        self.start()
        contexts = self.tls._contexts
        self.clock.advance(SESSION_LIFETIME - INTERVAL)
        self.assertEqual(self.advance(0), [])
        self.assertIs(self.tls._contexts, contexts)
        self.assertEqual(self.advance(2), [])
        self.assertIsNot(self.tls._contexts, contexts)
        self.assertEqual(self.used, [self.first.certificate])
        rotated = self.tls._contexts
        self.assertEqual(self.advance(1000), [])
        self.assertIs(self.tls._contexts, rotated)

    def test_in_trouble(self) -> None:
        """Files in trouble don't keep the keys from being rotated: what is in use needs no files."""
        self.start()
        self.certificate.unlink()
        self.advance(3)
        contexts = self.tls._contexts
        self.clock.advance(SESSION_LIFETIME)
        self.assertEqual(self.advance(2), [])
        self.assertIsNot(self.tls._contexts, contexts)


class ThreadTests(TestCase):
    """Where the work is done."""

    async def test_in_a_thread(self) -> None:
        """Files are looked at, read and made contexts of in a thread: a check never waits for that."""
        both = Path(self.mktemp()).absolute()
        both.write_bytes(ROOT.issue("ota.example").both)
        tls = DeviceTls(TlsFiles(((both, None),)))
        threads: dict[str, set[int]] = {}

        def note(owner: Any, name: str) -> None:
            original = getattr(owner, name)

            def noting(*args: Any, **kw: Any) -> Any:
                threads.setdefault(name, set()).add(threading.get_ident())
                return original(*args, **kw)

            self.patch(owner, name, noting)

        for owner, name in ((TlsFiles, "identify"), (TlsFiles, "load"), (DeviceTls, "make_contexts")):
            note(owner, name)
        taken: Deferred[Loaded] = Deferred()
        take = tls.take

        def note_taking(loaded: Loaded, contexts: Any) -> None:
            threads.setdefault("take", set()).add(threading.get_ident())
            take(loaded, contexts)
            taken.callback(loaded)

        self.patch(tls, "take", note_taking)
        pool = ThreadPool(1, 1)
        pool.start()
        self.addCleanup(pool.stop)
        reactor: Any = global_reactor
        follower = TlsFollower(tls, reactor, pool, lambda: NOW)
        follower.start()
        both.write_bytes(ROOT.issue("ota.example", number=1).both)
        with capturedLogs():
            signals.reload_all()
            await taken
        stopped = follower.stop()
        assert stopped is not None
        await stopped
        (worker,) = {ident for name in ("identify", "load", "make_contexts") for ident in threads[name]}
        self.assertNotEqual(worker, threading.get_ident())
        self.assertEqual(threads["take"], {threading.get_ident()})
