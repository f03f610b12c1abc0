"""The table: measures as rows, peers as columns, ratios to nginx in brackets; and what was to be reached."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.cases import CASES, key_of, label_of

#: Every number that was measured: by peer, by row, one for each run.
Results = dict[str, dict[str, list[float]]]

#: The column of the programs that only hash the images, and what stands above it.
FLOOR = "floor"
FLOOR_NAME = "plain hashing"


@dataclass(frozen=True)
class Row:
    """One line of the table; a heading when it has no key."""

    key: str
    label: str
    digits: int = 0
    ratio: bool = True
    base: str = "nginx"  # the column that the ratio is to
    steady: bool = True  # whether it should be much the same in each run


def rows(slow: int, files: int, images: int, devices: int, listed: int) -> list[Row]:
    """Return the table's lines for so many slow downloads, files, images, devices, and devices in lists."""
    return [
        Row("", "update checks (304), a new connection each, ten at once"),
        Row("new_rate", "checks per second"),
        Row("new_cpu", "server's CPU per check, us", 1),
        Row("new_load", "load's own CPU per check, us", 1, ratio=False),
        Row("", "update checks (304), a new connection each, one after another"),
        Row("single_rate", "checks per second"),
        Row("single_cpu", "server's CPU per check, us", 1),
        Row("single_load", "load's own CPU per check, us", 1, ratio=False),
        Row("", "update checks (304), ten connections kept alive"),
        Row("kept_rate", "checks per second"),
        Row("kept_cpu", "server's CPU per check, us", 1),
        Row("kept_load", "load's own CPU per check, us", 1, ratio=False),
        Row("", "downloads of 1 MiB, ten at once"),
        Row("download_rate", "MB/s"),
        Row("download_cpu", "server's CPU per GB, s", 3),
        Row("download_load", "load's own CPU per GB, s", 3, ratio=False),
        Row("", "checks over TLS, a connection each, four at once: server's CPU per check, us"),
        *(Row(f"{key_of(*case)}_cpu", label_of(*case), 1) for case in CASES),
        Row("", "the same: checks per second"),
        *(Row(f"{key_of(*case)}_rate", label_of(*case)) for case in CASES),
        Row("", "the same: load's own CPU per check, us"),
        *(Row(f"{key_of(*case)}_load", label_of(*case), 1, ratio=False) for case in CASES),
        Row("", f"resident memory, {slow:,} slow downloads of 12 MiB"),
        Row("idle_rss", "RSS before, MB", 1),
        Row("slow_rss", "RSS with them open, MB", 1),
        Row("slow_pss", "PSS with them open, MB", 1),
        Row("slow_each", "RSS for each, KB", 1),
        Row("", f"10 and {files:,} files in the folder (new connections; http.server: one after another)"),
        Row("few_start", "10: start to first answer, s", 2),
        Row("empty_first", f"{files:,}: start to first answer, s", 2),
        Row("empty_ready", f"{files:,}: start to all served, s", 2),
        Row("again_first", "  second start: first answer, s", 2),
        Row("again_ready", "  second start: all served, s", 2),
        Row("few_cpu", "10: server's CPU per check, us", 1),
        Row("many_cpu", f"{files:,}: server's CPU per check, us", 1),
        Row("folder_ratio", "  the same, as a ratio", 2, ratio=False),
        Row("many_rss", f"{files:,}: RSS, MB", 1),
        Row("", f"{images:,} ESP32 images of 1 MB in the folder (ratios to {FLOOR_NAME})"),
        Row("images_ready", "first start: ready, s", 2, base=FLOOR),
        Row("images_served", "first start: all served, s", 2),
        Row("images_cpu", "  CPU until ready, s", 2, base=FLOOR),
        Row("images_disk", "  read from the disk until ready, MB", ratio=False, steady=False),
        Row("images_rss", "  RSS afterwards, MB", 1),
        Row("images_again_ready", "later start: ready, s", 2),
        Row("images_again_served", "later start: all served, s", 2),
        Row("images_again_rss", "  RSS afterwards, MB", 1),
        Row("", f"{devices:,} known devices (checks by random ones, ten at once)"),
        Row("ledger_start", "start to first right answer, s", 2),
        Row("ledger_rss", "RSS afterwards, MB", 1),
        Row("ledger_each", "  more than with an empty ledger, bytes per device"),
        Row("ledger_rows", "CPU while 4,000 rows a second are brought up to date, %"),
        Row("ledger_none_cpu", "kept alive: CPU per check without a ledger, us", 1),
        Row("ledger_few_cpu", "  with one of 1,000 devices", 1),
        Row("ledger_cpu", f"  with one of {devices:,}", 1),
        Row("ledger_thread", "    of it in the thread that writes", 1),
        Row("ledger_few_ratio", "  as a ratio to none, turn by turn: 1,000", 2),
        Row("ledger_ratio", f"    {devices:,}", 2),
        Row("ledger_new_none_cpu", "new connections: CPU per check without a ledger, us", 1),
        Row("ledger_new_cpu", f"  with one of {devices:,}", 1),
        Row("ledger_new_ratio", "    as a ratio to none, turn by turn", 2),
        Row("ledger_none_wait", "kept alive: 99 % wait at most, without a ledger, ms", 2),
        Row("ledger_wait", f"  with one of {devices:,}", 2),
        Row("ledger_writing_wait", "  while its rows are brought up to date", 2),
        Row("", f"lists of {listed:,} devices at the operator's door"),
        Row("api_page", "a page, median, ms", 1),
        Row("api_page_99", "  99 % take at most, ms", 1),
        Row("api_cpu", "  server's CPU, ms", 1),
        Row("api_growth", "  RSS after hundreds of pages, more than before, MB", 1, steady=False),
        Row("api_alone_wait", "checks one by one: 99 % wait at most, ms", 2),
        Row("api_wait", "  while pages are asked for all the time", 2),
        Row("api_busy_alone_wait", "ten checks at once: 99 % wait at most, ms", 2),
        Row("api_busy_wait", "  while pages are asked for all the time", 2),
        Row("api_busy_page_99", "  of these pages 99 % take at most, ms", 1),
    ]


