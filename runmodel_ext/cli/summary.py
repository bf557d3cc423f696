"""What a command prints at its end: the scores, and where the run lies."""

import math

from runmodel_ext._tables import print_rows
from runmodel_ext.cli.sections import duration
from runmodel_ext.runs import Run, Score


def print_summary(run: Run, remark: str | None, folder: str | None) -> None:
    """Print a short table of scores and the run's path.

    Args:
        run: The run.
        remark: How it stands, where that is not its status.
        folder: The attempt whose scores are shown; those of the whole run where it is ``None``.
    """
    rows = [_row(name, score, run) for name, score in run.scores.items() if folder is None or score.source == folder]
    if folder is not None and not rows:
        rows = [[name, value, ""] for name, value in _attempt_scores(run, folder).items()]
    print()
    if rows:
        print_rows(["score", "value", "where"], rows)
        print()
    took = f", {duration(run.seconds)} of training" if run.seconds else ""
    print(f"{remark or run.status}{took}: {run.path}" if folder is None else f"{folder}: {run.path / folder}")


def _row(name: str, score: Score, run: Run) -> list[object]:
    where = score.source if score.epoch is None else f"epoch {score.epoch}"
    chosen = ", best" if name == run.monitor and score.epoch is not None else ""
    if chosen and math.isnan(score.value):
        chosen = ", and no number in any epoch: no checkpoint is the best"
    return [name, float(f"{score.value:.4g}"), where + chosen]


def _attempt_scores(run: Run, folder: str) -> dict[str, float]:
    entry = next((entry for entry in run.attempts if entry["folder"] == folder), {})
    return {name: float(f"{value:.4g}") for name, value in (entry.get("scores") or {}).items()}
