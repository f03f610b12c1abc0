"""Tests of the package as it is installed: the plugin, the wheel, the command."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import ota_server
from ota_server import __version__

ROOT = Path(ota_server.__file__).absolute().parent.parent


def run(*command: str | Path, folder: Path | str = "/") -> str:
    """Run a command in a folder and return what it printed; its failure is the test's."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def copy_checkout(target: Path) -> None:
    """Copy what belongs to the project, without what was built or made in the checkout."""
    target.mkdir()
    for name in ("ota_server", "twisted", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        run("cp", "-r", ROOT / name, target)


class PluginTests(SynchronousTestCase):
    """The plugin file, and what it leads to."""

    def test_help_names_it_without_importing_it(self) -> None:
        """`twistd --help` lists `ota`, and has not imported the server for that."""
        program = (
            "import sys\n"
            "from twisted.application.service import IServiceMaker\n"
            "from twisted.plugin import getPlugins\n"
            "names = [plugin.tapname for plugin in getPlugins(IServiceMaker)]\n"
            "print('ota' in names, 'ota_server.tap' in sys.modules)\n"
        )
        self.assertEqual(run(sys.executable, "-c", program, folder=ROOT).split(), ["True", "False"])

    def test_the_core_knows_no_twisted(self) -> None:
        """What decides imports nothing of Twisted: `fleet`, and `firmware` but for the watcher of the folder."""
        program = (
            "import sys\n"
            "import ota_server.fleet.decide, ota_server.firmware.folder, ota_server.web.ranges\n"
            "print([name for name in sys.modules if name.startswith('twisted.internet')])\n"
        )
        self.assertEqual(run(sys.executable, "-c", program, folder=ROOT).strip(), "[]")


class InstallationTests(SynchronousTestCase):
    """The package as `pip` installs it, into a fresh environment that borrows the packages needed at run time."""

    def make_environment(self) -> Path:
        """Make a virtual environment that sees the packages of this one, and return its folder of programs."""
        folder = Path(self.mktemp()).absolute()
        venv.create(folder, with_pip=False)
        library = next(folder.glob("lib/python*/site-packages"))
        own = [path for path in sys.path if path.endswith("site-packages")]
        # The folders' packages, but not their .pth files, one of which may name this checkout.
        (library / "borrowed.pth").write_text("".join(f"{path}\n" for path in own))
        return folder / "bin"

    def install(self, environment: Path, *arguments: str | Path) -> None:
        """Install by pip into an environment, with nothing fetched, whatever the borrowed packages hold."""
        options = (
            "--quiet",
            "--ignore-installed",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--disable-pip-version-check",
        )
        run(environment / "python", "-m", "pip", "install", *options, *arguments)

    def check(self, environment: Path) -> None:
        """Check that the plugin and the commands are there, seen from a folder that has nothing to do with them."""
        twistd = "from twisted.scripts.twistd import run; run()"
        helped = run(environment / "python", "-c", twistd, "--help")
        self.assertRegex(helped, r"(?m)^ +ota +Serves firmware updates")
        version = f"ota-server {__version__.public()}\n"
        self.assertEqual(run(environment / "ota-server", "--version"), version)
        self.assertEqual(run(environment / "python", "-m", "ota_server", "--version"), version)

    def test_wheel(self) -> None:
        """The wheel holds the packages, the plugin, the marker of types, and nothing that belongs to Twisted."""
        checkout, wheels = Path(self.mktemp()).absolute(), Path(self.mktemp()).absolute()
        copy_checkout(checkout)
        options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
        run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", wheels, checkout)
        (wheel,) = wheels.glob("*.whl")
        self.assertIn(f"ota_server-{__version__.public()}-", wheel.name)
        held = set(zipfile.ZipFile(wheel).namelist())
        wanted = {str(path.relative_to(checkout)) for path in checkout.glob("ota_server/**/*.py")}
        wanted |= {"ota_server/py.typed", "twisted/plugins/ota_plugin.py", "twisted/plugins/ota_endpoints.py"}
        self.assertEqual({name for name in held if ".dist-info/" not in name}, wanted)
        environment = self.make_environment()
        self.install(environment, wheel)
        self.check(environment)

    def test_editable(self) -> None:
        """An editable installation has the plugin too."""
        checkout = Path(self.mktemp()).absolute()
        copy_checkout(checkout)
        environment = self.make_environment()
        self.install(environment, "--editable", checkout)
        self.check(environment)
