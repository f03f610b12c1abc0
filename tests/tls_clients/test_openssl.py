"""Tests with `openssl s_client`: sessions that are resumed by id, by ticket and by pre-shared key, counted."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from unittest import skipUnless

from twisted.internet.threads import deferToThread

from ota_server.tls.making import Kind
from tests.tls_clients.test_clients import PLAIN, ClientCase, certificates, roots

OPENSSL = shutil.which("openssl")
AGAIN = 5
"""How often a session is resumed."""

SIGNATURES = {Kind.P256: "ECDSA+SHA256", Kind.RSA: "RSA-PSS+SHA256:RSA+SHA256"}
"""What a client says it can check, so that it is shown a certificate of a kind."""


@skipUnless(OPENSSL, "there is no openssl")
class ResumptionTests(ClientCase):
    """OpenSSL's client, which knows every way to resume a session, at a server with two certificates."""

    def connect(self, session: Path, *arguments: str) -> str:
        """Connect, fetch, and keep the session in a file; go on with it if it is there. Return `New` or `Reused`."""
        command = [OPENSSL or "", "s_client", "-connect", f"127.0.0.1:{self.port}", "-servername", "localhost"]
        command += ["-CAfile", str(roots(*Kind)), "-verify_return_error", "-ign_eof", "-sess_out", str(session)]
        if session.exists():
            command += ["-sess_in", str(session)]
        request = f"GET {PLAIN}.md5 HTTP/1.0\r\n\r\n"
        done = subprocess.run(
            [*command, *arguments], input=request, capture_output=True, text=True, check=False, timeout=20
        )
        # It ends with a status of its own where the server ends the connection; the answer tells that all went well.
        self.assertIn("200 OK", done.stdout, done.stderr)
        # With TLS 1.3 there is such a line for each session it gets.
        found = re.search(r"(?m)^(New|Reused), TLSv1\.[23], Cipher is ", done.stdout)
        assert found is not None, done.stdout
        return found[1]

    async def check_resumed(self, *arguments: str) -> None:
        """Connect for the first time, and again and again, with each kind of certificate."""
        await self.serve(*Kind)
        for kind in Kind:
            session = Path(self.mktemp())
            chosen = (*arguments, "-sigalgs", SIGNATURES[kind])
            told = [await deferToThread(self.connect, session, *chosen) for _ in range(1 + AGAIN)]
            self.assertEqual(told, ["New", *["Reused"] * AGAIN], kind)

    async def test_by_id(self) -> None:
        """By session id under TLS 1.2 (RFC 5246, section 7.3), as BearSSL does."""
        await self.check_resumed("-tls1_2", "-no_ticket")

    async def test_by_ticket(self) -> None:
        """By ticket under TLS 1.2 (RFC 5077)."""
        await self.check_resumed("-tls1_2")

    async def test_by_psk(self) -> None:
        """By pre-shared key under TLS 1.3 (RFC 8446, section 2.2)."""
        await self.check_resumed("-tls1_3")

    async def test_with_client_certificate(self) -> None:
        """A device that proved itself resumes as well."""
        await self.serve(*Kind, ask=True)
        own = certificates().clients / "p256.pem"
        for version in ("-tls1_2", "-tls1_3"):
            session = Path(self.mktemp())
            arguments = (version, "-cert", str(own), "-key", str(own.with_suffix(".key")))
            told = [await deferToThread(self.connect, session, *arguments) for _ in range(1 + AGAIN)]
            self.assertEqual(told, ["New", *["Reused"] * AGAIN])
