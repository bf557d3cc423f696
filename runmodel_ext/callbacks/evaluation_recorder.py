"""Write the scores of a test or validation into the record of its run."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from runmodel_ext.callbacks.run_recorder import how_it_ended
from runmodel_ext.callbacks.sigterm import Sigterm
from runmodel_ext.runs import Mode, RunWriter


class EvaluationRecorder(Callback):
    """Record what a test, a validation or a prediction found, and how it ended.

    A test's scores become the run's; a validation's only where the fit left none of that name, because those
    say when they were reached. All stay with the attempt.

    Args:
        writer: The writer of the attempt.
        modes: Which way each metric is better, where its author said so.
        checkpoint: The checkpoint that is evaluated, relative to the run; ``None`` for untrained weights.
    """

    def __init__(self, writer: RunWriter, modes: Mapping[str, Mode], checkpoint: str | None) -> None:
        self.writer = writer
        self.modes = dict(modes)
        self.checkpoint = checkpoint
        self.scores: dict[str, dict[str, Any]] = {}

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Sigterm().answer(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Sigterm().answer(trainer)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Sigterm().answer(trainer)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            self.writer.end(*how_it_ended(exception))

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero or trainer.state.status == "interrupted":
            return
        self.writer.update(self._store)
        self.writer.end("finished")

    def _collect(self, trainer: Trainer) -> None:
        # Reading the metrics may reduce them across ranks, so that every rank must come here.
        self.scores = {
            name: {"value": float(value), "mode": self.modes.get(name), "epoch": None, "step": None}
            | {"from": self.writer.folder, "checkpoint": self.checkpoint}
            for name, value in trainer.callback_metrics.items()
        }

    def _store(self, record: dict[str, Any]) -> None:
        entry = self.writer.attempt(record)
        entry["scores"] = {name: score["value"] for name, score in self.scores.items()}
        kept = record.setdefault("scores", {})
        of_fit = {name for name, score in kept.items() if str(score.get("from", "")).startswith("fit-")}
        kept.update({name: score for name, score in self.scores.items() if name not in of_fit})
