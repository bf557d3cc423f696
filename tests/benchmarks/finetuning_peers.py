"""The other callbacks for fine-tuning, on the network of the tests: what a user writes for the same three stages.

They are Lightning's own ``BackboneFinetuning`` and ``BaseFinetuning``, and the package ``finetuning-scheduler``.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn

from runmodel_ext.callbacks import RandomState
from tests.finetuning.kinds import Kind
from tests.finetuning.kit import EPOCHS, QUIET, Digits, loaders

AT = (2, 4)  # the epochs at which the second and the third stage begin

SCHEDULE = f"""\
0:
  max_transition_epoch: {AT[0]}
  params: ['net.head.*']
1:
  max_transition_epoch: {AT[1]}
  lr: 5.0e-3
  params: ['net.body.*']
2:
  max_transition_epoch: 6
  lr: 3.0e-3
  params: ['net.stem.*']
"""


def need_the_peers() -> None:
    """End with one sentence where the package is missing."""
    try:
        import finetuning_scheduler
    except ImportError:
        sys.exit(
            "The peers are not installed: this script needs the extra `bench` (pip install 'runmodel-ext[bench]')."
        )
    logging.getLogger(finetuning_scheduler.__name__).setLevel(logging.ERROR)


class Filtering(Digits):
    """Lightning's callbacks ask for an optimizer over what trains at the start, and for an attribute ``backbone``."""

    @property
    def backbone(self) -> nn.Module:
        return nn.Sequential(self.net.stem, self.net.body)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.02)


class Gradual(BaseFinetuning):
    """Three stages in the words of ``BaseFinetuning``."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze([pl_module.net.stem, pl_module.net.body], train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        for at, module, lr in ((AT[0], pl_module.net.body, 0.005), (AT[1], pl_module.net.stem, 0.003)):
            if epoch == at:
                self.unfreeze_and_add_param_group(module, optimizer, lr=lr)


def backbone() -> Callback:
    """Lightning's ready-made callback: the head first, then all."""
    return BackboneFinetuning(AT[0], verbose=False)


def scheduler(folder: Path, **settings: Any) -> list[Callback]:
    """``finetuning-scheduler`` with an explicit schedule, by epochs, and the checkpoints that it asks for."""
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint

    file = folder / "schedule.yaml"
    file.write_text(SCHEDULE)
    own = {"epoch_transitions_only": True, "restore_best": False, "logging_level": logging.ERROR}
    checkpoints = FTSCheckpoint(folder / "best", monitor="val/loss", save_top_k=1)
    return [FinetuningScheduler(ft_schedule=str(file), **{**own, **settings}), checkpoints]


def kind_of(make: Callable[[], LightningModule], folder: Path, callbacks: Callable[[], list[Callback]]) -> Kind:
    """A fit of six epochs with other callbacks; what they write goes to the folder."""
    return Kind(make, lambda: [RandomState(), *callbacks()], {"default_root_dir": folder})


def on_with(kind: Kind, checkpoint: Path, by_trainer: bool = False) -> Trainer:
    """A fit that goes on, as Lightning's users have it: ``fit(ckpt_path=…)``, or ``trainer.ckpt_path = …`` before."""
    seed_everything(5, verbose=False)
    own = {"enable_checkpointing": None, "max_epochs": EPOCHS, "callbacks": kind.callbacks()}
    trainer = Trainer(**{**QUIET, **own, **kind.settings})
    if by_trainer:
        trainer.ckpt_path = str(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(kind.make(), *loaders(), ckpt_path=None if by_trainer else checkpoint, weights_only=False)
    return trainer
