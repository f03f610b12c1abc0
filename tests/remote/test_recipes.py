"""Tests of the recipes of docs/ci.md: what runs where firmware is built, with a real server.

Real are the shells, PlatformIO, curl and the commands; what stands in for others is the compiler, and `arduino-cli`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.remote.platformio import Project
from tests.remote.server import LAMP, PATIENCE, ROOT, ServerCase, until

RECIPES = ROOT / "examples" / "ci"

ARDUINO_CLI = """#!/bin/sh
# Stands in for arduino-cli compile: the sketch is the image already. Its arguments are noted.
printf '%s\\n' "$@" > arguments
while [ $# -gt 1 ]; do
    [ "$1" = --output-dir ] && out=$2
    shift
done
mkdir -p "$out"
cp "$1/$(basename "$1").ino" "$out/$(basename "$1").ino.bin"
"""


class RecipeTests(ServerCase):
    """Each recipe publishes."""

    def setUp(self) -> None:
        """Have a server, and how to reach it."""
        super().setUp()
        self.reach = {"OTA_SERVER_URL": self.url, "OTA_SERVER_TOKEN": self.token}

    def versions(self, channel: str = "stable") -> list[str]:
        """Return the versions of the lamp that are offered."""
        return [release["version"] for release in self.read("releases", "lamp", "--channel", channel)]

    def call(self, project: Project, *words: str, **more: str) -> str:
        """Run a program that has to succeed, in a project, and return what it prints."""
        done = subprocess.run(
            words,
            cwd=project.folder,
            env=project.environment(**self.reach, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_platformio(self) -> None:
        """Both targets build and publish; what can't be is told, and fails the build."""
        project = Project(self.work, LAMP[2])
        status, out = project.run("-t", "publish", **self.reach)
        self.assertEqual(status, 0, out)
        self.assertIn("published: lamp 1.2.3", out)
        status, out = project.run("-t", "upload", **self.reach)
        self.assertEqual(status, 0, out)
        self.assertIn("was there already: lamp 1.2.3", out)
        self.assertEqual(self.versions(), ["1.2.3", "1.0.0"])
        (project.folder / "src" / "sketch.bin").write_bytes(LAMP[3])
        status, out = project.run("-t", "publish", **self.reach)
        self.assertNotEqual(status, 0)
        self.assertIn("lamp-1.2.3.bin", out)
        status, out = project.run("-t", "publish", OTA_SERVER_URL=self.url)
        self.assertNotEqual(status, 0)
        self.assertIn("OTA_SERVER_TOKEN", out)
        settings = project.folder / "platformio.ini"
        settings.write_text(settings.read_text().replace("custom_ota_version", "custom_other"))
        status, out = project.run(**self.reach)
        self.assertNotEqual(status, 0)
        self.assertIn("custom_ota_version is missing", out)

    def test_platformio_options(self) -> None:
        """Further options can be given, such as a file for the token."""
        project = Project(self.work, LAMP[2])
        token = self.put_aside("token of mine", self.token.encode())
        settings = project.folder / "platformio.ini"
        settings.write_text(
            settings.read_text().replace("custom_ota_channel = stable", "custom_ota_channel = beta")
            + f"custom_ota_options = --url {self.url} --token-file '{token}'\n"
        )
        status, out = project.run("-t", "publish")
        self.assertEqual(status, 0, out)
        self.assertEqual(self.versions("beta"), ["1.2.3"])

    def test_github(self) -> None:
        """The steps run by the shell that GitHub Actions runs them by, and wait for the fleet."""
        self.fleet("--devices", "5")
        until(lambda: self.read("releases")[0]["channels"][0]["fleet"] == 5)
        project = Project(self.work, LAMP[2])
        recipe = yaml.safe_load((RECIPES / "github" / "firmware.yml").read_text())
        self.assertEqual(recipe[True], {"push": {"tags": ["v*"]}})
        steps = {step["name"]: step for step in recipe["jobs"]["publish"]["steps"] if "run" in step}
        self.assertEqual(list(steps), ["Install", "Build", "Publish"])
        self.assertEqual(set(steps["Publish"]["env"]), set(self.reach))
        for name in ("Build", "Publish"):
            script = self.work / f"{name}.sh"
            script.write_text(steps[name]["run"])
            out = self.call(project, "bash", "-e", str(script), GITHUB_REF_NAME="v1.1.0")
        self.assertRegex(out, r"(?m)^lamp 1\.1\.0: (confirmed by|complete)")

    def test_gitlab(self) -> None:
        """The lines of the jobs run one after the other, as GitLab's runner has them run."""
        self.fleet("--devices", "5")
        until(lambda: self.read("releases")[0]["channels"][0]["fleet"] == 5)
        project = Project(self.work, LAMP[2])
        recipe = yaml.safe_load((RECIPES / "gitlab" / ".gitlab-ci.yml").read_text())
        for job in recipe["stages"]:
            lines = [line for line in recipe[job]["script"] if not line.startswith("pip install")]
            self.assertEqual(len(lines), 1)
            out = self.call(project, "sh", "-ec", "\n".join(lines), CI_COMMIT_TAG="v1.1.0")
        self.assertTrue((project.folder / recipe["build"]["artifacts"]["paths"][0]).exists())
        self.assertRegex(out, r"(?m)^lamp 1\.1\.0: (confirmed by|complete)")

    def test_arduino(self) -> None:
        """The script compiles with the version that it publishes; a compiler stands in for arduino-cli."""
        programs = self.work / "programs"
        programs.mkdir()
        (programs / "arduino-cli").write_text(ARDUINO_CLI)
        (programs / "arduino-cli").chmod(0o755)
        (self.work / "lamp").mkdir()
        (self.work / "lamp" / "lamp.ino").write_bytes(LAMP[2])
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", RECIPES / "arduino-publish.sh", "lamp", "1.1.0"],
            cwd=self.work,
            env={**os.environ, **self.reach, "PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertIn('compiler.cpp.extra_flags=-DVERSION="1.1.0"', (self.work / "arguments").read_text())
        self.assertEqual(self.versions(), ["1.1.0", "1.0.0"])

    def test_curl(self) -> None:
        """Curl alone is enough, and fails where the server refuses."""
        for name, image, place, good in (
            ("lamp-1.1.0.bin", LAMP[2], "", True),
            ("lamp-1.2.0.bin", LAMP[3], "beta/", True),
            ("lamp-1.3.0.bin", LAMP[3][:-20], "", False),
        ):
            done = subprocess.run(
                ["sh", RECIPES / "curl-publish.sh", str(self.put_aside(name, image)), *([place] if place else [])],
                env={**os.environ, **self.reach},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            self.assertEqual(done.returncode == 0, good, (done.stdout, done.stderr))
        self.assertEqual(self.versions(), ["1.1.0", "1.0.0"])
        self.assertEqual(self.versions("beta"), ["1.2.0"])
