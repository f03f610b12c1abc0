"""Lists of a large fleet at the operator's door: how long a page takes, and what checks feel of it.

A ledger is made as in ``bench/fleet.py``. One client asks for pages, in all orders and with filters, to the end of the
list and from its middle. Then it does so while devices check in as fast as the server allows, and more slowly.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

from bench import fleet, load, processes
from bench.load import BenchError
from bench.measures import Numbers, Plan
from bench.peers import CHECK_PATH, PROJECT, VERSION, Ota

DEVICES = 100_000
"""How many devices the server knows."""

ROUNDS = 10
"""How often each kind of page is asked for."""

QUERIES: tuple[dict[str, str], ...] = (
    {},
    {"sort": "-id"},
    {"sort": "last_seen"},
    {"sort": "-last_seen"},
    {"sort": "version"},
    {"sort": "name"},
    {"q": "7F:00:1"},
    {"q": "nothing like it"},
    {"version": VERSION, "sort": "-first_seen"},
    {"project": PROJECT, "chip": "esp8266"},
    {"outcome": "bounced"},
    {"seen_after": "2026-01-01T00:00:00Z", "sort": "first_seen"},
    {"limit": "500"},
)
"""What pages are asked for."""

PAUSE = 0.005
"""How long the slow check-ins wait for one another, in seconds."""


class _Asked(Ota):
    """This server with its operator's door open."""

    key = "ota-api"

    def command(self) -> list[str]:
        """Return the command."""
        command = super().command()
        self.admin = processes.free_port()
        command[command.index("--admin") + 1] = str(self.admin)
        return command

    def client(self) -> Callable[[str], Any]:
        """Return what asks for an address of the API over one connection, and returns the JSON."""
        token = (self.scratch / "state" / "operator.token").read_text().strip()
        connection = HTTPConnection("127.0.0.1", self.admin, timeout=30)

        def ask(path: str) -> Any:
            connection.request("GET", f"/api/v1{path}", headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise BenchError(f"{path} was answered {response.status}: {body[:200]!r}")
            return json.loads(body)

        return ask


def _ask_pages(ask: Callable[[str], Any], rounds: int) -> list[float]:
    """Ask for pages; return how long each took, in seconds."""
    took = []
    for query in QUERIES * rounds:
        values = dict(query)
        for _ in range(3):
            begun = time.perf_counter()
            page = ask(f"/devices?{urlencode(values)}")
            took.append(time.perf_counter() - begun)
            if page["next"] is None:
                break
            values["cursor"] = page["next"]
    return took


def _highest(values: list[float], share: float = 0.99) -> float:
    """Return what that share of values doesn't exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextmanager
def _asking(peer: _Asked) -> Iterator[list[float]]:
    """Ask for pages all the time, beside what is done meanwhile; yield how long they take, in seconds."""
    took: list[float] = []
    over = threading.Event()

    def work() -> None:
        ask = peer.client()
        while not over.is_set():
            for query in QUERIES:
                begun = time.perf_counter()
                ask(f"/devices?{urlencode(query)}")
                took.append(time.perf_counter() - begun)
                if over.is_set():
                    return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()


def _slow_checks(peer: Ota, seconds: float) -> list[float]:
    """Let devices check in one after another, with pauses; return how long each waited for its answer, in seconds."""
    head = load.request_head(CHECK_PATH, peer.port, VERSION)
    waits = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        status, _ = load.ask(peer.port, head)
        waits.append(time.perf_counter() - begun)
        if status != 304:
            raise BenchError(f"a check was answered {status}")
        time.sleep(PAUSE)
    return waits


def run(plan: Plan, devices: int = DEVICES) -> Numbers:
    """Measure pages, the memory that they take, and check-ins meanwhile."""
    with fleet.made(plan.folder / "api-ledgers", devices) as ledgers:
        peer = _Asked(plan.image, plan.scratch("api"))
        peer.forget()
        state = peer.scratch / "state"
        state.mkdir(parents=True)
        ledgers.local.replace(state / "ledger.sqlite")
        numbers: Numbers = {}
        with peer.running(patience=300), processes.own_cores(set(plan.load_cores)):
            peer.pin(set(plan.server_cores))
            peer.settle(30)
            ask = peer.client()
            _ask_pages(ask, 1)
            before, worked = peer.memory_bytes()[0], peer.cpu_seconds()
            took = _ask_pages(ask, ROUNDS)
            numbers["api_cpu"] = (peer.cpu_seconds() - worked) / len(took) * 1e3
            numbers["api_page"] = statistics.median(took) * 1e3
            numbers["api_page_99"] = _highest(took) * 1e3
            numbers["api_growth"] = (peer.memory_bytes()[0] - before) / 1e6
            numbers["api_alone_wait"] = _highest(_slow_checks(peer, 2 * plan.seconds)) * 1e3
            with _asking(peer):
                numbers["api_wait"] = _highest(_slow_checks(peer, 2 * plan.seconds)) * 1e3
            with _asking(peer) as busy:
                done = _fast_checks(peer, devices, plan.seconds)
            numbers["api_busy_page_99"] = _highest(busy) * 1e3
            numbers["api_busy_wait"] = done.slowest * 1e3
            numbers["api_busy_alone_wait"] = _fast_checks(peer, devices, plan.seconds).slowest * 1e3
        peer.forget()
    return numbers


def _fast_checks(peer: Ota, devices: int, seconds: int) -> load.Load:
    """Let devices check in ten at once, as fast as the server allows."""
    return load.checks(
        peer.port, CHECK_PATH, VERSION, kept=True, connections=10, seconds=seconds, devices=devices, chance=True
    )
