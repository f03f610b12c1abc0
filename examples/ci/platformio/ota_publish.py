"""Lets PlatformIO publish what it built to an OTA Server: `pio run -t publish`, and `-t upload` if you like.

The server and the token are taken from OTA_SERVER_URL and OTA_SERVER_TOKEN, or from the options of custom_ota_options
in platformio.ini, such as `--url https://ota.example.org:8001 --token-file ~/.ota-token`. `ota-server` has to be
installed: in the path, or beside the Python that runs PlatformIO.
"""

import os
import shutil
import sys

Import("env")  # noqa: F821 - by SCons


def option(name, default=""):
    """Return an option of this environment in platformio.ini."""
    return env.GetProjectOption(f"custom_ota_{name}", default)  # noqa: F821


beside = os.path.join(os.path.dirname(sys.executable), "ota-server")
program = shutil.which("ota-server") or (beside if os.path.exists(beside) else "ota-server")
missing = [name for name in ("project", "version") if not option(name)]
if missing:
    sys.exit(f"platformio.ini: custom_ota_{missing[0]} is missing in [env:{env['PIOENV']}]")  # noqa: F821

words = [program, "publish", "--project", option("project"), "--version", option("version")]
if option("channel"):
    words += ["--channel", option("channel")]
command = " ".join([f'"{word}"' for word in words] + [option("options"), "$SOURCE"])

env.Replace(OTA_PUBLISH=command)  # noqa: F821
env.AddCustomTarget(  # noqa: F821
    name="publish",
    dependencies="$BUILD_DIR/${PROGNAME}.bin",
    actions=[command],
    title="Publish",
    description="Publish the firmware to the OTA Server",
)
