"""What processes cost, read from ``/proc``: CPU seconds and memory of a server with all its workers."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the program's name."""
    return _stat_of(f"/proc/{pid}/stat")


def _stat_of(path: str) -> list[str]:
    return Path(path).read_text().rpartition(")")[2].split()


def members(session: int) -> list[int]:
    """Return the process ids of a session: the process that began it and everything it started."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if int(_stat(int(entry))[3]) == session:
                    found.append(int(entry))
    return found


def cpu_seconds(session: int) -> float:
    """Return the CPU seconds, user and system, that a session's processes have used so far.

    Those of ended and collected children are in their parents' numbers.
    """
    ticks = 0
    for pid in members(session):
        with contextlib.suppress(OSError):
            ticks += sum(int(field) for field in _stat(pid)[11:15])
    return ticks / _TICKS


def thread_seconds(session: int) -> float:
    """Return the CPU seconds of a session's processes so far outside of their main threads."""
    ticks = 0
    for pid in members(session):
        for task in os.listdir(f"/proc/{pid}/task"):
            if int(task) != pid:
                with contextlib.suppress(OSError):
                    ticks += sum(int(field) for field in _stat_of(f"/proc/{pid}/task/{task}/stat")[11:13])
    return ticks / _TICKS


def disk_bytes(session: int) -> int:
    """Return the bytes that a session's processes have had read from a disk so far, not from the page cache."""
    count = 0
    for pid in members(session):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/io").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "read_bytes":
                    count += int(value)
    return count


def memory_bytes(session: int) -> tuple[int, int]:
    """Return the resident (RSS) and the proportional (PSS) set size of a session's processes, in bytes."""
    rss = pss = 0
    for pid in members(session):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "Rss":
                rss += int(value.split()[0]) * 1024
            elif name == "Pss":
                pss += int(value.split()[0]) * 1024
    return rss, pss


def pin(session: int, cores: set[int]) -> None:
    """Let a session's processes, with all their threads, run on these cores only."""
    for pid in members(session):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(task), cores)


@contextlib.contextmanager
def own_cores(cores: set[int]) -> Iterator[None]:
    """Run this program, and what it starts meanwhile, on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
