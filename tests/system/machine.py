"""A small Debian that is booted beside this one, by systemd-nspawn, to install things into."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.system.debian import require

BOOT_PATIENCE = 60.0
"""How long the machine may take to start, in seconds."""

COMMAND_PATIENCE = 300.0
"""How long one command may take, in seconds."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _nspawn(root: Path, shown: Mapping[str, Path]) -> list[str]:
    """Return the beginning of a command that runs something in a root file system and leaves that as it is."""
    return [
        *("systemd-nspawn", "--quiet", f"--directory={root}", "--volatile=overlay", "--private-network"),
        # There may be no systemd around it.
        *("--register=no", "--keep-unit"),
        *(f"--bind-ro={path}:{inside}" for inside, path in shown.items()),
    ]


class CommandError(Exception):
    """A command in the machine that ended as it shouldn't; its message holds what it wrote."""


class Machine:
    """A root file system while it runs, as a context manager. What happens inside is gone afterwards.

    It has a network of its own with nothing but a loopback. `shown` are folders of this system, by the paths at which
    they are seen inside, where they can't be written. Raises UnableError where programs are missing.
    """

    def __init__(self, root: Path, shown: Mapping[str, Path], log: Path) -> None:
        require([("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux")])
        self._root = root
        self._shown = shown
        self._log = log
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._first = 0

    def __enter__(self) -> Self:
        """Boot. Raises TimeoutError where the machine doesn't come up; the log then tells why."""
        with open(self._log, "wb") as log:
            self._nspawn = subprocess.Popen(
                [*_nspawn(self._root, self._shown), "--console=read-only", "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for("the machine has started", self._has_started, BOOT_PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Turn the machine off."""
        assert self._nspawn is not None
        # It hands this on as the signal that orders systemd to power off.
        self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(BOOT_PATIENCE)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()

    def _has_started(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise CommandError(f"systemd-nspawn ended with status {self._nspawn.returncode}; see {self._log}")
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        if not children:
            return False
        self._first = int(children[0])
        return self.try_run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root; return how it ended and what it wrote."""
        return subprocess.run(
            [
                *("nsenter", f"--target={self._first}", *(f"-{letter}" for letter in "mrwpuinC")),
                *("env", "-i", f"PATH={_PATH}", "LANG=C.UTF-8", "HOME=/root", *command),
            ],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_PATIENCE,
        )

    def run(self, *command: str) -> str:
        """Run a command inside, as root, and return what it wrote to its output. Raises CommandError."""
        done = self.try_run(*command)
        if done.returncode != 0:
            raise CommandError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def shell(self, script: str) -> str:
        """Run a shell script inside, as root, and return what it wrote to its output. Raises CommandError."""
        return self.run("sh", "-euc", script)


def run_offline(root: Path, shown: Mapping[str, Path], script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a root file system that isn't booted; return how it ended and what it wrote."""
    return subprocess.run(
        [*_nspawn(root, shown), "--pipe", "sh", "-uc", script],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_PATIENCE,
    )


def wait_for(what: str, is_so: Callable[[], bool], patience: float) -> float:
    """Wait until something is so; return how long it took, in seconds. Raises TimeoutError."""
    start = time.monotonic()
    while not is_so():
        if time.monotonic() - start > patience:
            raise TimeoutError(f"waited {patience:.0f} s for this: {what}")
        time.sleep(0.05)
    return time.monotonic() - start


def assert_own_devices() -> None:
    """See that this system's own devices are as before: a run that touched /dev/null would harm everything after it."""
    mode = os.stat("/dev/null").st_mode & 0o777
    if mode != 0o666:
        raise AssertionError(f"/dev/null has mode {mode:o} now; chmod 666 /dev/null")
