"""Other callbacks beside the stages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.loggers import CSVLogger
from torch import optim

from runmodel_ext import Stage, StagedFinetuning, Until
from tests.finetuning.kit import QUIET
from tests.finetuning.small import (
    HEAD,
    Plain,
    Watch,
    copied,
    fit,
    head_body_head,
    loader,
    moved,
    quiet,
    staged,
    weights,
)


def test_several_checkpoints_early_stopping_and_a_monitor_of_rates(tmp_path: Path):
    beside: list[Callback] = [
        theirs.ModelCheckpoint(tmp_path / "best", monitor="val/loss", save_last=True),
        theirs.ModelCheckpoint(tmp_path / "all", every_n_train_steps=3, save_top_k=-1),
        theirs.OnExceptionCheckpoint(tmp_path),
        theirs.EarlyStopping("val/loss", patience=9),
        theirs.LearningRateMonitor("step", log_momentum=True, log_weight_decay=True),
    ]
    logger = CSVLogger(tmp_path)
    trainer = fit(Plain(), head_body_head(), *beside, logger=logger, enable_checkpointing=True, log_every_n_steps=1)
    assert len(list((tmp_path / "all").iterdir())) == 4
    assert {path.name for path in (tmp_path / "best").iterdir()} >= {"last.ckpt"}
    assert [passed["stage"] for passed in staged(trainer).history] == ["head", "all", "again"]


def test_an_exception_is_saved_with_the_stage_that_was_on(tmp_path: Path):
    class Fails(Plain):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.trainer.global_step == 6:
                raise ArithmeticError("the module has had enough")

    saves = theirs.OnExceptionCheckpoint(tmp_path)
    with pytest.raises(ArithmeticError):
        fit(Fails(), head_body_head(), saves, enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "on_exception.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["StagedFinetuning"]["progress"]["index"] == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_monitor_of_rates_logs_those_of_each_step_wherever_it_stands_in_the_list(tmp_path: Path, first: bool):
    def configure(module: Plain) -> Any:
        top = [*module.net.body.parameters(), *module.net.head.parameters()]
        groups = [{"params": top, "name": "top"}, {"params": module.net.stem.parameters(), "name": "top/net.head"}]
        return optim.AdamW(groups, 0.01)

    class Uses(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            used.append([group["lr"] for group in optimizer.param_groups])

    used: list[list[float]] = []
    monitor = theirs.LearningRateMonitor("step")
    own = StagedFinetuning(
        [Stage("head", train="net.head", lr=0.1, until=Until(steps=5)), Stage("all", train="*", lr=0.2)],
        show_plan=False,
    )
    callbacks = [monitor, own, Uses()] if first else [own, monitor, Uses()]
    with quiet():
        trainer = Trainer(**{**QUIET, "logger": CSVLogger(tmp_path)}, max_epochs=3, callbacks=callbacks,
                          log_every_n_steps=1)  # fmt: skip
        trainer.fit(Plain(configure), loader(), loader(2))
    assert len(monitor.lrs) == 3
    assert list(monitor.lrs.values()) == [[step[group] for step in used] for group in range(3)]
    assert used[4:6] == [[0.0, 0.1, 0.0], [0.2, 0.2, 0.2]] or used[4:6] == [[0.1, 0.0, 0.0], [0.2, 0.2, 0.2]]


def test_an_average_of_weights_takes_what_is_frozen_as_it_is():
    module = Plain()
    start, watch = copied(module), Watch(weights)
    fit(module, [Stage("head", train="net.head")], theirs.EMAWeightAveraging(decay=0.5), watch, epochs=2)
    assert moved(start, watch.within("head")[-1]) == HEAD
    for name, value in copied(module).items():  # half of a weight and half of it are that weight
        assert torch.equal(value, start[name]) == (name not in HEAD)


def test_early_stopping_ends_the_fit_whichever_stage_is_on():
    stop = theirs.EarlyStopping("val/loss", patience=1, min_delta=99)
    trainer = fit(Plain(), head_body_head(), stop, epochs=9)
    assert [passed["ended"] for passed in staged(trainer).history] == ["1 epoch is over", "the fit ended"]
