"""Containers for tests: podman and runc with a store of their own, which goes when the test does."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.system.debian import UnableError, require

PROGRAMS = (
    ("podman", "podman"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("newuidmap", "uidmap"),
    ("docker-compose", "docker-compose"),
    ("podman-compose", "podman-compose"),
)
"""Programs that must be there, each with its Debian package."""

NETAVARK = (Path("/usr/lib/podman/netavark"), Path("/usr/libexec/podman/netavark"))
"""Where podman's network helper may be, which isn't on PATH."""

# cgroups as a machine without systemd has them, and limits that it allows.
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""
_NOISE = ("unable to get systemd connection", "Error validating CNI config")
"""What podman complains of on machines without systemd, to no effect here: timed health checks are run by hand."""


class UnexpectedError(Exception):
    """Something isn't as it should be; the message says what, and what was seen."""


def expect(truth: object, what: str) -> None:
    """Raise UnexpectedError unless something is true."""
    if not truth:
        raise UnexpectedError(what)


class Podman:
    """Runs podman, and everything that calls it, with a store in a folder. Raises UnableError where it can't."""

    def __init__(self, folder: Path) -> None:
        require(PROGRAMS)
        if not any(helper.exists() for helper in NETAVARK):
            raise UnableError("podman's network helper is missing; on Debian: apt-get install netavark")
        folder.mkdir()
        self.folder = folder
        settings = {"CONTAINERS_CONF": _CONTAINERS, "CONTAINERS_STORAGE_CONF": _STORAGE.format(folder=folder)}
        self.environment = dict(os.environ)
        for name, text in settings.items():
            file = folder / name.lower()
            file.write_text(text)
            self.environment[name] = str(file)

    def run(self, arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a program that may start containers, and return what came of it."""
        done = subprocess.run(
            list(map(str, arguments)),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        lines = done.stderr.splitlines(keepends=True)
        done.stderr = "".join(line for line in lines if not any(noise in line for noise in _NOISE))
        return done

    def __call__(self, *arguments: str | Path) -> str:
        """Run podman and return what it prints, without the white space around. Raises UnexpectedError."""
        done = self.run(["podman", *arguments])
        if done.returncode:
            raise UnexpectedError(
                f"podman {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done.stdout.strip()

    @contextmanager
    def container(self, *arguments: str | Path) -> Iterator[Container]:
        """Start a container with these arguments of `podman run`; remove it and its nameless volumes at the end."""
        identity = self("run", "--detach", *arguments).splitlines()[-1]
        try:
            yield Container(self, identity)
        except BaseException:
            logs = self.run(["podman", "logs", identity])
            print(f"--- log of {' '.join(map(str, arguments))}\n{logs.stdout}{logs.stderr}---", flush=True)
            raise
        finally:
            self("rm", "--force", "--volumes", "--time", "0", identity)

    def remove(self) -> None:
        """Remove every container, image and volume of the store, and the store."""
        self.run(["podman", "rm", "--all", "--force", "--volumes", "--time", "0"])
        self.run(["podman", "volume", "prune", "--force"])
        self.run(["podman", "rmi", "--all", "--force"])
        # An overlay is still mounted where a container could not be removed; going through it would be no help.
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        left = [point for point in mounted if point.startswith(f"{self.folder}/")]
        for point in reversed(left):
            subprocess.run(["umount", point], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Container:
    """One container that has been started."""

    def __init__(self, podman: Podman, identity: str) -> None:
        self.podman = podman
        self.identity = identity

    def inspect(self, template: str) -> str:
        """Return what podman knows of it, by a template of Go's."""
        return self.podman("inspect", "--format", template, self.identity)

    @property
    def process(self) -> int:
        """The number that its process 1 has outside."""
        return int(self.inspect("{{.State.Pid}}"))

    @property
    def url(self) -> str:
        """The address of its port 8000, without a slash at the end."""
        return f"http://{self.podman('port', self.identity, '8000').splitlines()[0]}"

    def log(self) -> str:
        """Return what it has written to its standard output."""
        return self.podman.run(["podman", "logs", self.identity]).stdout

    def probe(self) -> subprocess.CompletedProcess[str]:
        """Run the health check of its image once."""
        return self.podman.run(["podman", "healthcheck", "run", self.identity])

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return self.podman.run(["podman", "exec", self.identity, *command])

    def wait_ready(self, patience: float = 20.0) -> float:
        """Wait until its health check passes, and return how long that took, in seconds. Raises UnexpectedError."""
        return wait_for(lambda: self.probe().returncode == 0, "the health check to pass", patience)

    def stop(self) -> tuple[float, int]:
        """Send SIGTERM, and return the seconds until it ended and its exit status. Raises UnexpectedError."""
        begin = time.monotonic()
        self.podman("kill", "--signal", "TERM", self.identity)
        status = int(self.podman("wait", "--interval", "10ms", self.identity))
        return time.monotonic() - begin, status


def wait_for(happened: Callable[[], bool], what: str, patience: float = 20.0) -> float:
    """Wait until something has happened, and return how long that took, in seconds. Raises UnexpectedError."""
    begin = time.monotonic()
    while not happened():
        if time.monotonic() - begin > patience:
            raise UnexpectedError(f"waited {patience:.0f} s for {what}")
        time.sleep(0.05)
    return time.monotonic() - begin