def median(results: Results, peer: str, key: str) -> float | None:
    """Return the median of the runs, None where nothing was measured."""
    values = results.get(peer, {}).get(key)
    return statistics.median(values) if values else None


def _ratio(value: float, other: float | None) -> str:
    """Return a ratio in brackets, with two digits that count."""
    if not other:
        return ""
    ratio = value / other
    return f"[{ratio:.{0 if ratio >= 10 else 1 if ratio >= 2 else 2}f}]"


def render(results: Results, peers: Sequence[tuple[str, str]], lines: Sequence[Row]) -> str:
    """Return the table; ``peers`` are keys and names of the columns."""
    table: list[list[str]] = [["", *(name for _, name in peers)]]
    numbers, ratios = [[0] * len(peers) for _ in range(2)]
    body: list[tuple[Row, list[tuple[str, str]]]] = []
    for row in lines:
        cells: list[tuple[str, str]] = []
        for key, _ in peers:
            value = median(results, key, row.key) if row.key else None
            if value is None:
                cells.append(("-" if row.key else "", ""))
                continue
            base = median(results, row.base, row.key) if row.ratio and key != row.base else None
            cells.append((f"{value:,.{row.digits}f}", _ratio(value, base)))
        body.append((row, cells))
        numbers = [max(width, len(number)) for width, (number, _) in zip(numbers, cells, strict=True)]
        ratios = [max(width, len(ratio)) for width, (_, ratio) in zip(ratios, cells, strict=True)]
    for row, cells in body:
        if not row.key:
            table.append([row.label])
        elif any(number != "-" for number, _ in cells):
            sized = zip(cells, numbers, ratios, strict=True)
            texts = [f"{number:>{wide}} {ratio:<{narrow}}" for (number, ratio), wide, narrow in sized]
            table.append([f"  {row.label}", *texts])
    return _aligned(_without_empty_headings(table))


def _without_empty_headings(table: list[list[str]]) -> list[list[str]]:
    """Drop the headings below which nothing was measured."""
    following = [*table[1:], [""]]
    return [line for line, after in zip(table, following, strict=True) if len(line) > 1 or len(after) > 1]


