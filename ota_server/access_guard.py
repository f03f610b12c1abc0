"""Sees to it that what was closed isn't opened since a setting has gone: when the policy changes, and at a restart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from twisted.internet.interfaces import IStreamServerEndpoint

from ota_server.fleet.access import Mode
from ota_server.fleet.policy import Policy, PolicyError
from ota_server.tls.endpoint import innermost

MARK = "access"
"""The file among what the server keeps that says that access was closed."""

_TEXT = """\
Access was closed by [access] devices in ota.toml. While this file is here, the server doesn't start without that.
To open it, write there: devices = "open"
"""


def asks_for_certificates(endpoints: Iterable[IStreamServerEndpoint]) -> bool:
    """Say whether one of the endpoints asks for client certificates, so that a device could prove itself."""
    return any(getattr(innermost(endpoint), "asks_for_certificates", False) for endpoint in endpoints)


class AccessGuard:
    """Judges policies by what they would open; `state` is the folder of what the server keeps."""

    def __init__(self, state: Path, *, asks_for_certificates: bool) -> None:
        self.mark = state / MARK
        self._asks_for_certificates = asks_for_certificates

    def check_start(self, policy: Policy, file: str) -> None:
        """Check the policy that a server is to start with; `file` is for messages. Blocks. Raises PolicyError."""
        try:
            self.mark.stat()
        except (FileNotFoundError, NotADirectoryError):
            closed = False
        except OSError as problem:
            raise PolicyError(str(self.mark), f"can't be read: {problem.strerror}; let the server read it") from None
        else:
            closed = True
        self.check(policy, file, closed=closed)

    def check(self, policy: Policy, file: str, *, closed: bool) -> None:
        """Check a policy that is to be in force; `closed` says that access is. Raises PolicyError."""
        access = policy.access
        if closed and access.mode is None:
            raise PolicyError(
                file,
                "[access] devices has gone, and access was closed by it; write it again, "
                'or write [access] devices = "open" to open it on purpose',
            )
        if access.mode is Mode.CERTIFICATE and not self._asks_for_certificates:
            raise PolicyError(
                file,
                "no port asks for certificates, so that nobody could ask for anything; "
                "add --port device-tls:PORT:cert=FILE:key=FILE:clientCA=FILE",
                access.line,
                "[access] devices",
            )

    def note(self, policy: Policy) -> None:
        """Keep in mind whether a policy closes access, which is in force now. Blocks. Raises OSError."""
        if not policy.access.closed:
            self.mark.unlink(missing_ok=True)
        elif not self.mark.exists():
            self.mark.write_text(_TEXT)
