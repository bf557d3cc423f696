"""Runs as a table, for notebooks."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runmodel_ext.errors import MissingExtraError
from runmodel_ext.runs.run import Run

if TYPE_CHECKING:
    import pandas

_FIELDS = ("name", "status", "seed", "version", "digest", "created", "ended", "seconds", "tags", "notes")


def to_records(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """One flat dictionary a run: its name, status, seed and so on, then its settings by key, then its scores.

    Example:
        >>> from pathlib import Path
        >>> record = {"name": "a/v1", "digest": "k3j2", "status": "finished", "settings": {"model.lr": 0.1}}
        >>> to_records([Run(Path("a/v1"), record)])[0]["model.lr"]
        0.1
    """
    return [_flat(run) for run in runs]


def to_frame(runs: Iterable[Run]) -> "pandas.DataFrame":
    """The same as a data frame: one row a run, one column a field, setting or score.

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingExtraError(
            "A data frame of runs needs pandas, which is not installed. "
            "Run `pip install 'runmodel_ext[frame]'`, or use `to_records`."
        ) from None
    return pandas.DataFrame(to_records(runs))


def _flat(run: Run) -> dict[str, Any]:
    settings = {**run.other_settings, **run.settings}
    scores = {name: score.value for name, score in run.scores.items()}
    return {**settings, **scores, **{field: getattr(run, field) for field in _FIELDS}}
