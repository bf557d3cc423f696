"""How far a fine-tuning has come: which stage is on, since when, and why the ones before it ended."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from runmodel_ext.finetuning.stages import Best, Plateau, Stage


@dataclass(frozen=True)
class Position:
    """A moment between two optimizer steps.

    Attributes:
        epoch: The epoch, counted from 0.
        step: Optimizer steps that were taken.
        share: How much of the fit is over, in ``[0, 1]``; ``nan`` where that is not known.
        within: Whether the epoch has begun already.
    """

    epoch: int
    step: int
    share: float = math.nan
    within: bool = False


@dataclass
class Progress:
    """Which stage is on, and what it has seen.

    Attributes:
        index: The number of the stage.
        epoch: The first epoch of which all belongs to the stage.
        begun: The epoch in which it began.
        step: The optimizer step at which it began.
        share: How much of the fit was over when it began.
        wait: How many looks there were since the last improvement, for ``until.plateau``.
        lowest: The plateau's best value so far; ``None`` before the first look.
        best: The best value so far, for ``restore_best``.
        reason: Why the stage is over; ``None`` while it is on.
        passed: The stages that are over, each as a mapping.

    Example:
        >>> from runmodel_ext.finetuning.stages import Until
        >>> progress = Progress()
        >>> progress.begin(0, Position(epoch=0, step=0))
        >>> stage = Stage("head", train="head", until=Until(epochs=3))
        >>> progress.due(stage, Position(2, 44)), progress.due(stage, Position(3, 66))
        (None, '3 epochs are over')
    """

    index: int = -1
    epoch: int = 0
    begun: int = 0
    step: int = 0
    share: float = 0.0
    wait: int = 0
    lowest: float | None = None
    best: float | None = None
    reason: str | None = None
    passed: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, index: int, at: Position) -> None:
        """Begin a stage."""
        self.index, self.begun, self.step = index, at.epoch, at.step
        self.epoch = at.epoch + at.within
        self.share = 0.0 if math.isnan(at.share) else at.share
        self.wait, self.lowest, self.best, self.reason = 0, None, None, None

    def due(self, stage: Stage, at: Position) -> str | None:
        """Why the stage is over at this moment; ``None`` where it goes on."""
        if self.reason is not None:
            return self.reason
        until = stage.until
        if until is None:
            return None
        if until.epochs is not None and at.epoch - self.epoch >= until.epochs:
            return f"{_counted(until.epochs, 'epoch')} over"
        if until.steps is not None and at.step - self.step >= until.steps:
            return f"{_counted(until.steps, 'step')} over"
        if until.fraction is not None and at.share - self.share >= until.fraction - 1e-9:
            return f"{until.fraction:.4g} of the fit is over"
        return None

    def look(self, stage: Stage, values: Mapping[str, float]) -> None:
        """Look at the metrics that end the stage; ``reason`` says if they do.

        Args:
            stage: The stage that is on.
            values: The value of each metric that the stage watches.
        """
        until = stage.until
        if until is None or self.reason is not None:
            return
        if until.reaches is not None:
            value, wanted = values[until.reaches.monitor], until.reaches.value
            if value >= wanted if until.reaches.mode == "max" else value <= wanted:
                self.reason = f"'{until.reaches.monitor}' came to {value:.6g}, which reaches {wanted:g}"
        if until.plateau is not None:
            self._look_at_plateau(until.plateau, values[until.plateau.monitor])

    def improves(self, best: Best, value: float) -> bool:
        """Whether a value is the stage's best so far; it is kept."""
        if math.isnan(value) or (self.best is not None and not _better(value, self.best, best.mode, 0.0)):
            return False
        self.best = value
        return True

    def end(self, stage: Stage, at: Position, reason: str) -> dict[str, Any]:
        """Note that the stage is over."""
        passed = {
            "stage": stage.name,
            "from": {"epoch": self.begun, "step": self.step},
            "to": {"epoch": at.epoch, "step": at.step},
            "ended": reason,
        }
        self.passed.append(passed)
        return passed

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain numbers and words."""
        return {**vars(self), "passed": [dict(each) for each in self.passed]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for name in vars(self):
            setattr(self, name, state[name])
        # A fit that goes on has not ended its stage, although the one before it did.
        self.passed = [dict(each) for each in state["passed"]][: max(0, self.index)]

    def _look_at_plateau(self, plateau: Plateau, value: float) -> None:
        first = self.lowest is None or (math.isnan(self.lowest) and not math.isnan(value))
        if first or _better(value, cast(float, self.lowest), plateau.mode, plateau.min_delta):
            self.lowest, self.wait = value, 0
            return
        self.wait += 1
        if self.wait >= plateau.patience and self.reason is None:
            looks = _counted(self.wait, "look").removesuffix(" is").removesuffix(" are")
            self.reason = f"'{plateau.monitor}' has not improved on {self.lowest:.6g} in {looks}"


def _better(value: float, than: float, mode: str, by: float) -> bool:
    return value > than + by if mode == "max" else value < than - by


def _counted(number: int, word: str) -> str:
    return f"{number} {word} is" if number == 1 else f"{number} {word}s are"
