"""The servers that are compared: each serves a folder on a free port of 127.0.0.1, with one core's worth."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench import processes
from bench.load import BenchError, ask, plain_head, request_head, wait_for

PROJECT = "firmware"
VERSION = "1.2.3"
OLDER = "1.2.2"
IMAGE = f"{PROJECT}-{VERSION}.bin"
CHECK_PATH = f"/{PROJECT}"
_HERE = Path(__file__).parent


def find_nginx() -> str | None:
    """Return the path of nginx, which Debian keeps where ordinary users' PATH does not lead."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Peer:
    """A server of one folder: started, asked, measured and stopped."""

    key: ClassVar[str]
    name: ClassVar[str]
    #: Whether it looks into the folder for itself, so that the number of files means something to it.
    knows_folder: ClassVar[bool] = True
    #: How many checks at once, by number of files: one where a check may take long enough for those that are
    #: under way at the end, and not counted, to matter.
    folder_connections: ClassVar[int] = 10

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch / self.key
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def command(self) -> list[str]:
        """Return the command line that serves ``self.folder`` on ``self.port``."""
        raise NotImplementedError

    def image_path(self, project: str, version: str) -> str:
        """Return the address of a project's newest image, whose version this is."""
        return f"/{project}"

    def forget(self) -> None:
        """Remove what the server has kept from earlier starts."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    @contextlib.contextmanager
    def running(self, ready: str = "", patience: int = 60) -> Iterator[float]:
        """Run the server; yield the seconds from its start to its first right answer to a check.

        Where it is known to say itself when it is ready, ``ready`` is the address that answers 200 then, which is
        asked instead, and less often. ``patience`` is how many seconds it may take.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.port = processes.free_port()
        with (self.scratch / "output.txt").open("wb") as output:
            self._began = time.monotonic()
            self._process = subprocess.Popen(
                self.command(), stdout=output, stderr=output, cwd=self.scratch, start_new_session=True
            )
        try:
            if ready:
                yield self.wait(plain_head(ready, self.port), 200, None, patience, pause=0.01)
            else:
                yield self.wait(request_head(CHECK_PATH, self.port, VERSION), 304, None, patience)
        finally:
            self.stop()

    def wait(self, head: bytes, status: int, body: bytes | None, patience: int = 60, *, pause: float = 0.005) -> float:
        """Ask until the answer is right, with pauses; return the seconds since the server's start."""
        for _ in range(patience):
            if wait_for(self.port, head, (status, body), time.monotonic() + 1, pause):
                return time.monotonic() - self._began
            if self._process is None or self._process.poll() is not None:
                break
        raise BenchError(f"{self.name} gave no right answer; it printed:\n{self.output()}")

    def output(self) -> str:
        """Return the end of what the server printed."""
        return (self.scratch / "output.txt").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End the server as its operator would, and by force what is left of it after 20 seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not stop within 20 s and was killed", file=sys.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the server's processes have used so far."""
        return processes.cpu_seconds(self._session())

    def thread_seconds(self) -> float:
        """Return the CPU seconds that the server has used outside of its main thread so far."""
        return processes.thread_seconds(self._session())

    def disk_bytes(self) -> int:
        """Return the bytes that the server's processes have had read from a disk so far."""
        return processes.disk_bytes(self._session())

    def memory_bytes(self) -> tuple[int, int]:
        """Return the resident and the proportional set size of the server's processes, in bytes."""
        return processes.memory_bytes(self._session())

    def pin(self, cores: set[int]) -> None:
        """Let the server run on these cores only."""
        processes.pin(self._session(), cores)

    def settle(self, seconds: float = 10) -> None:
        """Wait until the server does next to nothing of its own accord, at most so many seconds."""
        deadline = time.monotonic() + seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now = self.cpu_seconds()
            if now - before <= 0.02:
                return
            before = now

    def verify(self, image: bytes) -> None:
        """Make sure that the server does its job: 304 without a body, or 200 with the image."""
        for head, wanted in (
            (request_head(CHECK_PATH, self.port, VERSION), (304, b"")),
            (request_head(CHECK_PATH, self.port, OLDER), (200, image)),
            (plain_head(CHECK_PATH, self.port), (200, image)),
        ):
            status, body = ask(self.port, head)
            if (status, body) != wanted:
                said = f"{status} with {len(body)} bytes instead of {wanted[0]} with {len(wanted[1])}"
                raise BenchError(f"{self.name} answered {said} to\n{head.decode()}{self.output()}")

    def _session(self) -> int:
        if self._process is None or self._process.poll() is not None:
            raise BenchError(f"{self.name} is not running; it printed:\n{self.output()}")
        return self._process.pid


class Ota(Peer):
    """This server, as it is installed beside the Python that runs the comparison."""

    key = "ota"
    name = "this server"

    def command(self) -> list[str]:
        """Return the ``twistd ota`` command."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        where = ["--dir", str(self.folder), "--state", str(self.scratch / "state"), "--admin", "none"]
        port = f"tcp:{self.port}:interface=127.0.0.1"
        return [twistd, "--nodaemon", "--pidfile=", "ota", *where, "--port", port]


class Nginx(Peer):
    """nginx with one worker, the version written into its configuration, sendfile on and access log off."""

    key = "nginx"
    name = "nginx"

    def command(self) -> list[str]:
        """Write the configuration and return the command."""
        nginx = find_nginx() or "nginx"
        built = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False).stderr
        temporary = "\n".join(
            f'{kind}_temp_path "{self.scratch}/{kind}";'
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            if f"--without-http_{kind}_module" not in built
        )
        user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
        configuration = self.scratch / "nginx.conf"
        configuration.write_text(f"""
            daemon off; master_process on; worker_processes 1; {user}
            pid "{self.scratch}/nginx.pid";
            events {{ worker_connections 8192; }}
            http {{
                access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
                default_type application/octet-stream;
                {temporary}
                server {{
                    listen 127.0.0.1:{self.port};
                    root "{self.folder}";
                    location = {CHECK_PATH} {{
                        if ($http_x_esp8266_version = "{VERSION}") {{ return 304; }}
                        alias "{self.folder}/{IMAGE}";
                    }}
                }}
            }}
            """)
        return [nginx, "-p", str(self.scratch), "-e", f"{self.scratch}/error.txt", "-c", str(configuration)]

    def image_path(self, project: str, version: str) -> str:
        """Return the file's own address: nginx does not know which version is the newest."""
        return f"/{project}-{version}.bin"


class Plain(Peer):
    """``http.server`` with threads, doing the same job as simply as one would."""

    key = "http.server"
    name = "http.server"
    folder_connections = 1

    def command(self) -> list[str]:
        """Return the command of ``plain_server.py``."""
        return [sys.executable, "-P", str(_HERE / "plain_server.py"), str(self.folder), str(self.port)]


class TwistedWeb(Peer):
    """The smallest ``twisted.web`` site, which knows one image: what Twisted itself costs."""

    key = "twisted.web"
    name = "twisted.web"
    knows_folder = False

    def command(self) -> list[str]:
        """Return the command of ``twisted_server.py``."""
        return [sys.executable, "-P", str(_HERE / "twisted_server.py"), str(self.folder), str(self.port)]


PEERS: tuple[type[Peer], ...] = (Ota, Nginx, Plain, TwistedWeb)
