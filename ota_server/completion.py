"""`ota-server completion`: prints what makes a shell complete the commands and their options.

The scripts are made by shtab out of what `usage.Options` say of themselves, so that they know every option.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import shtab
from twisted.python import usage

SHELLS = ("bash", "zsh", "fish")

PROGRAM = "ota-server"

OPTIONS: Mapping[str, Sequence[tuple[str, str]]] = {
    "run": [("ota_server.tap", "Options")],
    "inspect": [("ota_server.cli", "InspectOptions")],
    "publish": [("ota_server.remote.publish", "PublishOptions")],
    "releases": [("ota_server.remote.listing", "ReleasesOptions")],
    "devices": [("ota_server.remote.listing", "DevicesOptions")],
    "device": [("ota_server.remote.listing", "DeviceOptions"), ("ota_server.orders", "DeviceOptions")],
    "events": [("ota_server.remote.listing", "EventsOptions")],
    "rollout": [("ota_server.remote.ordering", "RolloutOptions"), ("ota_server.orders", "RolloutOptions")],
    "explain": [("ota_server.remote.explaining", "ExplainOptions"), ("ota_server.explain", "ExplainOptions")],
    "pin": [("ota_server.remote.ordering", "PinOptions")],
    "unpin": [("ota_server.remote.ordering", "UnpinOptions")],
    "hold": [("ota_server.remote.ordering", "HoldOptions")],
    "release": [("ota_server.remote.ordering", "ReleaseOptions")],
    "rename": [("ota_server.remote.ordering", "RenameOptions")],
    "yank": [("ota_server.remote.ordering", "YankOptions")],
    "token": [("ota_server.remote.tokens", "TokenOptions")],
    "simulate": [("ota_server.simulate", "SimulateOptions")],
    "make-cert": [("ota_server.make_cert", "MakeCertOptions")],
    "make-token": [("ota_server.make_token", "MakeTokenOptions")],
    "completion": [("ota_server.completion", "CompletionOptions")],
}
"""The options of each command, by module and class; a command that has two forms has those of both."""


class CompletionOptions(usage.Options):
    """What `ota-server completion` understands."""

    synopsis = "Usage: ota-server completion bash|zsh|fish"
    longdesc = (
        "Prints a script that makes the shell complete commands, options and files. For bash: ota-server completion "
        "bash > ~/.local/share/bash-completion/completions/ota-server. For zsh: ota-server completion zsh > "
        "DIR/_ota-server, where DIR is one of $fpath. For fish: ota-server completion fish > "
        "~/.config/fish/completions/ota-server.fish"
    )
    compData = usage.Completions(extraActions=[usage.CompleteList(SHELLS)])

    def opt_h(self) -> None:
        """Display this help and exit."""
        self.opt_help()

    def parseArgs(self, *shells: str) -> None:
        """Take the shell. Raises UsageError."""
        if len(shells) != 1 or shells[0] not in SHELLS:
            raise usage.UsageError(f"name a shell: {', '.join(SHELLS)}")
        self["shell"] = shells[0]


def run_completion(arguments: Sequence[str]) -> int:
    """Print the script for a shell; return the exit status."""
    options = CompletionOptions()
    try:
        options.parseOptions(arguments)
    except usage.UsageError as problem:
        print(f"ota-server completion: {problem} (see: ota-server completion --help)", file=sys.stderr)
        return 2
    print(make_script(options["shell"]))
    return 0


def make_script(shell: str) -> str:
    """Return the script for a shell."""
    return shtab.complete(make_parser(), shell)


def make_parser() -> argparse.ArgumentParser:
    """Return a parser of argparse with all commands and their options, for those who only understand that."""
    parser = argparse.ArgumentParser(PROGRAM)
    commands = parser.add_subparsers()
    for name, places in OPTIONS.items():
        known = [getattr(importlib.import_module(module), kind)() for module, kind in places]
        text = _first_sentence(known[0].longdesc or "")
        _add(commands.add_parser(name, help=text, description=text), known)
    return parser


def _add(parser: argparse.ArgumentParser, known: Iterable[usage.Options]) -> None:
    """Give a parser the options and words of one command."""
    for number, options in enumerate(known):
        actions, words = _completions(options)
        for long in options.longOpt:
            name = long.rstrip("=")
            if name == "help" or f"--{name}" in parser._option_string_actions:  # noqa: SLF001 - argparse has no other way
                continue
            flags = [f"-{letter}" for letter, meant in options.synonyms.items() if meant == name and len(letter) == 1]
            flags = [flag for flag in flags if flag not in parser._option_string_actions]  # noqa: SLF001
            text = _first_sentence(" ".join((options.docs.get(name) or "").split()))
            if long.endswith("="):
                _complete(parser.add_argument(*flags, f"--{name}", help=text), actions.get(name))
            else:
                parser.add_argument(*flags, f"--{name}", action="store_true", help=text)
        if number == 0:
            for place, action in enumerate(words):
                nargs = "*" if _is_files(action) else "?"
                _complete(parser.add_argument(f"word{place}", nargs=nargs, help="what to do"), action)


def _completions(options: usage.Options) -> tuple[dict[str, Any], list[Any]]:
    """Return what completes the values of options, by their names, and the words behind them."""
    actions: dict[str, Any] = {}
    words: list[Any] = []
    for kind in type(options).__mro__:
        told = vars(kind).get("compData")
        if told is not None:
            actions = {**told.optActions, **actions}
            words = words or list(told.extraActions)
    return actions, words


def _complete(argument: argparse.Action, action: usage.Completer | None) -> None:
    """Let an argument be completed as Twisted's `action` says."""
    match action:
        case usage.CompleteList():
            argument.choices = list(action._items)  # noqa: SLF001 - it has no other way
        case usage.CompleteDirs():
            argument.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        case usage.CompleteFiles():
            argument.complete = shtab.FILE  # type: ignore[attr-defined]


def _is_files(action: usage.Completer) -> bool:
    return isinstance(action, usage.CompleteFiles)


def _first_sentence(text: str) -> str:
    """Return the first sentence of a text, without signs that shells or argparse take for their own."""
    return text.partition(". ")[0].rstrip(".").replace("%", "%%")
