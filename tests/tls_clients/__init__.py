"""TLS clients of devices: small C programs with the libraries that devices use, compiled when they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import attrs
from twisted.internet.utils import getProcessOutputAndValue

LIBRARIES = {
    "bearssl": ["-lbearssl"],
    "mbedtls": ["-lmbedtls", "-lmbedx509", "-lmbedcrypto"],
    "wolfssl": ["-lwolfssl"],
}
"""The libraries, and what the linker is told of them. Debian has them as `libbearssl-dev` and so on."""

_SOURCES = Path(__file__).parent


@attrs.frozen
class Seen:
    """What a client saw of one connection; see client.h."""

    version: int
    suite: int
    largest: int
    """The length of the largest record, in bytes, as its header says."""
    fragment: int
    """The largest fragment that the server agreed to, in bytes; 0 for none, and always 0 under TLS 1.3."""
    resumed: bool


@attrs.frozen
class Fetched:
    """What came of a run of a client: the bodies of its answers, one after the other."""

    body: bytes = attrs.field(repr=False)
    seen: tuple[Seen, ...]
    error: str | None


@cache
def compile_client(library: str) -> Path | None:
    """Return the program of a client, compiled once; None where the compiler or the library isn't there."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = Path(tempfile.mkdtemp(prefix="tls-client-", dir=os.getcwd())) / library
    # Code of macros, which each library has, is no concern of warnings here.
    source = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-o", str(program), str(_SOURCES / f"{library}.c")]
    probe = subprocess.run(
        [compiler, "-xc", "-", "-o", os.devnull, *LIBRARIES[library]],
        input=b"int main(void) { return 0; }",
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        return None
    done = subprocess.run([compiler, *source, *LIBRARIES[library]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{library}.c can't be compiled: {done.stderr}")
    return program


async def run_client(program: Path, **arguments: object) -> Fetched:
    """Run a client with these arguments to its end."""
    words = [f"{name}={value}" for name, value in arguments.items()]
    out, err, status = await getProcessOutputAndValue(str(program), words, os.environ)
    seen, error = [], None
    for line in err.decode().splitlines():
        if line.startswith("error="):
            error = line.removeprefix("error=")
        else:
            values = dict(word.split("=", 1) for word in line.split())
            seen.append(
                Seen(
                    int(values["version"], 16),
                    int(values["suite"], 16),
                    int(values["largest"]),
                    int(values["mfl"]),
                    values["resumed"] == "1",
                )
            )
    if (status == 0) != (error is None):
        raise AssertionError(f"{program.name} ended with status {status}: {err.decode()}")
    return Fetched(out, tuple(seen), error)
