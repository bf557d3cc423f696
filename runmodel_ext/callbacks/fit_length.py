"""How long a fit is, how much of it is over, and when Lightning looks at metrics."""

import math

from lightning.pytorch import Trainer

from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import Length


def length_of(trainer: Trainer, begun: bool) -> Length:
    """The length of a fit.

    Args:
        trainer: The Trainer.
        begun: Whether training has begun, so that the number of batches is known.
    """
    max_epochs = None if trainer.max_epochs in (None, -1) else trainer.max_epochs
    max_steps = None if trainer.max_steps == -1 else trainer.max_steps
    return Length(max_epochs, max_steps, _steps_per_epoch(trainer) if begun else None, _looks_per_epoch(trainer))


def looks_at_epoch_ends(trainer: Trainer) -> bool:
    """Whether metrics are looked at when an epoch ends, and not after each validation: as EarlyStopping decides."""
    if not trainer.enable_validation:
        return True
    return trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1


def share_over(trainer: Trainer) -> float:
    """How much of the fit is over: of its epochs, or of its steps where that is more.

    Raises:
        ScheduleError: If the length of the fit is not known.
    """
    shares = []
    if trainer.max_steps != -1:
        shares.append(trainer.global_step / max(1, trainer.max_steps))
    if trainer.max_epochs not in (None, -1) and math.isfinite(trainer.num_training_batches):
        done = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        shares.append(done / max(1, trainer.num_training_batches * trainer.max_epochs))
    if not shares:
        raise ScheduleError(
            "`until.fraction` needs a fit whose length is known, but the training data has no length. "
            "Set max_steps, or take `until.steps`."
        )
    return max(shares)


def validation_is_due(trainer: Trainer) -> bool:
    """Whether validation comes right after this batch, as Lightning's loop decides."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every != 0):
        return False
    loop = trainer.fit_loop.epoch_loop
    interval = trainer.val_check_batch
    if interval is None:  # by the clock
        return False
    if interval == float("inf"):
        return bool(loop.batch_progress.is_last_batch)
    index = loop.total_batch_idx if every is None else loop.batch_idx
    return bool((index + 1) % interval == 0)


def _steps_per_epoch(trainer: Trainer) -> int | None:
    batches = trainer.num_training_batches
    if not math.isfinite(batches) or not trainer.lightning_module.automatic_optimization:
        return None
    return math.ceil(batches / trainer.accumulate_grad_batches)


def _looks_per_epoch(trainer: Trainer) -> float | None:
    if looks_at_epoch_ends(trainer):
        return 1.0
    if trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch:
        return 1.0 / trainer.check_val_every_n_epoch
    return None
