"""The options of `twistd ota`, and the service that they describe."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import LogLevel
from twisted.python import usage

from ota_server import __version__
from ota_server.access_guard import AccessGuard, asks_for_certificates
from ota_server.firmware.signatures import VerifyKey, VerifyKeyError, load_verify_key
from ota_server.fleet.ledger import Ledger, LedgerError
from ota_server.fleet.policy import PolicyError
from ota_server.logs import LEVELS, make_observer
from ota_server.operator.door import OperatorDoor
from ota_server.operator.receiving import MAX_IMAGE
from ota_server.operator.tokens import TokenFileError, read_token_file
from ota_server.service import NO_DATABASE, OtaService, PolicySource, make_ota_service
from ota_server.tls.certificates import CertificateError
from ota_server.tls.creator import TlsFiles
from ota_server.tls.endpoint import BACKLOG, EndpointStringError, make_endpoint, read_files
from ota_server.tls.resuming import ResumingReactor

DEFAULT_PORT = "8000"
DEFAULT_ADMIN = "tcp:8001:interface=127.0.0.1"
NO_ADMIN = "none"
MAX_PORT = 65535


def _level(name: str) -> str:
    if name.lower() not in LEVELS:
        raise ValueError(f"{name!r} is no log level; these are: {', '.join(LEVELS)}")
    return name.lower()


_SIZE = re.compile(r"([0-9]{1,12})(?: ?([KMG])(?:i?B)?)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _size(text: str) -> int:
    """Read a size: `64M`, or a number of bytes; returned in bytes."""
    found = _SIZE.fullmatch(text)
    size = int(found[1]) * _UNITS[(found[2] or "").upper()] if found else 0
    if not size:
        raise ValueError(f"{text!r} is no size; write a number of bytes, or one with K, M or G, such as 64M")
    return size


class Options(usage.Options):
    """What `twistd ota` understands."""

    synopsis = "[options]"
    longdesc = (
        "Serves the firmware images in a folder to ESP8266, ESP32 and Arduino devices: a file "
        "firmware-1.2.3.bin is served at /firmware to devices that run an older version."
    )

    optParameters = [
        ["dir", "d", "~/firmware", "Folder with the firmware images."],
        ["cert", None, None, "PEM file with private key and certificate chain: ports given as numbers speak HTTPS."],
        ["log", None, "error", f"Log level: {', '.join(LEVELS)}.", _level],
        ["state", None, None, "Folder for what the server itself keeps (default: DIR/.ota)."],
        ["policy", None, None, "File with the policy: stages, pins, windows (default: DIR/ota.toml, if it is there)."],
        ["database", None, None, "Ledger of the fleet: an SQLAlchemy URL, or none (default: a file in STATE)."],
        ["admin", None, DEFAULT_ADMIN, "Operator's door: a port of this machine alone, an endpoint string, or none."],
        ["admin-token-file", None, None, "File with the operator's token (default: one is made in STATE)."],
        ["max-image", None, MAX_IMAGE, "Largest image that operators may publish, in bytes or as in 64M.", _size],
    ]

    optFlags = [
        ["gzip-esp8266", None, "Compress sketches for ESP8266 devices that surely unpack them (core 2.7 or later)."],
        ["admin-insecure", None, "Let the operator's door be open to a network without TLS."],
    ]

    compData = usage.Completions(
        optActions={"dir": usage.CompleteDirs(), "state": usage.CompleteDirs(), "cert": usage.CompleteFiles("*.pem")}
    )

    def __init__(self) -> None:
        super().__init__()
        self["port"] = []
        self["verify-key"] = []
        self["keys"] = ()
        self["source"] = None
        self["doors"] = []
        self["admin-host"] = []
        self["operator"] = None

    def opt_admin_host(self, name: str) -> None:
        """Name by which browsers ask the operator's door, as behind a proxy; may be given several times."""
        self["admin-host"].append(name)

    def opt_port(self, value: str) -> None:
        """Port number or endpoint string to serve devices at; may be given several times (default: 8000)."""
        self["port"].append(value)

    opt_p = opt_port

    def opt_listen(self, value: str) -> None:
        """Serve devices at this port or endpoint, too: another name of --port."""
        self.opt_port(value)

    def opt_verify_key(self, file: str) -> None:
        """Offer only images signed by a key of this PEM file (public keys); may be given several times."""
        self["verify-key"].append(file)

    def opt_h(self) -> None:
        """Display this help and exit."""
        self.opt_help()

    def opt_version(self) -> None:
        """Display the version and exit."""
        print(f"ota-server {__version__.public()}")  # noqa: T201
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line. Raises UsageError; ends the program with one line where twistd called it."""
        try:
            super().parseOptions(options)
        except usage.UsageError as problem:
            if self.parent is None:
                raise
            # Twisted would print all options of twistd before the message.
            print(f"ota: {problem} (see: twistd ota --help)", file=sys.stderr)  # noqa: T201
            raise SystemExit(1) from None

    def parseArgs(self, *arguments: str) -> None:
        """Refuse what is no option."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is not an option; name the folder with --dir")

    def postOptions(self) -> None:
        """Check what can be checked before the start. Raises UsageError."""
        self["dir"] = _folder(self["dir"])
        self["state"] = _state_folder(self["state"], self["dir"])
        user = self.parent.get("uid") if self.parent is not None else None
        if user is not None:
            # twistd takes up this user later, who then has to write there.
            try:
                os.chown(self["state"], user, -1)
            except OSError as problem:
                raise usage.UsageError(
                    f"{self['state']} can't be given to user {user}: {problem.strerror}"
                ) from problem
        self["keys"] = tuple(key for file in self["verify-key"] for key in load_keys(file))
        self["source"] = load_source(self["policy"], self["dir"])
        if self["database"] not in (None, NO_DATABASE):
            check_database(self["database"])
        files = None
        if self["cert"] is not None:
            files = load_files(self["cert"])
        self["doors"] = [_door(value, files) for value in self["port"] or [DEFAULT_PORT]]
        if files is not None and not any(_is_number(value) for value in self["port"] or [DEFAULT_PORT]):
            raise usage.UsageError("--cert is for ports given as numbers, and there is none; add --port NUMBER")
        self["operator"] = self._load_operator()
        self._check_access()

    def _load_operator(self) -> OperatorDoor | None:
        """Make the operator's door, or none. Raises UsageError."""
        value = self["admin"]
        if value == NO_ADMIN:
            for option in ("admin-token-file", "admin-host", "admin-insecure"):
                if self[option]:
                    raise usage.UsageError(f"--{option} is for the operator's door, and --admin none closes it")
            return None
        if _is_number(value):
            value = f"tcp:{_check_port(value, '--admin')}:interface=127.0.0.1"
        file = self["admin-token-file"]
        token_file = None
        if file is not None:
            try:
                token_file = Path(file).expanduser().absolute()
                read_token_file(token_file)
            except TokenFileError as problem:
                raise usage.UsageError(f"--admin-token-file: {problem}") from problem
        return OperatorDoor(
            value,
            _make_endpoint(value, "--admin"),
            token_file,
            tuple(self["admin-host"]),
            insecure=bool(self["admin-insecure"]),
        )

    def _check_access(self) -> None:
        """See to it that nothing is opened by accident, and nobody locked out. Raises UsageError."""
        source: PolicySource = self["source"]
        asks = asks_for_certificates(endpoint for _, endpoint in self["doors"])
        try:
            AccessGuard(self["state"], asks_for_certificates=asks).check_start(source.current, str(source.path))
        except PolicyError as problem:
            raise usage.UsageError(str(problem)) from problem


