"""Metrics that stages and schedulers watch, which Lightning forgets at a resume."""

from collections.abc import Iterable, Sequence

import torch
from lightning.pytorch import Trainer

from runmodel_ext.errors import ScheduleError


class WatchedMetrics:
    """Keeps the last value of each.

    Attributes:
        seen: The values, by name.
    """

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def see(self, trainer: Trainer, names: Iterable[str]) -> None:
        """Keep the values of these metrics, and of those for which the module's schedulers wait."""
        configs = trainer.lr_scheduler_configs
        watched = {*names, *(str(config.monitor) for config in configs if config.reduce_on_plateau)}
        if watched:
            metrics = trainer.callback_metrics
            self.seen.update({name: float(metrics[name]) for name in watched if name in metrics})

    def show(self, trainer: Trainer) -> None:
        """Let the Trainer know the values again, where schedulers look for them."""
        values = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.seen.items()}
        trainer.callback_metrics.update(values)

    def are_there(self, trainer: Trainer, names: Sequence[str]) -> bool:
        """Whether all of them have a value."""
        return all(name in self.seen or name in trainer.callback_metrics for name in names)

    def values(self, trainer: Trainer, names: Sequence[str], stage: str) -> dict[str, float]:
        """The values of these metrics, the same on every rank.

        Args:
            trainer: The Trainer.
            names: The metrics.
            stage: The name of the stage that watches them.

        Raises:
            ScheduleError: If one of them is not logged.
        """
        logged = trainer.callback_metrics
        known = {**self.seen, **{name: float(value) for name, value in logged.items() if name in names}}
        missing = [name for name in names if name not in known]
        if missing:
            listed = ", ".join(f"'{name}'" for name in sorted(logged)) or "nothing"
            raise ScheduleError(
                f"Stage '{stage}' watches '{missing[0]}', but the module does not log it; it logs {listed}. "
                f"Watch one of those, or log '{missing[0]}' in validation_step."
            )
        values = [known[name] for name in names]
        if trainer.world_size > 1:  # the ranks may have seen different data, and must decide alike
            values = trainer.strategy.broadcast(values)
        return dict(zip(names, values, strict=True))
