"""Which door a command asks: from its options, the environment, or the state of a server on this machine."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from twisted.python import usage

from ota_server.remote.failing import CommandError, Status

URL_VARIABLE = "OTA_SERVER_URL"
TOKEN_VARIABLE = "OTA_SERVER_TOKEN"  # noqa: S105 - a name
CA_VARIABLE = "OTA_SERVER_CA"

OPERATOR_FILE = "operator.json"
"""The file of the server's state that says where its operator's door is, while it is open: a JSON object with the
members `url` and `token_file`."""

MAX_TOKEN = 4096
"""The longest token, in characters: no header field may be longer."""


@attrs.frozen
class Address:
    """A door: its URL without a slash at the end, the token to show, and the file with authorities to trust, if any.

    `url` may also be `unix:/path`, for a socket of this machine.
    """

    url: str
    token: str = attrs.field(repr=False)
    ca: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether the token would go over a network where others can read it."""
        return self.url.startswith("http://") and not _is_loopback(urlsplit(self.url).hostname or "")


class DoorOptions(usage.Options):
    """The options that say which door a command asks."""

    optParameters = [
        ["url", None, None, f"Address of the operator's door, as https://ota.example.org:8001 (or {URL_VARIABLE})."],
        ["token-file", None, None, f"File with the token; - is standard input (or the token in {TOKEN_VARIABLE})."],
        ["ca", None, None, f"PEM file with the authorities to trust, for HTTPS (or {CA_VARIABLE})."],
        ["dir", "d", None, "Firmware folder of a server on this machine (default: ~/firmware)."],
        ["state", None, None, "What that server keeps: its address and token (default: DIR/.ota)."],
    ]
    compData = usage.Completions(
        optActions={
            "token-file": usage.CompleteFiles(),
            "ca": usage.CompleteFiles("*.pem"),
            "dir": usage.CompleteDirs(),
            "state": usage.CompleteDirs(),
        }
    )

    def opt_token(self, value: str) -> None:
        """Refused: others see the arguments of a command."""
        raise usage.UsageError(
            f"--token: others can see the arguments of a command; put the token into a file (--token-file) or into "
            f"the environment ({TOKEN_VARIABLE})"
        )

    def opt_h(self) -> None:
        """Display this help and exit."""
        self.opt_help()

    def address(self, environment: Mapping[str, str] | None = None) -> Address:
        """Return the door to ask. Raises CommandError where none, or no token, is told."""
        return find_address(self, os.environ if environment is None else environment)


def is_remote(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Say whether a command that also works on a server's state is to ask a door.

    That is so with --url, and with a URL in the environment unless an option names a server on this machine.
    """
    given = {argument.partition("=")[0] for argument in arguments}
    if "--url" in given:
        return True
    local = given & {"-d", "--dir", "--state", "--database"} or any(
        argument.startswith("-d") and not argument.startswith("--") for argument in arguments
    )
    return bool(environment.get(URL_VARIABLE)) and not local


def find_address(options: Mapping[str, str | None], environment: Mapping[str, str]) -> Address:
    """Return the door that options and environment name; options win. Raises CommandError."""
    local = options["dir"] is not None or options["state"] is not None
    if options["url"] is not None and local:
        raise CommandError(
            "--url names a server, and --dir or --state another; give one of them (see --help)", Status.USAGE
        )
    url, place = options["url"], "--url"
    if url is None and not local and environment.get(URL_VARIABLE):
        url, place = environment[URL_VARIABLE], URL_VARIABLE
    ca = options["ca"] or environment.get(CA_VARIABLE) or None
    if ca is not None and not Path(ca).expanduser().is_file():
        raise CommandError(f"{ca}: there is no such file of authorities (--ca, {CA_VARIABLE})", Status.USAGE)
    trusted = None if ca is None else Path(ca).expanduser()
    if url is not None:
        token = _told_token(options["token-file"], environment)
        if token is None:
            raise CommandError(
                f"{place} names a server, but there is no token for it; put one into a file (--token-file) or into "
                f"the environment ({TOKEN_VARIABLE})",
                Status.USAGE,
            )
        return Address(check_url(url, place), token, trusted)
    folder = Path(options["dir"] or "~/firmware").expanduser()
    state = Path(options["state"]).expanduser() if options["state"] else folder / ".ota"
    return _read_state(state, _told_token(options["token-file"], environment), trusted)


def check_url(url: str, place: str) -> str:
    """Return the URL of a door without a slash at its end. Raises CommandError; `place` is where it was given."""
    if url.startswith("unix:/"):
        return url
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for what is no port
    except ValueError as problem:
        raise CommandError(f"{place}: {url!r} is no address ({problem})", Status.USAGE) from problem
    if parts.username is not None or parts.password is not None:
        raise CommandError(
            f"{place}: a token has no place in an address, where others see it; use --token-file or {TOKEN_VARIABLE}",
            Status.USAGE,
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise CommandError(
            f"{place}: {url!r} is no address of a door; write one as https://ota.example.org:8001", Status.USAGE
        )
    return url.rstrip("/")


def _told_token(file: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the token of a file, or of the environment. Raises CommandError."""
    if file == "-":
        import sys

        return _check_token(sys.stdin.readline(MAX_TOKEN + 2), "standard input")
    if file is not None:
        return _read_token(Path(file).expanduser(), "--token-file")
    told = environment.get(TOKEN_VARIABLE)
    return None if not told else _check_token(told, TOKEN_VARIABLE)


def _read_token(path: Path, place: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return _check_token(file.read(MAX_TOKEN + 2), str(path))
    except UnicodeDecodeError:
        raise CommandError(f"{path}: this is no token", Status.USAGE) from None
    except OSError as problem:
        hint = (
            "; run this as the user of the server, or use --token-file" if isinstance(problem, PermissionError) else ""
        )
        raise CommandError(f"{place} {path}: {problem.strerror}{hint}", Status.USAGE) from problem


def _check_token(text: str, place: str) -> str:
    """Return a token without the white space around it. Raises CommandError for what can be none; never shows it."""
    token = text.strip()
    if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise CommandError(f"{place}: this is no token, which is one line without spaces", Status.USAGE)
    return token


def _read_state(state: Path, token: str | None, ca: Path | None) -> Address:
    """Read which door the server of this state has, and its token. Raises CommandError."""
    path = state / OPERATOR_FILE
    hint = f"name a server with --url or {URL_VARIABLE}, or its folder with --dir"
    try:
        told = json.loads(path.read_text())
        url, file = told["url"], told["token_file"]
        if not isinstance(url, str) or not isinstance(file, str):
            raise TypeError
    except FileNotFoundError:
        raise CommandError(
            f"{path} isn't there, so that no server with an operator's door runs here; {hint}", Status.UNREACHABLE
        ) from None
    except OSError as problem:
        raise CommandError(
            f"{path}: {problem.strerror}; run this as the user of the server, or {hint}", Status.USAGE
        ) from problem
    except (ValueError, TypeError, KeyError):
        raise CommandError(f"{path} doesn't say where the door is; start the server anew, or {hint}") from None
    if token is None:
        token = _read_token(Path(file), "the server's token")
    return Address(check_url(url, str(path)), token, ca)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
