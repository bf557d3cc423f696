"""The callbacks in a Trainer of `pytorch_lightning`: the bits of `lightning.pytorch`, resume included."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from runmodel_ext import Stage, StagedFinetuning, Until, gradual_unfreezing
from runmodel_ext.callbacks import RandomState
from runmodel_ext.errors import ScheduleError
from tests.finetuning.kit import (
    BATCHES,
    BY_PLATEAU,
    BY_STEPS,
    EPOCHS,
    QUIET,
    THREE,
    Digits,
    Net,
    differences,
    final_state,
    loaders,
)

BOTH = pytest.mark.parametrize("namespace", [lightning.pytorch, pytorch_lightning], ids=lambda module: module.__name__)
Configure = Callable[[Any], Any]


def digits(namespace: ModuleType, configure: Configure | None = None) -> Any:
    """The kit's module as one of another namespace: which class it is derived from is all that differs."""

    def __init__(self: Any) -> None:  # noqa: N807
        namespace.LightningModule.__init__(self)
        self.net = Net()
        self.configure = configure

    steps = {name: vars(Digits)[name] for name in ("loss", "training_step", "validation_step", "configure_optimizers")}
    return type("Digits", (namespace.LightningModule,), {"__init__": __init__, **steps})()


def saver(namespace: ModuleType, folder: Path, moments: Sequence[tuple[str, int]]) -> Any:
    """A callback of a namespace that saves after chosen batches and epochs."""

    class Saves(namespace.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.save(trainer, "batch")

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            self.save(trainer, "epoch")

        def save(self, trainer: Any, kind: str) -> None:
            if (kind, trainer.global_step) in moments:
                trainer.save_checkpoint(folder / f"{kind}-{trainer.global_step}.ckpt")

    return Saves()


def fit(
    namespace: ModuleType,
    stages: Any,
    configure: Configure | None = None,
    checkpoint: Path | None = None,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Fit on digits with the Trainer and the module of a namespace."""
    namespace.seed_everything(0 if checkpoint is None else 1, verbose=False)
    staged = StagedFinetuning(stages, show_plan=False)
    trainer = namespace.Trainer(**QUIET, max_epochs=EPOCHS, callbacks=[staged, RandomState(), *callbacks])
    train, val = loaders()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(digits(namespace, configure), train, val, ckpt_path=checkpoint, weights_only=checkpoint is None)
    return trainer


def one_cycle(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    scheduler = OneCycleLR(optimizer, 0.05, total_steps=BATCHES * EPOCHS)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


KINDS: dict[str, tuple[Any, Configure | None]] = {
    "epochs": (THREE, None),
    "steps": (BY_STEPS, None),
    "plateau": (BY_PLATEAU, None),
    "one cycle": (THREE, one_cycle),
    "schedulers of the stages": (
        [
            Stage("head", train="net.head", lr=0.02, until=Until(epochs=3), lr_scheduler=lambda each: StepLR(each, 1)),
            Stage("all", train="*", lr=0.003, warmup=None),
        ],
        None,
    ),
    "ready-made": (gradual_unfreezing(Until(epochs=2), lr=0.01, blocks=["net.stem", "net.body", "net.head"]), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_namespaces_end_with_the_same_bits(kind: str) -> None:
    fits = [fit(namespace, *KINDS[kind]) for namespace in (lightning.pytorch, pytorch_lightning)]
    one, other = map(final_state, fits)
    assert differences(one, other) == []
    histories = [trainer.callbacks[0].history for trainer in fits]
    assert histories[0] == histories[1]
    assert len(histories[0]) >= 2


@BOTH
@pytest.mark.parametrize("kind", ["epochs", "steps", "plateau", "one cycle"])
def test_a_resumed_fit_ends_with_the_bits_of_the_one_that_was_never_stopped(
    namespace: ModuleType, kind: str, tmp_path: Path
) -> None:
    moments = [("batch", 9), ("batch", 14), ("batch", 15), ("epoch", 14), ("batch", 24)]
    expected = final_state(fit(namespace, *KINDS[kind], callbacks=[saver(namespace, tmp_path, moments)]))
    saved = sorted(tmp_path.iterdir())
    assert len(saved) == len(moments)
    for checkpoint in saved:
        resumed = fit(namespace, *KINDS[kind], checkpoint=checkpoint)
        assert differences(expected, final_state(resumed)) == [], checkpoint.name


def test_a_checkpoint_of_one_namespace_goes_on_in_the_other(tmp_path: Path) -> None:
    moment = [("batch", 16)]
    expected = fit(lightning.pytorch, *KINDS["steps"], callbacks=[saver(lightning.pytorch, tmp_path, moment)])
    resumed = fit(pytorch_lightning, *KINDS["steps"], checkpoint=tmp_path / "batch-16.ckpt")
    assert differences(final_state(expected), final_state(resumed)) == []


@pytest.mark.parametrize("owner", [lightning.pytorch, pytorch_lightning], ids=lambda module: module.__name__)
@BOTH
def test_backbone_finetuning_of_either_namespace_is_refused(namespace: ModuleType, owner: ModuleType) -> None:
    rival = owner.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    with pytest.raises(ScheduleError, match="The Trainer has StagedFinetuning beside BackboneFinetuning, but both"):
        fit(namespace, THREE, callbacks=[rival])


@BOTH
def test_model_checkpoint_and_early_stopping_of_a_namespace_stand_beside_it(
    namespace: ModuleType, tmp_path: Path
) -> None:
    kept = namespace.callbacks.ModelCheckpoint(tmp_path, monitor="val/loss", every_n_epochs=1)
    early = namespace.callbacks.EarlyStopping("val/loss", patience=1, min_delta=0.5)
    namespace.seed_everything(0, verbose=False)
    settings = {**QUIET, "enable_checkpointing": True}
    staged = StagedFinetuning(THREE, show_plan=False)
    trainer = namespace.Trainer(**settings, max_epochs=EPOCHS, callbacks=[staged, early, kept])
    trainer.fit(digits(namespace), *loaders())
    assert staged.history[-1]["ended"] == "the fit ended"
    saved = torch.load(kept.best_model_path, weights_only=True)
    assert saved["callbacks"]["StagedFinetuning"]["progress"]["index"] >= 0
