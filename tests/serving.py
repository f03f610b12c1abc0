"""A served folder for tests: the real parts of the server, in the reactor that runs the tests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.trial.unittest import TestCase

from ota_server.firmware import folder
from ota_server.firmware.watch import FolderWatcher
from ota_server.keeper import FleetKeeper
from ota_server.service import OtaService, ThreadPoolService, make_ota_service

LONG_AGO = 1_700_000_000
"""A time of modification, in seconds since 1970, for files that should look old."""


class ServedFolder:
    """A firmware folder, whose files count as whole at once, and the server of it, which ends with the test."""

    def __init__(self, test: TestCase, files: Mapping[str, bytes]) -> None:
        self._test = test
        # What is put there is whole, and nothing else comes in.
        for name in ("SETTLE_TIME", "OPAQUE_SETTLE_TIME"):
            test.patch(folder, name, 0.0)
        self.path = Path(test.mktemp()).absolute()
        self.path.mkdir()
        self.service: OtaService | None = None
        for name, data in files.items():
            self.put(name, data)

    def put(self, name: str, data: bytes) -> Path:
        """Put a file into the folder, as a careful person does: written beside, and renamed."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        temporary.write_bytes(data)
        os.utime(temporary, (LONG_AGO, LONG_AGO))
        temporary.rename(path)
        return path

    async def serve(self, endpoint: IStreamServerEndpoint) -> int:
        """Start the server at an endpoint, wait until it has read the folder, and return its port."""
        state = self.path / ".ota"
        state.mkdir()
        self.service = make_ota_service(self.path, state, [("the test's port", endpoint)])
        self.service.startService()
        self._test.addCleanup(self.service.stopService)
        for part in self.service:
            if isinstance(part, ThreadPoolService):
                for inner in part:
                    if isinstance(inner, FolderWatcher | FleetKeeper):
                        await inner.when_ready()
        door = next(part for part in self.service if isinstance(part, StreamServerEndpointService))
        waiting: Any = door._waitingForPort
        port: int = (await waiting).getHost().port
        return port
