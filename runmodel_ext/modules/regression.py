"""Regression, in the target's own units."""

from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, R2Score
from typing_extensions import override

from runmodel_ext.errors import ConfigError
from runmodel_ext.modules.step import Step
from runmodel_ext.modules.supervised import SupervisedModule


class RegressionModule(SupervisedModule):
    """Train a network that gives numbers.

    The network learns ``(target - target_mean) / target_std``, for which its weights are scaled well; the
    loss (mean squared error) is in those units. Predictions and the metrics ``mae``, ``rmse`` and ``r2`` are
    in the target's own. The two numbers are stored with the weights, so a loaded module needs no data to
    answer in units.

    Args:
        network: Any network; its output has the target's shape, or one more dimension of 1.
        target_mean: Mean of the target, or one for each column of it; need not be exact.
        target_std: Standard deviation of the target, greater than 0, or one for each column.
        lr: Learning rate, greater than 0; ``None`` takes the optimizer's own.
        optimizer: What builds the optimizer from parameter groups; ``None`` is AdamW.
        lr_scheduler: What builds a scheduler from the optimizer; ``ReduceLROnPlateau`` watches ``monitor``.
        lr_interval: Whether the scheduler steps after each epoch or each optimizer step.
        metrics: Metrics by name, beside ``mae``, ``rmse`` and ``r2``; the same name replaces one.
        train_metrics: Whether the metrics are computed in training too.
        monitor: The score that says which checkpoint is the best.
        mode: Whether a lower (``min``) or higher (``max``) ``monitor`` is better; ``None`` asks the metric.

    Raises:
        ConfigError: If an argument cannot be used, or, at the first batch, the network's output.

    Example:
        >>> module = RegressionModule(nn.Linear(4, 1), target_mean=152.0, target_std=77.0)
        >>> prediction = module.predict_step((torch.zeros(2, 4), torch.tensor([150.0, 90.0])), 0)
        >>> {name: tuple(value.shape) for name, value in prediction.items()}
        {'prediction': (2,), 'score': (2,), 'target': (2,)}
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(  # noqa: PLR0913 - each argument is a key of a configuration
        self,
        network: nn.Module,
        target_mean: float | list[float] = 0.0,
        target_std: float | list[float] = 1.0,
        *,
        lr: float | None = 1e-3,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        metrics: dict[str, Metric] | None = None,
        train_metrics: bool = False,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        defaults = {"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False), "r2": R2Score()}
        super().__init__(
            network,
            lr=lr,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            lr_interval=lr_interval,
            metrics={**defaults, **(metrics or {})},
            train_metrics=train_metrics,
            monitor=monitor,
            mode=mode,
        )
        self.register_buffer("target_mean", torch.as_tensor(target_mean, dtype=torch.float32))
        self.register_buffer("target_std", torch.as_tensor(target_std, dtype=torch.float32))
        if not bool((self.target_std > 0).all()):
            raise ConfigError(f"`target_std` must be greater than 0, but is {target_std}.")

    @override
    def check_output(self, step: Step) -> None:
        output, target = step.output, step.target
        if target is None or output.shape == target.shape:
            return
        if tuple(output.shape) != (*target.shape, 1):
            raise ConfigError(
                f"forward of {type(self).__name__} gave an output of shape {tuple(output.shape)}, but the "
                f"target of shape {tuple(target.shape)} expects the same, or {(*target.shape, 1)}. "
                "Change the network's last layer."
            )

    @override
    def compute_loss(self, step: Step) -> Tensor:
        """Mean squared error in units of ``target_std``."""
        target = (step.target - self.target_mean) / self.target_std
        return functional.mse_loss(self._values(step), target)

    @override
    def predictions(self, step: Step) -> dict[str, Tensor]:
        """The predicted value in the target's units, twice: as ``prediction`` and as ``score``."""
        value = self._values(step).float() * self.target_std + self.target_mean
        return self._with_target(step, {"prediction": value, "score": value})

    def _values(self, step: Step) -> Tensor:
        # Without a target, one output a sample is one value a sample.
        output: Tensor = step.output
        one_each = output.ndim == 2 and output.shape[1] == 1
        return output.squeeze(-1) if (one_each if step.target is None else output.ndim > step.target.ndim) else output
