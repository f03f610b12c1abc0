"""Draws simulations: how many devices were updated, harmed, and known to have failed, over time.

Needs matplotlib, which is imported only here.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ota_server.fleet.scenario import DAY, HOUR
from ota_server.fleet.tally import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HOW_TO_INSTALL = "plots need matplotlib; install it with: python -m pip install 'ota_server[plot]'"
SUFFIXES = (".png", ".svg")

_UPDATED, _HARMED, _KNOWN, _MARK = "#1a7f37", "#cf222e", "#8250df", "#57606a"
_WIDTH, _HEIGHT, _DOTS = 8.0, 2.1, 100
_COLOURS = 48
# Where the axis of time turns from even to logarithmic, so that the first minutes show as well as the weeks.
_EVEN = 0.5 * HOUR
# Names of marks that are closer than so many dots would stand on one another.
_APART = 11.0
_TICKS = {0: "0", 600: "10 min", HOUR: "1 h", 6 * HOUR: "6 h", DAY: "1 d", 3 * DAY: "3 d", 7 * DAY: "7 d"}


class PlotError(Exception):
    """A plot that can't be drawn; its message says why, in one line for a person."""


def check(path: Path) -> None:
    """Raise PlotError where a plot can't be drawn into this file, before anything is simulated for it."""
    if path.suffix.lower() not in SUFFIXES:
        raise PlotError(f"a plot can be a file {' or '.join(f'*{each}' for each in SUFFIXES)}, not {path.name!r}")
    if not path.absolute().parent.is_dir():
        raise PlotError(f"there is no folder {str(path.absolute().parent)!r} for the plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PlotError(HOW_TO_INSTALL) from None


def draw(results: Sequence[Result], title: str, path: Path) -> None:
    """Draw results, each in a field of its own, into a file. Raises PlotError."""
    check(path)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 0.9 + _HEIGHT * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    fields = figure.subplots(len(results), sharex=True, sharey=True, squeeze=False)[:, 0]
    for field, result in zip(fields, results, strict=True):
        _draw_one(field, result)
    fields[-1].set_xlabel("time after the release")
    figure.suptitle(title, fontsize=11)
    handles, labels = fields[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    # Without dates and names, so that the same results make the same file.
    try:
        if path.suffix.lower() == ".svg":
            settings: dict[Any, Any] = {"svg.hashsalt": "ota-server", "svg.fonttype": "none"}
            with mpl.rc_context(settings):
                figure.savefig(path, metadata={"Date": None})
        else:
            _save_small(figure, path)
    except OSError as error:
        raise PlotError(f"the plot can't be written: {error.strerror or error}") from error


def _save_small(figure: Figure, path: Path) -> None:
    """Save as a PNG of few colours, which is a third as long."""
    from PIL import Image

    whole = BytesIO()
    figure.savefig(whole, format="png", dpi=_DOTS)
    with Image.open(whole) as image:
        image.convert("RGB").quantize(_COLOURS).save(path, "PNG", optimize=True)


def _draw_one(field: Axes, result: Result) -> None:
    times = [sample.time for sample in result.samples]
    field.plot(times, [each.updated for each in result.samples], color=_UPDATED, label="updated, and alive")
    field.fill_between(times, [each.harmed for each in result.samples], color=_HARMED, alpha=0.15, linewidth=0)
    field.plot(times, [each.harmed for each in result.samples], color=_HARMED, label="harmed by the release")
    known = [each.failures for each in result.samples]
    field.plot(times, known, color=_KNOWN, linestyle="--", label="known to the server to have failed")
    field.set_xscale("symlog", linthresh=_EVEN, linscale=0.5)
    field.set_yscale("symlog", linthresh=1, linscale=0.4)
    last = times[-1] if times else DAY
    shown = {time: text for time, text in _TICKS.items() if time <= last}
    field.set_xticks(list(shown), list(shown.values()), minor=False)
    field.set_xticks([], minor=True)
    field.set_xlim(0, last)
    top = 10 ** len(str(result.devices - 1))
    levels = [10**power for power in range(len(str(top)))]
    field.set_yticks([0, *levels], ["0", *(f"{each:,}" for each in levels)])
    # The decade above is for the names of marks.
    field.set_ylim(0, top * 12)
    field.grid(visible=True, color="#d0d7de", linewidth=0.5)
    field.set_ylabel("devices")
    field.set_title(f"{result.server}: {result.harmed:,} harmed", loc="left", fontsize=9)
    _mark_steps(field, result, last, top)


def _mark_steps(field: Axes, result: Result, last: float, top: int) -> None:
    """Draw when stages began, when the release was halted, and when a fixed one came; close ones not all by name."""
    stage, named = 1, -1.0
    for step in result.steps:
        if step.kind not in ("started", "stage", "halted") or not 0 < step.time <= last:
            continue
        if step.kind == "started" and step.version == result.steps[0].version:
            continue
        stage = 1 if step.kind == "started" else stage + 1
        text = {"halted": "halt", "started": "fixed"}.get(step.kind, f"stage {stage}")
        color = _HARMED if step.kind == "halted" else _MARK
        field.axvline(step.time, color=color, linewidth=0.9, linestyle=":")
        place = float(field.transData.transform((step.time, 1))[0])
        if place - named > _APART or step.kind == "halted":
            paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4}
            field.text(step.time, top * 9, text, color=color, fontsize=7, va="top", rotation=90, bbox=paper)
            named = place
