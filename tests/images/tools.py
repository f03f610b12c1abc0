"""What all the images are made with: ELF files, bytes to fill them with, and programs that are run."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Sequence

XTENSA, RISCV = 94, 243
"""The machines of an ELF file."""


def make_elf(machine: int, entry: int, sections: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Return a 32-bit little-endian ELF program of sections given as (name, address, bytes)."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in sections) + b".shstrtab\0"
    offset = 52
    body, headers, programs = b"", [struct.pack("<10I", *[0] * 10)], []
    for name, address, data in sections:
        flags = 2 | (4 if "text" in name else 0)
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(struct.pack("<10I", at, 1, flags, address, offset, len(data), 0, 0, 4, 0))
        programs.append(struct.pack("<8I", 1, offset, address, address, len(data), len(data), 5, 4))
        body += data
        offset += len(data)
    at = names.index(b"\0.shstrtab\0") + 1
    headers.append(struct.pack("<10I", at, 3, 0, 0, offset, len(names), 0, 0, 1, 0))
    body += names
    offset += len(names)
    program_offset = offset
    section_offset = program_offset + 32 * len(programs)
    head = b"\x7fELF\x01\x01\x01" + bytes(9)
    head += struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, entry, program_offset, section_offset, 0, 52, 32,
                        len(programs), 40, len(headers), len(headers) - 1)  # fmt: skip
    return head + body + b"".join(programs) + b"".join(headers)


def noise(size: int, seed: int) -> bytes:
    """Return bytes that don't compress and are the same each time."""
    return random.Random(seed).randbytes(size)


def whole_words(data: bytes) -> bytes:
    """Return the bytes with zeros up to a multiple of four, as segments of an image are."""
    return data + bytes(-len(data) % 4)


def run(*command: str, given: bytes = b"") -> bytes:
    """Run a program and return what it writes; raise RuntimeError with its words if it fails."""
    done = subprocess.run(command, input=given, capture_output=True, env={**os.environ, "TERM": "dumb"}, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr).decode(errors='replace')}")
    return done.stdout


def run_python(module: str, *arguments: str) -> bytes:
    """Run a program that is a module of Python's, such as esptool; none of them is imported."""
    return run(sys.executable, "-m", module, *arguments)
