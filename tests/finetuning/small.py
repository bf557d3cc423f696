"""A network of a few hundred numbers, fits of a second's fraction, and what a look at them needs."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from runmodel_ext import Stage, StagedFinetuning, Until
from tests.finetuning.kit import QUIET

BATCHES = 4
HEAD = {"net.head.weight", "net.head.bias"}


class Net(nn.Module):
    """A stem and a body, each with BatchNorm and dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))


class Plain(LightningModule):
    """A LightningModule that knows of no stages, with its network in one child."""

    def __init__(self, configure: Callable[["Plain"], Any] | None = None, network: nn.Module | None = None) -> None:
        super().__init__()
        self.net = Net() if network is None else network
        self.configure = configure

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return self.configure(self) if self.configure else torch.optim.AdamW(self.parameters(), lr=0.01)


def loader(batches: int = BATCHES, size: int = 8) -> DataLoader[Any]:
    """Batches that are always the same, in the same order."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(batches * size, 6, generator=generator)
    return DataLoader(TensorDataset(inputs, torch.randint(0, 3, (len(inputs),), generator=generator)), size)


def head_body_head(**each: Any) -> list[Stage]:
    """The head, everything, and the head again: one epoch each."""
    return [
        Stage("head", train="net.head", until=Until(epochs=1), **each),
        Stage("all", train="*", until=Until(epochs=1), **each),
        Stage("again", train="net.head", **each),
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the advice that Lightning gives to people with large data."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fit(
    module: LightningModule,
    stages: Any = None,
    *others: Callback,
    loaders: Any = None,
    epochs: int = 3,
    **settings: Any,
) -> Trainer:
    """Fit a module in stages, with other callbacks behind; without stages where there are none."""
    staged = [StagedFinetuning(stages, show_plan=False)] if stages is not None else []
    seed_everything(1, verbose=False)
    with quiet():
        trainer = Trainer(**{**QUIET, "max_epochs": epochs, "callbacks": [*staged, *others], **settings})
        trainer.fit(module, *(loaders if loaders is not None else (loader(), loader(2))))
    return trainer


def staged(trainer: Trainer) -> StagedFinetuning:
    """The StagedFinetuning of a Trainer."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, StagedFinetuning))


def copied(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The names of what differs by a bit."""
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def gradients(module: nn.Module) -> set[str]:
    """The names of the parameters that have gradients."""
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def weights(trainer: Trainer, module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers, for :class:`Watch`."""
    return copied(module)


class Watch(Callback):
    """Keeps, after each batch, the stage that was on and what ``look`` gives."""

    def __init__(self, look: Callable[[Trainer, Any], Any]) -> None:
        self.look, self.seen = look, []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append((staged(trainer).history[-1]["stage"], self.look(trainer, pl_module)))

    def within(self, stage: str) -> list[Any]:
        """What was seen in a stage."""
        return [seen for name, seen in self.seen if name == stage]


def rates(trainer: Trainer) -> dict[str, float]:
    """The learning rate of each parameter, by its name."""
    names = {id(parameter): name for name, parameter in trainer.lightning_module.named_parameters()}
    return {
        names[id(parameter)]: float(group["lr"])
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) in names
    }
