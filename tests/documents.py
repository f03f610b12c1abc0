"""Checks that the documentation and the program say the same; run as `python -m tests.documents`."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from ota_server.firmware.lint import WORDS
from ota_server.fleet.access import REFUSALS
from ota_server.fleet.decide import REASONS
from ota_server.fleet.tracing import describe_steps
from ota_server.report import LINES
from ota_server.tap import Options
from ota_server.tls.endpoint import _KEYWORDS

ROOT = Path(__file__).absolute().parent.parent
PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))


def broken_links() -> Iterator[str]:
    """Find relative links that lead to no file."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            if not (page.parent / target).exists():
                yield f"{page.name} links to {target}, which is not there"


def unfinished() -> Iterator[str]:
    """Find places that were to be filled in."""
    for page in PAGES:
        if re.search(r"(?m)^(TABLE|TODO|TBD|FIXME)\b", page.read_text()):
            yield f"{page.name} has a place that was to be filled in"


def reasons() -> Iterator[str]:
    """Compare the table of reasons in docs/http.md with those that there are."""
    rows = re.findall(r"(?m)^\| `([a-z-]+)` \| [0-9]{3} \| ([^|]+) \|$", (ROOT / "docs" / "http.md").read_text())
    told = dict(rows)
    meant = {**REASONS, **REFUSALS}
    for reason in told.keys() ^ meant.keys():
        yield f"reason {reason} is only in one of docs/http.md and the program"
    for reason in told.keys() & meant.keys():
        if not told[reason].startswith(meant[reason]):
            yield f"docs/http.md says of {reason} {told[reason]!r}, the program {meant[reason]!r}"


def lines_and_findings() -> Iterator[str]:
    """Compare the tables of docs/images.md with the lines of `ota-server inspect` and the findings."""
    page = (ROOT / "docs" / "images.md").read_text()
    told = dict(re.findall(r"(?m)^\| `([A-Za-z0-9-]+)` \| ([^|]+) \|$", page))
    meant = {**LINES, **WORDS}
    for word in told.keys() ^ meant.keys():
        yield f"{word} is only in one of docs/images.md and the program"
    for word in told.keys() & meant.keys():
        if not told[word].startswith(meant[word]):
            yield f"docs/images.md says of {word} {told[word]!r}, the program {meant[word]!r}"


def options() -> Iterator[str]:
    """Look for each option of `twistd ota` in the README."""
    readme = (ROOT / "README.md").read_text()
    for option in Options().longOpt:
        if f"--{option.rstrip('=')}" not in readme:
            yield f"README.md doesn't tell of --{option.rstrip('=')}"


def keywords() -> Iterator[str]:
    """Look for each keyword of `device-tls:`, and each option of `ota-server make-cert`, in docs/https.md."""
    page = (ROOT / "docs" / "https.md").read_text()
    for keyword in _KEYWORDS:
        if f"`{keyword}=" not in page:
            yield f"docs/https.md doesn't tell of {keyword}="
    for option in ("client", "days", "kind", "out"):
        if f"--{option}" not in page:
            yield f"docs/https.md doesn't tell of --{option}"


def dependencies() -> Iterator[str]:
    """Look for each dependency, and nothing else, in docs/dependencies.md."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[\[>=<]", name)[0] for name in wanted} - {"ota_server"}
    table = re.findall(r"(?m)^\| ([a-z0-9A-Z_, -]+) \|", (ROOT / "docs" / "dependencies.md").read_text())
    told = {name for row in table for name in row.split(", ")} - {"package", "---"}
    for name in names ^ told:
        yield f"{name} is only in one of pyproject.toml and docs/dependencies.md"


def decisions() -> Iterator[str]:
    """Compare docs/decisions.md with the steps of a decision, of which it is made."""
    page = ROOT / "docs" / "decisions.md"
    if not page.exists() or page.read_text() != describe_steps():
        yield "docs/decisions.md is not what the steps say; run python -m tests.documents --write"


def problems() -> Iterator[str]:
    """Look for the type of each problem that the operator's door answers."""
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for file in (ROOT / "ota_server" / "operator").glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Problem":
                kind = getattr(call.args[1], "value", None)
                if isinstance(kind, str) and f"`{kind}`" not in pages:
                    yield f"no page tells of the problem {kind}"


def main() -> None:
    """Print what is wrong, and end with status 1 if anything is; with `--write` make the page of decisions first."""
    if sys.argv[1:] == ["--write"]:
        (ROOT / "docs" / "decisions.md").write_text(describe_steps())
    wrong = [
        *broken_links(),
        *unfinished(),
        *reasons(),
        *lines_and_findings(),
        *options(),
        *keywords(),
        *dependencies(),
        *decisions(),
        *problems(),
    ]
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
