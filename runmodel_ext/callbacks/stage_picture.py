"""What a fine-tuning has seen on its way, and the picture of it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from runmodel_ext.finetuning import (
    Conductor,
    Curve,
    Position,
    draw_stages,
    need_matplotlib,
    problem_of_picture,
    validation_metrics,
)

log = logging.getLogger(__name__)


class StagePicture:
    """Notes learning rates and metrics, and draws them when the fit ends.

    Args:
        file: The picture, relative to the logger's directory; ``None`` draws none.

    Attributes:
        curve: What was noted.
    """

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.curve = Curve()
        self._folder: Path | None = None

    def problems(self, trainer: Trainer) -> list[str]:
        """What is wrong with the picture, in sentences; every rank has to come here.

        Raises:
            MissingExtraError: If there is nothing to draw it with.
        """
        self._folder = None
        if self.file is None or getattr(trainer, "fast_dev_run", False):
            return []
        file: Any = self.file
        if not isinstance(file, (str, Path)):
            return [f"`picture` must be the path of a file, but is {file!r}."]
        need_matplotlib()
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)  # which all ranks have to ask for
        problem = problem_of_picture(self.file)
        return [problem] if problem else []

    def note(self, conductor: Conductor, at: Position, metrics: Mapping[str, float] | None = None) -> None:
        """Note the rates of a moment, or metrics."""
        # After a step, the groups still show the rates of that step, which may move with the next one.
        rates = {} if metrics is not None and self.curve.pace else conductor.learning_rates()
        self.curve.add(at, conductor.progress.index, rates, metrics)

    def new_metrics(self, trainer: Trainer, watched: Mapping[str, float]) -> dict[str, float]:
        """The metrics to show that have another value than before."""
        shown = self.metrics(trainer, watched)
        return {name: value for name, value in shown.items() if self.curve.last(name) != value}

    def metrics(self, trainer: Trainer, watched: Mapping[str, float]) -> dict[str, float]:
        """The metrics to show: those that are watched, else those of validation."""
        metrics = trainer.callback_metrics
        return {
            name: float(metrics[name]) for name in sorted(watched) or validation_metrics(metrics) if name in metrics
        }

    def draw(self, trainer: Trainer, history: Sequence[Mapping[str, Any]]) -> None:
        """Draw the picture, on rank 0; a failure is told and hides nothing."""
        if self._folder is None or self.file is None or not trainer.is_global_zero or not history:
            return
        try:
            draw_stages(history, self.curve.points, self._folder / self.file)
        except Exception as error:  # which must not hide how the fit ended
            log.warning("The picture of the stages could not be drawn: %s: %s", type(error).__name__, error)
