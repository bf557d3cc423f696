"""Kinds of fine-tuning, the moments at which a fit of each is stopped, and a comparison with the fit that was not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import lr_scheduler as schedulers

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.callbacks import RandomState
from runmodel_ext.finetuning import Best, Plateau, Reaches, Warmup
from tests.finetuning.kit import (
    BATCHES,
    BY_PLATEAU,
    BY_STEPS,
    EPOCHS,
    THREE,
    ByHand,
    Digits,
    SaveAt,
    differences,
    final_state,
    fit,
    with_scheduler,
)

Moment = tuple[str, int]  # "batch", "validation" or "epoch", and how many batches were trained when it ended


@dataclass(frozen=True)
class Kind:
    """A fit: its module, its callbacks, and the Trainer's settings."""

    make: Callable[[], LightningModule]
    callbacks: Callable[[], list[Callback]]
    settings: dict[str, Any] = field(default_factory=dict)

    def fit(self, *more: Callback, checkpoint: Path | None = None) -> Trainer:
        """A whole fit; or one that goes on, whose module was made from another seed."""
        callbacks = [*self.callbacks(), *more]
        return fit(self.make, callbacks, checkpoint, seed=0 if checkpoint is None else 5, **self.settings)


class Seen(Callback):
    """Notes each moment of a fit, and at each batch how many stages had begun and how many parameters trained."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.stages: list[tuple[int, int]] = []

    def note(self, trainer: Trainer, kind: str) -> None:
        self.moments.append((kind, trainer.fit_loop.epoch_loop.batch_progress.total.ready))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.note(trainer, "batch")
        own = staged(trainer)
        trained = sum(parameter.requires_grad for parameter in trainer.lightning_module.parameters())
        self.stages.append((len(own.history) if own else 0, trained))

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.note(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.note(trainer, "epoch")

    @property
    def transitions(self) -> list[int]:
        """After how many batches each stage but the first began."""
        return [n for n in range(1, len(self.stages)) if self.stages[n] != self.stages[n - 1]]

    def chosen(self, number: int, transitions: Sequence[int] | None = None) -> list[Moment]:
        """So many moments before the end: around transitions first, then ends of epochs, then all through the fit."""
        transitions = self.transitions if transitions is None else transitions
        inner = [moment for moment in self.moments if moment[1] < len(self.stages)]
        epochs = [n for kind, n in inner if kind == "epoch"]
        around = [("batch", n + shift) for shift in (0, 1, -1) for n in transitions]
        ends = [(kind, n) for n in [*transitions, *epochs] for kind in ("validation", "epoch", "batch")]
        others = [moment for third in (inner[0::3], inner[1::3], inner[2::3]) for moment in third]
        wanted = dict.fromkeys([*around, *ends, *[m for m in inner if m[0] == "validation"], *others])
        return [moment for moment in wanted if moment in set(inner)][:number]


def staged(trainer: Trainer) -> StagedFinetuning | None:
    """The staged fine-tuning of a fit."""
    return next((each for each in trainer.callbacks if isinstance(each, StagedFinetuning)), None)


def outcome(trainer: Trainer) -> dict[str, Any]:
    """All that a fit has come to: weights, optimizers, schedulers, and what its stages know."""
    own = staged(trainer)
    stages = {"history": own.history, "conductor": own.conductor.state_dict()} if own and own.conductor else {}
    return {**final_state(trainer), **stages}


def misses(
    kind: Kind, whole: Trainer, folder: Path, moments: Sequence[Moment], resume: Callable[..., Trainer] = Kind.fit
) -> dict[Moment, str]:
    """The moments from which a fit does not go on to the same bits, each with where it differs first.

    Args:
        kind: The fit.
        whole: The same fit, when it was not stopped.
        folder: Where checkpoints go.
        moments: Where it is stopped.
        resume: How it goes on: a function of the kind and a keyword ``checkpoint``.
    """
    wanted = outcome(whole)
    assert not differences(wanted, outcome(kind.fit(SaveAt(folder, moments)))), "Saving has changed the fit."
    found = {}
    for name, number in moments:
        try:
            apart = differences(wanted, outcome(resume(kind, checkpoint=folder / f"{name}-{number}.ckpt")))
        except Exception as error:  # a fit that cannot go on misses as well
            apart = [f"{type(error).__name__}: {error}"]
        if apart:
            found[name, number] = apart[0]
    return found


def _stages(stages: list[Stage], make: Callable[[], LightningModule] = Digits, **settings: Any) -> Kind:
    return Kind(make, lambda: [RandomState(), StagedFinetuning(list(stages), show_plan=False)], settings)


def _optimized(build: Callable[[Any], torch.optim.Optimizer]) -> Callable[[], Digits]:
    return lambda: Digits(lambda module: build(module.parameters()))


OWN_SCHEDULERS = [
    Stage(
        "head",
        train="net.head",
        lr=0.02,
        until=Until(steps=10),
        lr_scheduler=lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 10),
        lr_interval="step",
        warmup=Warmup(4),
    ),
    Stage(
        "top",
        train=["net.head", "net.body"],
        lr=0.02,
        until=Until(epochs=2),
        lr_scheduler=lambda optimizer: schedulers.OneCycleLR(optimizer, 0.05, total_steps=30),
        lr_interval="step",
    ),
    Stage(
        "all",
        train="*",
        lr=0.01,
        until=Until(plateau=Plateau("val/loss", patience=9)),
        lr_scheduler=lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
    ),
]
RESTORING = [
    Stage("head", train="net.head", lr=0.3, until=Until(epochs=2), restore_best=Best("val/loss")),
    Stage("body", train="net.body", lr=0.3, until=Until(epochs=2), restore_best=Best("val/loss")),
    Stage("all", train="*", lr=0.3, restore_best=Best("val/loss")),
]
TWO_OPTIMIZERS = [
    Stage("head", train="net.head", lr=0.02, until=Until(epochs=2)),
    Stage("all", train="*", until=Until(steps=20)),
    Stage("body", train="net.body", lr=0.01),
]
FROZEN_AGAIN = [
    Stage("all", train="*", until=Until(steps=9)),
    Stage("head", train="net.head", until=Until(epochs=1)),
    Stage("all again", train="*", exclude="type:BatchNorm2d", train_mode="net.stem"),
]
LAYERS = [
    Stage("head", train="net.head", lr=0.02, until=Until(epochs=2)),
    Stage("top", train=["net.head", "net.body"], lr=0.01, layer_decay=0.7, until=Until(epochs=2), warmup=Warmup(5)),
    Stage("all", train="*", lr=0.01, layer_decay=0.5, weight_decay=0.1),
]
ACCUMULATED = [
    Stage("head", train="net.head", lr=0.05, until=Until(epochs=2), warmup=Warmup(5)),
    Stage("top", train=["net.head", "net.body"], lr=0.02, until=Until(steps=5), warmup=Warmup(3, start=0.2)),
    Stage("all", train="*", lr=0.01, warmup=Warmup(8)),
]
WITHIN_EPOCHS = [
    Stage("head", train="net.head", lr=0.05, until=Until(fraction=0.2)),
    Stage(
        "top", train="net.body", lr=0.05, until=Until(plateau=Plateau("val/loss", patience=1, min_delta=9), epochs=2)
    ),
    Stage("stem", train="net.stem", until=Until(plateau=Plateau("val/loss", patience=1, min_delta=9), epochs=2)),
    Stage("all", train="*"),
]
SEVERAL_LOOKS = [
    Stage("head", train="net.head", lr=0.05, until=Until(plateau=Plateau("val/loss", patience=2, min_delta=0.2))),
    Stage("top", train=["net.head", "net.body"], lr=0.05, until=Until(reaches=Reaches("val/loss", 2.0), steps=20)),
    Stage("all", train="*", lr=0.003, restore_best=Best("val/loss")),
]

_LAMBDA = with_scheduler(lambda own: schedulers.LambdaLR(own, [lambda n: 0.9**n, lambda n: 0.8**n]))
_ONE_CYCLE = with_scheduler(lambda own: schedulers.OneCycleLR(own, 0.02, total_steps=43), "step")
_COSINE = with_scheduler(lambda own: schedulers.CosineAnnealingLR(own, EPOCHS))
_WHEN_FLAT = {"patience": 0, "threshold": 0.3}
_PLATEAU = with_scheduler(lambda own: schedulers.ReduceLROnPlateau(own, **_WHEN_FLAT), monitor="val/loss")
_PLATEAU_2 = with_scheduler(
    lambda own: schedulers.ReduceLROnPlateau(own, **_WHEN_FLAT), monitor="val/loss", frequency=2
)
_PLATEAU_STEPS = with_scheduler(
    lambda own: schedulers.ReduceLROnPlateau(own, patience=1, threshold=0.01),
    "step",
    monitor="val/loss",
    frequency=2,
    strict=False,
)
_SEQUENCE = with_scheduler(
    lambda own: schedulers.SequentialLR(
        own, [schedulers.LinearLR(own, 0.1, total_iters=5), schedulers.ExponentialLR(own, 0.97)], milestones=[5]
    ),
    "step",
)

KINDS: dict[str, Kind] = {
    "epochs": _stages(THREE),
    "steps": _stages(BY_STEPS),
    "plateau": _stages(BY_PLATEAU),
    "restore_best": _stages(RESTORING),
    "schedulers of the stages": _stages(OWN_SCHEDULERS),
    "LambdaLR of the module": _stages(THREE, _LAMBDA),
    "OneCycleLR of the module": _stages(THREE, _ONE_CYCLE),
    "ReduceLROnPlateau of the module": _stages(THREE, _PLATEAU),
    "CosineAnnealingLR of the module": _stages(BY_STEPS, _COSINE),
    "SequentialLR of the module": _stages(BY_STEPS, _SEQUENCE),
    "two optimizers by hand": _stages(TWO_OPTIMIZERS, ByHand),
    "layer_decay, warm-up": _stages(LAYERS),
    "frozen again": _stages(FROZEN_AGAIN),
    "stages that begin within an epoch": _stages(WITHIN_EPOCHS),
    "SGD with momentum": _stages(FROZEN_AGAIN, _optimized(lambda own: torch.optim.SGD(own, 0.02, momentum=0.9))),
    "LBFGS": _stages(BY_STEPS, _optimized(lambda own: torch.optim.LBFGS(own, 0.05, max_iter=2))),
    "3 batches a step": _stages(ACCUMULATED, accumulate_grad_batches=3),
    "2 batches a step, validation after 3": _stages(ACCUMULATED, accumulate_grad_batches=2, val_check_interval=3),
    "max_steps": _stages(THREE, epochs=-1, max_steps=BATCHES * EPOCHS - 2),
    "max_steps, ReduceLROnPlateau": _stages(THREE, _PLATEAU, epochs=-1, max_steps=BATCHES * EPOCHS - 2),
    "validation after 3 batches": _stages(SEVERAL_LOOKS, val_check_interval=3),
    "validation in each 2nd epoch, ReduceLROnPlateau": _stages(THREE, _PLATEAU_2, check_val_every_n_epoch=2),
    "validation after 3 batches, ReduceLROnPlateau in steps": _stages(THREE, _PLATEAU_STEPS, val_check_interval=3),
    "no validation": _stages(THREE, limit_val_batches=0),
}
