"""The commands that read records: plain functions that print, without torch."""

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from runmodel_ext._tables import Format, print_rows, to_json
from runmodel_ext.cli.sections import age, diff_record, diff_sections, duration, print_sections, run_sections
from runmodel_ext.errors import CheckpointError
from runmodel_ext.runs import Run, compare_runs, find_runs, resolve_run, value_of

# Titles under which a table shows a field in a unit for people; sorting and choosing take both words.
_WORDS_FOR_PEOPLE = {"seconds": "duration"}
_FIELDS_BY_WORD = {word: field for field, word in _WORDS_FOR_PEOPLE.items()}
_MOST_SCORES = 6


def list_runs(
    root: str = "results",
    *,
    where: Sequence[str] = (),
    sort: str | None = None,
    descending: bool | None = None,
    columns: Sequence[str] = (),
    form: Format = "table",
    limit: int | None = None,
) -> None:
    """Print the runs under a root, one a line.

    Args:
        root: The directory that holds the runs.
        where: Conditions such as ``"model.lr<0.01"``; a run must fulfil all.
        sort: The field to sort by; a score puts its best run first.
        descending: The direction, where the field's own is not wanted.
        columns: The fields to print; by default status, name, main scores, epoch, duration and age.
        form: How to print them; CSV and JSON hold exact values.
        limit: At most so many runs.

    Raises:
        ConfigError: If a condition cannot be read, or no run has a field that is asked for.
    """
    sort = _FIELDS_BY_WORD.get(sort, sort) if sort else None
    runs = find_runs(root, where=where, sort=sort, descending=descending, limit=limit)
    fields = [_FIELDS_BY_WORD.get(name, name) for name in columns] or _main_fields(runs)
    rows = [[value_of(run, field) for field in fields] for run in runs]
    if runs:
        _refuse_unknown_fields(fields, rows, root)
        _print_runs(fields, rows, runs, form)
        return
    if form == "json":
        print("[]")
    print(_why_none(root, where), file=sys.stderr)


def show_run(reference: str, root: str = "results", form: Format = "table") -> None:
    """Print all that is recorded of one run.

    Args:
        reference: A path, a name, the beginning of a digest, or ``"last"``.
        root: The directory that holds the runs.
        form: ``"json"`` prints the record itself.

    Raises:
        NotFoundError: If the reference fits no run, or several.
    """
    run = resolve_run(reference, root)
    if form == "json":
        now = {"path": str(run.home), "status": run.status, "reason": run.reason}
        print(to_json({**run.record, **now}))
        return
    print_sections(run_sections(run), form)


def diff_runs(references: Sequence[str], root: str = "results", form: Format = "table") -> None:
    """Print what differs between runs: settings, scores with the best marked ``*``, code, environment.

    Args:
        references: Two runs or more, each as in :func:`show_run`.
        root: The directory that holds the runs.
        form: How to print it; CSV and JSON hold exact values.

    Raises:
        ConfigError: If there are fewer than two.
        NotFoundError: If a reference fits no run, or several.
    """
    comparison = compare_runs([resolve_run(reference, root) for reference in references])
    if form == "json":
        print(to_json(diff_record(comparison)))
        return
    print_sections(diff_sections(comparison, form), form)
    if not comparison.settings:
        print("Their settings are the same.", file=sys.stderr)


def path_of_run(reference: str, root: str = "results", checkpoint: Literal["best", "last"] | None = None) -> None:
    """Print where a run lies, and nothing else: ``cd $(runmodel runs path last)``.

    Args:
        reference: The run, as in :func:`show_run`.
        root: The directory that holds the runs.
        checkpoint: Print the path of this checkpoint instead.

    Raises:
        NotFoundError: If the reference fits no run, or several.
        CheckpointError: If the run has no such checkpoint on disk.
    """
    run = resolve_run(reference, root)
    path = run.checkpoint(checkpoint) if checkpoint else run.home
    if path is None:
        raise CheckpointError(
            f"The run '{run.name}' ({run.status}) has no {checkpoint} checkpoint on disk. "
            f"`runmodel runs show {run.digest[:8]}` says what it has."
        )
    print(path)


def adopt_runs(source: str, root: str = "results") -> None:
    """Record runs that plain Lightning left, so that they are listed with the rest; nothing is moved.

    Args:
        source: A directory of Lightning's logger, such as ``lightning_logs``, or one above several.
        root: The directory that will hold the records.

    Raises:
        NotFoundError: If nothing in it looks like a run.
    """
    from runmodel_ext.runs import adopt  # YAML, which only this command reads

    runs = adopt(source, root)
    for run in runs:
        print(run.name)
    print(f"Adopted {_count(len(runs))} of '{source}' into '{root}'.", file=sys.stderr)


def _main_fields(runs: Sequence[Run]) -> list[str]:
    """The columns that tell runs apart at a glance: the monitored scores, and the same ones of the test."""
    counts: Counter[str] = Counter()
    for run in runs:
        metric = (run.monitor or "").rpartition("/")[2]
        wanted = [run.monitor, f"test/{metric}"] if run.monitor else list(run.record.get("scores") or ())
        counts.update(name for name in wanted if name in (run.record.get("scores") or ()))
    scores = [name for name, _ in counts.most_common(_MOST_SCORES)]
    tests_last = sorted(scores, key=lambda name: name.startswith("test/"))
    return ["status", "name", *tests_last, "epoch", "seconds", "created"]


def _refuse_unknown_fields(fields: Sequence[str], rows: Sequence[Sequence[Any]], root: str) -> None:
    for i, field in enumerate(fields):
        if all(row[i] is None for row in rows):
            find_runs(root, sort=field, descending=False)  # which refuses a field that no run has


def _print_runs(fields: Sequence[str], rows: list[list[Any]], runs: Sequence[Run], form: Format) -> None:
    if form in ("csv", "json"):
        print_rows(fields, rows, form)
        return
    scores = {name for run in runs for name in run.record.get("scores") or ()}
    now = datetime.now(timezone.utc)
    for i, field in enumerate(fields):
        for row in rows:
            row[i] = _for_people(field, row[i], field in scores, now)
    print_rows([_WORDS_FOR_PEOPLE.get(field, field) for field in fields], rows, form)


def _for_people(field: str, value: Any, is_score: bool, now: datetime) -> Any:
    if value is None:
        return None
    if is_score:
        return f"{value:.4g}"
    if field == "seconds":
        return duration(value)
    if field == "created":
        return age(value, now)
    return value


def _why_none(root: str, where: Sequence[str]) -> str:
    if where and find_runs(root, limit=1):
        return f"No run under '{root}' fulfils {' and '.join(repr(condition) for condition in where)}."
    return f"No runs under '{root}'. `runmodel fit --config ...` makes one."


def _count(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"
