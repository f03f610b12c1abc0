"""Installs the service into a Debian of its own, and sees it live: `python -m tests.system.service`, as root.

Each line that it prints is something that was seen. It ends with status 1 at the first that isn't as it should be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.system.debian import ROOT, UnableError, cache_folder, make_root
from tests.system.machine import CommandError, Machine, assert_own_devices, run_offline, wait_for

IMAGE = ROOT / "examples" / "firmware" / "firmware-1.1.0.bin"
FIRMWARE = "/var/lib/ota-server/firmware"
SETTINGS = "/etc/default/ota-server"
DROP_INS = "/etc/systemd/system/ota-server.service.d"
MAX_EXPOSURE = 2.0
"""The highest `systemd-analyze security` score that is good enough; 10 is no sandbox at all."""

PATIENCE = 30.0
"""How long the service may take to come back, in seconds."""

WATCHDOG = 3
"""How long the watchdog waits in the test, in seconds."""


def make_wheels(root: Path) -> Path:
    """Download what the program needs, as packages for the Python of a root file system; return their folder."""
    version = Path(next(iter((root / "usr/bin").glob("python3.[0-9]*")))).name.removeprefix("python")
    folder = cache_folder() / f"wheels-{version}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-qq",
            "--disable-pip-version-check",
            "--only-binary=:all:",
            f"--python-version={version}",
            f"--dest={folder}",
            *wanted,
        ],
        check=True,
    )
    return folder


class Run:
    """The steps, one after the other in the same machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def show(self, what: str, seen: str = "") -> None:
        """Print one thing that was seen."""
        print(f"ok  {what}{seen and ': '}{seen}", flush=True)

    def property(self, name: str) -> str:
        """Return what systemd knows of the service under a name."""
        return self._machine.run("systemctl", "show", "--value", f"--property={name}", "ota-server")

    def ask(self, address: str, *options: str) -> str:
        """Return the status and size of the answer that a device with version 1.0 gets, such as `200 20512`."""
        done = self._machine.try_run(
            *("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"),
            *("--header", "x-ESP8266-version: 1.0", *options, address),
        )
        return done.stdout.strip()

    def expect(self, what: str, seen: object, wanted: object) -> None:
        """Show that something is as it should be. Raises AssertionError."""
        if seen != wanted:
            raise AssertionError(f"{what}: {seen!r}, and should be {wanted!r}")
        # What is plain, or long, is told by the words.
        self.show(what, "" if seen is True or "\n" in str(seen) else str(seen))

    def expect_service(self, what: str, address: str = "http://127.0.0.1/firmware", *options: str) -> None:
        """Show that an image is served, whole. Raises AssertionError."""
        self.expect(what, self.ask(address, *options), f"200 {IMAGE.stat().st_size}")

    def expect_return(self, what: str, before: str) -> None:
        """Show that the service comes back as another process. Raises TimeoutError."""

        def is_back() -> bool:
            return self.property("ActiveState") == "active" and self.property("MainPID") not in ("0", before)

        took = wait_for(f"{what}, the service is back", is_back, PATIENCE)
        self.show(f"{what}, the service is back", f"after {took:.1f} s, NRestarts={self.property('NRestarts')}")

    def install(self, *options: str) -> str:
        """Run install.sh without network, and return what it says. Raises CommandError."""
        return self._machine.run("/src/install.sh", "--wheels", "/wheels", *options)

    def journal(self, *options: str) -> list[dict[str, str]]:
        """Return entries of the service's journal."""
        output = self._machine.run("journalctl", "--unit=ota-server", "--output=json", *options)
        return [json.loads(line) for line in output.splitlines()]

    def wait_for_journal(self, text: str, priority: str, *options: str) -> None:
        """Show that the journal holds a text at a priority. Raises TimeoutError."""
        found: list[str] = []

        def is_there() -> bool:
            found[:] = [
                entry["MESSAGE"]
                for entry in self.journal(*options)
                if isinstance(entry["MESSAGE"], str) and text in entry["MESSAGE"] and entry["PRIORITY"] == priority
            ]
            return bool(found)

        wait_for(f"the journal says {text!r} at priority {priority}", is_there, PATIENCE)
        self.show(f"journal, priority {priority}", found[0])

    def first_installation(self) -> None:
        """See it installed: it starts with the machine and serves at a port below 1024."""
        done = self._machine.try_run("/src/install.sh", "--nonsense")
        self.expect("an unknown option is refused", (done.returncode, done.stderr.strip()), (
            1, "install.sh: --nonsense is not an option (see --help)"))  # fmt: skip
        for line in self.install("--port", "80").splitlines():
            print(f"      {line}")
        self.expect("systemctl is-active", self._machine.run("systemctl", "is-active", "ota-server"), "active")
        self.expect("systemctl is-enabled", self._machine.run("systemctl", "is-enabled", "ota-server"), "enabled")
        self.expect("status", self.property("StatusText"), "serving 0 projects, 0 files")
        self._machine.shell("useradd --create-home pi && usermod -aG ota-server pi && chmod 700 /home/pi")
        self._machine.run("runuser", "-u", "pi", "--", "cp", f"/src/examples/firmware/{IMAGE.name}", FIRMWARE)
        wait_for("the image is offered", lambda: self.ask("http://127.0.0.1/firmware")[:3] == "200", PATIENCE)
        self.expect_service("an ordinary user drops an image, port 80 serves it")
        wait_for("the status follows", lambda: "1 file" in self.property("StatusText"), PATIENCE)
        self.show("status", self.property("StatusText"))
        places = ("--dir", FIRMWARE, "--state", "/var/lib/ota-server/state")
        told = self._machine.run("runuser", "-u", "ota-server", "--", "ota-server", "rollout", *places)
        self.show("the command reads the ledger", told.splitlines()[0])
        self.expect("ota-server --version", self._machine.run("ota-server", "--version").split()[0], "ota-server")

    def sandbox(self) -> None:
        """See what the unit says, and that the process can't do more than it needs."""
        unit = "/usr/local/lib/systemd/system/ota-server"
        done = self._machine.try_run("systemd-analyze", "verify", f"{unit}.service", f"{unit}.socket")
        self.expect("systemd-analyze verify says nothing", (done.returncode, done.stderr), (0, ""))
        verdict = self._machine.run("systemd-analyze", "security", "--no-pager", "ota-server").splitlines()[-1]
        score = float(verdict.split(":")[1].split()[0])
        if score > MAX_EXPOSURE:
            raise AssertionError(f"systemd-analyze security: {score}")
        self.show("systemd-analyze security", verdict.strip("→ "))
        pid = self.property("MainPID")
        status = dict(
            line.split(":\t") for line in self._machine.run("cat", f"/proc/{pid}/status").splitlines() if ":\t" in line
        )
        # CAP_NET_BIND_SERVICE is number 10.
        self.expect("capabilities", {status[name] for name in ("CapEff", "CapBnd")}, {f"{1 << 10:016x}"})
        self.expect(
            "system calls are filtered, and privileges stay away", status["Seccomp"] + status["NoNewPrivs"], "21"
        )
        self.expect("it runs as", self._machine.run("stat", "-c", "%U", f"/proc/{pid}"), "ota-server")
        for path in ("/opt/ota-server/x", "/etc/x", "/var/lib/x", "/var/lib/ota-server/x"):
            done = self._machine.try_run("nsenter", f"--target={pid}", "--mount", "touch", path)
            self.expect(f"where it lives nobody writes {path}", "Read-only file system" in done.stderr, True)
        self.expect(
            "homes are empty there", self._machine.run("nsenter", f"--target={pid}", "--mount", "ls", "/home"), ""
        )
        self.expect(
            "its state is its own",
            self._machine.run("stat", "-c", "%a %U", "/var/lib/ota-server/state"),
            "700 ota-server",
        )

    def signals(self) -> None:
        """See it outlive SIGHUP, come back after SIGKILL, and after it hung."""
        before = self.property("MainPID")
        self._machine.run("systemctl", "reload", "ota-server")
        self.expect_service("systemctl reload, it serves on")
        self.expect("it is the same process", self.property("MainPID"), before)
        self._machine.run("kill", "-KILL", before)
        self.expect_return("kill -9", before)
        self.expect_service("it serves")
        self._machine.shell(
            f"mkdir -p {DROP_INS}; printf '[Service]\\nWatchdogSec={WATCHDOG}\\nTimeoutAbortSec=1\\n' "
            f">{DROP_INS}/watchdog.conf; systemctl daemon-reload; systemctl restart ota-server"
        )
        before = self.property("MainPID")
        try:
            wait_for(
                "it lives longer than the watchdog waits", lambda: self.property("MainPID") != before, 3 * WATCHDOG
            )
        except TimeoutError:
            self.show(f"the watchdog of {WATCHDOG} s leaves it alone for {3 * WATCHDOG} s")
        else:
            raise AssertionError("the watchdog ended a server that was well")
        self._machine.run("kill", "-STOP", before)
        self.expect_return("SIGSTOP", before)
        self.expect_service("it serves")
        self.wait_for_journal("Watchdog timeout", "3")
        self._machine.shell(f"rm {DROP_INS}/watchdog.conf; systemctl daemon-reload; systemctl restart ota-server")

    def logs(self) -> None:
        """See that the journal has priorities, and no time within a line."""
        self._machine.run("cp", f"/src/examples/firmware/{IMAGE.name}", f"{FIRMWARE}/<0>wrong.bin")
        self.wait_for_journal("wrong.bin", "3")
        self._machine.shell(f"rm {FIRMWARE}/*wrong.bin; echo 'stages = 7' >{FIRMWARE}/ota.toml")
        self.wait_for_journal("ota.toml", "3", "--priority=err")
        self._machine.run("rm", f"{FIRMWARE}/ota.toml")
        self.wait_for_journal("over:", "4")
        own = [entry["MESSAGE"] for entry in self.journal() if entry.get("SYSLOG_IDENTIFIER") == "twistd"]
        self.expect("Twisted's list of plugins is as it wants it", [line for line in own if "plugin cache" in line], [])
        self.expect("its lines have neither marks nor times", [line for line in own if line[0] != "["], [])

    def activation(self) -> None:
        """See the socket unit listen, and start the service when somebody connects."""
        self._machine.shell(
            "sed -i 's/^OTA_SERVER_PORT=.*/OTA_SERVER_PORT=systemd:domain=INET6:index=0/' "
            f"{SETTINGS}; systemctl stop ota-server; systemctl enable --quiet --now ota-server.socket"
        )
        self.expect("the service is stopped", self.property("ActiveState"), "inactive")
        for address in ("http://127.0.0.1:8000/firmware", "http://[::1]:8000/firmware"):
            self.expect_service(f"the socket unit serves {address}", address)
        self.expect("the service is", self.property("ActiveState"), "active")
        restart = self._machine.try_run("systemctl", "restart", "--no-block", "ota-server")
        self.expect("it is restarted", restart.returncode, 0)
        self.expect_service("who asks meanwhile waits, and is served", "http://127.0.0.1:8000/firmware")
        self._machine.shell(
            "systemctl disable --quiet --now ota-server.socket;"
            f"sed -i 's/^OTA_SERVER_PORT=.*/OTA_SERVER_PORT=80/' {SETTINGS};"
            "systemctl restart ota-server"
        )
        self.expect_service("without the socket unit it serves port 80 again")

    def upgrade(self) -> None:
        """See a second run upgrade and keep settings; one that fails leaves everything as it was."""
        self._machine.shell(
            f"sed -i 's/^OTA_SERVER_LOG=.*/OTA_SERVER_LOG=info/' {SETTINGS}; "
            f"printf '[Service]\\nNice=3\\n' >{DROP_INS}/nice.conf"
        )
        before, release = self.property("MainPID"), self._machine.run("readlink", "/opt/ota-server/current")
        settings = self._machine.run("cat", SETTINGS)
        done = self._machine.try_run("/src/install.sh", "--wheels", "/srv")
        self.expect("an upgrade without its packages fails", done.returncode, 1)
        print(f"      {done.stderr.strip().splitlines()[-1]}")
        self.expect("and leaves the running one alone", self.property("MainPID"), before)
        done = self._machine.try_run("/src/install.sh", "--wheels", "/wheels", "--port", "tcp:80:interface=203.0.113.1")
        self.expect("an upgrade that doesn't start fails", done.returncode, 1)
        for line in done.stderr.strip().splitlines()[-2:]:
            print(f"      {line}")
        self.expect("and the release before runs", self._machine.run("readlink", "/opt/ota-server/current"), release)
        self.expect_service("and serves")
        self.wait_for_journal("can't listen at tcp:80:interface=203.0.113.1", "3", "--priority=err")
        self.expect("with the settings before", self._machine.run("cat", SETTINGS), settings)
        for line in self.install().splitlines()[:1]:
            print(f"      {line}")
        self.expect("a second run keeps the settings", self._machine.run("cat", SETTINGS), settings)
        self.expect("and the drop-in", self.property("Nice"), "3")
        self.expect("of the releases one is left", len(self._machine.run("ls", "/opt/ota-server/releases").split()), 1)
        self.expect("another one", self._machine.run("readlink", "/opt/ota-server/current") != release, True)
        self.expect_service("and serves")
        before = self.property("MainPID")
        self.install("--no-start")
        self.expect("with --no-start what runs goes on", self.property("MainPID"), before)
        self._machine.run("systemctl", "restart", "ota-server")
        self.expect_service("until it is restarted")

    def home(self) -> None:
        """See a folder in somebody's home served, while all else there stays hidden."""
        folder = "/home/pi/my firmware"
        # As sudo calls it.
        self._machine.run("env", "SUDO_USER=pi", "/src/install.sh", "--wheels", "/wheels", "--dir", folder)
        owner = self._machine.run("stat", "-c", "%U %G %a", folder)
        self.expect("a folder that was missing is whose who called sudo", owner, "pi ota-server 2775")
        self._machine.run("runuser", "-u", "pi", "--", "cp", f"/src/examples/firmware/{IMAGE.name}", folder)
        self._machine.run("touch", "/home/pi/secret")
        wait_for("the image is offered", lambda: self.ask("http://127.0.0.1/firmware")[:3] == "200", PATIENCE)
        self.expect_service("a folder in a home of mode 700 is served")
        pid = self.property("MainPID")
        seen = self._machine.run("nsenter", f"--target={pid}", "--mount", "find", "/home", "-mindepth", "2")
        self.expect("of the homes it sees", sorted(seen.splitlines()), [folder, f"{folder}/{IMAGE.name}"])
        self.install("--dir", FIRMWARE)
        self.expect("and undone", self.property("ProtectHome"), "yes")
        done = self._machine.try_run("/src/install.sh", "--wheels", "/wheels", "--dir", "/tmp/fw")
        self.expect("a folder that it can't see is refused", done.returncode, 1)
        print(f"      {done.stderr.strip()}")

    def https(self) -> None:
        """See HTTPS work in the sandbox, which forbids memory that is both written and executed."""
        folder = "/etc/ota-server-test"
        self._machine.shell(
            f"mkdir {folder}; cd {folder};"
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=localhost "
            "-addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem 2>/dev/null;"
            "cat key.pem cert.pem >both.pem; chgrp ota-server *.pem; chmod 640 *.pem"
        )
        tls = f"device-tls:8443:cert={folder}/cert.pem:key={folder}/key.pem:clientCA={folder}/cert.pem"
        self.set_options(f"--cert {folder}/both.pem --port {tls}")
        ca = ("--cacert", f"{folder}/cert.pem")
        client = ("--cert", f"{folder}/cert.pem", "--key", f"{folder}/key.pem")
        self.expect_service("--cert serves HTTPS at port 80", "https://localhost:80/firmware", *ca)
        self.expect_service("a client certificate is verified", "https://localhost:8443/firmware", *ca, *client)
        self.expect("without one nothing is served", self.ask("https://localhost:8443/firmware", *ca), "000 0")
        self.set_options("")
        self._machine.run("rm", "-r", folder)

    def set_options(self, options: str) -> None:
        """Start the service anew with other options."""
        self._machine.shell(
            f"sed -i 's|^OTA_SERVER_OPTIONS=.*|OTA_SERVER_OPTIONS=\"{options}\"|' {SETTINGS};"
            "systemctl restart ota-server"
        )

    def removal(self) -> None:
        """See that what was installed goes, and what is the operator's stays."""
        for line in self._machine.run("/src/install.sh", "--uninstall").splitlines():
            print(f"      {line}")
        left = self._machine.shell(
            "ls /opt /usr/local/lib/systemd/system /usr/local/bin;"
            "systemctl list-unit-files --no-legend 'ota-server*' || true"
        )
        self.expect("nothing of the program is left", "ota-server" not in left, True)
        self.expect("nothing runs", self._machine.try_run("pgrep", "-u", "ota-server").stdout, "")
        self.expect("the firmware is there", self._machine.run("ls", FIRMWARE), IMAGE.name)
        self.expect(
            "the state is there", "ledger.sqlite" in self._machine.run("ls", "/var/lib/ota-server/state").split(), True
        )
        self.install()
        self.expect_service("installed again it serves, with the settings before")


