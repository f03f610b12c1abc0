"""What is measured: each measure runs one peer once and returns numbers by the keys of the table's rows."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import load, processes
from bench.load import BenchError
from bench.peers import CHECK_PATH, IMAGE, OLDER, VERSION, Peer

Numbers = dict[str, float]

#: Versions of each project in a big folder.
VERSIONS = 10
_MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """How much is done, and where."""

    folder: Path
    files: int
    seconds: int
    slow: int
    server_cores: frozenset[int]
    load_cores: frozenset[int]

    @property
    def image(self) -> Path:
        """The folder with one image of 1 MiB."""
        return self.folder / "image"

    @property
    def large(self) -> Path:
        """The folder with one image that no socket buffer holds."""
        return self.folder / "large"

    @property
    def few(self) -> Path:
        """The folder with 10 small files beside the image."""
        return self.folder / "few"

    @property
    def many(self) -> Path:
        """The folder with ``files`` small files beside the image."""
        return self.folder / "many"

    def scratch(self, name: str) -> Path:
        """Return a folder for what the servers write."""
        return self.folder / "scratch" / name


def prepare(plan: Plan, names: set[str]) -> None:
    """Make the folders that these measures serve, and wait until their files no longer look half-copied."""
    if names & {"checks", "downloads", "handshakes", "ledger", "api"}:
        _write(plan.image, IMAGE, os.urandom(_MIB - 1))
    if "memory" in names:
        _write(plan.large, IMAGE, os.urandom(12 * _MIB - 1))
    if "folder" in names:
        for folder, count in ((plan.few, 10), (plan.many, plan.files)):
            _write(folder, IMAGE, os.urandom(1023))
            for index in range(count):
                project, version = release(index)
                _write(folder, f"{project}-{version}.bin", os.urandom(15))
    # Files of the last few seconds might still be on their way, and a server may hold them back.
    time.sleep(11)


def _write(folder: Path, name: str, content: bytes) -> None:
    """Write an image that no reader takes for one of an ESP chip or for a gzip file, changed an hour ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(b"\x00" + content)
    os.utime(path, (time.time() - 3600, time.time() - 3600))


def release(index: int) -> tuple[str, str]:
    """Return project and version of a file of a big folder."""
    return f"p{index // VERSIONS:05d}", f"1.{index % VERSIONS}.0"


def _checks(
    plan: Plan, peer: Peer, prefix: str, *, kept: bool = False, connections: int = 10, seconds: int = 0
) -> Numbers:
    """Measure update checks: per second, and CPU microseconds of the server and of the load for each."""
    before = peer.cpu_seconds()
    with processes.own_cores(set(plan.load_cores)):
        done = load.checks(
            peer.port,
            CHECK_PATH,
            VERSION,
            kept=kept,
            connections=connections,
            seconds=seconds or plan.seconds,
        )
    used = peer.cpu_seconds() - before
    return {
        f"{prefix}_rate": done.amount / done.seconds,
        f"{prefix}_cpu": used * 1e6 / done.amount,
        f"{prefix}_load": done.cpu * 1e6 / done.amount,
    }


def rates(plan: Plan, kind: type[Peer], names: set[str]) -> Numbers:
    """Measure checks, on new connections and on kept ones, and ten downloads at once."""
    peer = kind(plan.image, plan.scratch("rates"))
    peer.forget()
    image = (plan.image / IMAGE).read_bytes()
    numbers: Numbers = {}
    with peer.running():
        peer.verify(image)
        peer.settle()
        peer.pin(set(plan.server_cores))
        if "checks" in names:
            numbers |= _checks(plan, peer, "new")
            numbers |= _checks(plan, peer, "single", connections=1, seconds=1)
            numbers |= _checks(plan, peer, "kept", kept=True, seconds=1)
        if "downloads" in names:
            before = peer.cpu_seconds()
            with processes.own_cores(set(plan.load_cores)):
                done = load.downloads(peer.port, CHECK_PATH, len(image), connections=10, seconds=plan.seconds)
            used = peer.cpu_seconds() - before
            numbers["download_rate"] = done.amount / done.seconds / 1e6
            numbers["download_cpu"] = used * 1e9 / done.amount
            numbers["download_load"] = done.cpu * 1e9 / done.amount
    return numbers


