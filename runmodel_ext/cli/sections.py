"""A run, or several side by side, as tables with titles."""

import shlex
import string
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from runmodel_ext._tables import Format, print_rows, shown
from runmodel_ext.runs import MISSING, Comparison, Run

Section = tuple[str, list[str], list[list[Any]]]

_ATTEMPT = ("folder", "status", "started", "ended", "host", "reason")


def run_sections(run: Run) -> list[Section]:
    """All that is recorded of a run: what it is, scores, settings, attempts, surroundings."""
    changed = {key: run.settings[key] for key in run.changes if key in run.settings}
    rest = {key: value for key, value in run.settings.items() if key not in changed}
    return [
        (run.name, ["", ""], _summary(run)),
        ("Scores", ["score", "value", "best", "epoch", "step", "from", "checkpoint"], _score_rows(run)),
        ("Settings that differ from the defaults", ["setting", "value"], _pairs(changed)),
        ("Settings at their defaults", ["setting", "value"], _pairs(rest)),
        ("Settings that do not change the result", ["setting", "value"], _pairs(run.other_settings)),
        ("Stages of the fine-tuning", ["stage", "learning rate", "from", "to", "ended because"], _stage_rows(run)),
        ("Attempts", list(_ATTEMPT), [[entry.get(key) for key in _ATTEMPT] for entry in run.attempts]),
        ("Checkpoints", ["checkpoint", "path"], _pairs(_checkpoints(run))),
        ("Code", ["code", "value"], _pairs(run.code or {})),
        ("Environment", ["environment", "value"], _pairs(run.environment)),
    ]


def diff_sections(comparison: Comparison, form: Format) -> list[Section]:
    """What differs between runs; they are lettered, but for CSV, which names them and holds exact scores."""
    names = [run.name for run in comparison.runs]
    titles = ["", *(names if form == "csv" else map(_letter, range(len(names))))]
    legend = [] if form == "csv" else [list(pair) for pair in zip(titles[1:], names, strict=True)]
    scores = [[name, *_score_cells(comparison, name, form != "csv")] for name in comparison.scores]
    return [
        ("Runs", ["", "run"] if legend else titles, legend),
        ("Settings", titles, _field_rows(comparison.settings)),
        ("Settings that do not change the result", titles, _field_rows(comparison.other_settings)),
        ("Scores", titles, scores),
        ("Code", titles, _field_rows(comparison.code)),
        ("Environment", titles, _field_rows(comparison.environment)),
    ]


def diff_record(comparison: Comparison) -> dict[str, Any]:
    """What differs between runs as one plain object, for JSON."""
    scores = {
        name: {"values": _score_cells(comparison, name), "best": comparison.best(name)} for name in comparison.scores
    }
    record: dict[str, Any] = {"runs": [run.name for run in comparison.runs], "scores": scores}
    for group in ("settings", "other_settings", "code", "environment"):
        values: Mapping[str, Sequence[Any]] = getattr(comparison, group)
        plain = {key: [None if v is MISSING else v for v in entries] for key, entries in values.items()}
        record[group] = plain
    return record


def print_sections(sections: Sequence[Section], form: Format) -> None:
    """Print the sections that have rows, each under its title; as CSV in one table."""
    if form == "csv":
        columns = ["section", "field", *sections[0][1][1:]]
        print_rows(columns, [[title, *row] for title, _, rows in sections for row in rows], form)
        return
    filled = [section for section in sections if section[2]]
    for number, (title, columns, rows) in enumerate(filled):
        print(("\n" if number else "") + (f"## {title}\n" if form == "markdown" else shown(title)))
        print_rows(columns, rows, form)


def _summary(run: Run) -> list[list[Any]]:
    first = run.attempts[0] if run.attempts else {}
    rows: dict[str, Any] = {
        "status": f"{run.status} ({run.reason})" if run.reason else run.status,
        "path": str(run.home),
        "digest": run.digest,
        "seed": run.seed,
        "created": run.created,
        "duration": None if run.seconds is None else duration(run.seconds),
        "progress": ", ".join(f"{name} {count}" for name, count in run.progress.items()),
        "command": shlex.join(map(str, first.get("command") or ())),
        "tags": ", ".join(run.tags),
        "notes": run.notes,
        "goes on from": (run.parent or {}).get("run"),
    }
    return [[name, value] for name, value in rows.items() if value not in (None, "")]


def _score_rows(run: Run) -> list[list[Any]]:
    return [
        [name, f"{s.value:.4g}", s.mode, s.epoch, s.step, s.source or None, s.checkpoint]
        for name, s in run.scores.items()
    ]


def _stage_rows(run: Run) -> list[list[Any]]:
    return [
        [entry["stage"], _rates(entry.get("lr")), _moment(entry["from"]), _moment(entry["to"]), entry["ended"]]
        for entry in run.record.get("stages") or ()
    ]


def _rates(rates: Mapping[str, float] | None) -> str | None:
    values = sorted({f"{rate:.4g}": rate for rate in (rates or {}).values()}.values())
    return f"{values[0]:.4g} to {values[-1]:.4g}" if len(values) > 1 else f"{values[0]:.4g}" if values else None


def _moment(moment: Mapping[str, Any] | None) -> str | None:
    return None if moment is None else f"epoch {moment['epoch']}, step {moment['step']}"


def _checkpoints(run: Run) -> dict[str, Any]:
    kept = run.record.get("checkpoints") or {}
    return {
        which: name if (run.home / name).exists() else f"{name} (no longer there)"
        for which, name in kept.items()
        if name
    }


def _pairs(values: Mapping[str, Any]) -> list[list[Any]]:
    return [[key, _setting(value)] for key, value in values.items()]


def _setting(value: Any) -> Any:
    """A setting for a cell: ``null`` is a value of its own, only what is missing is empty."""
    if value is MISSING:
        return None
    return "null" if value is None else value


def _letter(number: int) -> str:
    letters = string.ascii_uppercase
    return letters[number] if number < len(letters) else f"R{number + 1}"


def _field_rows(values: Mapping[str, Sequence[Any]]) -> list[list[Any]]:
    return [[key, *map(_setting, entries)] for key, entries in values.items()]


def _score_cells(comparison: Comparison, name: str, marked: bool = False) -> list[Any]:
    scores = comparison.scores[name]
    if not marked:
        return [score and score.value for score in scores]
    best = comparison.best(name)
    if len(best) == len(scores):
        best = []  # they are level, so there is nothing to point at
    return [score and f"{score.value:.4g}{' *' if i in best else ''}" for i, score in enumerate(scores)]


def duration(seconds: float) -> str:
    """How long something took, in the two largest units.

    Example:
        >>> duration(4.2), duration(75), duration(3600 * 30)
        ('4.2 s', '1 min 15 s', '1 d 6 h')
    """
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 59.95 else "1 min"
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    largest = next(i for i, (_, size) in enumerate(units) if seconds >= size)
    (high, size), (low, smaller) = units[largest], units[largest + 1]
    count, rest = divmod(int(seconds), size)
    return f"{count} {high}" + (f" {rest // smaller} {low}" if rest // smaller else "")


def age(created: str, now: datetime) -> str:
    """How long ago a moment was, in its largest unit; the text itself where it is no moment.

    Example:
        >>> from datetime import datetime
        >>> age("2026-11-23T07:10:01+00:00", datetime.fromisoformat("2026-11-23T10:30:00+00:00"))
        '3 h ago'
    """
    try:
        seconds = (now - datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError):
        return created
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"
