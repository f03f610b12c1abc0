"""PlatformIO without the internet: its own machinery, with SCons, and a platform that stands in for a toolchain.

What stands in is the compiler alone: it takes the image for the source. Projects, targets and extra scripts are
PlatformIO's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from platformio.dependencies import get_core_dependencies

from tests.remote.server import PATIENCE, ROOT, environment

EXAMPLE = ROOT / "examples" / "ci" / "platformio"

_SCONS = "import sys\nfrom SCons.Script.Main import main\nsys.exit(main())\n"

_PLATFORM = """
from platformio.platform.base import PlatformBase


class StandinPlatform(PlatformBase):
    pass
"""

_BUILDER = """
import shutil

from SCons.Script import Default, DefaultEnvironment

env = DefaultEnvironment()
env.Replace(PROGNAME="firmware", SIZETOOL=None)


def compile_sketch(target, source, env):
    shutil.copyfile(str(source[0]), str(target[0]))


image = env.Command("$BUILD_DIR/${PROGNAME}.bin", "$PROJECT_SRC_DIR/sketch.bin", compile_sketch)
env.AddPlatformTarget("upload", image, [env.VerboseAction("$UPLOADCMD", "Uploading $SOURCE")], "Upload")
Default([image])
"""


class Project:
    """The project of the example, with an image for its source."""

    def __init__(self, folder: Path, image: bytes) -> None:
        self.folder = folder / "project"
        (self.folder / "src").mkdir(parents=True)
        (self.folder / "src" / "sketch.bin").write_bytes(image)
        settings = (EXAMPLE / "platformio.ini").read_text()
        settings = re.sub(r"(?m)^platform = .*", "platform = standin", settings)
        # These are the toolchain's business.
        settings = re.sub(r"(?m)^(board|framework|build_flags) = .*\n", "", settings)
        (self.folder / "platformio.ini").write_text(settings)
        shutil.copy(EXAMPLE / "ota_publish.py", self.folder)
        self.core = folder / "core"
        scons = self.core / "packages" / "tool-scons"
        version = get_core_dependencies()["tool-scons"].removeprefix("~")
        _make_package(scons, {"name": "tool-scons", "version": version}, "tool", "platformio")
        (scons / "scons.py").write_text(_SCONS)
        platform = self.core / "platforms" / "standin"
        told = {"name": "standin", "title": "Stand-in", "version": "1.0.0", "frameworks": {}, "packages": {}}
        _make_package(platform, told, "platform", None)
        (platform / "platform.py").write_text(_PLATFORM)
        (platform / "builder").mkdir()
        (platform / "builder" / "main.py").write_text(_BUILDER)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment for `pio`, which finds the programs of this Python first."""
        told = environment(**more)
        path = f"{Path(sys.executable).parent}:{told['PATH']}"
        return {
            **told,
            "PATH": path,
            "PLATFORMIO_CORE_DIR": str(self.core),
            "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no",
            "PLATFORMIO_SETTING_CHECK_PLATFORMIO_INTERVAL": "9999",
        }

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        """Run `pio run` with these words; return its exit status, and what it printed."""
        done = subprocess.run(
            ["pio", "run", *words],
            cwd=self.folder,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout


def _make_package(folder: Path, told: Mapping[str, object], kind: str, owner: str | None) -> None:
    """Install a package as PlatformIO does, which then looks for no other."""
    folder.mkdir(parents=True)
    spec = {"owner": owner, "id": None, "name": told["name"], "requirements": None, "uri": None}
    installed = {"type": kind, "name": told["name"], "version": told["version"], "spec": spec}
    (folder / ("package.json" if kind == "tool" else "platform.json")).write_text(json.dumps(told))
    (folder / ".piopm").write_text(json.dumps(installed))
