"""Starting with a folder of real images of ordinary size, beside programs that do nothing but hash the same files.

All images come from one that esptool made: for each some bytes are changed, among them the project and the version
that it calls itself, and its checksum and SHA-256 are made right again.
"""

import contextlib
import functools
import hashlib
import operator
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench import measures, table
from bench.load import BenchError
from bench.measures import Numbers
from bench.peers import Ota
from tests.images import esp32_image

_SIZE = 1_000_000
"""More than any of the images has, in bytes."""

_OVERHEAD = 8192
"""What a file takes up beside its bytes, at most."""

_LEAST = 10
_MONTH = 30 * 24 * 3600

# What is changed in an image: its version and its project, the hash of the ELF file, some of the code.
_VERSION, _PROJECT, _ELF_HASH, _CODE = 48, 80, 176, 300_000
_FIELD, _HASH = 32, 32


def affordable(folder: Path, wanted: int) -> tuple[int, list[str]]:
    """Return how many images, at most so many, there is room for beside ``folder``, and what to say where it's fewer.

    A tenth of the free space stays free, and a GB; of a file system in memory, half of what is available is used.
    """
    free = shutil.disk_usage(folder).free
    room, place = min(free * 9 // 10, free - 10**9), f"{free / 1e9:.1f} GB are free in {folder.parent}"
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False).stdout
    if kind.strip() in {"tmpfs", "ramfs"} and room > (available := _available() // 2):
        room, place = available, f"{folder.parent} is in memory, of which {2 * available / 1e9:.1f} GB are available"
    count = min(wanted, max(room, 0) // (_SIZE + _OVERHEAD))
    if count == wanted:
        return count, []
    if count < _LEAST:
        return 0, [f"images: NOT MEASURED: {place}, too little for {_LEAST} (TMPDIR leads elsewhere)"]
    return count, [f"images: only {count:,} INSTEAD OF {wanted:,}: {place} (TMPDIR leads elsewhere)"]


def _available() -> int:
    """Return how much memory programs or the page cache can have, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def made(folder: Path, count: int) -> Iterator[Path]:
    """Make a folder of so many images, and remove it at the end."""
    try:
        try:
            _make(folder, count)
        except OSError as error:
            raise BenchError(f"can't make the images: {error}") from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(folder: Path, count: int) -> None:
    """Make images, all different, ten releases of each project, and wait until nothing of them is under way."""
    folder.mkdir()
    image = _original()
    changed = time.time() - _MONTH
    for index in range(count):
        project, version = measures.release(index)
        _become(image, project, version)
        path = folder / f"{project}-{version}.bin"
        path.write_bytes(image)
        os.utime(path, (changed, changed))
    os.sync()
    # Files of the last few seconds might still be on their way, and a server may hold them back.
    time.sleep(11)


def _original() -> bytearray:
    """Return an image as they are made by ESP-IDF: constants and code in flash, and code in memory."""
    constants = hashlib.shake_256(b"constants").digest(200_000)
    try:
        image = esp32_image("esp32", "1.0.0", "project", 80_000, embedded=constants, flash_code=716_000)
    except RuntimeError as error:
        raise BenchError(f"esptool made no image: {error}") from error
    if not _SIZE * 0.99 < len(image) <= _SIZE:
        raise BenchError(f"esptool made an image of {len(image)} bytes, where nearly {_SIZE} were wanted")
    return bytearray(image)


def _become(image: bytearray, project: str, version: str) -> None:
    """Make another valid image of an image."""
    unique = hashlib.sha256(f"{project} {version}".encode()).digest()
    for place, new in (
        (_VERSION, version.encode().ljust(_FIELD, b"\0")),
        (_PROJECT, project.encode().ljust(_FIELD, b"\0")),
        (_ELF_HASH, unique),
        (_CODE, unique),
    ):
        old = image[place : place + len(new)]
        # The checksum is the XOR of the bytes of all segments, and stands right before the hash.
        image[-_HASH - 1] ^= functools.reduce(operator.xor, old + new)
        image[place : place + len(new)] = new
    image[-_HASH:] = hashlib.sha256(memoryview(image)[:-_HASH]).digest()


def hashing(count: int) -> str:
    """Return the shell command that only hashes so many images: by MD5 and SHA-256, with as many at once as here.

    Each file is read twice in a short time, and so at most once from the disk. OpenSSL's are the faster ones, and what
    Python has as well.
    """
    programs = ("openssl dgst -md5", "openssl dgst -sha256") if shutil.which("openssl") else ("md5sum", "sha256sum")
    both = " && ".join(f'{program} "$@"' for program in programs)
    at_once = min(4, os.cpu_count() or 1)
    some = min(64, max(1, count // 8))
    return f"find . -name '*.bin' -print0 | xargs -0 -n{some} -P{at_once} sh -c '{both}' sh >/dev/null"


def run(folder: Path, count: int, scratch: Path) -> dict[str, Numbers]:
    """Measure hashing, a first start and a later one, by the table's columns."""
    return {table.FLOOR: _hash(folder, count), Ota.key: _start(folder, count, scratch / "images")}


def _hash(folder: Path, count: int) -> Numbers:
    """Measure the plain hashing of all images."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(["sh", "-c", hashing(count)], cwd=folder, stderr=subprocess.PIPE, text=True, check=False)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchError(f"hashing the images failed: {done.stderr[-3000:]}")
    return {
        "images_ready": seconds,
        "images_cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "images_disk": (after.ru_inblock - before.ru_inblock) * 512 / 1e6,
    }


def _start(folder: Path, count: int, scratch: Path) -> Numbers:
    """Measure a start without state and one with it."""
    peer = Ota(folder, scratch)
    peer.forget()
    numbers: Numbers = {}
    for prefix in ("images", "images_again"):
        with peer.running("/-/ready", 60 + count // 20) as seconds:
            if prefix == "images":
                numbers["images_cpu"] = peer.cpu_seconds()
                numbers["images_disk"] = peer.disk_bytes() / 1e6
            numbers[f"{prefix}_ready"] = seconds
            numbers[f"{prefix}_served"] = measures.all_ready(peer, count)
            peer.settle()
            numbers[f"{prefix}_rss"] = peer.memory_bytes()[0] / 1e6
    return numbers


def remarks(count: int) -> list[str]:
    """Return what is to be known of these numbers."""
    memory = f"{_available() / 1e9:.1f} GB of memory are available to programs and the page cache"
    return [
        f"images: {table.FLOOR_NAME} is this command in their folder, right before each first start:",
        f"  {hashing(count)}",
        f"images: {count * _SIZE / 1e9:.2f} GB; {memory}; what was not in it was read from the disk",
    ]
