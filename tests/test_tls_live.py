"""Tests of HTTPS in the real program: certificates that change while `twistd ota` runs, and SIGHUP."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import threading
import time

from cryptography.hazmat.primitives.serialization import Encoding

from tests.certificates import Authority
from tests.test_live import PATIENCE, TwistdCase, free_port, until


class HangupTests(TwistdCase):
    """SIGHUP, and the certificates of a running server."""

    def setUp(self) -> None:
        """Make a certificate, and choose a port for HTTPS."""
        super().setUp()
        self.root = Authority.root("Root")
        self.pem = self.folder.parent / f"{self.port}.pem"
        self.put(0)
        self.secure = free_port()
        self.string = f"device-tls:{self.secure}:cert={self.pem}:interface=127.0.0.1"

    def put(self, number: int) -> bytes:
        """Write a certificate in the place of the one before; return what clients see of it (DER)."""
        issued = self.root.issue("localhost", number=number)
        beside = self.pem.with_suffix(".new")
        beside.write_bytes(issued.both)
        beside.rename(self.pem)
        return issued.certificate.public_bytes(Encoding.DER)

    def seen(self) -> bytes | None:
        """Return the certificate that new connections see."""
        context = ssl.create_default_context(cadata=self.root.pem.decode())
        with (
            socket.create_connection(("127.0.0.1", self.secure), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return connection.getpeercert(binary_form=True)

    def read(self, process: subprocess.Popen[str], word: str) -> None:
        """Read what the process prints up to a line that holds a word; it doesn't outlive our patience for that."""
        assert process.stdout is not None
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        try:
            for line in process.stdout:
                if word in line:
                    return
        finally:
            patience.cancel()
        self.fail(f"{word!r} was not printed")

    def test_certificate(self) -> None:
        """At SIGHUP the certificates are read, changed or not; without it, a change is seen within ten seconds."""
        process = self.start("--port", self.string, "--log", "info")
        self.answer("/-/ready", 200)
        first = self.seen()
        # Nothing but the signal makes it read files that haven't changed.
        process.send_signal(signal.SIGHUP)
        self.read(process, "reloading, as told by SIGHUP")
        self.read(process, "the ECDSA certificate of localhost is in use")
        self.assertEqual(self.seen(), first)
        second = self.put(1)
        process.send_signal(signal.SIGHUP)
        self.read(process, "the ECDSA certificate of localhost is in use")
        self.assertEqual(self.seen(), second)
        changed = time.monotonic()
        third = self.put(2)
        until(lambda: self.seen() == third or None)
        self.assertLess(time.monotonic() - changed, 10)
        self.pem.write_bytes(b"nonsense")
        process.send_signal(signal.SIGHUP)
        self.read(process, "(the certificate loaded before stays in use)")
        self.assertEqual(self.seen(), third)
        printed = self.end(process)
        self.assertEqual(process.returncode, -signal.SIGTERM)
        self.assertNotIn("Traceback", printed)

    def test_without_certificates(self) -> None:
        """A server without HTTPS survives SIGHUP as well."""
        process = self.start("--log", "info")
        self.answer("/-/ready", 200)
        process.send_signal(signal.SIGHUP)
        self.read(process, "reloading, as told by SIGHUP")
        self.answer("/-/ready", 200)

    def test_bad_strings(self) -> None:
        """An endpoint string that can't be is refused in one line."""
        self.pem.write_bytes(b"nonsense")
        self.assertIn("holds 0 private keys and 0 certificates", self.refused("--port", self.string))
        self.assertIn("device-tls has no crt=; it has cert=, ", self.refused("--port", "device-tls:0:crt=x"))
