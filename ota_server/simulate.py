"""`ota-server simulate`: what a release would do to a fleet, without hardware."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from semver import Version
from twisted.python import usage

from ota_server import plot
from ota_server.firmware.naming import is_name
from ota_server.firmware.versions import VersionError, parse_file_version
from ota_server.fleet.ledger import Ledger, LedgerError, sqlite_url
from ota_server.fleet.policy import DEFAULT_POLICY, Policy, PolicyError, read_policy
from ota_server.fleet.scenario import (
    BEGIN,
    DAY,
    Scenario,
    ScenarioError,
    read_chance,
    read_chips,
    read_fault,
    read_off,
    read_part,
    read_rhythms,
    read_span,
)
from ota_server.fleet.servers import FleetServer, PlainServer
from ota_server.fleet.simulation import Simulation, channel_of
from ota_server.fleet.tally import Result

PLAIN = "always the newest"
DEFAULT = "default"

_FAULTS = (
    "What is wrong with the release: none, dies, dies-on:CHIP:SHARE, wrong-version, dies-after:TIME or never-returns."
)
_T = TypeVar("_T")


class SimulateOptions(usage.Options):
    """What `ota-server simulate` understands."""

    synopsis = "Usage: ota-server simulate [options]"
    longdesc = (
        "Plays what a release does to a fleet that is made up, with the server's own decisions, in simulated time, and "
        "tells what came of it. The same options give the same numbers. Shares are such as 5%, times such as 30m, 8h "
        "or 7d. Of --policy, --default and --plain there may be several; without any it is the default. "
        "docs/safety.md explains the numbers."
    )
    optFlags = [
        ["default", None, "Play this server without a policy."],
        ["plain", None, "Play a server that always serves the newest and remembers nothing, to compare with."],
        ["json", "j", "Print a JSON array with an object for each server."],
    ]
    optParameters = [
        ["devices", "n", "100000", "How many devices there are."],
        ["days", "d", "30", "How many days are played."],
        ["seed", None, "1", "Another number throws the dice anew."],
        ["fault", "f", "none", _FAULTS],
        ["failure-rate", None, "100%", "How many of the devices that the fault can hit it does hit."],
        ["release-after", None, "7d", "When the release appears; until then the devices are learned."],
        ["fix-after", None, None, "A good release appears so long after the halt."],
        ["rhythms", None, "1h:10%,6h:60%,1d:25%,7d:5%", "How often how much of the fleet checks in."],
        ["jitter", None, "10%", "How much shorter or longer each interval may be."],
        ["chips", None, "esp8266:60%,esp32:30%,esp32c3:10%", "How much of the fleet has which chip."],
        ["hashes", None, "90%", "How many devices tell the hash of what runs."],
        ["off", None, "20%:8h", "How many devices are switched off every night, and for how long."],
        ["sleepers", None, "10%", "How many devices sleep, and call after an update only when their turn is."],
        ["bad-links", None, "5%:50%", "How many devices have a bad link, and how often a download breaks off there."],
        ["brown-outs", None, "1%:50%", "How many devices may fail to start a good image, and how often they do."],
        ["vanish", None, "1%", "How many devices are taken out of use some time during the days."],
        ["project", None, "firmware", "The name of the project, for policies that name some."],
        ["old", None, "1.0.0", "The version that runs at first."],
        ["new", None, "1.1.0", "The version of the release."],
        ["database", None, None, "Keep the ledger in this database, which has to be empty; a URL, as for the server."],
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self["policies"] = []
        self["plot"] = None

    def opt_policy(self, file: str) -> None:
        """Play this server with this policy file."""
        self["policies"].append(file)

    def opt_plot(self, file: str) -> None:
        """Draw the course into this file, a .png or .svg. Needs matplotlib."""
        self["plot"] = Path(file).expanduser()

    def opt_h(self) -> None:
        """Display this help and exit."""
        self.opt_help()

    def parseArgs(self, *rest: str) -> None:
        """Take nothing."""
        if rest:
            raise usage.UsageError(f"{rest[0]!a} is no option")


@attrs.frozen
class Contender:
    """A server that is played, by name: with a policy, or without any rules (None)."""

    name: str
    policy: Policy | None


def play(scenario: Scenario, contender: Contender, database: str | None = None) -> Result:
    """Play a scenario with one server; the ledger is in a temporary file unless a database is given.

    Raises LedgerError.
    """
    if contender.policy is None:
        return _run(Simulation(scenario, contender.name, PlainServer()))
    with tempfile.TemporaryDirectory(prefix="ota-simulate-") as folder:
        ledger = Ledger(database or sqlite_url(Path(folder) / "ledger.sqlite"))
        ledger.open(BEGIN)
        try:
            memory = ledger.load(BEGIN)
            if memory.devices or memory.places:
                raise LedgerError(f"{ledger.name} holds a fleet already; a simulation needs an empty database")
            channel = channel_of(scenario, contender.policy)
            server = FleetServer(memory, contender.policy, (channel, scenario.project), ledger.write)
            return _run(Simulation(scenario, contender.name, server, channel))
        finally:
            ledger.close()


def _run(simulation: Simulation) -> Result:
    # What a fleet is made of stays; looking through it for garbage again and again would take half of the time.
    gc.collect()
    gc.freeze()
    try:
        return simulation.run()
    finally:
        gc.unfreeze()


def simulate(arguments: Sequence[str]) -> int:
    """Play what the arguments say, print what came of it, and return the exit status."""
    options = SimulateOptions()
    try:
        options.parseOptions(list(arguments))
        scenario = read_scenario(options)
        contenders = _read_contenders(options)
        if options["database"] is not None and len([each for each in contenders if each.policy is not None]) > 1:
            raise usage.UsageError("--database is for one server only")
        if options["plot"] is not None:
            plot.check(options["plot"])
        results = [play(scenario, each, options["database"]) for each in contenders]
        if options["plot"] is not None:
            plot.draw(results, describe(scenario, str(options["fault"])), options["plot"])
    except (usage.UsageError, ScenarioError, PolicyError, plot.PlotError, LedgerError) as problem:
        print(f"ota-server simulate: {problem} (see: ota-server simulate --help)", file=sys.stderr)
        return 2
    if options["json"]:
        print(json.dumps([as_json(each) for each in results], indent=2))
    else:
        print(describe(scenario, str(options["fault"])))
        print(table(results))
    return 0


def read_scenario(options: usage.Options) -> Scenario:
    """Make the scenario that the options describe. Raises UsageError and ScenarioError."""
    fix_after = options["fix-after"]
    project = str(options["project"])
    if not is_name(project):
        raise usage.UsageError(f"--project: {project!a} can't name a project")
    off, off_for = _read(options, "off", read_off)
    return Scenario(
        devices=_read(options, "devices", _read_count),
        days=_read(options, "days", _read_days),
        seed=_read(options, "seed", _read_count),
        project=project,
        rhythms=_read(options, "rhythms", read_rhythms),
        jitter=_read(options, "jitter", read_part),
        chips=_read(options, "chips", read_chips),
        hashes=_read(options, "hashes", read_part),
        off=off,
        off_for=off_for,
        sleepers=_read(options, "sleepers", read_part),
        bad_links=_read(options, "bad-links", read_chance),
        brown_outs=_read(options, "brown-outs", read_chance),
        vanish=_read(options, "vanish", read_part),
        old=_read(options, "old", _read_version),
        new=_read(options, "new", _read_version),
        fault=_read(options, "fault", read_fault),
        failure_rate=_read(options, "failure-rate", read_part),
        release_at=_read(options, "release-after", read_span),
        fix_after=None if fix_after is None else _read(options, "fix-after", read_span),
    )


def _read(options: usage.Options, name: str, read: Callable[[str], _T]) -> _T:
    try:
        return read(str(options[name]))
    except ScenarioError as error:
        raise usage.UsageError(f"--{name}: {error}") from None


def _read_count(text: str) -> int:
    digits = text.replace(",", "").replace("_", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
        raise ScenarioError(f"{text[:40]!a} is no number")
    return int(digits)


def _read_days(text: str) -> float:
    return read_span(text if text.endswith("d") else f"{text}d") / DAY


def _read_version(text: str) -> Version:
    try:
        return parse_file_version(text)
    except VersionError:
        raise ScenarioError(f"{text[:40]!a} is no version; write one as in 1.2.3") from None


def _read_contenders(options: usage.Options) -> list[Contender]:
    """Return the servers to play, in the order of the table. Raises UsageError and PolicyError."""
    contenders = [Contender(PLAIN, None)] if options["plain"] else []
    if options["default"] or not (options["plain"] or options["policies"]):
        contenders.append(Contender(DEFAULT, DEFAULT_POLICY))
    for file in options["policies"]:
        try:
            text = Path(file).expanduser().read_text("utf-8")
        except OSError as error:
            raise usage.UsageError(f"--policy: {file!a} can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise usage.UsageError(f"--policy: {file!a} is no text of UTF-8") from None
        contenders.append(Contender(Path(file).name, read_policy(text, file)))
    return contenders


def describe(scenario: Scenario, fault: str) -> str:
    """Say in one line what is played."""
    what = "a good release" if fault == "none" else f"a release with the fault {fault}"
    if scenario.failure_rate < 1:
        what += f" ({scenario.failure_rate:.0%})"
    return f"{scenario.devices:,} devices, {scenario.days:g} days, {what} after {span(scenario.release_at)}"


def span(seconds: float | None) -> str:
    """Write a time for people: `42 s`, `12 min`, `3.5 h`, `2.1 d`."""
    if seconds is None:
        return "never"
    for unit, name, below in ((1.0, "s", 120.0), (60.0, "min", 120.0), (3600.0, "h", 48.0)):
        if seconds < below * unit:
            return f"{seconds / unit:.{0 if unit < 3600 else 1}f} {name}"
    return f"{seconds / DAY:.1f} d"


def size(count: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def _number(count: float) -> str:
    return f"{count:,}"


ROWS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("devices harmed", lambda result: _number(result.harmed)),
    ("  of these bounced off the release", lambda result: _number(result.bounced)),
    ("  of these dead for good", lambda result: _number(result.dead)),
    ("downloads of the release by", lambda result: f"{result.took:,} devices"),
    ("downloads in vain", lambda result: _number(result.in_vain)),
    ("bytes in vain", lambda result: size(result.bytes_in_vain)),
    ("halted after", lambda result: "never" if result.halt is None else span(result.halt.time)),
    ("  downloads by then", lambda result: "" if result.halt is None else _number(result.halt.downloads)),
    ("50% updated after", lambda result: span(result.updated_after["50%"])),
    ("95% updated after", lambda result: span(result.updated_after["95%"])),
    ("99% updated after", lambda result: span(result.updated_after["99%"])),
    ("alive at the end", lambda result: _number(result.alive)),
    ("  of these updated", lambda result: _number(result.updated)),
    ("taken for silent at the end", lambda result: _number(result.silent)),
    ("held by the loop brake", lambda result: _number(result.braked)),
    ("downloads that broke off", lambda result: _number(result.broken)),
    ("good images that failed to start", lambda result: _number(result.brown_outs)),
)
"""The lines of the table, and what stands in each."""


def table(results: Sequence[Result]) -> str:
    """Write results as a table of text, a column for each, and what was decided about rollouts below."""
    columns = [["", *(name for name, _ in ROWS)]]
    columns += [[result.server, *(tell(result) for _, tell in ROWS)] for result in results]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines += [
        f"{result.server}: {span(step.time)} after the release, {step.version} {step.kind}: {step.text}"
        for result in results
        for step in result.steps
    ]
    return "\n".join(lines)


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as values for JSON; times are in seconds after the release."""
    data = attrs.asdict(result)
    return {"server": data.pop("server"), "harmed": result.harmed, "silent": result.silent, **data}
