"""`ota-server make-token`: makes a token for devices, and prints what to write where."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Sequence

from twisted.python import usage

from ota_server.fleet.access import hash_token
from ota_server.fleet.settings import SettingError, read_device, read_device_name, read_name

RANDOM_BYTES = 24
"""How many random bytes a token is made of: 192 bits, which 32 characters spell."""

MIN_LENGTH = 16
"""A token that somebody made up has so many characters or more."""

MAX_LENGTH = 512
"""And so many bytes or less, so that it fits into a header field however it is written there."""


class MakeTokenOptions(usage.Options):
    """What `ota-server make-token` understands."""

    synopsis = "Usage: ota-server make-token [options]"
    longdesc = (
        "Makes a random token that devices show when they ask for updates, and prints it with the lines for ota.toml "
        "and for the sketch. It is shown this once: the server keeps a hash of it. docs/access.md tells more."
    )
    optParameters = [
        ["device", None, None, "For this device alone: its MAC address, chip id, or name in the policy."],
        ["group", None, None, "For the members of this group of the policy."],
    ]
    optFlags = [
        ["fleet", None, "For any device, which is what a token is for without --device and --group."],
        ["stdin", None, "Hash a token of your own, which is read from standard input, on one line."],
    ]

    def opt_h(self) -> None:
        """Display this help and exit."""
        self.opt_help()

    def postOptions(self) -> None:
        """Check what was given. Raises UsageError."""
        given = [f"--{name}" for name in ("device", "group", "fleet") if self[name] not in (None, 0)]
        if len(given) > 1:
            raise usage.UsageError(f"{' and '.join(given)}: a token is for one of them; make one for each")
        try:
            if self["device"] is not None:
                self["device"] = read_device(self["device"]) or read_device_name(self["device"])
            if self["group"] is not None:
                read_name(self["group"])
        except SettingError as problem:
            raise usage.UsageError(f"{given[0]}: {problem}") from problem


def run_make_token(arguments: Sequence[str]) -> int:
    """Make a token, or read one; print what to do with it, and return the exit status."""
    options = MakeTokenOptions()
    try:
        options.parseOptions(arguments)
        token = _read_token() if options["stdin"] else secrets.token_urlsafe(RANDOM_BYTES).encode()
    except usage.UsageError as problem:
        sys.stderr.write(f"ota-server make-token: {problem} (see: ota-server make-token --help)\n")
        return 2
    # One's own is in the history of a terminal often enough.
    shown = "TOKEN" if options["stdin"] else token.decode()
    sys.stdout.write(_render(options, shown, hash_token(token).hex()))
    return 0


def _read_token() -> bytes:
    """Read a token of somebody's own from standard input. Raises UsageError, whose message doesn't show it."""
    token, _, more = sys.stdin.buffer.read(MAX_LENGTH + 3).partition(b"\n")
    token = token.removesuffix(b"\r")
    if more or len(token) > MAX_LENGTH:
        raise usage.UsageError(f"--stdin: write one token on one line, of {MAX_LENGTH} bytes at most")
    try:
        text = token.decode()
    except UnicodeDecodeError:
        raise usage.UsageError("--stdin: the token is no UTF-8") from None
    if len(text) < MIN_LENGTH:
        raise usage.UsageError(
            f"--stdin: the token has {len(text)} characters and can be guessed; take {MIN_LENGTH} random ones or more"
        )
    if not text.isprintable() or text.strip() != text:
        raise usage.UsageError("--stdin: the token has characters that can't be printed, or blanks around it")
    return token


def _render(options: MakeTokenOptions, token: str, digest: str) -> str:
    """Write what to do with a token."""
    line = f'token = "sha256:{digest}"\n'
    mode = '[access]\ndevices = "token"\n'
    if options["device"] is not None:
        lines = f"{mode}\n[devices.{_quote(options['device'])}]\n{line}"
    elif options["group"] is not None:
        lines = f"{mode}\n[groups.{_quote(options['group'])}]\n{line}"
    else:
        lines = mode + line
    made = "" if options["stdin"] else f"token: {token}\n(it is shown this once; the server keeps its hash)\n\n"
    return (
        f"{made}In ota.toml, where each table stands once:\n\n{_indent(lines)}\n"
        "In the device, one of these:\n\n"
        f'    ESPhttpUpdate.setAuthorization("ota", "{token}");  // ESP8266\n'
        f'    httpUpdate.setAuthorization("ota", "{token}");  // ESP32\n'
        f'    .auth_type = HTTP_AUTH_TYPE_BASIC, .username = "ota", .password = "{token}",  // ESP-IDF\n'
        f"    https://ota:{token}@HOST/PROJECT\n"
        f"    https://HOST/PROJECT?token={token}\n"
        f"    Authorization: Bearer {token}\n"
    )


def _quote(name: str) -> str:
    """Write a name as a key of TOML, which knows the escapes of JSON."""
    return json.dumps(name, ensure_ascii=False)


def _indent(lines: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in lines.splitlines())