def load_keys(file: str) -> tuple[VerifyKey, ...]:
    """Load the keys of one --verify-key. Raises UsageError."""
    try:
        return load_verify_key(Path(file).expanduser())
    except VerifyKeyError as problem:
        raise usage.UsageError(f"--verify-key: {problem}") from problem


def load_files(file: str) -> TlsFiles:
    """See whether the file of --cert can be used. Raises UsageError."""
    if not file:
        raise usage.UsageError("--cert: name a file")
    try:
        files = read_files({"cert": file})
        files.load()
    except (EndpointStringError, CertificateError) as problem:
        raise usage.UsageError(f"--cert: {problem}") from problem
    return files


def load_source(file: str | None, folder: Path) -> PolicySource:
    """Read the policy of --policy, or else of the folder. Raises UsageError."""
    try:
        if file is None:
            return PolicySource.in_folder(folder)
        return PolicySource.at(Path(file).expanduser().absolute(), required=True)
    except PolicyError as problem:
        raise usage.UsageError(str(problem)) from problem


def check_database(url: str) -> None:
    """See whether a URL names a ledger, without opening it. Raises UsageError."""
    try:
        Ledger(url)
    except LedgerError as problem:
        raise usage.UsageError(f"--database: {problem}, or none") from problem


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit()


