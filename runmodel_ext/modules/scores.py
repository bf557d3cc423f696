"""Metrics of each phase and loader, and which way each is better."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from runmodel_ext.modules.step import Phase

PREFIX: dict[Phase, str] = {"train": "train/", "validate": "val/", "test": "test/"}


def score_name(phase: Phase, name: str, dataloader_idx: int = 0) -> str:
    """The name under which a score is logged; the first loader's scores carry no number.

    Example:
        >>> score_name("validate", "acc"), score_name("validate", "acc", 1)
        ('val/acc', 'val/acc/dataloader_idx_1')
    """
    return f"{PREFIX[phase]}{name}{_suffix(dataloader_idx)}"


class Scores(nn.Module):
    """The same metrics once for each phase and each loader, so that none sees another's samples.

    Args:
        metrics: The metrics by their short names; they serve as patterns and are never updated themselves.

    Example:
        >>> import torch
        >>> from torchmetrics import MeanAbsoluteError
        >>> scores = Scores({"mae": MeanAbsoluteError()})
        >>> scores.update("validate", 0, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> scores.compute("validate")
        {'val/mae': tensor(1.)}
        >>> scores.modes()["val/mae"]
        'min'
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        # Compute groups are found by comparing states after one batch, where different metrics can agree by
        # chance.
        self.pattern = MetricCollection(dict(metrics), compute_groups=False)
        self.collections = nn.ModuleDict()
        self._updated: set[str] = set()

    def update(self, phase: Phase, dataloader_idx: int, predicted: Tensor, target: Tensor) -> None:
        """Count one batch of a phase and loader."""
        if not len(self.pattern):
            return
        key = score_name(phase, "", dataloader_idx)
        if key not in self.collections:
            copy = self.pattern.clone(prefix=PREFIX[phase], postfix=_suffix(dataloader_idx))
            # Added while the module is in eval mode; Lightning would report that as a mistake of the user.
            self.collections[key] = copy.to(predicted.device).train()
        self._updated.add(key)
        cast(MetricCollection, self.collections[key]).update(predicted, target)

    def compute(self, phase: Phase) -> dict[str, Tensor]:
        """The phase's scores over all that was counted since the last call, over all replicas."""
        scores: dict[str, Tensor] = {}
        for key in sorted(key for key in self._updated if key.startswith(PREFIX[phase])):
            collection = cast(MetricCollection, self.collections[key])
            scores.update(collection.compute())
        self.reset(phase)
        return scores

    def reset(self, phase: Phase) -> None:
        """Forget what the phase has counted."""
        for key in [key for key in self._updated if key.startswith(PREFIX[phase])]:
            cast(MetricCollection, self.collections[key]).reset()
            self._updated.discard(key)

    def modes(self) -> dict[str, str]:
        """For each logged name, ``min`` or ``max``, where the metric declares its direction."""
        directions: dict[str, bool | None] = {"loss": False}
        for name, metric in self.pattern.items(keep_base=True, copy_state=False):
            directions[str(name)] = metric.higher_is_better
        return {
            score_name(phase, name): "max" if higher else "min"
            for phase in PREFIX
            for name, higher in directions.items()
            if higher is not None
        }


def _suffix(dataloader_idx: int) -> str:
    return f"/dataloader_idx_{dataloader_idx}" if dataloader_idx else ""
