"""Whether the kernel's notifications tell of every change in a folder: that depends on how it is mounted."""

from __future__ import annotations

import os
from pathlib import Path

RELIABLE_FILE_SYSTEMS = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "ramfs", "tmpfs", "vfat", "xfs", "zfs"})
"""File systems that nobody but this kernel writes to, so that it knows of every change. Not so those that come over
a network, from a host into its virtual machine, or out of another program."""


def is_reliable(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Say whether the kernel reports every change in a folder, by the file system that it is on.

    `mounts` is the kernel's table of mounts (proc(5), "mountinfo"). What can't be found out is not reliable.
    """
    try:
        device = os.stat(folder).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in mounts.read_text(errors="replace").splitlines():
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1] in RELIABLE_FILE_SYSTEMS
    except (OSError, IndexError, ValueError):
        pass
    return False
