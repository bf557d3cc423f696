"""The pipeline of named steps that all modules share."""

import inspect
from collections.abc import Mapping
from types import FrameType
from typing import Any, ClassVar, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn, no_grad
from torch.nn import functional
from torch.optim import Optimizer
from torchmetrics import Metric
from typing_extensions import override

from runmodel_ext.errors import ConfigError
from runmodel_ext.modules.hyperparameters import unsafe_arguments
from runmodel_ext.modules.optimization import build_optimizer, decay_groups, schedule
from runmodel_ext.modules.scores import Scores, score_name
from runmodel_ext.modules.step import Phase, Step


class SupervisedModule(LightningModule):
    """Train a network on inputs and targets, each step of the way a method that can be overridden alone.

    Training, validation, test and prediction run one pipeline: ``prepare_batch``, ``forward``,
    ``check_output``, ``compute_loss``, ``predictions``, ``update_metrics``, ``log_scores``. Training skips
    predictions and metrics unless ``train_metrics`` is on; prediction needs no target, and skips loss,
    metrics and log. Scores are logged as ``train/loss``, ``val/loss``, ``val/<metric>``, ``test/<metric>``; a
    second loader's as ``val/<metric>/dataloader_idx_1``.

    It works in a bare Trainer. A checkpoint holds the arguments that are plain values;
    ``load_from_checkpoint`` takes the others again (``network=``, and ``optimizer=`` or ``metrics=`` where
    they were given), or needs none where LightningCLI built the module.

    Args:
        network: Any network; its output goes to ``compute_loss`` as it is.
        lr: Learning rate, greater than 0; ``None`` takes the optimizer's own.
        optimizer: What builds the optimizer from parameter groups; ``None`` is AdamW.
        lr_scheduler: What builds a scheduler from the optimizer; ``ReduceLROnPlateau`` watches ``monitor``.
        lr_interval: Whether the scheduler steps after each epoch or each optimizer step.
        metrics: Metrics by name, beside the defaults of the task; the same name replaces a default.
        train_metrics: Whether the metrics are computed in training too.
        monitor: The score that says which checkpoint is the best.
        mode: Whether a lower (``min``) or higher (``max``) ``monitor`` is better; ``None`` asks the metric.

    Raises:
        ConfigError: If an argument cannot be used; the sentence says which and why.

    Example:
        >>> import torch
        >>> module = SupervisedModule(nn.Linear(4, 1), lr=0.01)
        >>> module.monitor, module.mode
        ('val/loss', 'min')
        >>> module.run_step("predict", torch.zeros(3, 4), batch_idx=0).prediction["score"].shape
        torch.Size([3, 1])
    """

    target_keys: ClassVar[tuple[str, ...]] = ("target", "label", "labels", "y")
    """Where ``prepare_batch`` looks for the target of a batch that is a dict."""

    def __init__(  # noqa: PLR0913 - each argument is a key of a configuration
        self,
        network: nn.Module,
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
        super().__init__()
        if lr is not None and not lr > 0:
            raise ConfigError(f"`lr` must be greater than 0, but is {lr:g}.")
        self.save_hyperparameters()
        self.network = network
        self.lr = lr
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval: Literal["epoch", "step"] = lr_interval
        self.scores = Scores(metrics or {})
        self.train_metrics = train_metrics
        self.monitor = monitor
        self.mode: str = mode or self._mode_of(monitor)

    @property
    def score_modes(self) -> dict[str, str]:
        """For each score that is logged, ``min`` or ``max``, as its metric declares it."""
        return self.scores.modes()

    # The steps, in the order in which they run.

    def run_step(self, phase: Phase, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Step:
        """Send one batch through the steps; what each of them left is in the result."""
        step = Step(phase, batch, batch_idx, dataloader_idx)
        step.inputs, step.target = self.prepare_batch(batch)
        step.output = self(step.inputs)
        self.check_output(step)
        if phase != "predict":
            self._require_target(step)
            step.loss = self.compute_loss(step)
        if phase != "train" or self.train_metrics:
            with no_grad():
                step.prediction = self.predictions(step)
                if phase != "predict":
                    self.update_metrics(step)
        if phase != "predict":
            self.log_scores(step)
        return step

    def prepare_batch(self, batch: Any) -> tuple[Any, Any]:
        """Split a batch into inputs and target; the target is ``None`` where there is none.

        ``(inputs, target)`` and ``(inputs,)`` are taken as they stand. Of a dict, the first of
        ``target_keys`` is the target and the rest the inputs (a lone one without its name). Anything else is
        inputs alone.
        """
        if isinstance(batch, (tuple, list)):
            if len(batch) not in (1, 2):
                raise ConfigError(
                    f"prepare_batch of {type(self).__name__} takes (inputs, target), but the batch is a "
                    f"{type(batch).__name__} of {len(batch)}. Override prepare_batch to say which is which."
                )
            return batch[0], batch[1] if len(batch) == 2 else None
        if isinstance(batch, Mapping):
            key = next((key for key in self.target_keys if key in batch), None)
            inputs = {name: value for name, value in batch.items() if name != key}
            return next(iter(inputs.values())) if len(inputs) == 1 else inputs, batch[key] if key else None
        return batch, None

    @override
    def forward(self, inputs: Any) -> Any:
        """Run the network; a dict becomes its keyword arguments, a tuple or list its positional ones."""
        if isinstance(inputs, Tensor):
            return self.network(inputs)
        if isinstance(inputs, Mapping):
            return self.network(**inputs)
        return self.network(*inputs) if isinstance(inputs, (tuple, list)) else self.network(inputs)

    def check_output(self, step: Step) -> None:
        """Refuse an output that the task cannot use; here, none is refused."""

    def compute_loss(self, step: Step) -> Tensor:
        """The scalar to minimise, from ``step.output`` and ``step.target``; here, the mean squared error."""
        return functional.mse_loss(step.output, step.target)

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """What is told of each sample, as tensors ``batch_size`` long.

        Returns:
            ``prediction`` (what is predicted), ``score`` (the number behind it) and, if the batch has one,
            ``target``.
        """
        output = step.output.float()
        return self._with_target(step, {"prediction": output, "score": output})

    def update_metrics(self, step: Step) -> None:
        """Count the batch in the metrics: ``probability`` where the prediction has it, else ``score``."""
        prediction = step.prediction or {}
        predicted = prediction["probability"] if "probability" in prediction else prediction["score"]
        target = prediction.get("target", step.target)
        self.scores.update(step.phase, step.dataloader_idx, predicted, target)

    def log_scores(self, step: Step) -> None:
        """Log the loss: each step's own in training, else the mean over the epoch's samples."""
        training = step.phase == "train"
        self.log(
            score_name(step.phase, "loss", step.dataloader_idx),
            step.loss,  # type: ignore[arg-type]
            prog_bar=True,
            on_step=training,
            on_epoch=not training,
            sync_dist=not training,
            batch_size=step.batch_size,
            add_dataloader_idx=False,
        )

    # What is optimized, and how.

    def weight_decay_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups: norms, biases and other 1-d parameters do not decay."""
        return decay_groups(self)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer: Optimizer = build_optimizer(self.optimizer, self.weight_decay_groups(), self.lr)
        if self.lr_scheduler is None:
            return optimizer
        settings = schedule(self.lr_scheduler, optimizer, self.lr_interval, self.monitor, self.score_modes)
        return {"optimizer": optimizer, "lr_scheduler": settings}  # type: ignore[return-value]

    # Lightning's hooks.

    @override
    def training_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor | None:
        return self.run_step("train", batch, batch_idx, dataloader_idx).loss

    @override
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        return self.run_step("validate", batch, batch_idx, dataloader_idx).prediction

    @override
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        return self.run_step("test", batch, batch_idx, dataloader_idx).prediction

    @override
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        return self.run_step("predict", batch, batch_idx, dataloader_idx).prediction

    @override
    def on_train_epoch_end(self) -> None:
        self._log_metrics("train")

    @override
    def on_validation_epoch_start(self) -> None:
        self.scores.reset("validate")

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_metrics("validate")

    @override
    def on_test_epoch_start(self) -> None:
        self.scores.reset("test")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    @override
    def save_hyperparameters(
        self, *args: Any, ignore: Any = None, frame: FrameType | None = None, logger: bool = True
    ) -> None:
        """Keep the constructor's arguments in checkpoints, without those that only a pickle could hold."""
        here = inspect.currentframe()
        caller = frame or (here.f_back if here else None)
        ignored = [ignore] if isinstance(ignore, str) else list(ignore or [])
        ignored += unsafe_arguments(self, caller)
        super().save_hyperparameters(*args, ignore=ignored, frame=caller, logger=logger)

    def _log_metrics(self, phase: Phase) -> None:
        scores = self.scores.compute(phase)
        self.log_dict(scores, prog_bar=True, sync_dist=True, add_dataloader_idx=False)

    def _mode_of(self, monitor: str) -> str:
        modes = self.score_modes
        if monitor not in modes:
            known = ", ".join(name for name in modes if name.startswith("val/"))
            raise ConfigError(
                f"`monitor` is '{monitor}', whose direction no metric declares; known are {known}. "
                "Name one of them, or say `mode: min` or `mode: max`."
            )
        return modes[monitor]

    def _require_target(self, step: Step) -> None:
        if step.target is None:
            raise ConfigError(
                f"prepare_batch of {type(self).__name__} found no target in a batch of type "
                f"{type(step.batch).__name__}, but '{step.phase}' needs one. Give it (inputs, target)."
            )

    @staticmethod
    def _with_target(step: Step, prediction: dict[str, Tensor]) -> dict[str, Tensor]:
        if step.target is not None:
            prediction["target"] = step.target
        return prediction
