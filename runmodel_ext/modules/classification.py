"""Classification: binary, multiclass and multilabel."""

from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelF1Score,
)
from typing_extensions import override

from runmodel_ext.errors import ConfigError
from runmodel_ext.modules.step import Step
from runmodel_ext.modules.supervised import SupervisedModule

Task = Literal["multiclass", "binary", "multilabel"]


class ClassificationModule(SupervisedModule):
    """Train a network that gives one logit for each class.

    ==============  ======================  =========================  ==================================
    task            network's output        target                     ``score`` of a prediction
    ==============  ======================  =========================  ==================================
    ``multiclass``  (batch, classes)        (batch,) of class numbers  probability of the predicted class
    ``binary``      (batch,) or (batch, 1)  (batch,) of 0 and 1        probability of class 1
    ``multilabel``  (batch, labels)         (batch, labels), 0 and 1   probability of each label
    ==============  ======================  =========================  ==================================

    ``multiclass`` predictions also hold ``probability``, all classes' probabilities. ``acc`` and ``f1`` are
    computed by default: accuracy over samples and the mean of the classes' F1 (for ``multilabel``, both are
    means over labels).

    Args:
        network: Any network; its output are logits.
        num_classes: Number of classes, at least 2; of labels, at least 1, for ``multilabel``; 2 for
            ``binary``.
        task: ``multiclass``, ``binary`` or ``multilabel``.
        lr: Learning rate, greater than 0; ``None`` takes the optimizer's own.
        optimizer: What builds the optimizer from parameter groups; ``None`` is AdamW.
        lr_scheduler: What builds a scheduler from the optimizer; ``ReduceLROnPlateau`` watches ``monitor``.
        lr_interval: Whether the scheduler steps after each epoch or each optimizer step.
        metrics: Metrics by name, beside ``acc`` and ``f1``; the same name replaces one.
        train_metrics: Whether the metrics are computed in training too.
        monitor: The score that says which checkpoint is the best.
        mode: Whether a lower (``min``) or higher (``max``) ``monitor`` is better; ``None`` asks the metric.

    Raises:
        ConfigError: If an argument cannot be used, or, at the first batch, the network's output.

    Example:
        >>> import torch
        >>> module = ClassificationModule(nn.Linear(4, 3), num_classes=3)
        >>> module.monitor, module.mode
        ('val/acc', 'max')
        >>> prediction = module.predict_step(torch.zeros(5, 4), 0)
        >>> {name: tuple(value.shape) for name, value in prediction.items()}
        {'prediction': (5,), 'score': (5,), 'probability': (5, 3)}
    """

    def __init__(  # noqa: PLR0913 - each argument is a key of a configuration
        self,
        network: nn.Module,
        num_classes: int,
        task: Task = "multiclass",
        *,
        lr: float | None = 1e-3,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        metrics: dict[str, Metric] | None = None,
        train_metrics: bool = False,
        monitor: str = "val/acc",
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        super().__init__(
            network,
            lr=lr,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            lr_interval=lr_interval,
            metrics={**_default_metrics(task, num_classes), **(metrics or {})},
            train_metrics=train_metrics,
            monitor=monitor,
            mode=mode,
        )
        self.num_classes = num_classes
        self.task = task

    @override
    def check_output(self, step: Step) -> None:
        shape = tuple(step.output.shape)
        if self.task == "binary":
            if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
                return
            expected = "(batch,) or (batch, 1)"
        else:
            if len(shape) == 2 and shape[1] == self.num_classes:
                return
            expected = f"(batch, {self.num_classes})"
        raise ConfigError(
            f"forward of {type(self).__name__} gave an output of shape {shape}, but task '{self.task}' "
            f"with num_classes={self.num_classes} expects {expected}. "
            "Change the network's last layer or num_classes."
        )

    @override
    def compute_loss(self, step: Step) -> Tensor:
        """Cross entropy; for ``binary`` and ``multilabel``, of each logit by itself."""
        if self.task == "multiclass":
            return functional.cross_entropy(step.output, step.target)
        logits = self._logits(step)
        target = step.target.reshape(logits.shape) if self.task == "binary" else step.target
        return functional.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))

    @override
    def predictions(self, step: Step) -> dict[str, Tensor]:
        """The predicted class or labels, their ``score`` and, for multiclass, ``probability``."""
        logits = self._logits(step).float()
        if self.task == "multiclass":
            probability = logits.softmax(dim=-1)
            score, prediction = probability.max(dim=-1)
            named = {"prediction": prediction, "score": score, "probability": probability}
        else:
            score = logits.sigmoid()
            named = {"prediction": (score > 0.5).long(), "score": score}
        if step.target is not None:
            named["target"] = step.target.reshape(named["prediction"].shape).long()
        return named

    def _logits(self, step: Step) -> Tensor:
        output: Tensor = step.output
        return output.reshape(-1) if self.task == "binary" else output


def _default_metrics(task: str, num_classes: int) -> dict[str, Metric]:
    settings: dict[str, Any] = {"validate_args": False}  # the checks read every batch back from the device
    match task:
        case "multiclass":
            _require(num_classes >= 2, num_classes, "at least 2 for task 'multiclass'")
            return {
                "acc": MulticlassAccuracy(num_classes, average="micro", **settings),
                "f1": MulticlassF1Score(num_classes, average="macro", **settings),
            }
        case "binary":
            _require(num_classes == 2, num_classes, "2 for task 'binary', whose network has one output")
            return {"acc": BinaryAccuracy(**settings), "f1": BinaryF1Score(**settings)}
        case "multilabel":
            _require(num_classes >= 1, num_classes, "at least 1 for task 'multilabel'")
            return {
                "acc": MultilabelAccuracy(num_classes, average="macro", **settings),
                "f1": MultilabelF1Score(num_classes, average="macro", **settings),
            }
        case _:
            raise ConfigError(f"`task` must be 'multiclass', 'binary' or 'multilabel', but is {task!r}.")


def _require(holds: bool, num_classes: int, must_be: str) -> None:
    if not holds:
        raise ConfigError(f"`num_classes` must be {must_be}, but is {num_classes}.")
