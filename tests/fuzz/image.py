"""Fuzzes the reading of images with atheris: `python -m tests.fuzz.image --seconds N`.

Whatever the bytes are, `read_image` must return facts that are right, the same however the file comes in pieces, and
that outlive being stored; or raise ImageError. It begins with the images in `corpus/`, and what it finds beyond them
is kept in `.fuzz/corpus`. Bytes that show a fault are left in `.fuzz/crashes`, and are read again by
`python -m tests.fuzz.image .fuzz/crashes/FILE`. Ends with a status other than 0 for a fault.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import random
import struct
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).absolute().parent.parent.parent
CORPUS = Path(__file__).absolute().parent / "corpus"
LONGEST = 12288
"""How long an image is at most, in bytes: with one sector of signatures."""

_WORK = ROOT / ".fuzz"
_MEGABYTES = 256
_UNPACKED = 1 << 17


class Pieces(io.BytesIO):
    """A file whose bytes come in pieces of a few."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece."""
        return super().read(self._most if size is None or size < 0 else min(size, self._most))


def check(data: bytes) -> None:
    """Read an image and check what it says; raise AssertionError where that can't be."""
    # Not before the reading is instrumented.
    from ota_server.firmware.digests import _decode, _encode
    from ota_server.firmware.image import ImageError, read_image

    if not data:
        return
    try:
        facts = read_image(data)
    except ImageError as error:
        raise AssertionError(f"only an empty file is refused, not one where {error.reason}") from error
    size = len(data)
    assert facts.size == size
    assert facts.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    assert facts.trailing <= size
    for signature in facts.signatures:
        assert 0 <= signature.offset < signature.offset + signature.length <= size
        assert bytes.fromhex(signature.value) in data
    for part in (facts, facts.core):
        assert part.esp is None or part.esp.end <= part.size
        assert part.damage is None or (part.damage.offset >= 0 and part.damage.reason.isprintable())
        for text in (part.project, part.version, *part.debug):
            assert text is None or text.isprintable()
    most = 1 + zlib.crc32(data) % (size // 64 + 9)
    assert read_image(Pieces(data, most)) == facts, f"in pieces of {most} bytes"
    assert _decode(_encode(facts)) == facts


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """Change an image at random, often inside its wrapping, and often so that its sums hold again."""
    import atheris

    def change(image: bytes) -> bytes:
        return bytes(atheris.Mutate(image, max(longest, len(image))))

    chance = random.Random(seed)
    if data.startswith(b"\x1f\x8b") and chance.random() < 0.7:
        try:
            inside = zlib.decompressobj(31).decompress(data, _UNPACKED)
        except zlib.error:
            return change(data)
        changed = gzip.compress(mutate(inside, longest, seed + 1), 1, mtime=0)
    else:
        changed = change(data)
        if chance.random() < 0.5:
            changed = repair(changed)
    return changed if len(changed) <= longest else change(data)


def repair(image: bytes) -> bytes:
    """Make the checksums and the hash of an image of the ESP8266 or the ESP32 family anew, as far as it has them."""
    mended = bytearray(image)
    for start in (0, 4096):
        if mended[start : start + 1] != b"\xe9":
            break
        long = bytes(mended[start + 10 : start + 12]) not in (b"\x10\x40", b"\x20\x40", b"\xfe\x3f", b"\xff\x3f")
        at, total = start + (24 if long else 8), 0xEF
        for _ in range(mended[start + 1] if start + 1 < len(mended) else 0):
            length = int.from_bytes(mended[at + 4 : at + 8], "little")
            for byte in mended[at + 8 : at + 8 + length]:
                total ^= byte
            at += 8 + length
        end = at + 16 - (at - start) % 16
        if end > len(mended):
            break
        mended[end - 1] = total
        if len(mended) >= end + 32:
            mended[end : end + 32] = hashlib.sha256(mended[:end]).digest()
        if start:
            mended[0x1010:0x1018] = struct.pack("<II", end, 0)
            # The bits of each byte, and of the result, are the other way round.
            mirror = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
            blank = bytes(mended[:0x1010]) + bytes(8) + bytes(mended[0x1018:end])
            crc = (zlib.crc32(blank.translate(mirror)) ^ 0xFFFFFFFF).to_bytes(4, "little").translate(mirror)
            mended[0x1014:0x1018] = crc[::-1]
    return bytes(mended)


def main() -> None:
    """Fuzz for so many seconds, or read the files given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="how long to fuzz (60)")
    parser.add_argument("--seed", type=int, default=0, help="where chance begins; 0 for a different place each time")
    parser.add_argument("files", nargs="*", type=Path, help="files to read once, instead")
    options = parser.parse_args()
    if options.files:
        for file in options.files:
            check(file.read_bytes())
        return

    import atheris

    with atheris.instrument_imports(include=["ota_server"]):
        import ota_server.firmware.digests
        import ota_server.firmware.image  # noqa: F401

    for folder in ("corpus", "crashes"):
        (_WORK / folder).mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-max_len={LONGEST}",
        f"-rss_limit_mb={_MEGABYTES}",
        f"-seed={options.seed}",
        f"-artifact_prefix={_WORK}/crashes/",
        "-timeout=10",
        "-len_control=0",
        "-print_final_stats=1",
        # libFuzzer writes to the first.
        str(_WORK / "corpus"),
        str(CORPUS),
    ]
    atheris.Setup(arguments, check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
