"""More than one fit, fits that skip something, and the best weights of a stage."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, optim

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import Best, Plateau, Reaches
from tests.finetuning.kit import QUIET, SaveAt
from tests.finetuning.small import (
    HEAD,
    Plain,
    Watch,
    copied,
    fit,
    gradients,
    head_body_head,
    loader,
    moved,
    quiet,
    staged,
    weights,
)


def test_a_fit_that_is_made_longer_goes_on_with_its_stage():
    own = StagedFinetuning(head_body_head(), show_plan=False)
    module = Plain()
    with quiet():
        trainer = Trainer(**QUIET, max_epochs=3, callbacks=[own])
        trainer.fit(module, loader(), loader(2))
        before = copied(module)
        trainer.fit_loop.max_epochs = 5
        trainer.fit(module, loader(), loader(2))
    assert [(passed["stage"], passed["to"]["epoch"]) for passed in own.history] == [
        ("head", 1),
        ("all", 2),
        ("again", 5),
    ]
    assert moved(before, copied(module)) == HEAD


def test_a_fit_that_is_made_longer_within_its_first_stage_notes_each_stage_once():
    stages = [Stage("head", train="net.head", until=Until(reaches=Reaches("val/loss", 0.0), epochs=3)),
              Stage("all", train="*")]  # fmt: skip
    own = StagedFinetuning(stages, show_plan=False)
    module = Plain()
    with quiet():
        trainer = Trainer(**QUIET, max_epochs=2, callbacks=[own])
        trainer.fit(module, loader(), loader(2))
        assert [(passed["stage"], passed["ended"]) for passed in own.history] == [("head", "the fit ended")]
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module, loader(), loader(2))
    assert [(passed["stage"], passed["ended"]) for passed in own.history] == [
        ("head", "3 epochs are over"),
        ("all", "the fit ended"),
    ]


def test_a_fit_that_is_resumed_keeps_what_the_module_has_moved_by_hand(tmp_path: Path):
    class Moves(Plain):
        def on_train_batch_start(self, *_: Any) -> None:
            for group in self.optimizers().param_groups:
                group["lr"] *= 0.9
                group["weight_decay"] *= 0.9

    def module() -> Plain:
        return Moves(lambda module: optim.AdamW(module.parameters(), 0.01, weight_decay=0.3))

    whole, resumed = module(), module()
    save = SaveAt(tmp_path, [("batch", 6), ("batch", 10)])
    trainer = fit(whole, head_body_head(), save, enable_checkpointing=True)
    left = [(group["lr"], group["weight_decay"]) for group in trainer.optimizers[0].param_groups]
    for step in (6, 10):
        again = StagedFinetuning(head_body_head(), show_plan=False)
        with quiet():
            trainer = Trainer(**QUIET, max_epochs=3, callbacks=[again])
            trainer.fit(resumed, loader(), loader(2), ckpt_path=tmp_path / f"batch-{step}.ckpt", weights_only=True)
        assert [(group["lr"], group["weight_decay"]) for group in trainer.optimizers[0].param_groups] == left


def test_the_same_callback_in_another_trainer_begins_anew():
    own = StagedFinetuning(head_body_head(), show_plan=False)
    for _ in range(2):
        module = Plain()
        start, watch = copied(module), Watch(weights)
        with quiet():
            Trainer(**QUIET, max_epochs=3, callbacks=[own, watch]).fit(module, loader(), loader(2))
        assert moved(start, watch.within("head")[-1]) == HEAD
        assert [passed["from"]["step"] for passed in own.history] == [0, 4, 8]


def test_a_metric_of_an_earlier_fit_is_not_taken_for_one_of_this_fit():
    class Silent(Plain):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("other", self.loss(batch))

    stages = [Stage("head", train="net.head", until=Until(plateau=Plateau("val/loss", 1))), Stage("all", train="*")]
    own = StagedFinetuning(stages, show_plan=False)
    with quiet():
        Trainer(**QUIET, max_epochs=3, callbacks=[own]).fit(Plain(), loader(), loader(2))
        with pytest.raises(ScheduleError, match="Stage 'head' watches 'val/loss', but the module does not log it"):
            Trainer(**QUIET, max_epochs=3, callbacks=[own]).fit(Silent(), loader(), loader(2))


def test_validating_testing_and_predicting_leave_the_model_as_it_is():
    class All(Plain):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test/loss", self.loss(batch))

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(batch[0])

    module = All()
    module.net.stem.requires_grad_(False)
    own = StagedFinetuning(head_body_head(), show_plan=False)
    had = gradients(module)
    with quiet():
        trainer = Trainer(**QUIET, max_epochs=3, callbacks=[own])
        for _ in range(2):
            trainer.validate(module, loader(2), verbose=False)
            trainer.test(module, loader(2), verbose=False)
            assert len(trainer.predict(module, loader(2))) == 2
            assert gradients(module) == had
            assert all(each.training for each in module.modules())
            trainer.fit(module, loader(), loader(2))
            trainer.fit_loop.max_epochs += 1


def test_an_error_outside_of_a_fit_does_not_touch_what_the_user_has_frozen_since():
    class Fails(Plain):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            raise ArithmeticError("the module cannot be tested")

    module = Fails()
    trainer = fit(module, head_body_head())
    module.net.stem.requires_grad_(False)
    with quiet(), pytest.raises(ArithmeticError):
        trainer.test(module, loader(2), verbose=False)
    assert gradients(module) == {name for name, _ in module.named_parameters() if "stem" not in name}


@pytest.mark.parametrize("settings", [{"limit_train_batches": 0}, {"limit_val_batches": 0}, {"fast_dev_run": True}])
def test_fits_that_skip_something_leave_the_model_as_the_user_had_it(settings: dict[str, Any]):
    module = Plain()
    module.net.stem.requires_grad_(False)
    had = gradients(module)
    fit(module, head_body_head(), **settings)
    assert gradients(module) == had
    assert all(each.training for each in module.modules())


class Snapshots(Callback):
    """Keeps the weights and the loss of each validation, and what each stage begins with."""

    def __init__(self) -> None:
        self.looks: list[tuple[float, dict[str, Tensor]]] = []
        self.begins: dict[str, dict[str, Tensor]] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.looks.append((float(trainer.callback_metrics["val/loss"]), copied(pl_module)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.begins.setdefault(staged(trainer).history[-1]["stage"], copied(pl_module))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return not moved(one, other)


def test_the_next_stage_begins_with_the_best_weights_and_running_statistics_of_the_one_before():
    stages = [
        Stage("all", train="*", lr=0.1, until=Until(epochs=4), restore_best=Best("val/loss", "max")),
        Stage("head", train="net.head", lr=0.01),
    ]
    looks = Snapshots()
    fit(Plain(lambda module: optim.SGD(module.parameters(), 0.1)), stages, looks, epochs=5)
    losses = [loss for loss, _ in looks.looks[:4]]
    best = losses.index(max(losses))
    assert best < 3  # or else the test would show nothing
    assert same(looks.begins["head"], looks.looks[best][1])


def test_the_fit_ends_with_the_best_weights_of_its_last_stage():
    looks = Snapshots()
    module = Plain(lambda module: optim.SGD(module.parameters(), 0.8))
    fit(module, [Stage("all", train="*", restore_best=Best("val/loss", "max"))], looks, epochs=4)
    best = max(looks.looks, key=lambda look: look[0])[1]
    assert same(copied(module), best)
    assert not same(best, looks.looks[-1][1])
