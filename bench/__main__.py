"""Run the comparison: ``python -m bench``.

It starts this server, nginx, ``http.server`` and ``twisted.web`` by turns on 127.0.0.1, lets each do the same
job and prints the medians. It stops only what it started, and removes its files at the end.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import api, fleet, handshakes, images, measures, table
from bench.load import BenchError
from bench.peers import PEERS, Ota, Peer, find_nginx


def _arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare this server with others.")
    names = [*measures.MEASURES, *(peer.key for peer in PEERS)]
    parser.add_argument("--quick", action="store_true", help="a smoke run: little of everything, once")
    parser.add_argument(
        "--only", metavar="NAMES", default="", help=f"measures and peers, with commas: {', '.join(names)}"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="how often each peer has its turn (default: 3)")
    parser.add_argument("--files", type=int, metavar="N", help="files in the big folder (default: 100000)")
    parser.add_argument("--images", type=int, metavar="N", help="ESP32 images of 1 MB (default: 10000)")
    parser.add_argument("--devices", type=int, metavar="N", help="devices that are known (default: 1000000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number of every run to FILE")
    arguments = parser.parse_args()
    arguments.only = {name for name in arguments.only.split(",") if name}
    if wrong := arguments.only - set(names):
        parser.error(f"--only does not know {', '.join(sorted(wrong))}; it knows {', '.join(names)}")
    arguments.runs = arguments.runs or (1 if arguments.quick else 3)
    arguments.files = arguments.files or (1000 if arguments.quick else 100_000)
    if arguments.images is None:
        arguments.images = 200 if arguments.quick else 10_000
    if arguments.devices is None:
        arguments.devices = 20_000 if arguments.quick else 1_000_000
    if arguments.runs < 1 or min(arguments.files, arguments.images) < 10:
        parser.error("--runs must be at least 1, --files and --images at least 10")
    if not 1000 <= arguments.devices <= 1 << 24:
        parser.error(f"--devices must be from 1000 to {1 << 24}")
    return arguments


def _missing() -> list[str]:
    """Name what the comparison needs and the machine lacks."""
    lacking = []
    if find_nginx() is None:
        lacking.append("nginx (Debian package: nginx-light or nginx)")
    if shutil.which("wrk") is None:
        lacking.append("wrk (Debian package: wrk)")
    if not os.path.exists("/proc/self/smaps_rollup"):
        lacking.append("Linux's /proc with smaps_rollup")
    return lacking


def _printed(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


def _machine() -> str:
    """Return what the numbers depend on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    nginx = _printed([find_nginx() or "nginx", "-v"])
    wrk = _printed(["wrk", "-v"])
    return (
        f"machine: {len(os.sched_getaffinity(0))} cores, {model}; Linux {platform.release()}; "
        f"Python {platform.python_version()}; nginx {nginx.strip().rpartition('/')[2]}; wrk {wrk.split()[1]}"
    )


