"""What a fine-tuning has seen on its way, small enough for every checkpoint."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from runmodel_ext.finetuning.progress import Position

_MOST_POINTS, _MOST_RATES = 2_000, 40_000


class Curve:
    """Learning rates and metrics at one moment after another.

    It holds at most about 2,000 points, fewer where there are many groups: when there are more, every second one is
    dropped that is neither a stage's or an epoch's first nor has a metric.

    Attributes:
        points: Plain mappings with ``step``, ``epoch``, ``stage`` (its number), ``rates`` (by the group's label) and
            ``metrics`` (by name).
        every: At each how manieth batch a rate that always moves is worth a point.
        pace: At each how manieth batch a point is noted now; 0 where rates rest within an epoch.

    Example:
        >>> curve = Curve()
        >>> curve.add(Position(epoch=0, step=0), 0, {"head": 0.1})
        >>> curve.add(Position(epoch=0, step=9), 0, {"head": 0.1}, {"val/loss": 0.5})
        >>> curve.points[-1]
        {'step': 9, 'epoch': 0, 'stage': 0, 'rates': {'head': 0.1}, 'metrics': {'val/loss': 0.5}}
    """

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []
        self.every = 1
        self.pace = 0

    def add(
        self, at: Position, stage: int, rates: Mapping[str, float], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Add a point; what is new at the same moment, with the same rates, goes to the point that is there."""
        point = {"step": at.step, "epoch": at.epoch, "stage": stage, "rates": dict(rates)}
        if self.points and self.points[-1] | point == self.points[-1]:
            self.points[-1]["metrics"].update(metrics or {})
            return
        self.points.append({**point, "metrics": dict(metrics or {})})
        if len(self.points) > max(200, min(_MOST_POINTS, _MOST_RATES // max(1, len(rates)))):
            self._thin()

    def last(self, name: str) -> float | None:
        """The last value of a metric; ``None`` where there is none."""
        return next((point["metrics"][name] for point in reversed(self.points) if name in point["metrics"]), None)

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain numbers and words."""
        points = [{**point, "metrics": dict(point["metrics"])} for point in self.points]
        return {"points": points, "every": self.every, "pace": self.pace}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.points = [{**point, "metrics": dict(point["metrics"])} for point in state["points"]]
        self.every, self.pace = state["every"], state["pace"]

    def _thin(self) -> None:
        before = len(self.points)
        self.every *= 2
        self._keep_half("stage", "epoch", metrics=True)
        if len(self.points) > before * 3 // 4:  # it is made of epochs and validations
            self._keep_half("stage", metrics=False)

    def _keep_half(self, *firsts: str, metrics: bool) -> None:
        kept, drop = self.points[:1], False
        for before, point in pairwise(self.points):
            matters = any(point[name] != before[name] for name in firsts) or (metrics and point["metrics"])
            drop = not matters and not drop
            if not drop:
                kept.append(point)
        self.points = kept
