"""The TLS of the running server, looked at by sslyze and testssl.sh; run as `python -m tests.system.tls_scan`.

Each finding has to be explained in the table here and in docs/https.md; one that isn't, and an explanation of what no
longer is found, end the script with status 1. testssl.sh is Debian's; sslyze has a virtual environment of its own
(`make check-tls` makes it), since it needs other versions of what the server needs.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from ota_server.make_cert import CertificateFolder, make_server
from ota_server.tls.making import Kind
from tests.system.acme import FaultError, free_ports, running, until

ROOT = Path(__file__).absolute().parent.parent.parent
SSLYZE = ROOT / ".venv" / "scan" / "bin" / "sslyze"
PAGE = ROOT / "docs" / "https.md"
HOST = "localhost"


@attrs.frozen
class Explained:
    """A finding that has a reason: its name in docs/https.md, and what its lines look like."""

    name: str
    pattern: str


EXPLAINED = (
    Explained("static RSA", r"sslyze ciphers: TLS_RSA_WITH_AES_(128|256)_(GCM|CBC)_SHA(256|384)?"),
    Explained("AES-CBC", r"sslyze ciphers: TLS_ECDHE_(ECDSA|RSA)_WITH_AES_(128|256)_CBC_SHA(256|384)?"),
    Explained("AES-CBC", r"testssl (LUCKY13|cipherlist_AVERAGE): LOW .*"),
    Explained("AES-CCM", r"sslyze ciphers: TLS_ECDHE_ECDSA_WITH_AES_(128|256)_CCM"),
    Explained("X448, P-521", r"sslyze tls_curves: (X448|secp521r1)"),
    Explained("long life", r"sslyze maximum_certificate_lifespan: Certificate life span is 820 days, .*"),
    Explained("no revocation", r"testssl cert_revocation <cert#[12]>: HIGH Neither CRL nor OCSP URI provided"),
    Explained("no HSTS", r"testssl HSTS: LOW not offered"),
)
"""What is found, and why that is as it should be stands in docs/https.md under its name."""

SOUND: dict[str, dict[str, object]] = {
    "heartbleed": {"is_vulnerable_to_heartbleed": False},
    "openssl_ccs_injection": {"is_vulnerable_to_ccs_injection": False},
    "robot": {"robot_result": "NOT_VULNERABLE_NO_ORACLE"},
    "session_renegotiation": {
        "supports_secure_renegotiation": True,
        "is_vulnerable_to_client_renegotiation_dos": False,
    },
    "tls_compression": {"supports_compression": False},
    "tls_fallback_scsv": {"supports_fallback_scsv": True},
    "tls_extended_master_secret": {"supports_ems_extension": True},
    **{f"{version}_cipher_suites": {"is_tls_version_supported": False} for version in ("ssl_2_0", "ssl_3_0")},
    **{f"{version}_cipher_suites": {"is_tls_version_supported": False} for version in ("tls_1_0", "tls_1_1")},
    **{f"{version}_cipher_suites": {"is_tls_version_supported": True} for version in ("tls_1_2", "tls_1_3")},
}
"""What sslyze has to say of each of its scans."""


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """Run the server with both certificates of `ota-server make-cert`; yield its port."""
    certificates = CertificateFolder(folder / "certificates", datetime.now(UTC))
    list(make_server(certificates, [HOST, "127.0.0.1"], None))
    bundle = b"".join((certificates.server_authority / f"{kind.value}.pem").read_bytes() for kind in Kind)
    (folder / "roots.pem").write_bytes(bundle)
    (folder / "firmware").mkdir()
    [port] = free_ports(1)
    string = certificates.port().replace("device-tls:443:", f"device-tls:{port}:interface=127.0.0.1:")
    program = Path(sys.executable).with_name("twistd")
    command = [program, "--nodaemon", "--pidfile=", "ota", "--dir", folder / "firmware", "--state", folder / "state"]
    with running("server", folder, *command, "--port", string, "--admin", "none"):
        until(lambda: ssl.get_server_certificate(("127.0.0.1", port)), "the server listens")
        yield port


def ask_sslyze(folder: Path, program: Path, port: int) -> Iterator[str]:
    """Yield the findings of sslyze, beside Mozilla's intermediate configuration."""
    report = folder / "sslyze.json"
    command: list[str | Path] = [
        program,
        "--sni",
        HOST,
        "--certinfo_ca_file",
        folder / "roots.pem",
        "--json_out",
        report,
    ]
    done = subprocess.run([*command, f"127.0.0.1:{port}"], capture_output=True, text=True, check=False)
    if not report.exists():
        raise FaultError(f"sslyze failed: {done.stdout}{done.stderr}")
    [scanned] = json.loads(report.read_text())["server_scan_results"]
    if scanned["scan_status"] != "COMPLETED":
        raise FaultError(f"sslyze could not scan: {scanned['connectivity_error_trace'] or scanned['scan_status']}")
    results: dict[str, Any] = {name: scan["result"] or {} for name, scan in scanned["scan_result"].items()}
    for name, wanted in SOUND.items():
        for key, value in wanted.items():
            if results[name].get(key) != value:
                yield f"sslyze {name}: {key} is {results[name].get(key)}"
    deployments = results["certificate_info"]["certificate_deployments"]
    if len(deployments) != len(Kind):
        yield f"sslyze certificate_info: {len(deployments)} certificates"
    for deployment in deployments:
        stores = {path["trust_store"]["name"]: path for path in deployment["path_validation_results"]}
        if (
            not stores["Supplied CA file"]["was_validation_successful"]
            or len(deployment["received_certificate_chain"]) != 1
        ):
            yield "sslyze certificate_info: not the chain of the private authority"
    _, _, compliance = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")
    if "intermediate" not in compliance:
        raise FaultError(f"sslyze did not compare with Mozilla's configuration: {done.stdout}{done.stderr}")
    for issue, text in re.findall(r"(?m)^ +\* (\w+): (.*)$", compliance):
        several = re.search(r"\{(.*)\}", text)
        for one in re.findall(r"'([^']+)'", several[1]) if several else [text]:
            yield f"sslyze {issue}: {one}"


