"""TLS handshakes: this server and nginx with the same certificates, each check over a connection of its own."""

import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trustme

from bench import load, processes
from bench.cases import CASES, KINDS, key_of
from bench.load import BenchError, request_head
from bench.measures import Numbers, Plan
from bench.peers import CHECK_PATH, VERSION, Nginx, Ota, Peer

CONNECTIONS = 4


def make_certificates(folder: Path) -> None:
    """Write a P-256 and an RSA certificate with their keys, of one authority."""
    folder.mkdir()
    authority = trustme.CA()
    for name, kind in (("ec", trustme.KeyType.ECDSA), ("rsa", trustme.KeyType.RSA)):
        issued = authority.issue_cert("localhost", key_type=kind)
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")


class _Tls(Peer):
    """A peer that speaks TLS."""

    certificates: Path

    def wait(self, head: bytes, status: int, body: bytes | None, patience: int = 60, *, pause: float = 0.005) -> float:
        """Ask over TLS until the answer is right; see Peer.wait."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 5) as plain:
                    connection = context.wrap_socket(plain)
                    connection.sendall(head)
                    if connection.recv(13)[9:13] == b"%d " % status:
                        return time.monotonic() - self._began
            except OSError:
                time.sleep(0.05)
        raise BenchError(f"{self.name} gave no right answer; it printed:\n{self.output()}")


class _TlsOta(_Tls, Ota):
    """This server, with both certificates."""

    def command(self) -> list[str]:
        """Return the ``twistd ota`` command."""
        folder = self.certificates
        port = f"device-tls:{self.port}:interface=127.0.0.1:cert={folder}/ec.crt:key={folder}/ec.key"
        return [*super().command()[:-1], f"{port}:cert2={folder}/rsa.crt:key2={folder}/rsa.key"]


class _TlsNginx(_Tls, Nginx):
    """nginx, with both certificates, sessions by id in memory and by ticket."""

    def command(self) -> list[str]:
        """Write the configuration and return the command."""
        command = super().command()
        configuration = Path(command[-1])
        folder = self.certificates
        tls = (
            f"listen 127.0.0.1:{self.port} ssl backlog=4096; ssl_protocols TLSv1.2 TLSv1.3; "
            "ssl_session_cache shared:sessions:16m; ssl_session_timeout 1d; ssl_prefer_server_ciphers on; "
        )
        for name in KINDS:
            tls += f'ssl_certificate "{folder}/{name}.crt"; ssl_certificate_key "{folder}/{name}.key"; '
        text = configuration.read_text()
        configuration.write_text(text.replace(f"listen 127.0.0.1:{self.port};", tls))
        return command


def run(plan: Plan, kind: type[Peer]) -> Numbers:
    """Measure one peer: handshakes per second, and the CPU microseconds of the server and of the load for each."""
    folder = plan.folder / "certificates"
    if not folder.exists():
        make_certificates(folder)
    peer = (_TlsOta if kind is Ota else _TlsNginx)(plan.image, plan.scratch("handshakes"))
    peer.certificates = folder
    peer.forget()
    numbers: Numbers = {}
    with peer.running():
        peer.settle()
        peer.pin(set(plan.server_cores))
        for case in CASES:
            numbers |= _shake(plan, peer, *case)
    return numbers


def _shake(plan: Plan, peer: Peer, certificate: str, version: str, mode: str) -> Numbers:
    with tempfile.NamedTemporaryFile(prefix="ota-bench-") as head:
        head.write(request_head(CHECK_PATH, peer.port, VERSION))
        head.flush()
        before = peer.cpu_seconds()
        with processes.own_cores(set(plan.load_cores)):
            suite = KINDS[certificate][1]
            done = load.handshakes(peer.port, version, suite, mode, CONNECTIONS, plan.seconds, head.name)
        used = peer.cpu_seconds() - before
    prefix = key_of(certificate, version, mode)
    return {
        f"{prefix}_rate": done.amount / done.seconds,
        f"{prefix}_cpu": used * 1e6 / done.amount,
        f"{prefix}_load": done.cpu * 1e6 / done.amount,
    }


def steps(plan: Plan, kind: type[Peer]) -> dict[str, Callable[[], Numbers]]:
    """Return what is to be done for a peer, by name: nothing for those without TLS."""
    return {"handshakes": lambda: run(plan, kind)} if kind in (Ota, Nginx) else {}