def memory(plan: Plan, kind: type[Peer]) -> Numbers:
    """Measure resident memory (MB) before and with many slow downloads open."""
    peer = kind(plan.large, plan.scratch("memory"))
    peer.forget()
    with peer.running():
        peer.settle()
        idle, _ = peer.memory_bytes()
        with load.slow_downloads(peer.port, CHECK_PATH, OLDER, plan.slow) as connections:
            time.sleep(0.5)
            rss, pss = peer.memory_bytes()
            if (count := load.still_open(connections)) < plan.slow:
                raise BenchError(f"{peer.name} kept only {count} of {plan.slow} slow downloads open")
    return {
        "idle_rss": idle / 1e6,
        "slow_rss": rss / 1e6,
        "slow_pss": pss / 1e6,
        "slow_each": (rss - idle) / plan.slow / 1e3,
    }


def folder(plan: Plan, kind: type[Peer]) -> Numbers:
    """Measure the seconds from start to right answers, and the cost of a check, by number of files."""
    if not kind.knows_folder:
        return {}
    numbers: Numbers = {}
    few = kind(plan.few, plan.scratch("few"))
    few.forget()
    with few.running() as seconds:
        numbers["few_start"] = seconds
    many = kind(plan.many, plan.scratch("many"))
    many.forget()
    with many.running() as seconds:
        numbers["empty_first"] = seconds
        numbers["empty_ready"] = all_ready(many, plan.files)
    with many.running() as seconds:
        numbers["again_first"] = seconds
        numbers["again_ready"] = all_ready(many, plan.files)
        many.settle()
        numbers["many_rss"] = many.memory_bytes()[0] / 1e6
        with few.running():
            few.settle()
            numbers |= _by_turns(plan, few, many)
    return numbers


def _by_turns(plan: Plan, few: Peer, many: Peer) -> Numbers:
    """Measure checks with few and with many files by turns, so that a change of the machine meets both."""
    costs: dict[Peer, list[float]] = {few: [], many: []}
    for _ in range(plan.seconds):
        for peer, found in costs.items():
            peer.pin(set(plan.server_cores))
            numbers = _checks(plan, peer, "check", connections=peer.folder_connections, seconds=1)
            found.append(numbers["check_cpu"])
    few_cpu, many_cpu = (statistics.mean(found) for found in costs.values())
    return {"few_cpu": few_cpu, "many_cpu": many_cpu, "folder_ratio": many_cpu / few_cpu}


def all_ready(peer: Peer, files: int) -> float:
    """Wait until images from all over a folder of so many are served rightly; return the seconds since the start."""
    seconds = 0.0
    for quarter in range(5):
        index = (files - 1) * quarter // 4
        newest = min(index - index % VERSIONS + VERSIONS, files) - 1
        project, version = release(newest)
        content = (peer.folder / f"{project}-{version}.bin").read_bytes()
        seconds = peer.wait(load.plain_head(peer.image_path(project, version), peer.port), 200, content)
    return seconds


#: The names for ``--only`` and what they run; checks and downloads share one start of the server, and images
#: and the ledger are measured by themselves at the end (``images.py``, ``fleet.py``).
MEASURES = ("checks", "downloads", "handshakes", "memory", "folder", "images", "ledger", "api")


def run(plan: Plan, kind: type[Peer], names: set[str]) -> dict[str, Callable[[], Numbers]]:
    """Return what is to be done for one peer in one run, by name."""
    steps: dict[str, Callable[[], Numbers]] = {}
    if fast := names & {"checks", "downloads"}:
        steps["rates"] = lambda: rates(plan, kind, fast)
    if "memory" in names and plan.slow:
        steps["memory"] = lambda: memory(plan, kind)
    if "folder" in names:
        steps["folder"] = lambda: folder(plan, kind)
    return steps