def _aligned(table: list[list[str]]) -> str:
    """Return lines with columns of equal width."""
    columns = max(len(line) for line in table)
    full = [line for line in table if len(line) > 1]  # a heading may be longer than its column
    widths = [max(len(line[column]) for line in full) for column in range(columns)]
    return "\n".join(
        "   ".join(
            f"{text:<{width}}" if column == 0 else f"{text:>{width}}"
            for column, (text, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in table
    )


@dataclass(frozen=True)
class Target:
    """One thing to reach; ``measured`` is None when the runs did not measure it."""

    text: str
    measured: float | None
    limit: float
    at_least: bool = False
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it was reached."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        if self.measured is None:
            return f"to reach: {self.text}; not measured"
        verdict = "yes" if self.reached else "no"
        return f"to reach: {self.text}; measured {self.measured:.2f}{self.unit}: {verdict}"


def targets(results: Results, files: int, devices: int, listed: int) -> list[Target]:
    """Return what this server is to reach, with what was measured."""

    def ratio(key: str) -> float | None:
        ours, theirs = median(results, "ota", key), median(results, "nginx", key)
        return ours / theirs if ours and theirs else None

    def highest(kinds: set[str]) -> float | None:
        found = (ratio(f"{key_of(*case)}_cpu") for case in CASES if case[2] in kinds)
        return max((value for value in found if value), default=None)

    ready = [median(results, "ota", key) for key in ("empty_ready", "again_ready")]
    return [
        Target(
            "a new connection's check costs at most 3 x nginx's CPU, ten at once",
            ratio("new_cpu"),
            3,
            unit=" x",
        ),
        Target("the same, one after another", ratio("single_cpu"), 3, unit=" x"),
        Target("ten downloads at once reach 0.7 of nginx's rate", ratio("download_rate"), 0.7, at_least=True),
        Target(
            "a new TLS handshake costs at most 2.2 x nginx's CPU, whatever the case", highest({"new"}), 2.2, unit=" x"
        ),
        Target("a resumed one at most 3 x", highest({"id", "ticket"}), 3, unit=" x"),
        Target(
            f"a check costs the same with {files:,} files as with 10 (within 10 %)",
            median(results, "ota", "folder_ratio"),
            1.1,
            unit=" x",
        ),
        Target(
            f"{files:,} files are ready within 5 s of the start",
            max((seconds for seconds in ready if seconds), default=None),
            5,
            unit=" s",
        ),
        Target(
            f"a check with {devices:,} known devices costs at most 15 % more than without a ledger",
            median(results, "ota", "ledger_ratio"),
            1.15,
            unit=" x",
        ),
        Target("each of them takes at most 600 bytes of memory", median(results, "ota", "ledger_each"), 600),
        Target("with them the server is ready within 20 s", median(results, "ota", "ledger_start"), 20, unit=" s"),
        Target(
            f"99 % of the pages of a list of {listed:,} devices take at most 200 ms",
            median(results, "ota", "api_page_99"),
            200,
            unit=" ms",
        ),
    ]


def unsteady(results: Results, peers: Sequence[tuple[str, str]], lines: Sequence[Row], limit: float) -> str:
    """Say how many numbers differ from run to run by more than ``limit``, a share of the median."""
    spreads: list[tuple[float, str]] = []
    for key, name in peers:
        for row in lines:
            values = results.get(key, {}).get(row.key, [])
            if row.steady and values and (middle := statistics.median(values)):
                spreads.append(((max(values) - min(values)) / middle, f"{name}, {row.key}"))
    apart = sorted((spread for spread in spreads if spread[0] > limit), reverse=True)
    if not apart:
        return ""
    worst = "; ".join(f"{label} {spread:.0%}" for spread, label in apart[:3])
    return f"{len(apart)} of {len(spreads)} numbers differ by more than {limit:.0%} between runs: {worst}"


def bound_by_load(results: Results, peers: Sequence[tuple[str, str]]) -> str:
    """Name the rates at which the load had no CPU time left, so that the server may be capable of more."""
    found = []
    units = (("new", "new connections", 1e6), ("kept", "kept alive", 1e6), ("download", "downloads", 1e3))
    for key, name in peers:
        for prefix, label, unit in units:
            rate, cpu = median(results, key, f"{prefix}_rate"), median(results, key, f"{prefix}_load")
            if rate and cpu and (share := rate * cpu / unit) > 0.9:
                found.append(f"{name}, {label} ({share:.0%} of a core)")
    return f"limited by the load, not by the server: {'; '.join(found)}" if found else ""
