"""What Lightning leaves out when a fit goes on from a checkpoint: validation, an epoch's end, steps of schedulers."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.optim.lr_scheduler import LRScheduler

from runmodel_ext._private import (
    begin_with_a_whole_epoch,
    count_the_epoch,
    go_to_the_epoch_end,
    leave_the_epoch,
    owe_the_epoch_end,
    owe_the_validation,
    where_saved,
)
from runmodel_ext.callbacks.fit_length import validation_is_due
from runmodel_ext.finetuning import keep_gradients, put_back_gradients, restores_by_name

KEY = "runmodel_finetuning"


class Resumption:
    """Makes up for it, by marks in the checkpoint.

    ``ModelCheckpoint`` saves after a batch, and before the validation that is due then; a fit that goes on from there
    would begin behind it, and behind the epoch's end with it. In the epoch of a resume, a scheduler that waits for a
    metric is not stepped at the epoch's end. Gradients that were accumulated are lost.
    """

    def __init__(self) -> None:
        self._between_epochs = self._epoch_end_due = False
        self._owed: list[tuple[int, int]] = []
        self._owed_now: list[tuple[int, float]] = []
        self._gradients: dict[str, torch.Tensor] = {}

    def mark(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write into a checkpoint what a fit that goes on from it has to make up for."""
        saved = where_saved(checkpoint, trainer.num_training_batches)
        validation_due = saved.before_validation and validation_is_due(trainer)
        accumulates = saved.batches % trainer.accumulate_grad_batches != 0 and not saved.after_last_batch
        due_now = saved.before_validation and not validation_due and not accumulates
        now = _waiting(trainer, "step", trainer.fit_loop.batch_idx) if due_now else {}
        metrics = trainer.callback_metrics
        checkpoint[KEY] = {
            "validation_due": validation_due,
            "epoch_end_due": saved.before_validation and saved.after_last_batch and not validation_due,
            "epoch_end": saved.at_epoch_end,
            "owed": list(_waiting(trainer, "epoch", trainer.current_epoch)) if saved.within_epoch else [],
            "owed_now": [(place, float(metrics[name])) for place, name in now.items() if name in metrics],
        }
        shared = trainer.world_size == 1 or restores_by_name(trainer)
        if accumulates and pl_module.automatic_optimization and shared:
            # Under DDP each rank has its own, and one of them saves.
            checkpoint[KEY]["gradients"] = keep_gradients(pl_module)

    def read(self, checkpoint: dict[str, Any]) -> None:
        """Take the marks of a checkpoint, before Lightning reads the states of its loops from it."""
        marks = checkpoint.get(KEY, {})
        if marks.get("validation_due"):
            owe_the_validation(checkpoint)
        self._epoch_end_due = marks.get("epoch_end_due", False)
        if self._epoch_end_due:
            owe_the_epoch_end(checkpoint)
        self._between_epochs = marks.get("epoch_end", False)
        if self._between_epochs:
            count_the_epoch(checkpoint)

    def take_debts(self, checkpoint: dict[str, Any], schedulers: Sequence[Any]) -> None:
        """Take from the marks which steps of schedulers, and which gradients, are missing."""
        marks = checkpoint.get(KEY, {})
        self._owed = [(place, schedulers[place].steps) for place in marks.get("owed", ())]
        self._owed_now = list(marks.get("owed_now", ()))
        self._gradients = dict(marks.get("gradients", {}))

    def set_loops(self, trainer: Trainer) -> None:
        """Let Lightning's loops begin where the checkpoint was saved, when training starts."""
        if self._between_epochs and trainer.max_steps != -1:
            begin_with_a_whole_epoch(trainer)
        if self._epoch_end_due:
            go_to_the_epoch_end(trainer)
        self._between_epochs = False

    def give_back(self, pl_module: LightningModule, schedulers: Sequence[Any]) -> None:
        """Give back accumulated gradients, and take the steps of schedulers that were due at once."""
        put_back_gradients(self._gradients, pl_module)
        self._gradients = {}
        for place, value in self._owed_now:
            pl_module.lr_scheduler_step(cast(LRScheduler, schedulers[place]), value)
        self._owed_now = []

    def end_epoch(self, trainer: Trainer) -> None:
        """Let the next epoch train, after one of which only the end was left."""
        if self._epoch_end_due:
            self._epoch_end_due = False
            leave_the_epoch(trainer)

    def pay_schedulers(self, trainer: Trainer, pl_module: LightningModule, schedulers: Sequence[Any]) -> None:
        """Step the schedulers that were due at the epoch's end, where Lightning has not."""
        owed, self._owed = self._owed, []
        for place, steps in owed:
            value = trainer.callback_metrics.get(str(trainer.lr_scheduler_configs[place].monitor))
            if schedulers[place].steps == steps and value is not None:
                pl_module.lr_scheduler_step(cast(LRScheduler, schedulers[place]), value)


def _waiting(trainer: Trainer, interval: str, index: int) -> dict[int, str]:
    """The schedulers that wait for a metric and are due, each with the metric's name."""
    if not trainer.lightning_module.automatic_optimization:
        return {}
    return {
        place: str(config.monitor)
        for place, config in enumerate(trainer.lr_scheduler_configs)
        if config.reduce_on_plateau and config.interval == interval and (index + 1) % config.frequency == 0
    }
