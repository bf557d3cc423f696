"""A picture of a fine-tuning: learning rates and metrics over optimizer steps, with the stages as bands."""

import importlib.util
import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from runmodel_ext._files import make_directory, write_whole
from runmodel_ext.errors import MissingExtraError, ScheduleError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Points over steps; ``None`` stands where a line is broken.
Line: TypeAlias = list[tuple[float, float | None]]

FORMATS = (".png", ".pdf", ".svg")
# Paul Tol's "light" for areas and Okabe and Ito's for lines: told apart with any kind of colour vision.
_AREAS = ("#99ddff", "#eedd88", "#bbcc33", "#ffaabb", "#77aadd", "#ee8866", "#44bb99", "#dddddd")
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
_GREY = "#555555"
_WIDTH = 9.0  # inches
_MOST = {"lines in a legend": 10, "stages in the list": 24, "metrics": 4}


class _Band(NamedTuple):
    """A stage on the axis of steps."""

    number: int
    name: str
    start: float
    end: float
    about: str

    @property
    def colour(self) -> str:
        return _AREAS[(self.number - 1) % len(_AREAS)]


def draw_stages(history: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw learning rates and metrics over optimizer steps, with the stages as bands.

    Groups whose rates are the same everywhere share a line. Up to four metrics have a panel each.

    Args:
        history: The stages, as :attr:`StagedFinetuning.history <runmodel_ext.StagedFinetuning.history>` has them.
        curve: What was seen at one moment after another: mappings with ``step`` and ``epoch``, and with ``rates``
            (the learning rate of each group that trains, by its label) or ``metrics`` (by name) or both.
        path: The file; its ending says which format, of png, pdf and svg. Folders are made where they are missing.

    Returns:
        The file that was written.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ScheduleError: If there is no stage to draw, or no such format.
        StorageError: If the disk refuses.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> stage = {"stage": "head", "from": {"epoch": 0, "step": 0}, "to": {"epoch": 1, "step": 20}, "ended": "done"}
        >>> curve = [{"step": 0, "epoch": 0, "rates": {"head": 0.01}},
        ...          {"step": 20, "epoch": 1, "metrics": {"val/loss": 0.7}}]
        >>> with TemporaryDirectory() as folder:
        ...     draw_stages([stage], curve, f"{folder}/stages.png").name
        'stages.png'
    """
    problem = problem_of_picture(str(path))
    if problem is not None:
        raise ScheduleError(problem)
    if not history:
        raise ScheduleError("There is no picture without a stage, but `history` is empty. Draw it after a fit.")
    need_matplotlib()
    from matplotlib import style

    target = Path(path) if Path(path).suffix else Path(path).with_suffix(".png")
    file = io.BytesIO()
    with style.context("default"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a letter in a stage's name that the font does not have
        figure = _figure(history, curve)
        figure.savefig(file, format=target.suffix[1:].lower(), dpi=150)
    make_directory(target.parent)
    write_whole(target, file.getvalue())
    return target


def curve_of_metrics(rows: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Make a curve for :func:`draw_stages` of what a logger has written, such as the metrics of a finished run.

    Args:
        rows: What was logged at one moment after another, by name; ``lr/…`` are rates.

    Example:
        >>> curve_of_metrics([{"step": 0, "stage": 0.0, "lr/head": 0.1}, {"step": 9, "epoch": 0, "val/loss": 0.7}])
        [{'step': 0, 'epoch': 0, 'rates': {'head': 0.1}, 'metrics': {}},
         {'step': 9, 'epoch': 0, 'rates': {}, 'metrics': {'val/loss': 0.7}}]
    """
    curve = []
    for row in rows:
        rates = {name.removeprefix("lr/"): value for name, value in row.items() if name.startswith("lr/")}
        metrics = {name: row[name] for name in validation_metrics(row)}
        if "step" in row and (rates or metrics):
            curve.append({"step": row["step"], "epoch": row.get("epoch", 0), "rates": rates, "metrics": metrics})
    return curve


def validation_metrics(names: Sequence[str] | Mapping[str, Any], most: int = 3) -> list[str]:
    """Those names that sound like metrics of a validation, losses first.

    Example:
        >>> validation_metrics(["val/accuracy", "train/loss", "val/loss", "val/f1", "val/recall"])
        ['val/loss', 'val/accuracy', 'val/f1']
    """
    found = [name for name in names if name.lower().startswith("val") or "/val" in name.lower() or "_val" in name]
    return sorted(found, key=lambda name: "loss" not in name.lower())[:most]


def problem_of_picture(path: str) -> str | None:
    """What is wrong with the name of a picture, in a sentence; ``None`` where nothing is."""
    suffix = Path(path).suffix
    if suffix.lower() in ("", *FORMATS):
        return None
    return f"A picture of stages is drawn as png, pdf or svg, but `picture` is '{path}'. Let it end in '.png'."


def need_matplotlib() -> None:
    """Make sure that pictures can be drawn, without importing what draws them.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(
            "A picture of stages needs matplotlib, which is not installed: pip install 'runmodel_ext[plots]'."
        )


# ---- what is drawn -----------------------------------------------------------------------------------------------


def _bands(history: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]]) -> list[_Band]:
    last = max([point["step"] for point in curve] + [stage["from"]["step"] for stage in history])
    bands = []
    for number, stage in enumerate(history, 1):
        start, end = stage["from"], stage["to"]
        stop = last if end is None else end["step"]
        where = f"step {start['step']} to {stop}"
        if end is not None:
            where += f", epoch {start['epoch']} to {end['epoch']}"
        why = stage["ended"] or "still on"
        bands.append(_Band(number, str(stage["stage"]), start["step"], max(stop, start["step"]), f"{where}: {why}"))
    return bands


def _rates(bands: Sequence[_Band], curve: Sequence[Mapping[str, Any]]) -> dict[str, Line]:
    """A line for each label: within a stage from point to point, and held until the stage's end."""
    lines: dict[str, Line] = {}
    points = [point for point in curve if point.get("rates")]
    place = 0
    for number, band in enumerate(bands):
        inside: dict[str, Line] = {}
        final = number + 1 == len(bands)
        while place < len(points) and (final or points[place]["step"] < band.end):
            for label, rate in points[place]["rates"].items():
                shown = rate if rate > 0 and math.isfinite(rate) else None
                inside.setdefault(label, []).append((points[place]["step"], shown))
            place += 1
        for label in [*lines, *(label for label in inside if label not in lines)]:
            line = lines.setdefault(label, [])
            if label in inside:
                line += [*inside[label], (max(band.end, inside[label][-1][0]), inside[label][-1][1])]
            elif line and line[-1][1] is not None:
                line.append((band.start, None))
    return lines


def _merged(lines: Mapping[str, Line]) -> list[tuple[str, Line]]:
    """Lines that are the same everywhere become one, with a label for all of them."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for label, line in lines.items():
        alike.setdefault(tuple(line), []).append(label)
    merged = []
    for labels in alike.values():
        first = _short(labels[0])
        if len(labels) > 1:
            first = f"{_short(labels[0], 22)} and {len(labels) - 1} more"
        merged.append((first, lines[labels[0]]))
    return merged


def _short(text: str, most: int = 34) -> str:
    text = " ".join(text.split())
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[len(text) - half :]}"


# ---- how it is drawn ---------------------------------------------------------------------------------------------


def _figure(history: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    bands = _bands(history, curve)
    metrics = list(dict.fromkeys(name for point in curve for name in point.get("metrics", ())))[: _MOST["metrics"]]
    listed = _listed(bands)
    heights = [0.3, 2.5, *[1.5] * len(metrics), 0.17 * sum(len(lines) for _, lines in listed) + 0.1]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.7 + 0.3 * len(metrics)), layout="constrained")
    strip, rates, *panels, foot = figure.subplots(len(heights), 1, height_ratios=heights)
    start, end = bands[0].start, max(band.end for band in bands)
    for axes in (strip, rates, *panels):
        axes.set_xlim(start, end if end > start else start + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=_GREY, labelbottom=axes is (panels or [rates])[-1])
        axes.spines[["left", "bottom"]].set_color("#aaaaaa")
    _draw_rates(rates, bands, curve)
    for axes, name in zip(panels, metrics, strict=True):
        _draw_metric(axes, bands, curve, name)
    (panels or [rates])[-1].set_xlabel("optimizer step", fontsize=8, color=_GREY)
    _draw_epochs(strip, curve)
    _draw_list(foot, listed)
    _draw_names(figure, strip, bands)
    return figure


def _draw_rates(axes: "Axes", bands: Sequence[_Band], curve: Sequence[Mapping[str, Any]]) -> None:
    _title(axes, "learning rate")
    _shade(axes, bands)
    lines = _merged(_rates(bands, curve))
    shown = [rate for _, line in lines for _, rate in line if rate is not None]
    handles = []
    for number, (_, line) in enumerate(lines):
        share = number / max(1, len(lines) - 1)
        # Lines that lie on each other are seen side by side: the later, the thinner.
        (handle,) = axes.plot(
            [step for step, _ in line],
            [math.nan if rate is None else rate for _, rate in line],
            color=_colour(number, len(lines)),
            linewidth=4.5 - 3.2 * share if len(lines) > 1 else 2,
            solid_capstyle="butt",
            zorder=2 + share,
        )
        begins = [point for n, point in enumerate(line) if point[1] and (n == 0 or line[n - 1][1] is None)]
        axes.plot(*zip(*begins, strict=True), "o", color=handle.get_color(), markersize=5, zorder=4, clip_on=False)
        handles.append(handle)
    if shown:
        _scale(axes, max(shown), min(shown))
    _legend(axes, handles, [label for label, _ in lines])


def _scale(axes: "Axes", highest: float, lowest: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    lowest = max(lowest, highest * 1e-5)  # what a cosine ends with is nothing
    room = max(1.6, (highest / lowest) ** 0.08) if highest / lowest > 4 else 3.0
    axes.set_yscale("log")
    axes.set_ylim(lowest / room, highest * room)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if highest / lowest > 300 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color="white", linewidth=0.8)


def _colour(number: int, count: int) -> Any:
    if count <= len(_LINES):
        return _LINES[number]
    from matplotlib import colormaps

    return colormaps["viridis"](0.95 * number / (count - 1))


def _legend(axes: "Axes", handles: Sequence[Any], labels: Sequence[str]) -> None:
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


def _draw_metric(axes: "Axes", bands: Sequence[_Band], curve: Sequence[Mapping[str, Any]], name: str) -> None:
    _title(axes, _short(name, 80))
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


def _shade(axes: "Axes", bands: Sequence[_Band]) -> None:
    for band in bands:
        axes.axvspan(band.start, band.end, color=band.colour, alpha=0.35, linewidth=0)
    for band in bands[1:]:
        axes.axvline(band.start, color="white", linewidth=1)


def _title(axes: "Axes", text: str) -> None:
    _write(axes.set_title("", loc="left", fontsize=9, fontweight="bold"), text)


def _write(text: Any, content: str) -> None:
    text.set_parse_math(False)  # a dollar in a name is a dollar
    text.set_text(content)


def _draw_epochs(strip: "Axes", curve: Sequence[Mapping[str, Any]]) -> None:
    """Epochs above the strip of stages."""
    first: dict[int, float] = {}
    for point in curve:
        first.setdefault(int(point["epoch"]), point["step"])
    every = max(1, math.ceil(len(first) / 14))
    chosen = [epoch for n, epoch in enumerate(sorted(first)) if n % every == 0]
    strip.xaxis.tick_top()
    strip.set_xticks([first[epoch] for epoch in chosen], [str(epoch) for epoch in chosen])
    strip.tick_params(length=2, labeltop=True, labelbottom=False)
    strip.set_yticks([])
    strip.set_ylim(0, 1)
    strip.spines[["left", "bottom"]].set_visible(False)
    strip.annotate("epoch", (0, 1), (-6, 7), xycoords="axes fraction", textcoords="offset points", fontsize=8,
                   color=_GREY, ha="right", va="center", annotation_clip=False)  # fmt: skip


def _draw_names(figure: "Figure", strip: "Axes", bands: Sequence[_Band]) -> None:
    """The stages' names in the strip where there is room for them, else their numbers."""
    texts = []
    for band in bands:
        strip.axvspan(band.start, band.end, color=band.colour, linewidth=0)
        texts.append(strip.text((band.start + band.end) / 2, 0.46, "", fontsize=9, ha="center", va="center"))
    for band in bands[1:]:
        strip.axvline(band.start, color="white", linewidth=1)
    figure.draw_without_rendering()  # which lays the panels out, so that widths are known
    for band, text in zip(bands, texts, strict=True):
        left, right = (strip.transData.transform((x, 0))[0] for x in (band.start, band.end))
        for content in (f"{band.number}  {band.name}", f"{band.number}  {_short(band.name, 12)}", str(band.number), ""):
            _write(text, content)
            if not content or text.get_window_extent().width < right - left - 4:
                break


def _listed(bands: Sequence[_Band]) -> list[tuple[_Band | None, list[str]]]:
    """What is said about each stage below the panels, in lines."""
    most = _MOST["stages in the list"]
    shown = bands if len(bands) <= most else bands[: most - 1]
    found: list[tuple[_Band | None, list[str]]] = []
    for band in shown:
        lines = textwrap.wrap(band.about, 100, max_lines=2, placeholder=" …")
        found.append((band, lines))
    if len(shown) < len(bands):
        found.append((None, [f"and {len(bands) - len(shown)} stages more"]))
    return found


def _draw_list(axes: "Axes", listed: Sequence[tuple[_Band | None, list[str]]]) -> None:
    axes.axis("off")
    total = sum(len(lines) for _, lines in listed)
    axes.set_xlim(0, 1)
    axes.set_ylim(total, 0)
    longest = max(len(_short(band.name)) for band, _ in listed if band is not None)
    second = 0.05 + 0.011 * longest
    row = 0
    for band, lines in listed:
        if band is not None:
            axes.text(0.012, row + 0.5, str(band.number), fontsize=8, ha="center", va="center",
                      bbox={"facecolor": band.colour, "edgecolor": "none", "boxstyle": "round,pad=0.2"})  # fmt: skip
            _write(axes.text(0.035, row + 0.5, "", fontsize=8, va="center", fontweight="bold"), _short(band.name))
        for line in lines:
            _write(axes.text(second, row + 0.5, "", fontsize=8, va="center", color=_GREY), line)
            row += 1