def _door(value: str, files: TlsFiles | None) -> tuple[str, IStreamServerEndpoint]:
    """Make the endpoint of one --port, with its description for people."""
    from twisted.internet import reactor

    number = _is_number(value)
    if number:
        _check_port(value, "--port")
    endpoint = _make_endpoint(f"tcp:{value}:backlog={BACKLOG}" if number else value, "--port", value)
    if not number:
        return value, endpoint
    if files is None:
        return f"port {value}", endpoint
    try:
        return f"port {value} (HTTPS)", make_endpoint(reactor, files, endpoint)
    except CertificateError as problem:
        raise usage.UsageError(f"--cert: {problem}") from problem


def _check_port(value: str, option: str) -> str:
    if int(value) > MAX_PORT:
        raise usage.UsageError(f"{option} {value}: port numbers end at {MAX_PORT}")
    return value


def _make_endpoint(text: str, option: str, given: str | None = None) -> IStreamServerEndpoint:
    """Make the endpoint that a string describes, which was `given` for an option. Raises UsageError."""
    from twisted.internet import reactor

    try:
        endpoint: IStreamServerEndpoint = serverFromString(ResumingReactor(reactor), text)
    except Exception as problem:
        raise usage.UsageError(f"{option} {given or text}: {_explain(problem)}") from problem
    return endpoint


def _explain(problem: Exception) -> str:
    """Say in a few words why a text is no endpoint."""
    if isinstance(problem, CertificateError | EndpointStringError):
        return str(problem)
    if isinstance(problem, OSError):
        return f"{problem.filename}: {problem.strerror}"
    text = " ".join(str(problem).split())
    return (
        f"no port number, and no endpoint such as tcp:8000:interface=127.0.0.1 or "
        f"device-tls:443:cert=fullchain.pem:key=privkey.pem ({type(problem).__name__}: {text})"
    )


def _folder(text: str) -> Path:
    if not text:
        raise usage.UsageError("--dir: name a folder")
    folder = Path(text).expanduser().absolute()
    try:
        next(iter(folder.iterdir()), None)
    except OSError as problem:
        hint = f"make the folder (mkdir -p {text}), or name another"
        if not isinstance(problem, FileNotFoundError):
            hint = "name a folder that this user can read"
        raise usage.UsageError(f"--dir {text}: {problem.strerror}; {hint}") from problem
    return folder


def _state_folder(text: str | None, folder: Path) -> Path:
    if text == "":
        raise usage.UsageError("--state: name a folder")
    state = Path(text).expanduser().absolute() if text is not None else folder / ".ota"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = state / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as problem:
        raise usage.UsageError(
            f"{state}, for what the server keeps, can't be written: {problem.strerror}; name another with --state DIR"
        ) from problem
    return state


def makeService(options: Options) -> OtaService:
    """Make the server that the options describe."""
    parent: Any = options.parent
    return make_ota_service(
        options["dir"],
        options["state"],
        options["doors"],
        policy=options["source"],
        database=options["database"],
        foreground=parent is None or parent.get("nodaemon", True),
        keys=options["keys"],
        pack=bool(options["gzip-esp8266"]),
        operator=options["operator"],
        max_image=options["max-image"],
        log_decisions=options["log"] in ("debug", "info"),
        make_observer=lambda: make_observer(parent or {"nodaemon": True}, LogLevel.levelWithName(options["log"])),
    )
