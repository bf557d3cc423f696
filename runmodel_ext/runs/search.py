"""Finding runs: by condition, by reference, by settings."""

import gc
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runmodel_ext.errors import ConfigError, NotFoundError
from runmodel_ext.runs.run import RECORD, Run
from runmodel_ext.runs.values import MISSING, did_you_mean, is_number, same, same_number
from runmodel_ext.runs.walk import DEFAULT_ROOT, iter_runs
from runmodel_ext.runs.where import FIELDS, field_names, look_up, parse_condition

__all__ = ["DEFAULT_ROOT", "find_runs", "iter_runs", "match_run", "nearest_run", "resolve_run"]

_NEWEST_FIRST = frozenset({"created", "ended"})
_SHORTEST_DIGEST = 4
_LISTED = 10
_COMPARED = 1000


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking again and again through records that are all in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_paused()
def find_runs(
    root: str | Path = DEFAULT_ROOT,
    where: Sequence[str] = (),
    sort: str | None = None,
    descending: bool | None = None,
    limit: int | None = None,
) -> list[Run]:
    """The runs below ``root`` that fulfil all conditions.

    Args:
        root: The directory to search.
        where: Conditions such as ``"model.lr<0.01"`` or ``"status=finished"``; see :func:`parse_condition`.
        sort: A field to sort by, as in :func:`value_of`; by default ``created``. Runs without a value come
            last.
        descending: Whether the largest comes first. By default the best score, the newest, the smallest
            setting.
        limit: How many runs to return at most.

    Returns:
        The runs in order; none where there is no such directory.

    Raises:
        ConfigError: If a condition cannot be read, or no run has a field that is asked for.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"The limit must be 0 or more, but is {limit}. Leave it out to see all runs.")
    conditions = [parse_condition(text) for text in where]
    every = sorted(iter_runs(root), key=lambda run: (run.created, run.name), reverse=True)
    for field in [*(condition.field for condition in conditions), *([sort] if sort else [])]:
        _check_field(field, every)
    runs = [run for run in every if all(condition.matches(run) for condition in conditions)]
    if sort is not None:
        runs = _sorted(runs, sort, descending)
    elif descending is False:
        runs.reverse()
    return runs[:limit]


@_collector_paused()
def resolve_run(reference: str | Path, root: str | Path = DEFAULT_ROOT) -> Run:
    """The run that a user means.

    Args:
        reference: A run's directory or anything in it, its name or a part of it, the first characters of its
            digest (at least 4; levels may follow, as in ``k3j2/seed=1``), or ``"last"`` for the newest. Where
            versions of one configuration and seed fit, the newest of them is meant.
        root: The directory to search.

    Raises:
        NotFoundError: If nothing fits, with the nearest names, or if several runs do, with their names.
        RecordError: If the record of the run is damaged.
    """
    text = os.fspath(reference)
    if text != "last" and (placed := _run_around(text) or _run_around(f"{root}/{text}")):
        return placed
    runs = list(iter_runs(root))
    if not runs:
        found = "it holds no runs" if Path(root).is_dir() else "there is no such directory"
        raise NotFoundError(
            f"No run '{text}' below '{root}': {found}. Begin one with `runmodel fit`, or give another root."
        )
    if text == "last":
        return max(runs, key=lambda run: (run.created, run.version))
    if fitting := _fitting(_below(root, text), runs, Path(root)):
        return _the_one(text, fitting)
    newest = sorted(runs, key=lambda run: run.created, reverse=True)[:_COMPARED]
    parts = [part for run in newest for part in (run.name, *run.name.split("/"))]
    advice = f"{did_you_mean(text, parts)} `runmodel runs list` shows the runs there are."
    raise NotFoundError(f"No run '{text}' among the {len(runs)} below '{root}'.{advice}")


def nearest_run(settings: Mapping[str, Any], runs: Iterable[Run]) -> tuple[Run, dict[str, tuple[Any, Any]]] | None:
    """The run whose settings differ from ``settings`` in the fewest keys; the newest of several.

    Returns:
        The run, and for each key that differs what was wanted and what was found, ``MISSING`` where it is
        absent; ``None`` where there are no runs.
    """
    compared = [(run, _differences(settings, run.settings)) for run in runs]
    newest_first = sorted(compared, key=lambda pair: pair[0].created, reverse=True)
    return min(newest_first, key=lambda pair: len(pair[1]), default=None)


def match_run(
    digest: str, settings: Mapping[str, Any], defaults: Mapping[str, Any], runs: Iterable[Run]
) -> tuple[list[Run], list[str]]:
    """The runs of a configuration, also where its classes have got new arguments since.

    Args:
        digest: The digest of the configuration.
        settings: Its settings, flat.
        defaults: The class defaults of its settings, flat.
        runs: The runs to choose from.

    Returns:
        The runs with this digest, and no keys; or, where there are none, the runs whose settings lack only
        keys that stand at their defaults, and these keys.
    """
    runs = list(runs)
    exact = [run for run in runs if run.digest == digest]
    if exact:
        return exact, []
    earlier = {id(run): keys for run in runs if (keys := _added_keys(settings, defaults, run))}
    drifted = sorted((run for run in runs if id(run) in earlier), key=lambda run: run.created, reverse=True)
    closest = min((earlier[id(run)] for run in drifted), key=len, default=[])
    return [run for run in drifted if earlier[id(run)] == closest], closest


def _check_field(field: str, runs: Sequence[Run]) -> None:
    if runs and field not in FIELDS and all(look_up(run, field) is MISSING for run in runs):
        names = field_names(runs)
        ends = [name.rsplit(".", 1)[-1] for name in names]
        advice = did_you_mean(field, [*names, *ends]) or f" There are {', '.join(names[len(FIELDS) :])}."
        raise ConfigError(f"None of the {len(runs)} runs has a field '{field}'.{advice}")


def _sorted(runs: Sequence[Run], field: str, descending: bool | None) -> list[Run]:
    values = [(look_up(run, field), run) for run in runs]
    absent = [run for value, run in values if _is_absent(value)]
    present = [(value, run) for value, run in values if not _is_absent(value)]
    if descending is None:
        descending = field in _NEWEST_FIRST or _mode(field, runs) == "max"
    present.sort(key=lambda pair: _order(pair[0]), reverse=descending)
    return [run for _, run in present] + absent


def _is_absent(value: Any) -> bool:
    return value is MISSING or value is None or (isinstance(value, float) and math.isnan(value))


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, bool) or is_number(value):
        return (0, value, "")
    return (1, 0, value if isinstance(value, str) else json.dumps(value, default=str))


def _mode(field: str, runs: Sequence[Run]) -> str | None:
    scores = [scores[field] for run in runs if field in (scores := run.record.get("scores") or {})]
    modes = {score.get("mode") for score in scores} - {None}
    if len(modes) > 1:
        raise ConfigError(
            f"Some runs take a higher '{field}' for better, others a lower one. "
            "Say which order you want (`descending`)."
        )
    return modes.pop() if modes else None


def _run_around(place: str) -> Run | None:
    """The run that ``place`` is, or lies in."""
    path = Path(place)
    if not _exists(path):
        return None
    for folder in (path, *path.parents, *path.absolute().parents):
        if (folder / RECORD).is_file():
            return Run.read(folder)
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a path can be, or with a character that none can have
        return False


def _below(root: str | Path, text: str) -> str:
    """A path as names spell it; one that lies in ``root`` relative to it."""
    base, place = Path(root).absolute(), Path(text).absolute()
    if os.sep in text and place != base and place.is_relative_to(base):
        return place.relative_to(base).as_posix()
    return text.replace(os.sep, "/").strip("/ ")


def _fitting(wanted: str, runs: Sequence[Run], root: Path) -> list[Run]:
    """The runs of that name, else those of that digest or part of the name, else those of a name like it."""
    if not wanted or wanted == ".":
        return []
    digest, _, levels = wanted.partition("/")  # `k3j2h5a7/seed=0`: a digest's start, and levels below it
    is_digest = len(digest) >= _SHORTEST_DIGEST
    names = [(f"/{run.name}//{run.path.relative_to(root).as_posix()}/", run) for run in runs]
    if named := [run for name, run in names if wanted == run.name or name.endswith(f"//{wanted}/")]:
        return named
    parts = [
        run
        for name, run in names
        if f"/{wanted}/" in name
        or (is_digest and run.digest.startswith(digest) and (not levels or f"/{levels}/" in name))
    ]
    return parts or [run for name, run in names if wanted in name]


def _the_one(text: str, fitting: Sequence[Run]) -> Run:
    if len({(run.digest, run.seed) for run in fitting}) == 1:
        return max(fitting, key=lambda run: (run.version, run.created))
    listed = ", ".join(f"'{run.name}' ({run.status})" for run in fitting[:_LISTED])
    more = f" and {len(fitting) - _LISTED} more" if len(fitting) > _LISTED else ""
    raise NotFoundError(f"'{text}' fits {len(fitting)} runs: {listed}{more}. Write more of the name.")


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs = {key: (wanted.get(key, MISSING), found.get(key, MISSING)) for key in [*wanted, *found]}
    return {key: pair for key, pair in pairs.items() if not same(*pair)}


def _added_keys(settings: Mapping[str, Any], defaults: Mapping[str, Any], run: Run) -> list[str]:
    """The keys of ``settings`` that ``run`` lacks; none where the two differ in any other way."""
    found = run.record.get("settings") or {}
    if not found or not all(key in settings and same(settings[key], value) for key, value in found.items()):
        return []
    added = [key for key in settings if key not in found]
    at_default = all(key in defaults and same_number(settings[key], defaults[key]) for key in added)
    return added if at_default else []
