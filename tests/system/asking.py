"""Asks servers as devices do, for runs of whole systems."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from tests.system.podman import expect

DEVICE = "5C:CF:7F:00:11:22"
"""The MAC address of the device that asks."""


def fetch(
    url: str, headers: Mapping[str, str] | None = None, context: ssl.SSLContext | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Fetch an address and return status, headers and body, whatever the status is."""
    parts = urlsplit(url)
    connection = (
        http.client.HTTPConnection(parts.netloc, timeout=10)
        if context is None
        else http.client.HTTPSConnection(parts.netloc, timeout=10, context=context)
    )
    try:
        connection.request("GET", parts.path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def as_device(version: str) -> dict[str, str]:
    """Return the headers of an ESP8266 that runs a version."""
    return {"User-Agent": "ESP8266-http-Update", "x-ESP8266-STA-MAC": DEVICE, "x-ESP8266-version": version}


def expect_image(url: str, file: Path, headers: dict[str, str] | None = None) -> str:
    """See that an address gives a file whole, by its SHA-256, and return that. Raises UnexpectedError."""
    status, _, body = fetch(url, headers)
    wanted, got = hashlib.sha256(file.read_bytes()).hexdigest(), hashlib.sha256(body).hexdigest()
    expect(status == 200, f"{url} answers {status} {body[:80]!r}")
    expect(got == wanted, f"{url} gives {len(body)} bytes with SHA-256 {got}, but {file.name} has {wanted}")
    return got


def make_context(authority: trustme.CA) -> ssl.SSLContext:
    """Return what a client that trusts an authority goes by."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def certificate_of(address: str, context: ssl.SSLContext) -> bytes | None:
    """Return the certificate (DER) of the server at HOST:PORT."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.getpeercert(binary_form=True)


def free_port() -> int:
    """Return a port that is free now, for what can't be told to choose one."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port: int = reserved.getsockname()[1]
        return port
