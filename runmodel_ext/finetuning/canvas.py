"""How a picture of stages is drawn. What draws imports this; it needs matplotlib."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from runmodel_ext.finetuning.picture import Band, Line, short

# Paul Tol's "light" for areas and Okabe and Ito's for lines: told apart with any kind of colour vision.
_AREAS = ("#99ddff", "#eedd88", "#ffaabb", "#44bb99", "#77aadd", "#bbcc33", "#ee8866", "#dddddd")
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
_GREY = "#555555"
_WIDTH = 9.0  # inches
_MOST = {"lines in a legend": 10, "stages in the list": 24, "metrics": 4}


def figure_of(bands: Sequence[Band], lines: Sequence[tuple[str, Line]], curve: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the strip of stages, the learning rates, a panel for each metric, and what is said about each stage.

    Args:
        bands: The stages.
        lines: Learning rates, each with its label.
        curve: What was seen at one moment after another.
    """
    metrics = list(dict.fromkeys(name for point in curve for name in point.get("metrics", ())))[: _MOST["metrics"]]
    listed = _listed(bands)
    heights = [0.3, 2.5, *[1.5] * len(metrics), 0.17 * sum(len(lines) for _, lines in listed) + 0.1]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.8 + 0.3 * len(metrics)))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    strip, rates, *panels, foot = figure.subplots(len(heights), 1, height_ratios=heights)
    start, end = bands[0].start, max(band.end for band in bands)
    for axes in (strip, rates, *panels):
        axes.set_xlim(start, end if end > start else start + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=_GREY, labelbottom=axes is (panels or [rates])[-1])
        axes.spines[["left", "bottom"]].set_color("#aaaaaa")
    _draw_rates(rates, bands, lines)
    for axes, name in zip(panels, metrics, strict=True):
        _draw_metric(axes, bands, curve, name)
    (panels or [rates])[-1].set_xlabel("optimizer step", fontsize=8, color=_GREY)
    _draw_epochs(strip, curve)
    _draw_list(foot, listed)
    _draw_names(figure, strip, bands)
    return figure


def _draw_rates(axes: Axes, bands: Sequence[Band], lines: Sequence[tuple[str, Line]]) -> None:
    _title(axes, "learning rate")
    _shade(axes, bands)
    shown = [rates for _, line in lines if (rates := [rate for _, rate in line if rate is not None])]
    highest = [max(rates) for rates in shown] or [1.0]
    # What a schedule ends with, a ten-thousandth of its rate, must not press all else together.
    lowest = max(min(map(min, shown), default=1.0), min(highest) / 100)
    pieces = [{piece for piece in pairwise(line) if None not in (piece[0][1], piece[1][1])} for _, line in lines]
    several = sum(map(len, pieces)) > len(set().union(*pieces))
    handles = []
    for number, (_, line) in enumerate(lines):
        share = number / max(1, len(lines) - 1)
        # Lines that lie on each other are seen side by side: the later, the thinner.
        thick = 4.5 - 3.2 * share if several else 2.0 if len(lines) <= len(_LINES) else 1.3
        (handle,) = axes.plot(
            [step for step, _ in line],
            [math.nan if rate is None else rate for _, rate in line],
            color=_colour(number, len(lines)),
            linewidth=thick,
            solid_capstyle="butt",
            zorder=2 + share,
        )
        begins = [(x, max(y, lowest)) for n, (x, y) in enumerate(line) if y and (n == 0 or line[n - 1][1] is None)]
        dots: dict[str, Any] = {"color": handle.get_color(), "markersize": thick + 2.5, "zorder": 4, "clip_on": False}
        for begin in begins:
            axes.plot(*begin, "o", **dots)
        handles.append(handle)
    if shown:
        _scale(axes, max(highest), lowest)
    _legend(axes, handles, [label for label, _ in lines])


def _scale(axes: Axes, highest: float, lowest: float) -> None:
    room = max(1.6, (highest / lowest) ** 0.08) if highest / lowest > 4 else 3.0
    axes.set_yscale("log")
    axes.set_ylim(lowest / room, highest * room)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if highest / lowest > 300 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color="white", linewidth=0.8)


def _area(band: Band) -> str:
    return _AREAS[(band.number - 1) % len(_AREAS)]


def _colour(number: int, count: int) -> Any:
    if count <= len(_LINES):
        return _LINES[number]
    return colormaps["viridis"](0.88 * number / (count - 1))


def _legend(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    if not handles:
        return
    most = _MOST["lines in a legend"]
    chosen = list(range(len(labels)))
    if len(labels) > most:  # evenly spaced, with the first and the last
        chosen = [round(n * (len(labels) - 1) / (most - 1)) for n in range(most)]
    title = f"{most} of {len(labels)} groups" if len(labels) > most else None
    legend = axes.legend(
        [handles[n] for n in chosen],
        ["x" * len(labels[n]) for n in chosen],
        title=title,
        title_fontsize=8,
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1.005, 1.02),
        frameon=False,
        handlelength=1.4,
    )
    for text, n in zip(legend.get_texts(), chosen, strict=True):
        _write(text, labels[n])  # a legend passes over labels that begin with an underscore


