"""What every training loader of the package promises, shown on the digits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from runmodel_ext.data import Digits
from runmodel_ext.errors import ConfigError
from runmodel_ext.modules import ClassificationModule
from runmodel_ext.networks import MLP


class SaveOften(Callback):
    """Write a checkpoint at every third batch and wherever an epoch ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % 3 == 0:
            trainer.save_checkpoint(self.folder / f"batch-{trainer.global_step}.ckpt")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"validation-{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"epoch-{trainer.global_step}.ckpt")


def batches(seed: int, epoch: int = 0, **settings: Any) -> list[tuple[Tensor, Tensor]]:
    seed_everything(seed, verbose=False)
    data = Digits(batch_size=256, augment=True, **settings)
    data.setup()
    loader = data.train_dataloader()
    torch.rand(5)  # what others draw makes no difference
    loader.sampler.set_epoch(epoch)
    return list(loader)


def equal(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


def test_batches_follow_from_the_seed_and_the_epoch_whatever_the_number_of_workers():
    assert equal(batches(1), batches(1))
    assert equal(batches(1, epoch=2), batches(1, epoch=2, num_workers=2))
    assert not equal(batches(1), batches(2))
    assert not equal(batches(0, epoch=1), batches(1, epoch=0))


def test_every_sample_is_given_once_in_each_epoch():
    data = Digits(batch_size=256)
    data.setup()
    loader = data.train_dataloader()
    first, second = (torch.cat([images for images, _ in loader]) for _ in range(2))
    assert len(first) == len(data.train_set)
    assert torch.equal(first.sum(dim=0), second.sum(dim=0))


def test_loading_leaves_the_global_random_numbers_to_the_training():
    data = Digits()
    data.setup()
    torch.manual_seed(3)
    list(data.train_dataloader())
    list(data.val_dataloader())
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), drawn)


@pytest.mark.parametrize("settings", [{}, {"limit_train_batches": 4, "val_check_interval": 2}])
def test_a_fit_resumed_at_any_point_ends_with_the_same_bits(make_trainer, tmp_path, settings):
    def fit(seed: int, callbacks: list[Callback], resume: Path | None = None) -> dict[str, Tensor]:
        trainer = make_trainer(callbacks=callbacks, max_epochs=2, num_sanity_val_steps=0, **settings)
        module, data = ClassificationModule(MLP(64, 10), num_classes=10), Digits(256, augment=True)
        torch.manual_seed(seed)
        trainer.fit(module, data, ckpt_path=resume)
        return module.network.state_dict()

    expected = fit(0, [SaveOften(tmp_path)])
    points = sorted(tmp_path.glob("*.ckpt"))
    assert len(points) >= 6
    for point in points:
        found = fit(1, [], resume=point)  # another seed: the checkpoint's own holds
        assert all(torch.equal(expected[name], found[name]) for name in expected), point.stem


def test_overfitting_one_batch_works_with_changing_images(make_trainer):
    import warnings

    warnings.filterwarnings("ignore", message=".*requested to overfit.*")
    trainer = make_trainer(overfit_batches=1)
    trainer.fit(ClassificationModule(MLP(64, 10), 10), Digits(augment=True))
    assert trainer.global_step == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"^`batch_size` must be at least 1, but is 0\.$"),
        ({"num_workers": -1}, r"^`num_workers` must be at least 0, but is -1\.$"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Digits(**settings)


def test_the_number_of_workers_is_declared_to_decide_no_result():
    assert "num_workers" in Digits.identity_ignore