def show_offline(root: Path, shown: Mapping[str, Path]) -> None:
    """Show that it is installed into a system that doesn't run, as makers of SD card images do. Exits otherwise."""
    done = run_offline(
        root,
        shown,
        "/src/install.sh --wheels /wheels && exit 9;"
        "/src/install.sh --wheels /wheels --no-start >/dev/null;"
        "readlink /etc/systemd/system/multi-user.target.wants/ota-server.service;"
        "/src/install.sh --uninstall >/dev/null;"
        "ls /etc/systemd/system/multi-user.target.wants | grep ota-server || true",
    )
    if (done.returncode, done.stdout.strip()) != (0, "/usr/local/lib/systemd/system/ota-server.service"):
        print(f"FAILED  in a system that doesn't run: status {done.returncode}\n{done.stdout}{done.stderr}")
        sys.exit(1)
    print("      " + next(line for line in done.stderr.splitlines() if line.startswith("install.sh: ")))
    print("ok  in a system that doesn't run it is enabled with --no-start, and removed again")


def main() -> None:
    """Run all steps."""
    try:
        root = make_root()
        shown = {"/src": ROOT, "/wheels": make_wheels(root)}
        machine = Machine(root, shown, cache_folder() / "machine.log")
    except UnableError as problem:
        sys.exit(f"service: {problem}")
    with machine:
        print("ok  a Debian has booted", flush=True)
        run = Run(machine)
        steps: list[Callable[[], None]] = [
            run.first_installation,
            run.sandbox,
            run.signals,
            run.logs,
            run.activation,
            run.upgrade,
            run.home,
            run.https,
            run.removal,
        ]
        try:
            for step in steps:
                step()
        except (AssertionError, CommandError, TimeoutError) as problem:
            print(f"FAILED  {problem}")
            print(machine.try_run("journalctl", "--no-pager", "--lines=60", "--unit=ota-server").stdout)
            sys.exit(1)
    show_offline(root, shown)
    assert_own_devices()
    print("ok  this system's own /dev/null is as it was")


if __name__ == "__main__":
    main()
