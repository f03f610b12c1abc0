"""Tests of following certificate files: bad ones, and such as end soon."""

from __future__ import annotations

from pathlib import Path

from ota_server.tls.certificates import CertificateError
from ota_server.tls.creator import DeviceTls, TlsFiles
from tests.certificates import Authority, Issued, pem
from tests.tls.following import NOW, ROOT, STAYS, FollowerCase, in_use


class TroubleTests(FollowerCase):
    """Files that can't be used: the certificate before stays."""

    def test_broken(self) -> None:
        """A broken file is told of once, loudly; what was in use stays so; the end of it is told, too."""
        self.start()
        self.certificate.write_bytes(b"nonsense")
        trouble = f"{self.certificate} holds no certificate; name the file with the chain, such as fullchain.pem"
        self.assertEqual(self.advance(10), [f"critical: {trouble}{STAYS}"])
        self.assertEqual((self.used, self.follower.trouble), ([self.first.certificate], trouble))
        second = self.issue(number=1)
        self.put(second)
        self.assertEqual(self.advance(10), [f"warn: over: {trouble}", in_use(second)])
        self.assertEqual((self.used, self.follower.trouble), ([second.certificate], ""))

    def test_broken_in_another_way(self) -> None:
        """A new trouble is told, the same one of a file that was written anew is not."""
        self.start()
        for content, lines in ((b"nonsense", 1), (b"nonsense!", 0), (self.first.key_pem, 0), (b"x" * 2_000_000, 1)):
            self.certificate.write_bytes(content)
            self.assertEqual(len(self.advance(3)), lines, content[:20])

    def test_back(self) -> None:
        """The old file put back ends the trouble."""
        self.start()
        self.certificate.write_bytes(b"nonsense")
        self.advance(3)
        self.certificate.write_bytes(self.first.full_chain)
        (over,) = self.advance(3)
        self.assertTrue(over.startswith("warn: over: "), over)

    def test_gone(self) -> None:
        """Files that go are told of once, and what they held stays in use until there are others."""
        self.start()
        self.certificate.unlink()
        self.key.unlink()
        trouble = f"{self.certificate} can't be read: No such file or directory"
        self.assertEqual(self.advance(10), [f"critical: {trouble}{STAYS}"])
        self.put(self.first)
        self.assertEqual(self.advance(10), [f"warn: over: {trouble}"])

    def test_away_for_a_moment(self) -> None:
        """A file that is away at one look only is no trouble."""
        self.start()
        self.certificate.unlink()
        self.assertEqual(self.advance(1), [])
        self.put(self.first)
        self.assertEqual(self.advance(3), [])

    def test_key_without_its_certificate(self) -> None:
        """A key that stays without its certificate is trouble, until that comes."""
        self.start()
        second = self.issue(number=1)
        self.key.write_bytes(second.key_pem)
        (line,) = self.advance(3)
        self.assertIn("critical: no certificate in", line)
        self.certificate.write_bytes(second.full_chain)
        self.assertEqual(self.advance(3)[1:], [in_use(second)])

    def test_refused_by_openssl(self) -> None:
        """A key that OpenSSL finds too small is trouble as well."""
        self.start()
        self.put(ROOT.issue("ota.example", "RSA", bits=1024))
        (line,) = self.advance(3)
        self.assertRegex(line, r"critical: OpenSSL refuses the certificate in .*fullchain\.pem: .*too small")

    def test_two_of_a_kind(self) -> None:
        """Two certificates of one kind are refused with the names of both files."""
        both = Path(self.mktemp()).absolute()
        both.write_bytes(self.first.both)
        self.files = TlsFiles((*self.files.credentials, (both, None)))
        error = self.assertRaises(CertificateError, DeviceTls, self.files)
        self.assertEqual(
            str(error),
            f"{self.certificate} and {both} are both ECDSA; a client chooses between one of RSA and one of ECDSA",
        )

    def test_unexpected(self) -> None:
        """What nobody thought of is logged once with its traceback, looked at again, and ends the following never."""
        self.start()
        patch = self.patch(TlsFiles, "identify", lambda files: 1 / 0)
        self.assertEqual(len(self.advance(5)), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        patch.restore()
        self.put(second := self.issue(number=1))
        self.assertEqual(self.advance(3), [in_use(second)])


class ChainTests(FollowerCase):
    """Chains that are not what they were."""

    def renewed(self, before: Issued, after: Issued, chain: bytes | None = None) -> list[str]:
        """Return what is logged when one certificate takes the place of another."""
        self.put(before)
        self.start(DeviceTls(self.files, now=lambda: self.now))
        self.put(after)
        if chain is not None:
            self.certificate.write_bytes(chain)
        return self.advance(2)

    def test_lost_its_end(self) -> None:
        """A chain that has lost its end is taken, and devices that will refuse it are spoken of."""
        authority = ROOT.below("Intermediate")
        before, after = (authority.issue("ota.example", number=number) for number in (0, 1))
        told = self.renewed(before, after, pem(after.certificate))
        self.assertEqual(told[-1], in_use(after))
        self.assertIn("error: the ECDSA certificate of ota.example has a shorter chain than the one before", told[0])
        self.assertIn("devices that trust only CN=Root refuse it", told[0])

    def test_other_chains(self) -> None:
        """A chain as long as before, and a shorter one that ends at the same root, are nothing to speak of."""
        authority = ROOT.below("Intermediate")
        second = authority.issue("ota.example", number=1)
        self.assertEqual(self.renewed(authority.issue("ota.example"), second), [in_use(second)])
        self.follower.stop()
        third = ROOT.issue("ota.example", number=2)
        self.assertEqual(self.renewed(second, third), [in_use(third)])


class EndedTests(FollowerCase):
    """Certificates that have ended, or will soon."""

    def test_ended_over_a_good_one(self) -> None:
        """A certificate that has ended is not taken up in the place of one that hasn't: somebody copied the old one."""
        self.start()
        self.put(self.issue(number=1, days=-1))
        (line,) = self.advance(5)
        self.assertRegex(line, rf"critical: the certificate of ota\.example in {self.certificate} ended on .*")
        self.assertEqual(self.used, [self.first.certificate])

    def test_ended_over_an_ended_one(self) -> None:
        """Where both have ended, the new one is taken up."""
        self.put(self.issue(days=-2))
        self.start()
        self.put(second := self.issue(number=1, days=-1))
        lines = self.advance(5)
        self.assertEqual((lines[0], len(lines)), (in_use(second), 2))
        self.assertEqual(self.used, [second.certificate])

    def test_which_one_ended(self) -> None:
        """It is told which certificate has ended, though the authority of clients ended before."""
        file = Path(self.mktemp()).absolute()
        file.write_bytes(Authority.root("Clients", ends=NOW - 86_400 * 100).pem)
        self.files = TlsFiles(self.files.credentials, file)
        self.start()
        self.put(self.issue(number=1, days=-1))
        (line,) = self.advance(5)
        self.assertIn("critical: the certificate of ota.example", line)

    def test_warnings(self) -> None:
        """It is said 30, 14 and 3 days before the end, and at the end, once each, more and more loudly."""
        self.assertEqual(self.start(), [])
        said = []
        for hour in range(95 * 24):
            self.now = NOW + hour * 3600
            for line in self.advance():
                level, _, text = line.partition(": ")
                said.append((level, hour // 24, "ended" in text))
        self.assertEqual(said, [("warn", 60, False), ("warn", 76, False), ("error", 87, False), ("critical", 90, True)])

    def test_warned_at_the_start(self) -> None:
        """A server that starts with a certificate near its end says so at once."""
        self.put(self.issue(days=2.5))
        (line,) = self.start()
        self.assertTrue(line.startswith("error: the certificate of ota.example in "), line)
        self.assertIn("ends in 2 days", line)

    def test_intermediate_and_authority(self) -> None:
        """An intermediate that ends, and an authority of clients, are told of like the certificate itself."""
        middle = ROOT.below("Middle", ends=NOW + 10 * 86_400)
        self.put(middle.issue("ota.example", ends=NOW + 90 * 86_400))
        file = Path(self.mktemp()).absolute()
        file.write_bytes(Authority.root("Clients", ends=NOW + 20 * 86_400).pem)
        self.files = TlsFiles(self.files.credentials, file)
        lines = self.start()
        self.assertEqual(
            [line.partition(" ends")[0] for line in lines],
            [
                f"warn: the certificate of Middle in {self.certificate}",
                f"warn: the certificate of Clients in {file}",
            ],
        )

    def test_renewed_late(self) -> None:
        """A renewed certificate ends the warnings, and has its own."""
        self.put(self.issue(days=2))
        self.start()
        self.put(second := self.issue(number=1, days=20))
        lines = self.advance(3)
        self.assertEqual(lines[0], in_use(second))
        self.assertTrue(lines[1].startswith("warn: the certificate of ota.example in "), lines[1])
        self.assertIn("ends in 20 days", lines[1])
        self.assertEqual(self.advance(10), [])
