"""Make the numbers and plots of docs/safety.md anew: ``python -m bench.safety``.

Each fault is played with each server, 100,000 devices for 17 days: 19 runs, which take most of an hour on one core and
half of that with ``--jobs 2``. The numbers are kept in docs/safety/results.json.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from ota_server import plot
from ota_server.fleet.policy import DEFAULT_POLICY, read_policy
from ota_server.fleet.scenario import DAY, Scenario, read_fault
from ota_server.fleet.tally import Result
from ota_server.simulate import DEFAULT, PLAIN, Contender, as_json, play, size, span

DOCS = Path(__file__).absolute().parent.parent / "docs"
PAGE = DOCS / "safety.md"
FOLDER = DOCS / "safety"
RESULTS = FOLDER / "results.json"

DAYS = 17.0
"""How long is played: a week before the release, and more than one after the fixed release, for weekly callers."""

STAGES = 'stages = ["1", "1%", "10%", "100%"]'
SOAK = f'{STAGES}\nsoak = "1d"'

POLICIES = {PLAIN: None, DEFAULT: "", "stages": STAGES, "stages, soak = 1d": SOAK}
"""The servers, by name: the text of a policy, or None for the plain server."""

ALL = (PLAIN, DEFAULT, "stages")

SCENARIOS = {
    "none": ("a good release", "none", ALL),
    "dies": ("dies always", "dies", ALL),
    "one-chip": ("dies on a chip that 5 % of the devices have", "dies-on:esp32c3:5%", ALL),
    "wrong-version": ("wrong version inside", "wrong-version", ALL),
    "dies-after": ("dies after an hour", "dies-after:1h", (*ALL, "stages, soak = 1d")),
    "never-returns": ("never comes back", "never-returns", ALL),
}
"""What is played: a title, the fault, and the servers, by the name of the plot."""

COLUMNS = (
    "release", "server", "harmed", "of these dead", "took it", "downloads in vain", "halted after",
    "50 % updated after", "99 % updated after", "updated at the end",
)  # fmt: skip

BEGIN, END = "<!-- table: made by python -m bench.safety -->", "<!-- end of the table -->"

Job = tuple[str, str, int]


def run(job: Job) -> tuple[Result, float]:
    """Play one scenario with one server; return the result and the seconds of processor time that it took."""
    name, server, devices = job
    text = POLICIES[server]
    scenario = Scenario(devices=devices, days=DAYS, fault=read_fault(SCENARIOS[name][1]), fix_after=DAY)
    began = time.process_time()
    policy = None if text is None else read_policy(text, "ota.toml") if text else DEFAULT_POLICY
    result = play(scenario, Contender(server, policy))
    return result, time.process_time() - began


def write_table() -> None:
    """Put the table into the page."""
    kept: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())
    lines = [f"| {' | '.join(COLUMNS)} |", f"| --- | --- |{' ---: |' * (len(COLUMNS) - 2)}"]
    for name, (title, _, servers) in SCENARIOS.items():
        for server in servers:
            found = kept.get(name, {}).get(server)
            if found is not None:
                cells = (title if server == servers[0] else "", server, *_cells(found))
                lines.append("| " + " | ".join(cells) + " |")
    played = {found["devices"] for results in kept.values() for found in results.values()}
    lines += ["", f"Played with {' and '.join(f'{count:,}' for count in sorted(played))} devices."]
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}")


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    halt = found["halt"]
    after = found["updated_after"]
    return (
        f"{found['harmed']:,}",
        f"{found['dead']:,}",
        f"{found['took']:,}",
        f"{found['in_vain']:,} ({size(found['bytes_in_vain'])})",
        "never" if halt is None else span(halt["time"]),
        span(after["50%"]),
        span(after["99%"]),
        f"{found['updated']:,} of {found['alive']:,}",
    )


def main() -> int:
    """Play what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.safety", description="Make docs/safety.md's numbers anew.")
    parser.add_argument("--only", metavar="NAMES", default="", help=f"some of {', '.join(SCENARIOS)}, with commas")
    parser.add_argument("--devices", type=int, default=100_000, metavar="N", help="fewer, for a try (default: 100000)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many to play at a time (default: 1)")
    parser.add_argument("--table", action="store_true", help="play nothing, only write the table anew")
    arguments = parser.parse_args()
    only = [name for name in arguments.only.split(",") if name] or list(SCENARIOS)
    if wrong := set(only) - set(SCENARIOS):
        parser.error(f"--only does not know {', '.join(sorted(wrong))}; it knows {', '.join(SCENARIOS)}")
    FOLDER.mkdir(exist_ok=True)
    if not arguments.table:
        for name in only:
            _play_all(name, arguments.devices, arguments.jobs)
    write_table()
    return 0


def _play_all(name: str, devices: int, jobs: int) -> None:
    title, _, servers = SCENARIOS[name]
    with ProcessPoolExecutor(jobs, max_tasks_per_child=1) as pool:
        results = []
        for result, seconds in pool.map(run, [(name, server, devices) for server in servers]):
            print(f"{name}, {result.server}: {seconds:.0f} s of processor time", file=sys.stderr, flush=True)
            results.append(result)
    plot.draw(results, f"{devices:,} devices: {title}", FOLDER / f"{name}.png")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    # The courses are in the plots.
    kept[name] = {result.server: as_json(attrs.evolve(result, samples=())) for result in results}
    RESULTS.write_text(json.dumps({name: kept[name] for name in SCENARIOS if name in kept}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
