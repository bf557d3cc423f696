"""The private parts of Lightning that the package leans on, where no public hook serves; nothing else may.

``tests/test_private.py`` fails when one of them moves. The private part of jsonargparse stands in ``cli/schema.py``.
"""

from typing import TYPE_CHECKING, Any

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
