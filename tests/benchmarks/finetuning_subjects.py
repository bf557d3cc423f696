"""What the costs of fine-tuning are measured on: modules that measure themselves, and fits with each callback."""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, Checkpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from runmodel_ext import Stage, StagedFinetuning

FIRST, LAST, STEPS = 10, 110, 120  # calls are counted from one training step to another, in an epoch


class Subject(LightningModule):
    """A backbone and a head. It measures itself, so that no callback is there for it."""

    def __init__(self, backbone: nn.Module, head: nn.Module, filters: bool = False, by_hand: bool = False) -> None:
        super().__init__()
        self.backbone, self.head, self.filters = backbone, head, filters
        if by_hand:
            backbone.requires_grad_(False)
        self.count: Calls | None = None
        self.ends: list[float] = []  # CPU seconds, of the batches of the first epoch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.count is not None and batch_idx in (FIRST, LAST):
            sys.setprofile(self.count if batch_idx == FIRST and self.current_epoch == 0 else None)
        return functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def on_train_batch_end(self, *_: Any) -> None:
        if self.current_epoch == 0:
            self.ends.append(time.process_time())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad or not self.filters], lr=1e-2)


class Calls:
    """Counts calls of Python functions."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        self.number += event == "call"


class Frozen(BaseFinetuning):
    """Freezes the backbone with its running statistics, and thaws it at the second epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=1e-4)


@dataclass(frozen=True)
class Case:
    """Callbacks for a head-only epoch, and what they ask of the module."""

    callbacks: Callable[[Path], list[Callback]] = lambda folder: []
    of_module: dict[str, bool] = field(default_factory=dict)


def ours(*stages: Stage) -> Case:
    return Case(lambda folder: [StagedFinetuning(list(stages), show_plan=False)])


SCHEDULE = """\
0: {max_transition_epoch: 1, params: ['head.*']}
1: {max_transition_epoch: 2, lr: 1.0e-4, params: ['backbone.*']}
"""


def scheduler(folder: Path, cls: Any = None, restore_best: bool = False) -> list[Callback]:
    """``finetuning-scheduler``: the head, then everything in a second epoch, even where the Trainer has one."""
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint

    file = folder / "schedule.yaml"
    file.write_text(SCHEDULE)
    callback = (cls or FinetuningScheduler)(
        ft_schedule=str(file), epoch_transitions_only=True, restore_best=restore_best, logging_level=logging.ERROR
    )
    return [callback, FTSCheckpoint(folder / "best", monitor="val/loss", save_top_k=1)]


def fit(module: Subject, data: TensorDataset, folder: Path, callbacks: list[Callback], **settings: Any) -> Trainer:
    """One epoch in batches of 16, and a look at one batch."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    saves = any(isinstance(each, Checkpoint) for each in callbacks)
    own = {"max_epochs": 1, "num_sanity_val_steps": 0, "enable_checkpointing": saves, "default_root_dir": folder}
    trainer = Trainer(**{"accelerator": "cpu", "callbacks": callbacks, **quiet, **own, **settings})
    trainer.fit(module, DataLoader(data, 16), DataLoader(data, 16))
    return trainer


def random_data(number: int, *shape: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(number, *shape, generator=generator), torch.arange(number) % 10)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.short(images))


def resnet() -> nn.Sequential:
    """Without the head: a stem, four stages of a block or two, 128 features."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 128, 2)]
    return nn.Sequential(stem, *(BasicBlock(*each) for each in blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def deep() -> Subject:
    """402 parameter tensors, no two alike: ``BaseFinetuning`` tells them apart by their values."""
    blocks = [nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU()) for _ in range(100)]
    module = Subject(nn.Sequential(*blocks), nn.Linear(32, 10), filters=True)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return module
