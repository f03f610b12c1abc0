"""Builds the container image and runs it, by podman and runc: `python -m tests.system.container`.

Each step prints one line with what it saw. At the first that fails the log of the container is shown, and the status
is 1; it is 2 where this can't be run. The base is a Debian made by debootstrap; `--base IMAGE` takes another, such as
the public one of the Dockerfile, and then pip fetches from the network as it does for everybody.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from tests.system.asking import DEVICE, as_device, certificate_of, expect_image, fetch, free_port, make_context
from tests.system.debian import ROOT, UnableError, make_root
from tests.system.podman import Container, Podman, UnexpectedError, expect, wait_for

IMAGE = "localhost/ota-server"
BASE = "localhost/debian:test"
USER = "10001"
EXAMPLES = ROOT / "examples" / "firmware"
NEWEST = "firmware-1.1.0.bin"
STOP_WITHIN = 2.0
"""How long the server may take to end, in seconds."""

HARDENED = (
    "--read-only",
    # Docker has no writable /tmp there, so let podman have none.
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--pids-limit=64",
    "--memory=200m",
)
PLACE = ("--dir", "/firmware", "--state", "/state")


def say(step: str, saw: str) -> None:
    """Print the line of one step."""
    print(f"{step:<12} {saw}", flush=True)


def readme_line() -> list[str]:
    """Return the arguments of the README's `docker run`."""
    found = re.findall(r"(?m)^\$ docker run (.+)$", (ROOT / "README.md").read_text())
    expect(len(found) == 1, f"README.md has {len(found)} lines with docker run")
    return shlex.split(found[0])


