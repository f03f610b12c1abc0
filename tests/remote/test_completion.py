"""Tests of shell completion, in the shells themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ota_server.cli import _COMMANDS
from ota_server.completion import OPTIONS, make_script, run_completion

CASES = {
    "ota-server pu": ["publish"],
    "ota-server publish --cha": ["--channel"],
    "ota-server publish --chip esp32c": ["esp32c2", "esp32c3", "esp32c5", "esp32c6", "esp32c61"],
    "ota-server rollout ": ["complete", "halt", "restart", "resume", "status", "wait"],
    "ota-server token create --scope p": ["publish"],
    "ota-server publish --url x lamp-": ["lamp-1.2.3.bin"],
}
"""What stands on the line, and what it may become."""


class ScriptTests(SynchronousTestCase):
    """What the scripts make of a line."""

    def setUp(self) -> None:
        """Work in a folder with a file to complete."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        (self.folder / "lamp-1.2.3.bin").touch()

    def prepare(self, shell: str, name: str) -> str:
        """Write the script of a shell to a file, and return the shell's path."""
        found = shutil.which(shell)
        if found is None:
            raise SkipTest(f"there is no {shell} here (Debian: {shell})")
        (self.folder / name).write_text(make_script(shell))
        return found

    def run_shell(self, *arguments: str) -> str:
        """Run a shell in the folder, and return what it prints."""
        environment = {**os.environ, "HOME": str(self.folder), "TERM": "dumb"}
        done = subprocess.run(
            arguments, cwd=self.folder, env=environment, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def test_bash(self) -> None:
        """Bash calls the function that is registered for the command."""
        bash = self.prepare("bash", "script")
        for line, wanted in CASES.items():
            program = (
                "source ./script\n"
                "function=$(complete -p ota-server | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
                'COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); "$function"; printf "%s\\n" "${COMPREPLY[@]}"'
            )
            told = self.run_shell(bash, "--norc", "-c", program, "bash", *line.split(" "))
            self.assertEqual(sorted(told.split()), wanted, line)

    def test_fish(self) -> None:
        """Fish has a command that says what a line may become."""
        fish = self.prepare("fish", "script")
        for line, wanted in CASES.items():
            told = self.run_shell(fish, "-N", "-c", f"source script; complete -C '{line}'")
            self.assertEqual(sorted(row.partition("\t")[0] for row in told.splitlines()), wanted, line)

    def test_zsh(self) -> None:
        """Zsh completes for somebody who presses the key, at a terminal of its own."""
        zsh = self.prepare("zsh", "_ota-server")
        for line, wanted in list(CASES.items())[1:4]:
            program = f"""
                zmodload zsh/zpty
                zpty -b shell {zsh} -f -i
                zpty -w shell "PS1=; fpath=($PWD \\$fpath); autoload -U compinit; compinit -u -D; unsetopt list_beep"
                zpty -w shell "bindkey '^I' complete-word; print STAR''TED"
                zpty -rm shell told '*STARTED*'
                zpty -w -n shell $'{line}\\t'
                for tries in {{1..100}}; do
                    sleep 0.1
                    zpty -rt shell told && print -rn -- "$told" && last=$tries
                    [[ -n $last && $((tries - last)) -ge 10 ]] && break
                done
                exit 0
            """
            started = time.monotonic()
            told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x08", "", self.run_shell(zsh, "-f", "-c", program))
            self.assertLess(time.monotonic() - started, 60)
            for word in wanted:
                # What is already on the line is completed in its place, letter by letter.
                rest = word.removeprefix(line.rpartition(" ")[2])
                self.assertIn(rest, told, line)


class CommandTests(SynchronousTestCase):
    """The command itself."""

    def test_all_commands(self) -> None:
        """No command is forgotten."""
        self.assertEqual(set(OPTIONS), {*_COMMANDS, "run", "inspect"})

    def test_unknown_shell(self) -> None:
        """Another shell is refused."""
        self.assertEqual(run_completion(["tcsh"]), 2)
        self.assertEqual(run_completion([]), 2)