def _open_files(slow: int) -> int:
    """Raise the limit of open files and return how many slow downloads it allows, 0 when too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 2 * slow + 200:
        print(f"the limit of open files is {hard}: too low for {slow} slow downloads, which are left out")
        return 0
    return slow


def _plan(folder: Path, arguments: argparse.Namespace) -> measures.Plan:
    """Decide how much is done; the last core is the load's, the others are the server's."""
    cores = sorted(os.sched_getaffinity(0))
    return measures.Plan(
        folder=folder,
        files=arguments.files,
        seconds=1 if arguments.quick else 2,
        slow=_open_files(100 if arguments.quick else 1000),
        server_cores=frozenset(cores[:-1] or cores),
        load_cores=frozenset(cores[-1:]),
    )


def _measure(plan: measures.Plan, kinds: list[type[Peer]], names: set[str], runs: int) -> table.Results:
    """Give each peer its turn, run after run."""
    results: table.Results = {kind.key: {} for kind in kinds}
    for number in range(1, runs + 1):
        for kind in kinds:
            steps = measures.run(plan, kind, names)
            if "handshakes" in names:
                steps |= handshakes.steps(plan, kind)
            for name, step in steps.items():
                print(f"run {number} of {runs}: {name}, {kind.name}", file=sys.stderr, flush=True)
                for key, value in step().items():
                    results[kind.key].setdefault(key, []).append(value)
    return results


def _busy() -> str:
    """Return a warning when the machine is not idle before the comparison."""
    load = os.getloadavg()[0]
    return f"the machine had other work when this began (load average {load:.1f})" if load > 0.5 else ""


def _measure_images(folder: Path, wanted: int, results: table.Results, runs: int) -> tuple[int, list[str]]:
    """Measure a folder of images at the end, since it is large; return how many, and what is to be said of them."""
    count, notes = images.affordable(folder, wanted)
    if count == 0:
        return 0, notes
    print(f"making {count:,} images", file=sys.stderr, flush=True)
    with images.made(folder / "images", count) as made:
        for number in range(1, runs + 1):
            print(f"run {number} of {runs}: images", file=sys.stderr, flush=True)
            for column, numbers in images.run(made, count, folder / "scratch").items():
                for key, value in numbers.items():
                    results.setdefault(column, {}).setdefault(key, []).append(value)
    return count, [*notes, *images.remarks(count)]


def _measure_ledger(plan: measures.Plan, devices: int, results: table.Results, runs: int) -> None:
    """Measure the memory of so many devices at the end."""
    print(f"writing a ledger of {devices:,} devices", file=sys.stderr, flush=True)
    with fleet.made(plan.folder / "ledgers", devices) as ledgers:
        for number in range(1, runs + 1):
            print(f"run {number} of {runs}: ledger", file=sys.stderr, flush=True)
            for key, value in fleet.run(plan, ledgers, devices).items():
                results[Ota.key].setdefault(key, []).append(value)


def _measure_api(plan: measures.Plan, devices: int, results: table.Results, runs: int) -> None:
    """Measure the lists of the operator's door."""
    for number in range(1, runs + 1):
        print(f"run {number} of {runs}: lists of {devices:,} devices", file=sys.stderr, flush=True)
        for key, value in api.run(plan, devices).items():
            results[Ota.key].setdefault(key, []).append(value)


def _report(
    results: table.Results,
    lines: list[table.Row],
    aims: list[table.Target],
    plan: measures.Plan,
    kinds: list[type[Peer]],
    runs: int,
    took: float,
) -> str:
    """Return the table with everything that is to be known beside it."""
    columns = [(kind.key, kind.name) for kind in kinds]
    if table.FLOOR in results:
        columns.append((table.FLOOR, table.FLOOR_NAME))
    parts = [table.render(results, columns, lines), ""]
    parts += [str(target) for target in aims]
    parts += [
        "",
        f"medians of {runs} alternating runs, {took:.0f} s in all; in brackets: divided by nginx's",
    ]
    if runs < 3:
        parts.append("fewer than three runs: nothing to compare by")
    if apart := table.unsteady(results, columns, lines, 0.2):
        parts.append(apart)
    if bound := table.bound_by_load(results, columns):
        parts.append(bound)
    if plan.server_cores == plan.load_cores:
        parts.append("one process each, access logs off; the load shared the only core: the rates are too low")
    else:
        parts.append("one process each (nginx: one worker), access logs off; the load has a core of its own")
    parts.append(_machine())
    return "\n".join(parts)


def main() -> int:
    """Run the comparison; return 0, 1 when a peer failed, 2 when something is missing."""
    arguments = _arguments()
    if lacking := _missing():
        print(f"the comparison needs {' and '.join(lacking)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kinds = [kind for kind in PEERS if kind.key in arguments.only] or list(PEERS)
    names = set(measures.MEASURES) & arguments.only or set(measures.MEASURES)
    begun, busy = time.monotonic(), _busy()
    count, notes = 0, list[str]()
    listed = min(arguments.devices, api.DEVICES)
    with tempfile.TemporaryDirectory(prefix="ota-bench-") as folder:
        plan = _plan(Path(folder), arguments)
        if names != {"images"}:
            print("making the files that are served", file=sys.stderr, flush=True)
            measures.prepare(plan, names)
        try:
            results = _measure(plan, kinds, names, arguments.runs)
            if "images" in names and Ota in kinds:
                count, notes = _measure_images(Path(folder), arguments.images, results, arguments.runs)
            if "ledger" in names and Ota in kinds:
                _measure_ledger(plan, arguments.devices, results, arguments.runs)
            if "api" in names and Ota in kinds:
                _measure_api(plan, listed, results, arguments.runs)
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        took = time.monotonic() - begun
        lines = table.rows(plan.slow, plan.files, count, arguments.devices, listed)
        aims = table.targets(results, plan.files, arguments.devices, listed)
        print("\n".join([_report(results, lines, aims, plan, kinds, arguments.runs, took), *notes]))
        if busy:
            print(busy)
        if arguments.json:
            found = [(str(target), target.reached) for target in aims]
            content = {"machine": _machine(), "runs": results, "targets": found}
            arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