def _draw_metric(axes: Axes, bands: Sequence[Band], curve: Sequence[Mapping[str, Any]], name: str) -> None:
    _title(axes, short(name, 80))
    _shade(axes, bands)
    points = [(point["step"], float(point["metrics"][name])) for point in curve if name in point.get("metrics", {})]
    steps, values = zip(*points, strict=True)
    shown = [value if math.isfinite(value) else math.nan for value in values]
    marker = "o" if len(points) <= 60 else ""
    axes.plot(steps, shown, color="#222222", linewidth=1.5, marker=marker, markersize=3.5, clip_on=False)
    axes.margins(y=0.12)
    axes.grid(axis="y", color="white", linewidth=0.8)
    axes.locator_params(axis="y", nbins=4)
    last = next((point for point in reversed(points) if math.isfinite(point[1])), None)
    if last is not None:
        axes.annotate(
            f"{last[1]:.4g}",
            (1, last[1]),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )


def _shade(axes: Axes, bands: Sequence[Band]) -> None:
    for band in bands:
        axes.axvspan(band.start, band.end, color=_area(band), alpha=0.3, linewidth=0)
    for band in bands[1:]:
        axes.axvline(band.start, color="white", linewidth=1)


def _title(axes: Axes, text: str) -> None:
    _write(axes.set_title("", loc="left", fontsize=9, fontweight="bold"), text)


def _write(text: Any, content: str) -> None:
    text.set_parse_math(False)  # a dollar in a name is a dollar
    text.set_text(content)


def _draw_epochs(strip: Axes, curve: Sequence[Mapping[str, Any]]) -> None:
    """Epochs above the strip of stages."""
    first: dict[int, float] = {}
    for point in curve:
        if "epoch" in point:
            first.setdefault(point["epoch"], point["step"])
    every = max(1, math.ceil(len(first) / 14))
    chosen = [epoch for n, epoch in enumerate(sorted(first)) if n % every == 0]
    strip.xaxis.tick_top()
    strip.set_xticks([first[epoch] for epoch in chosen], [str(epoch) for epoch in chosen])
    strip.tick_params(length=2, labeltop=True, labelbottom=False)
    strip.set_yticks([])
    strip.set_ylim(0, 1)
    strip.spines[["left", "bottom"]].set_visible(False)
    strip.annotate("epoch" if first else "", (0, 1), (-8, 8.5), xycoords="axes fraction", fontsize=8,
                   textcoords="offset points",
                   color=_GREY, ha="right", va="center", annotation_clip=False)  # fmt: skip


def _draw_names(figure: Figure, strip: Axes, bands: Sequence[Band]) -> None:
    """The stages' names in the strip where there is room for them, else their numbers."""
    texts = []
    for band in bands:
        strip.axvspan(band.start, band.end, color=_area(band), linewidth=0)
        texts.append(strip.text((band.start + band.end) / 2, 0.46, "", fontsize=9, ha="center", va="center"))
    for band in bands[1:]:
        strip.axvline(band.start, color="white", linewidth=1)
    figure.draw_without_rendering()  # which lays the panels out, so that widths are known
    for band, text in zip(bands, texts, strict=True):
        left, right = (strip.transData.transform((x, 0))[0] for x in (band.start, band.end))
        names = [band.name, *(short(band.name, most) for most in (34, 20, 12))]
        for content in (*(f"{band.number}  {name}" for name in names), str(band.number), ""):
            _write(text, content)
            text.set_fontsize(9 if "  " in content else 8)
            if not content or text.get_window_extent().width < right - left - 2:
                break


def _listed(bands: Sequence[Band]) -> list[tuple[Band | None, list[str]]]:
    """What is said about each stage below the panels, in lines."""
    most = _MOST["stages in the list"]
    shown = bands if len(bands) <= most else bands[: most - 1]
    width = int((600 - _second_column(shown)) / 4.6)
    found: list[tuple[Band | None, list[str]]] = [
        (band, textwrap.wrap(band.about, width, max_lines=3, placeholder=" …")) for band in shown
    ]
    if len(shown) < len(bands):
        found.append((None, [f"and {len(bands) - len(shown)} stages more"]))
    return found


def _second_column(bands: Sequence[Band]) -> float:
    return 26 + 5.1 * max(len(short(band.name)) for band in bands)


def _draw_list(axes: Axes, listed: Sequence[tuple[Band | None, list[str]]]) -> None:
    axes.axis("off")
    axes.set_ylim(sum(len(lines) for _, lines in listed), 0)
    second = _second_column([band for band, _ in listed if band is not None])
    row = 0.5
    for band, lines in listed:
        if band is not None:
            chip = {"facecolor": _area(band), "edgecolor": "none", "boxstyle": "round,pad=0.2"}
            _line(axes, row, 6, str(band.number), ha="center", bbox=chip)
            _line(axes, row, 18, short(band.name), fontweight="bold")
        for line in lines:
            _line(axes, row, second, line, color=_GREY)
            row += 1


def _line(axes: Axes, row: float, left: float, content: str, **settings: Any) -> None:
    text = axes.annotate("", (0, row), (left, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                         fontsize=8, va="center", annotation_clip=False, **settings)  # fmt: skip
    text.set_in_layout(False)
    _write(text, content)
