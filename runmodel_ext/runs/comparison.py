"""Runs side by side: what differs, and which is better."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runmodel_ext.errors import ConfigError
from runmodel_ext.runs.run import Run, Score
from runmodel_ext.runs.values import MISSING, same

_CODE = ("commit", "branch", "dirty", "digest")


@dataclass(frozen=True)
class Comparison:
    """Two or more runs side by side; each list has one entry a run, in their order.

    Args:
        runs: The runs.
        settings: The settings that differ; ``MISSING`` where a run has no such setting.
        other_settings: The same for what does not decide the results.
        scores: All scores; ``None`` where a run has not that score.
        code: What differs among ``commit``, ``branch``, ``dirty``, and ``digest`` (of commit and patch).
        environment: What differs among versions, host and devices.
    """

    runs: tuple[Run, ...]
    settings: dict[str, list[Any]]
    other_settings: dict[str, list[Any]]
    scores: dict[str, list[Score | None]]
    code: dict[str, list[Any]]
    environment: dict[str, list[Any]]

    def best(self, score: str) -> list[int]:
        """Which runs reached the best value of a score, in its own direction.

        Args:
            score: The name of the score.

        Returns:
            The positions of these runs, several where they are level; none where only one run has the score,
            where nobody recorded which way is better, or where the runs disagree about it.
        """
        entries = [(place, entry) for place, entry in enumerate(self.scores.get(score, [])) if entry is not None]
        modes = {entry.mode for _, entry in entries}
        if len(entries) < 2 or len(modes) > 1 or None in modes:
            return []
        return [place for place, entry in entries if not any(other.beats(entry) for _, other in entries)]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Put runs side by side.

    Raises:
        ConfigError: If there are fewer than two.

    Example:
        >>> from pathlib import Path
        >>> runs = [Run(Path(), {"settings": {"model.lr": lr, "model.width": 8}}) for lr in (0.1, 0.2)]
        >>> compare_runs(runs).settings
        {'model.lr': [0.1, 0.2]}
    """
    if len(runs) < 2:
        raise ConfigError(f"A comparison takes two runs or more, but got {len(runs)}. Name another run.")
    return Comparison(
        runs=tuple(runs),
        settings=_differing(runs, lambda run: run.settings),
        other_settings=_differing(runs, lambda run: run.other_settings),
        scores=_side_by_side(runs, lambda run: run.scores, absent=None),
        code=_differing(runs, lambda run: {key: (run.code or {}).get(key, MISSING) for key in _CODE}),
        environment=_differing(runs, lambda run: run.environment),
    )


def _side_by_side(runs: Sequence[Run], values: Callable[[Run], Mapping[str, Any]], absent: Any) -> dict[str, list[Any]]:
    columns = [values(run) for run in runs]
    keys = dict.fromkeys(key for column in columns for key in column)
    return {key: [column.get(key, absent) for column in columns] for key in keys}


def _differing(runs: Sequence[Run], values: Callable[[Run], Mapping[str, Any]]) -> dict[str, list[Any]]:
    every = _side_by_side(runs, values, MISSING)
    return {key: found for key, found in every.items() if not all(same(found[0], other) for other in found[1:])}
