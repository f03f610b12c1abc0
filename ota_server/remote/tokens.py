"""`ota-server token`: makes, shows and revokes the tokens of operators."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.python import usage

from ota_server.operator.scopes import Scope
from ota_server.remote.address import DoorOptions
from ota_server.remote.client import Door, path_of
from ota_server.remote.failing import Status
from ota_server.remote.running import run_command
from ota_server.remote.showing import is_terminal, print_json, print_line, print_table, spell_time

ORDERS = ("create", "list", "revoke")


class TokenOptions(DoorOptions):
    """What `ota-server token` understands."""

    synopsis = "Usage: ota-server token [options] list | create NAME | revoke NAME"
    longdesc = (
        "Shows the tokens of operators, makes one, or revokes one. A new one is printed on standard output, this once: "
        "the server keeps a hash of it. It allows what --scope says, which may be given several times: read, publish, "
        "operate; a token can't make one that allows more than it does itself."
    )
    optFlags = [["json", "j", "Print JSON: with list in lines."]]
    compData = usage.Completions(
        optActions={"scope": usage.CompleteList([scope.value for scope in Scope])},
        extraActions=[usage.CompleteList(ORDERS)],
    )

    def __init__(self) -> None:
        super().__init__()
        self["scopes"] = []

    def opt_scope(self, text: str) -> None:
        """Let a new token read, publish or operate; may be given several times."""
        if text not in list(Scope):
            raise usage.UsageError(f"--scope {text[:40]}: there are {', '.join(Scope)}")
        if text not in self["scopes"]:
            self["scopes"].append(text)

    def parseArgs(self, what: str = "list", name: str | None = None) -> None:
        """Take the order. Raises UsageError."""
        if what not in ORDERS:
            raise usage.UsageError(f"{what[:40]!r} is no order; there are {', '.join(ORDERS)}")
        if (what == "list") != (name is None):
            raise usage.UsageError(f"{what}: {'takes no name' if name else 'name the token'}")
        self["what"], self["name"] = what, name

    def postOptions(self) -> None:
        """Check what was given. Raises UsageError."""
        if self["what"] == "create" and not self["scopes"]:
            raise usage.UsageError("create: say what it allows, as --scope read --scope publish")
        if self["what"] != "create" and self["scopes"]:
            raise usage.UsageError(f"{self['what']}: --scope is for create")


def run_token(arguments: Sequence[str]) -> int:
    """Make, show or revoke tokens; return the exit status."""
    return run_command("token", TokenOptions(), arguments, _act)


def _act(options: TokenOptions, door: Door) -> int:
    what, name = options["what"], options["name"]
    if what == "create":
        told = door.post("/tokens", {"name": name, "scopes": options["scopes"]})
        if options["json"]:
            print_json(told)
        else:
            # Alone on its line, so that it can be led into a file.
            print_line(told["token"])
            if is_terminal(sys.stdout):
                print("It is shown this once; keep it where only its user can read it.", file=sys.stderr)
    elif what == "revoke":
        door.ask("DELETE", path_of("tokens", name), None, {})
        if options["json"]:
            print_json({"revoked": name})
        else:
            print_line("revoked")
    else:
        tokens = door.get("/tokens")["items"]
        if options["json"]:
            for token in tokens:
                print_json(token, lines=True)
        else:
            rows = (
                (
                    token["name"],
                    token["scopes"],
                    spell_time(token["created"]),
                    spell_time(token["last_used"]),
                )
                for token in tokens
            )
            print_table(("name", "allows", "made", "last used"), rows, "there are no tokens")
    return Status.DONE
