"""A picture of a fine-tuning: learning rates and metrics over optimizer steps, with the stages as bands."""

import importlib.util
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from runmodel_ext._files import make_directory, write_whole
from runmodel_ext.errors import MissingExtraError, ScheduleError

#: Points over steps; ``None`` stands where a line is broken.
Line: TypeAlias = list[tuple[float, float | None]]

FORMATS = (".png", ".pdf", ".svg")


class Band(NamedTuple):
    """A stage on the axis of steps.

    Attributes:
        number: Which it is, counted from 1.
        name: Its name.
        start: Its first step.
        end: The step before which it ended.
        about: When it was on, and why it ended.
    """

    number: int
    name: str
    start: float
    end: float
    about: str


def draw_stages(history: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw learning rates and metrics over optimizer steps, with the stages as bands.

    Groups whose rates are the same everywhere share a line. Up to four metrics have a panel each.

    Args:
        history: The stages, as :attr:`StagedFinetuning.history <runmodel_ext.StagedFinetuning.history>` has them.
        curve: What was seen at one moment after another: mappings with ``step``, and with any of ``epoch``,
            ``rates`` (the learning rate of each group that trains, by its label) and ``metrics`` (by name).
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

    from runmodel_ext.finetuning.canvas import figure_of

    target = Path(path) if Path(path).suffix else Path(path).with_suffix(".png")
    bands = bands_of(history, curve)
    file = io.BytesIO()
    with style.context("default"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a letter in a stage's name that the font does not have
        figure = figure_of(bands, merged(rates_over(bands, curve)), curve)
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
        [{'step': 0, 'rates': {'head': 0.1}, 'metrics': {}}, {'step': 9, 'rates': {}, 'metrics': {'val/loss': 0.7}}]
    """
    curve = []
    for row in rows:
        rates = {name.removeprefix("lr/"): value for name, value in row.items() if name.startswith("lr/")}
        metrics = {name: row[name] for name in validation_metrics(row)}
        if "step" in row and (rates or metrics):
            curve.append({"step": row["step"], "rates": rates, "metrics": metrics})
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


def bands_of(history: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]]) -> list[Band]:
    """The stages on the axis of steps."""
    last = max([point["step"] for point in curve] + [stage["from"]["step"] for stage in history])
    bands = []
    for number, stage in enumerate(history, 1):
        start, end = stage["from"], stage["to"]
        stop = last if end is None else end["step"]
        where = f"step {start['step']} to {stop}"
        if end is not None:
            where += f", epoch {start['epoch']} to {end['epoch']}"
        why = stage["ended"] or "not over"
        bands.append(Band(number, str(stage["stage"]), start["step"], max(stop, start["step"]), f"{where}: {why}"))
    return bands


def rates_over(bands: Sequence[Band], curve: Sequence[Mapping[str, Any]]) -> dict[str, Line]:
    """A line for each label: within a stage from point to point, and held until the stage's end."""
    lines: dict[str, Line] = {}
    points = [point for point in curve if point.get("rates")]
    place = 0
    for number, band in enumerate(bands):
        inside: dict[str, Line] = {}
        final = number + 1 == len(bands)
        stage = None
        # What was seen at the step of a transition, and before it, still is of the stage that ended.
        while place < len(points) and (final or points[place]["step"] < band.end or _is_of(points[place], stage)):
            for label, rate in points[place]["rates"].items():
                shown = rate if rate > 0 and math.isfinite(rate) else None
                inside.setdefault(label, []).append((points[place]["step"], shown))
            stage = points[place].get("stage")
            place += 1
        for label in [*lines, *(label for label in inside if label not in lines)]:
            line = lines.setdefault(label, [])
            if label in inside:
                line += [*inside[label], (max(band.end, inside[label][-1][0]), inside[label][-1][1])]
            elif line and line[-1][1] is not None:
                line.append((band.start, None))
    return lines


def _is_of(point: Mapping[str, Any], stage: int | None) -> bool:
    return stage is not None and point.get("stage") == stage


def merged(lines: Mapping[str, Line]) -> list[tuple[str, Line]]:
    """Lines that are the same everywhere become one, with a label for all of them."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for label, line in lines.items():
        alike.setdefault(tuple(line), []).append(label)
    found = []
    for labels in alike.values():
        first = short(labels[0])
        if len(labels) > 1:
            first = f"{short(labels[0], 22)} and {len(labels) - 1} more"
        found.append((first, lines[labels[0]]))
    return found


def short(text: str, most: int = 34) -> str:
    """A text of at most so many letters; what is left out is left out in its middle."""
    text = " ".join(text.split())
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[len(text) - half :]}"
