"""Writing the policy file for the operator: beside, and then in its place, or not at all.

Everything here blocks and runs in a thread. A person may be editing the same file: what was read is compared once more
right before it is replaced, and where it has changed, everything begins anew with what is there now.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ota_server.fleet.policy import Policy, PolicyError
from ota_server.operator.calls import Problem
from ota_server.operator.editing import EditError

TRIES = 5
"""How often a change is tried while somebody else changes the file."""


class Written(NamedTuple):
    """What the file says now, whether that is new, and whether there is a file."""

    policy: Policy
    changed: bool
    exists: bool


def rewrite(path: Path, edit: Callable[[str], str], judge: Callable[[str], Policy], *, expected: bool) -> Written:
    """Edit the policy file, which is made where there is none, unless one is `expected`. Raises Problem.

    `judge` returns the policy that a text is, or raises PolicyError. Links are followed, and the file keeps its owner
    and its mode.
    """
    for _ in range(TRIES):
        # Otherwise the link would be replaced, and not the file.
        real = Path(os.path.realpath(path))
        text, status = _read(real, expected=expected)
        try:
            judge(text)
        except PolicyError as error:
            detail = f"{error}; correct it first: nothing was changed"
            raise Problem(409, "policy-wrong", "The policy file has an error", detail) from None
        try:
            edited = edit(text)
            policy = judge(edited)
        except EditError as error:
            raise Problem(409, "policy-not-editable", "The policy file can't be edited", f"{path}: {error}") from None
        except PolicyError as error:
            raise Problem(409, "policy-refused", "The policy would be wrong", f"{error}; nothing was changed") from None
        if edited == text:
            return Written(policy, changed=False, exists=status is not None)
        if _put(real, edited.encode(), status):
            return Written(policy, changed=True, exists=True)
    raise Problem(409, "policy-busy", "The policy file keeps changing", f"{path}: somebody else writes it; try again")


def _read(real: Path, *, expected: bool) -> tuple[str, os.stat_result | None]:
    """Return the text of the file and its status; nothing and None where there is none. Raises Problem."""
    try:
        with open(real, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise not_writable(real, "it is no plain file")
            return file.read().decode(), status
    except FileNotFoundError:
        if not expected:
            return "", None
        detail = (
            f"{real}: has gone, and a new one would drop what it said; write it again, an empty one for the defaults"
        )
        raise Problem(409, "policy-gone", "The policy file has gone", detail) from None
    except UnicodeDecodeError:
        detail = f"{real}: is no UTF-8; save it in that encoding first"
        raise Problem(409, "policy-wrong", "The policy file has an error", detail) from None
    except OSError as error:
        raise not_writable(real, f"it can't be read: {error.strerror}") from error


def not_writable(path: Path, why: str) -> Problem:
    """Say that the policy file can't be changed, and what to do."""
    detail = f"{path}: {why}; let the server's user write the file and its folder, or change it by hand"
    return Problem(409, "policy-not-writable", "The policy file can't be written", detail)


def _put(real: Path, data: bytes, status: os.stat_result | None) -> bool:
    """Put bytes into the place of the file that has this status; say whether it was still as it was."""
    # As uploads are named, so that what a sudden end leaves behind is found at the next start.
    part = real.with_name(f".upload-{secrets.token_hex(8)}.part")
    try:
        if status is not None and not os.access(real, os.W_OK):
            # It could be replaced all the same, and its owner doesn't want that.
            raise PermissionError(13, "it is not to be written")
        descriptor = os.open(
            part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644 if status is None else 0o600
        )
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if status is not None:
                _keep_traits(real, descriptor, status)
            with open(os.dup(descriptor), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return _exchange(part, real, status)
        finally:
            with suppress(OSError):
                os.unlink(part)
            os.close(descriptor)
    except OSError as error:
        raise not_writable(real, error.strerror or str(error)) from error


def _keep_traits(real: Path, descriptor: int, status: os.stat_result) -> None:
    """Give a new file the owner, mode and further attributes (such as access lists) of the one before."""
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.fchown(descriptor, status.st_uid, status.st_gid)
        except PermissionError:
            raise PermissionError(1, "it belongs to somebody else, whose it has to stay") from None
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    if hasattr(os, "listxattr"):
        for name in os.listxattr(real):
            # Some are the system's own affair.
            with suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(real, name))


def _exchange(part: Path, real: Path, status: os.stat_result | None) -> bool:
    """Give the new file its name, unless the one before has changed. The moment between can't be closed: it is tiny."""
    if status is None:
        try:
            os.link(part, real)
        except FileExistsError:
            return False
    else:
        try:
            if _identify(os.stat(real)) != _identify(status):
                return False
        except FileNotFoundError:
            return False
        os.rename(part, real)
    folder = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _identify(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
