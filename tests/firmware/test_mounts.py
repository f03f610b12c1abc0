"""Tests of how far the kernel's notifications are relied on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.mounts import is_reliable
from ota_server.firmware.watch import RELIABLE_INTERVAL, Hints
from tests.firmware.test_watch import WatcherCase


class ReliabilityTests(SynchronousTestCase):
    """On which folders the kernel's notifications are relied on."""

    def mounts(self, kind: str) -> Path:
        """Write a table of mounts in which the file system of the present folder is of a kind."""
        device = os.stat(".").st_dev
        path = Path(self.mktemp())
        path.write_text(
            "22 27 0:21 / /proc rw,nosuid - proc proc rw\n"
            f"27 1 {os.major(device)}:{os.minor(device)} / / rw,noatime shared:1 - {kind} /dev/vda rw\n"
        )
        return path

    def test_kinds(self) -> None:
        """Those that only this kernel writes to are; networks, hosts of virtual machines and programs are not."""
        for kind in ("ext4", "xfs", "btrfs", "tmpfs"):
            self.assertTrue(is_reliable(Path(), self.mounts(kind)), kind)
        for kind in ("nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs", "overlay", "vboxsf"):
            self.assertFalse(is_reliable(Path(), self.mounts(kind)), kind)

    def test_unknown(self) -> None:
        """What can't be found out is not relied on: no table, a damaged one, a folder that is gone, or not in it."""
        damaged, other = Path(self.mktemp()), Path(self.mktemp())
        damaged.write_text("27 1\n")
        other.write_text("22 27 0:21 / /proc rw - proc proc rw\n")
        for mounts in (Path("/nowhere"), damaged, other):
            self.assertFalse(is_reliable(Path(), mounts))
        self.assertFalse(is_reliable(Path("/nowhere"), self.mounts("ext4")))


class ReliableIntervalTests(WatcherCase):
    """How often a folder is read whose changes are all reported."""

    def test_interval(self) -> None:
        """Where every change is reported the folder is read rarely, only to make sure."""

        class Reliable:
            def writing(self, now: float) -> frozenset[str]:
                return frozenset()

            def watch(self, folders: object) -> tuple[bool, bool]:
                return True, False

            def close(self) -> None:
                pass

        self.watcher._hints = cast("Hints", Reliable())
        self.start()
        self.advance(RELIABLE_INTERVAL - 0.001)
        self.assertEqual(len(self.folder.times), 1)
        self.advance(0.001)
        self.assertEqual(len(self.folder.times), 2)