def ask_testssl(folder: Path, program: str, port: int) -> Iterator[str]:
    """Yield the findings of testssl.sh."""
    report = folder / "testssl.json"
    roots = ",".join(str(folder / "certificates" / "authority" / f"{kind.value}.pem") for kind in Kind)
    command = [program, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "min", "--ip", "127.0.0.1"]
    command += ["--add-ca", roots, "--jsonfile", str(report), f"{HOST}:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not report.exists():
        raise FaultError(f"testssl.sh failed: {done.stdout}{done.stderr}")
    for entry in json.loads(report.read_text()):
        # What it calls a warning is what it could not look at here.
        if entry["severity"] not in ("OK", "INFO", "WARN", "DEBUG"):
            yield f"testssl {entry['id']}: {entry['severity']} {entry['finding']}"


def judge(findings: list[str]) -> Iterator[str]:
    """Yield what is wrong: what isn't explained, and explanations of nothing."""
    for finding in findings:
        if not any(re.fullmatch(explained.pattern, finding) for explained in EXPLAINED):
            yield f"not explained: {finding}"
    for explained in EXPLAINED:
        if not any(re.fullmatch(explained.pattern, finding) for finding in findings):
            yield f"no longer found, take its explanation away: {explained.name} ({explained.pattern})"
        if f"| {explained.name} |" not in PAGE.read_text():
            yield f"docs/https.md doesn't explain: {explained.name}"


def main() -> None:
    """Scan, print the findings, and end with status 1 where one isn't explained."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sslyze = SSLYZE if SSLYZE.exists() else Path(shutil.which("sslyze") or "")
    testssl = shutil.which("testssl") or shutil.which("testssl.sh")
    if sslyze == Path() or testssl is None:
        missing = (
            "testssl.sh; on Debian: apt-get install testssl.sh" if testssl is None else "sslyze; run: make check-tls"
        )
        sys.exit(f"tls_scan: there is no {missing}")
    with tempfile.TemporaryDirectory(prefix="ota-scan-") as temporary:
        folder = Path(temporary)
        try:
            with server(folder) as port:
                findings = sorted([*ask_sslyze(folder, sslyze, port), *ask_testssl(folder, testssl, port)])
        except FaultError as fault:
            sys.exit(f"tls_scan: {fault}")
    for finding in findings:
        print(finding)
    wrong = list(judge(findings))
    for line in wrong:
        print(line)
    print(f"{len(findings)} findings, {len(wrong)} faults")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
