"""A Debian root file system to test in, made once and kept in a cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SUITE = "bookworm"
"""The release of Debian: the oldest whose Python is new enough."""

PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "procps",
    "python3",
    "python3-venv",
    "systemd",
    "systemd-sysv",
)
"""What is put there beside the essential packages: what starts services, and what tests look at them with."""

ROOT = Path(__file__).absolute().parent.parent.parent
"""The checkout."""


class UnableError(Exception):
    """A run that can't be done here; its message says what is missing, and what to do, on one line."""


def require(programs: Sequence[tuple[str, str]]) -> None:
    """See that programs are there, each given with its Debian package, and that this is root. Raises UnableError."""
    if os.geteuid() != 0:
        raise UnableError("this makes and boots whole systems; run it as root")
    packages = {package: None for program, package in programs if shutil.which(program) is None}
    if packages:
        raise UnableError(
            f"programs are missing; on Debian: apt-get install --no-install-recommends {' '.join(packages)}"
        )


def cache_folder() -> Path:
    """Return the folder for what is kept between runs: OTA_TEST_CACHE, or else `.cache` in the checkout."""
    folder = Path(os.environ.get("OTA_TEST_CACHE") or ROOT / ".cache").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_root(path: Path | None = None) -> Path:
    """Make a Debian root file system at `path`, unless it is there, and return its path; by default in the cache.

    It takes a minute and 270 MB, and needs root and Debian's mirrors. It is for all who test: boot or copy it so that
    it stays as it is (`systemd-nspawn --volatile=overlay`). Raises UnableError, and CalledProcessError where
    debootstrap fails.
    """
    path = path or cache_folder() / f"debian-{SUITE}"
    if path.exists():
        return path
    require([("debootstrap", "debootstrap")])
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        # Of two runs at once the second waits for what the first makes.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path
        half = path.with_name(f"{path.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        print(f"making Debian {SUITE} in {path}: a minute", flush=True)
        with open(path.with_name(f"{path.name}.log"), "wb") as log:
            try:
                subprocess.run(
                    ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(half)],
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            except subprocess.CalledProcessError:
                print(f"debootstrap failed; its output is in {log.name}", file=sys.stderr)
                raise
        for package in (half / "var/cache/apt/archives").glob("*.deb"):
            package.unlink()
        half.rename(path)
    return path


if __name__ == "__main__":
    print(make_root())
