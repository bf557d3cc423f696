"""A small network on real digits, fits of it that are saved at chosen moments, and fits that go on from there."""

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from runmodel_ext.data.loaders import EpochSampler, ResumableLoader
from runmodel_ext.finetuning import Plateau, Stage, Until

BATCHES, EPOCHS = 7, 6
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "deterministic": True,
}


class Net(nn.Module):
    """Convolutions with BatchNorm, dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(54, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.stem(images)))


class Digits(LightningModule):
    """A plain LightningModule: nothing in it knows of stages."""

    def __init__(self, configure: Callable[["Digits"], Any] | None = None) -> None:
        super().__init__()
        self.net = Net()
        self.configure = configure

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return self.configure(self) if self.configure else torch.optim.AdamW(self.parameters(), lr=0.01)


class ByHand(Digits):
    """Manual optimization with two optimizers, each with a scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        for optimizer, scheduler in zip(self.optimizers(), self.lr_schedulers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            scheduler.step()

    def configure_optimizers(self) -> Any:
        body = [*self.net.stem.parameters(), *self.net.body.parameters()]
        optimizers = [torch.optim.SGD(body, lr=0.02, momentum=0.9), torch.optim.Adam(self.net.head.parameters(), 0.01)]
        return optimizers, [lr_scheduler.ExponentialLR(optimizer, 0.97) for optimizer in optimizers]


def with_scheduler(build: Callable[[Any], Any], interval: str = "epoch", **settings: Any) -> Callable[[], Digits]:
    """A module with AdamW in two groups and a scheduler of its own."""

    def configure(module: Digits) -> Any:
        groups = [
            {"params": [p for p in module.parameters() if p.ndim > 1]},
            {"params": [p for p in module.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.05)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": build(optimizer), "interval": interval, **settings},
        }

    return lambda: Digits(configure)


@cache
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)


def loaders(batches: int = BATCHES, batch_size: int = 16) -> tuple[ResumableLoader, DataLoader]:
    """A stateful training loader, and one for validation."""
    images, labels = digits()
    train = TensorDataset(images[: batches * batch_size], labels[: batches * batch_size])
    val = TensorDataset(images[-100:], labels[-100:])
    return ResumableLoader(train, batch_size=batch_size, sampler=EpochSampler(train, seed=1)), DataLoader(val, 50)


class SaveAt(Checkpoint):
    """Saves at chosen moments: ``("batch", 9)``, ``("validation", 14)``, ``("epoch", 14)``, by the optimizer's step."""

    def __init__(self, folder: Path, moments: Sequence[tuple[str, int]]) -> None:
        self.folder, self.moments = folder, set(moments)

    def save(self, trainer: Trainer, kind: str) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if (kind, batches) in self.moments:
            trainer.save_checkpoint(self.folder / f"{kind}-{batches}.ckpt")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.save(trainer, "batch")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.save(trainer, "epoch")


def moments(batches: int = BATCHES, epochs: int = EPOCHS) -> list[tuple[str, int]]:
    """Forty moments: most batches' ends, and the ends of validations and epochs."""
    ends = [batches * epoch for epoch in range(1, epochs)]
    several = [("batch", step) for step in range(1, batches * (epochs - 1) + 2) if step % 7 in (0, 1, 2, 4, 5, 6)]
    return [
        *several[: 40 - 2 * len(ends)],
        *(("validation", step) for step in ends),
        *(("epoch", step) for step in ends),
    ]


def final_state(trainer: Trainer) -> dict[str, Any]:
    """Everything that training has made: weights, optimizers, schedulers."""
    module = trainer.lightning_module
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
    }


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two nested values differ by a bit."""
    if isinstance(one, Tensor):
        same = isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
        return [] if same else [place]
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return [f"{place} (keys)"]
        return [each for key in one for each in differences(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{place} (length)"]
        return [
            each for n, (a, b) in enumerate(zip(one, other, strict=True)) for each in differences(a, b, f"{place}/{n}")
        ]
    return [] if one == other or callable(one) else [f"{place}: {one!r} {other!r}"]


def fit(
    make: Callable[[], LightningModule],
    callbacks: Sequence[Callback],
    checkpoint: Path | None = None,
    seed: int = 0,
    epochs: int = EPOCHS,
    warn: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Trainer:
    """Fit on digits what ``make`` makes after seeding; a checkpoint replaces all that it has made."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR if quiet else logging.INFO)
    seed_everything(seed, verbose=False)
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    own = {"max_epochs": epochs, "callbacks": list(callbacks), "enable_checkpointing": saves}
    trainer = Trainer(**{**QUIET, **own, **settings})
    train, val = loaders()
    with warnings.catch_warnings():
        warnings.simplefilter("always" if warn else "ignore")
        trainer.fit(make(), train, val, ckpt_path=checkpoint, weights_only=None if checkpoint is None else True)
    return trainer


THREE = [
    Stage("head", train="net.head", lr=0.02, until=Until(epochs=2)),
    Stage("top", train=["net.head", "net.body"], lr={"net.head": 0.01, "*": 0.005}, until=Until(epochs=2)),
    Stage("all", train="*", lr=0.003, layer_decay=0.5),
]
BY_STEPS = [
    Stage("head", train="net.head", lr=0.02, until=Until(steps=9)),
    Stage("top", train=["net.head", "net.body"], lr=0.01, until=Until(steps=13), optimizer_state="reset"),
    Stage("stem", train="net.stem", lr=0.01, until=Until(fraction=0.2)),
    Stage("all", train="*", exclude="type:BatchNorm2d"),
]
BY_PLATEAU = [
    Stage(
        "head", train="net.head", lr=0.05, until=Until(epochs=3, plateau=Plateau("val/loss", patience=1, min_delta=0.2))
    ),
    Stage(
        "top",
        train=["net.head", "net.body"],
        lr=0.05,
        until=Until(plateau=Plateau("val/loss", patience=1, min_delta=0.3)),
    ),
    Stage("all", train="*", lr=0.003),
]
