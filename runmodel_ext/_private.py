"""The private parts of Lightning that the package leans on, where no public hook serves; nothing else may.

``tests/test_private.py`` fails when one of them moves. The private part of jsonargparse stands in ``cli/schema.py``.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI


def begin_with_a_whole_epoch(trainer: "Trainer") -> None:
    """Let a resumed fit begin as between two epochs.

    With ``max_steps`` Lightning takes every checkpoint for one from the middle of an epoch: the public setter of
    ``restarting`` answers ``True`` whatever it is given.
    """
    trainer.fit_loop._restarting = trainer.fit_loop.epoch_loop.restarting = False


def start_loaders_anew(trainer: "Trainer") -> None:
    """Begin the epoch's loaders again, those that keep their own place excepted.

    On a resume Lightning has begun them already, with random numbers of another moment, and shows its fetcher nowhere.
    """
    loop = trainer.fit_loop
    loaders = loop._combined_loader.flattened if loop._combined_loader is not None else []
    if loop._data_fetcher is not None and not any(hasattr(loader, "load_state_dict") for loader in loaders):
        iter(loop._data_fetcher)


def built_from_configuration() -> bool:
    """Whether LightningCLI is building a module now, and hands over the configuration that it is built from."""
    from lightning.pytorch.core.mixins import hparams_mixin

    return hparams_mixin._given_hyperparameters.get() is not None


def optimizer_keys(parser: "LightningArgumentParser") -> dict[str, Any]:
    """The keys of optimizers and schedulers in a parser, each with the class or classes that it takes."""
    return {key: classes for key, (classes, _) in {**parser._optimizers, **parser._lr_schedulers}.items()}


def parser_of(cli: "LightningCLI", command: str | None) -> Any:
    """The parser of a command; of all arguments where the CLI has no commands."""
    return cli._parser(command)


def inner_schedulers(scheduler: Any) -> list[Any]:
    """A learning-rate scheduler and those that it is made of (``SequentialLR``, ``ChainedScheduler``), at any depth."""
    parts = getattr(scheduler, "_schedulers", ())
    return [scheduler, *(each for part in parts for each in inner_schedulers(part))]


def forget_size(optimizer: Any) -> None:
    """Let LBFGS, which counts its parameters once, count them again: others are in its group now."""
    optimizer._numel_cache = None


def owe_the_validation(checkpoint: dict[str, Any]) -> None:
    """Let a fit that goes on from a checkpoint begin with the validation that was due when it was saved.

    ``ModelCheckpoint`` saves after a batch and before the validation that follows; on a resume, Lightning goes on
    behind that validation, and behind the epoch's end with it. In the words of its loops' states: the batch is
    over, and validation was stopped before its first batch.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batch, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
    for count in ("total", "current"):
        batch[count]["completed"] = batch[count]["processed"]
        done = validation[count]["completed"] if count == "total" else 0
        validation[count].update(ready=done + 1, started=done + 1, processed=done, completed=done)


def owe_the_epoch_end(checkpoint: dict[str, Any]) -> None:
    """Let a fit that goes on from a checkpoint begin with the end of the epoch whose last batch it was saved after.

    Where no validation follows on that batch, Lightning goes on behind the epoch's end and behind the next one's
    start, and calls the hooks of neither. :func:`go_to_the_epoch_end` has to be called when training starts, and
    :func:`leave_the_epoch` at the epoch's end.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batch = loops["epoch_loop.batch_progress"]
    for count in ("total", "current"):
        batch[count]["completed"] = batch[count]["processed"]
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1


def go_to_the_epoch_end(trainer: "Trainer") -> None:
    """Let a fit train no batch in its first epoch, of which all is over but the end."""
    trainer.fit_loop.epoch_loop.val_loop._has_run = True


def leave_the_epoch(trainer: "Trainer") -> None:
    """Let the next epoch train its batches."""
    trainer.fit_loop.epoch_loop.on_iteration_done()
    trainer.fit_loop.epoch_loop.restarting = False


def count_the_epoch(checkpoint: dict[str, Any]) -> None:
    """Let an epoch count as completed in whose end the checkpoint was saved.

    With ``max_steps`` Lightning would go on within that epoch, whose batches are over.
    """
    for epochs in (checkpoint["loops"]["fit_loop"]["epoch_progress"][count] for count in ("total", "current")):
        epochs["completed"] = epochs["processed"]


class Saved(NamedTuple):
    """In which moment of an epoch a checkpoint was saved.

    Attributes:
        before_validation: After a batch, and before what follows on it.
        after_last_batch: After the last batch of the epoch.
        within_epoch: After the epoch's start, and before schedulers have seen its end.
        at_epoch_end: In the hooks of the epoch's end.
        batches: How many batches of the epoch were trained.
    """

    before_validation: bool
    after_last_batch: bool
    within_epoch: bool
    at_epoch_end: bool
    batches: int


def where_saved(checkpoint: dict[str, Any], batches: float) -> Saved:
    """Read from the states of Lightning's loops in which moment a checkpoint is being saved.

    Args:
        checkpoint: The checkpoint.
        batches: How many batches an epoch has.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epoch, progress = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    batch = progress["current"]
    within = epoch["started"] == epoch["ready"] and epoch["completed"] < epoch["ready"]
    trained = batch["processed"] == batch["ready"]
    over = within and trained and bool(progress["is_last_batch"] or batch["ready"] == batches)
    return Saved(
        before_validation=within and trained and batch["completed"] < batch["ready"],
        after_last_batch=over,
        within_epoch=within,
        at_epoch_end=over and epoch["processed"] == epoch["ready"],
        batches=batch["processed"] if within else 0,
    )