class Run:
    """All steps, with a scratch folder and a podman of its own."""

    def __init__(self, scratch: Path, podman: Podman, base: str | None) -> None:
        self.scratch = scratch
        self.podman = podman
        self.base = base
        self.firmware = scratch / "firmware"
        shutil.copytree(EXAMPLES, self.firmware)

    def publish(self) -> Sequence[str]:
        """Return the arguments that publish port 8000 at a free one of the loopback, and mount the firmware."""
        return ("--publish", "127.0.0.1::8000", "--volume", f"{self.firmware}:/firmware:ro")

    def all(self) -> None:
        """Do every step. Raises UnexpectedError."""
        self.build()
        self.look_into_image()
        self.readme()
        self.stop_early()
        self.stop_while_sending()
        self.hardened()
        self.health()
        self.refusals()
        self.https()
        self.compose()

    def build(self) -> None:
        """Make a base where none is given, and build the image on it."""
        arguments = self.make_base() if self.base is None else ["--build-arg", f"BASE={self.base}"]
        begin = time.monotonic()
        self.podman(
            "build", "--network=host", "--isolation=chroot", "--format=docker", *arguments, "--tag", IMAGE, ROOT
        )
        say("build", f"{time.monotonic() - begin:.1f} s")
        begin = time.monotonic()
        self.podman(
            "build", "--network=host", "--isolation=chroot", "--format=docker", *arguments, "--tag", IMAGE, ROOT
        )
        say("build again", f"{time.monotonic() - begin:.1f} s, with every layer from the cache")

    def make_base(self) -> list[str | Path]:
        """Make the base and a folder of wheels for its Python; return the arguments that build with them."""
        archive = self.scratch / "base.tar"
        subprocess.run(["tar", "-C", make_root(), "--exclude=./var/cache", "-cf", archive, "."], check=True)
        self.podman("import", "--quiet", archive, BASE)
        archive.unlink()
        version = self.podman(
            "run", "--rm", "--network=none", BASE, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"
        )
        wheels = self.scratch / "wheels"
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        machine = platform.machine()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--dest", str(wheels), "--only-binary=:all:", f"--python-version={version}"]
        # Each of these includes none of the others.
        command += [f"--platform=manylinux{tag}_{machine}" for tag in ("2014", "_2_17", "_2_28", "_2_34")]
        command += project["project"]["dependencies"]
        command += project["project"]["optional-dependencies"]["postgresql"] + project["build-system"]["requires"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise UnableError(f"pip can't fetch the wheels: {done.stderr.strip().splitlines()[-1]}")
        count = len(list(wheels.glob("*.whl")))
        say("base", f"a Debian with Python {version}; {count} wheels to install from")
        return ["--build-arg", f"BASE={BASE}", "--build-arg", "PIP_NO_INDEX=1", "--build-context", f"wheels={wheels}"]

    def look_into_image(self) -> None:
        """See what the image is made of."""
        facts = json.loads(self.podman("image", "inspect", IMAGE))[0]
        base = json.loads(self.podman("image", "inspect", self.base or BASE))[0]
        settings = facts["Config"]
        expect(settings["User"] == f"{USER}:{USER}", f"the image's user is {settings['User']!r}")
        expect(facts.get("Healthcheck"), "the image has no health check")
        expect("/state" in settings["Volumes"], "the image has no volume for the state")
        labels = {name for name in facts["Labels"] if name.startswith("org.opencontainers.image.")}
        expect(len(labels) >= 5, f"the image's labels are {labels}")
        with self.podman.container("--network=none", "--entrypoint", "sleep", IMAGE, "60") as container:
            tools = container.exec("sh", "-c", "ls /opt/ota-server/bin/pip* /build /pip; command -v gcc cc make").stdout
            expect(not tools, f"the image has tools for building in it: {tools}")
            stale = container.exec("find", "/opt/ota-server", "-user", USER).stdout
            expect(not stale, f"the server could change its own program: {stale[:200]}")
            version = container.exec("ota-server", "--version").stdout.strip()
        added = facts["Size"] - base["Size"]
        layers = len(facts["RootFS"]["Layers"]) - len(base["RootFS"]["Layers"])
        steps = json.loads(self.podman("history", "--format", "json", IMAGE))
        program = next(step["size"] for step in steps if "COPY" in step["CreatedBy"])
        say(
            "image",
            f"{version}: {facts['Size'] / 1e6:.0f} MB, of which the base is {base['Size'] / 1e6:.0f} MB; its own "
            f"{layers} layers have {added / 1e6:.0f} MB, and that of the program alone has {program / 1e6:.1f} MB",
        )

    def readme(self) -> None:
        """Run the line of the README, but for the port's number and the folder, which tests can't take as they are."""
        words = readme_line()
        expect(words == ["-p", "8000:8000", "-v", "/my-firmware-directory:/firmware", "ota-server"], f"it is {words}")
        words = [{"8000:8000": "127.0.0.1::8000"}.get(word, word) for word in words]
        words = [word.replace("/my-firmware-directory", str(self.firmware)) for word in words]
        with self.podman.container(*words) as container:
            ready = container.wait_ready()
            say("run", f"ready after {ready:.1f} s, started as podman run {' '.join(words)}")
            sha256 = expect_image(f"{container.url}/firmware.bin", self.firmware / NEWEST)
            size = (self.firmware / NEWEST).stat().st_size
            say("serve", f"/firmware.bin is {NEWEST}: {size} bytes, SHA-256 {sha256}")
            expect_image(f"{container.url}/firmware", self.firmware / NEWEST, as_device("1.0"))
            status, headers, _ = fetch(f"{container.url}/firmware", as_device("1.1.0"))
            expect(status == 304, f"a device that is up to date gets {status}")
            say("device", f"1.0 gets {NEWEST} whole; 1.1.0 gets 304, {headers['X-OTA-Reason']}")
            self.expect_harmless(container)
            took, status = container.stop()
            self.expect_good_log(container.log())
            expect(took < STOP_WITHIN and status == 0, f"SIGTERM: status {status} after {took:.2f} s")
            say("SIGTERM", f"ended in {took:.2f} s with status {status}")

    def expect_harmless(self, container: Container) -> None:
        """See that process 1 is the server itself, and what it may do."""
        process = Path(f"/proc/{container.process}")
        fields = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        command = (process / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
        expect(set(fields["Uid"].split()) == {USER}, f"process 1 runs as {fields['Uid']}")
        expect(int(fields["CapEff"], 16) == 0, f"process 1 has the capabilities {fields['CapEff']}")
        expect("ota_server" in command, f"process 1 is {command}")
        memory = int(fields["VmRSS"].split()[0]) / 1024
        say("process 1", f"user {USER}, capabilities {fields['CapEff']}, {memory:.0f} MB: {command}")

    def expect_good_log(self, log: str) -> None:
        """See that a log says what is to be said, and nothing of trouble."""
        expect("devices are served at port 8000" in log, f"the log doesn't tell of the port:\n{log}")
        expect("plugin cache" not in log, f"the list of plugins isn't in the image:\n{log}")
        expect(not re.search(r"#(warn|error|critical)\]|Traceback", log), f"the log tells of trouble:\n{log}")
        say("log", f"{len(log.splitlines())} lines, none of them about trouble or the plugin cache")

    def stop_early(self) -> None:
        """Stop a container that is still starting, before the reactor has put up its handler of the signal."""
        with self.podman.container(*self.publish(), IMAGE) as container:
            # The interpreter itself takes some milliseconds, in which a signal to process 1 is lost.
            waited = wait_for(lambda: has_handler(container.process), "a handler of SIGTERM")
            took, status = container.stop()
            log = container.log()
            expect(took < STOP_WITHIN and status == 0, f"SIGTERM early: status {status} after {took:.2f} s")
            expect("starting up" not in log, f"SIGTERM was heeded only once the server had started:\n{log}")
        say("early", f"SIGTERM {waited:.2f} s after the start: ended in {took:.2f} s with status {status}")

    def stop_while_sending(self) -> None:
        """Stop a server with a device in the midst of a download, which reads nothing any more."""
        large = self.firmware / "large-1.0.0.bin"
        large.write_bytes(os.urandom(1 << 20) * 64)
        os.utime(large, (1_700_000_000, 1_700_000_000))
        with self.podman.container(*self.publish(), IMAGE) as container:
            container.wait_ready()
            wait_for(lambda: fetch(f"{container.url}/large.bin.version")[0] == 200, f"{large.name} to be offered")
            address = urlsplit(container.url)
            with socket.create_connection((address.hostname, address.port), 10) as device:
                device.sendall(b"GET /large.bin HTTP/1.0\r\n\r\n")
                expect(device.recv(12) == b"HTTP/1.0 200", "the download doesn't begin")
                took, status = container.stop()
            expect(took < STOP_WITHIN and status == 0, f"SIGTERM in a download: status {status} after {took:.2f} s")
        large.unlink()
        say("in download", f"SIGTERM with a stalled device: ended in {took:.2f} s with status {status}")

    def hardened(self) -> None:
        """Let it do nothing that it needn't, and see that it remembers across containers."""
        state = ("--volume", "ota-test-state:/state")
        with self.podman.container(*HARDENED, *self.publish(), *state, "--restart=on-failure", IMAGE) as container:
            container.wait_ready()
            expect_image(f"{container.url}/firmware", self.firmware / NEWEST, as_device("1.0"))
            self.expect_harmless(container)
            kept = [path for path in ("/firmware/x", "/opt/x", "/tmp/x") if container.exec("touch", path).returncode]
            expect(kept == ["/firmware/x", "/opt/x", "/tmp/x"], f"only these can't be written: {kept}")
            expect(container.exec("touch", "/state/x").returncode == 0, "/state can't be written")
            say("hardened", f"serves with {' '.join(HARDENED)}, firmware :ro; only /state can be written")
            order = container.exec("ota-server", "rollout", "halt", "firmware", "1.1.0", *PLACE)
            expect(order.returncode == 0, f"rollout halt: {order.stdout}{order.stderr}")
            wait_for(lambda: self.reason(container) == "halted", "the halt to be heeded")
            process = container.process
            os.kill(process, 9)
            wait_for(lambda: container.process not in (0, process), "a restart after SIGKILL")
            container.wait_ready()
            expect(self.reason(container) == "halted", f"after SIGKILL: {self.reason(container)}")
            say("SIGKILL", "restarted on failure; the halt is remembered")
            container.stop()
            self.podman("start", container.identity)
            container.wait_ready()
            expect(self.reason(container) == "halted", f"after a restart: {self.reason(container)}")
        with self.podman.container(*HARDENED, *self.publish(), *state, IMAGE) as container:
            container.wait_ready()
            told = container.exec("ota-server", "explain", DEVICE, *PLACE).stdout
            expect("known since" in told and "halted" in told, f"the device isn't known any more:\n{told}")
            expect(self.reason(container) == "halted", f"in a new container: {self.reason(container)}")
            say("volume", f"a restart and a new container know {DEVICE} and the halt (304 {self.reason(container)})")
            self.drop_file(container)

    def reason(self, container: Container) -> str:
        """Return why a device that runs 1.0 is answered as it is."""
        return fetch(f"{container.url}/firmware", as_device("1.0"))[1]["X-OTA-Reason"]

    def drop_file(self, container: Container) -> None:
        """Put a file into the mounted folder, and take it away."""
        new = self.firmware / "dropped-1.0.0.bin"
        shutil.copyfile(EXAMPLES / NEWEST, new)
        waited = wait_for(lambda: fetch(f"{container.url}/dropped.bin")[0] == 200, "a dropped file to be offered")
        expect_image(f"{container.url}/dropped.bin", new)
        new.unlink()
        say("drop", f"a new file in the mounted folder is served after {waited:.1f} s")

    def health(self) -> None:
        """Run the health check where it must fail, and where it is told of another address."""
        with self.podman.container(*self.publish(), IMAGE, "--port", "8080") as container:
            wait_for(lambda: "answer" in self.probe_at(container, "8080"), "the server at port 8080")
            done = container.probe()
            expect(done.returncode == 1, f"the probe of a port without a server ended with {done.returncode}")
            silent = container.exec("python", "-m", "ota_server.health").stderr.strip()
        environment = ("--env", "OTA_HEALTH_URL=http://127.0.0.1:8080/-/ready")
        with self.podman.container(*self.publish(), *environment, IMAGE, "--port", "8080") as container:
            ready = container.wait_ready()
            expect(not container.log(), f"without --log info the log isn't silent:\n{container.log()}")
        say("health", f"status 1 where nobody answers ({silent}); 0 with OTA_HEALTH_URL after {ready:.1f} s")

    def probe_at(self, container: Container, port: str) -> str:
        """Return `answer` where the server is ready at a port inside."""
        done = container.exec("python", "-m", "ota_server.health", f"http://127.0.0.1:{port}/-/ready")
        return "answer" if done.returncode == 0 else done.stderr

    def refusals(self) -> None:
        """Start it wrongly: each time one line says what is wrong."""
        cases: list[tuple[list[str], list[str], str]] = [
            ([], ["--nope"], "option --nope not recognized"),
            ([], ["--port", "70000"], "--port 70000: port numbers end at 65535"),
            ([], ["--log", "loud"], "'loud' is no log level"),
            (["--user", "1234:1234", "--cap-drop=all"], [], "/state, for what the server keeps, can't be written"),
            (["--volume", f"{self.private_folder()}:/firmware:ro"], [], "name a folder that this user can read"),
        ]
        for before, after, wanted in cases:
            done = self.podman.run(["podman", "run", "--rm", "--network=none", *before, IMAGE, *after])
            expect(done.returncode == 1, f"{after} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
            told = done.stderr.strip()
            expect(wanted in told and "\n" not in told, f"{before} {after} is refused by:\n{told}")
            say("refused", told)

    def private_folder(self) -> Path:
        """Make a folder that only its owner can read."""
        folder = self.scratch / "private"
        folder.mkdir(mode=0o700)
        return folder

    def https(self) -> None:
        """Serve HTTPS by mounted certificates, renew them, and see the new one without a restart."""
        authority = trustme.CA()
        folder = self.scratch / "certificates"
        folder.mkdir()

        def issue() -> None:
            issued = authority.issue_cert("127.0.0.1")
            put(folder / "privkey.pem", issued.private_key_pem.bytes())
            put(folder / "fullchain.pem", b"".join(blob.bytes() for blob in issued.cert_chain_pems))

        issue()
        door = "device-tls:8443:cert=/certificates/fullchain.pem:key=/certificates/privkey.pem"
        arguments = (*HARDENED, *self.publish(), "--publish", "127.0.0.1::8443")
        ports = ("--port", door, "--port", "tcp:8000:interface=127.0.0.1", "--log", "info")
        with self.podman.container(*arguments, "--volume", f"{folder}:/certificates:ro", IMAGE, *ports) as container:
            container.wait_ready()
            address = container.podman("port", container.identity, "8443").splitlines()[0]
            context = make_context(authority)
            status, _, body = fetch(f"https://{address}/firmware.bin", context=context)
            expect(status == 200 and body == (self.firmware / NEWEST).read_bytes(), f"HTTPS answers {status}")
            before = certificate_of(address, context)
            issue()
            waited = wait_for(lambda: certificate_of(address, context) != before, "the new certificate", 15)
            say("HTTPS", f"{NEWEST} whole by {door}; a renewed certificate is served after {waited:.1f} s")
            took, status = container.stop()
            expect(took < STOP_WITHIN and status == 0, f"SIGTERM with HTTPS: status {status} after {took:.2f} s")

    def compose(self) -> None:
        """Check compose.yaml by the schema of Compose, and start it."""
        file = ROOT / "compose.yaml"
        done = self.podman.run(["docker-compose", "--file", file, "config"])
        expect(done.returncode == 0, f"docker-compose refuses compose.yaml:\n{done.stderr}")
        told = done.stdout
        wanted = ("read_only: true", "- ALL", "no-new-privileges:true", "restart: unless-stopped", ":/firmware:ro")
        expect(all(text in told for text in wanted), f"compose.yaml lacks one of {wanted}:\n{told}")
        self.podman.environment |= {"OTA_FIRMWARE": str(self.firmware), "OTA_PORT": f"127.0.0.1:{free_port()}"}
        compose: list[str | Path] = ["podman-compose", "--file", file, "--project-name", "ota-test"]
        # The short name is the image that was built: nothing is fetched.
        done = self.podman.run([*compose, "up", "--detach", "--no-build"])
        try:
            expect(done.returncode == 0, f"podman-compose up:\n{done.stdout}{done.stderr}")
            names = self.podman("ps", "--quiet", "--filter", "label=io.podman.compose.project=ota-test").split()
            expect(len(names) == 1, f"podman-compose started {len(names)} containers:\n{done.stdout}{done.stderr}")
            container = Container(self.podman, names[0])
            container.wait_ready()
            expect_image(f"{container.url}/firmware.bin", self.firmware / NEWEST)
            self.expect_harmless(container)
            expect(container.inspect("{{.HostConfig.ReadonlyRootfs}}") == "true", "its system can be written")
            mounts = json.loads(container.inspect("{{json .Mounts}}"))
            writable = sorted(mount["Destination"] for mount in mounts if mount["RW"])
            expect(writable == ["/state"], f"writable are {writable}")
            say("compose", f"{file.name} is valid; started, it serves {NEWEST} whole; writable: {', '.join(writable)}")
        finally:
            self.podman.run([*compose, "down"])


def has_handler(process: int) -> bool:
    """Tell whether a process handles SIGTERM (proc(5): SigCgt)."""
    try:
        fields = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    found = re.search(r"SigCgt:\s+([0-9a-f]+)", fields)
    return found is not None and bool(int(found[1], 16) & 1 << 14)


def put(file: Path, data: bytes) -> None:
    """Write a file for the container's user alone, beside its place, and rename it into that."""
    new = file.with_suffix(".new")
    new.write_bytes(data)
    new.chmod(0o400)
    os.chown(new, int(USER), int(USER))
    new.rename(file)


@contextmanager
def unharmed() -> Iterator[None]:
    """See that the machine's own /dev/null is as it was: containers that are given /dev have changed it."""
    try:
        yield
    finally:
        mode = stat.S_IMODE(os.stat("/dev/null").st_mode)
        expect(mode == 0o666, f"/dev/null has the mode {mode:o} now; chmod 666 /dev/null")
        say("/dev/null", f"has the mode {mode:o} still")


def main() -> int:
    """Run every step, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.container", description=__doc__)
    parser.add_argument("--base", help="an image with Python and venv to build on (default: a Debian made here)")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ota-container-") as folder:
        scratch = Path(folder)
        # Containers run as another user, who has to get there.
        scratch.chmod(0o755)
        try:
            podman = Podman(scratch / "store")
            with unharmed():
                try:
                    Run(scratch, podman, options.base).all()
                finally:
                    podman.remove()
        except UnableError as problem:
            print(f"tests.system.container: {problem}", file=sys.stderr)
            return 2
        except (UnexpectedError, subprocess.SubprocessError, OSError) as problem:
            print(f"FAILED       {problem}", flush=True)
            return 1
    say("done", f"everything as it should be, in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
