"""The private parts of upstream packages that we lean on: these tests fail when one of them moves."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.core.mixins import hparams_mixin
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.optim import lr_scheduler

from runmodel_ext._private import (
    Saved,
    begin_with_a_whole_epoch,
    built_from_configuration,
    count_the_epoch,
    forget_size,
    go_to_the_epoch_end,
    inner_schedulers,
    leave_the_epoch,
    optimizer_keys,
    owe_the_epoch_end,
    owe_the_validation,
    parser_of,
    start_loaders_anew,
    where_saved,
)

PACKAGE = Path(__file__).parents[1] / "runmodel_ext"
HINT = "Lightning has changed a private part that runmodel_ext/_private.py leans on"


class Counting(torch.utils.data.DataLoader):
    """Counts how often it is begun."""

    begun = 0

    def __iter__(self):
        Counting.begun += 1
        return super().__iter__()


class Looks(Callback):
    """Looks at a running fit."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: object) -> None:
        loop = trainer.fit_loop
        for name in ("_restarting", "_combined_loader", "_data_fetcher"):
            assert hasattr(loop, name), f"{HINT}: FitLoop.{name}"
        assert isinstance(loop._restarting, bool), HINT
        assert isinstance(loop.epoch_loop.val_loop._has_run, bool), HINT
        assert "_batches_that_stepped" in loop.state_dict()["epoch_loop.state_dict"], HINT
        assert loop._combined_loader is not None
        assert len(loop._combined_loader.flattened) == 1, HINT
        before = Counting.begun
        start_loaders_anew(trainer)
        assert Counting.begun == before + 1, f"{HINT}: iter(fetcher) begins no loader"
        begin_with_a_whole_epoch(trainer)
        assert not loop.restarting, HINT


def test_the_fit_loop_still_has_what_we_lean_on(tmp_path: Path) -> None:
    trainer = Trainer(
        max_steps=1,
        callbacks=[Looks()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
    )
    trainer.fit(BoringModel(), Counting(torch.ones(4, 32)))
    assert trainer.global_step == 1


def test_the_public_setter_of_restarting_still_does_not_serve() -> None:
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit_loop.restarting = False
    assert trainer.fit_loop.restarting, "The public setter serves now: begin_with_a_whole_epoch can use it."


def test_lightning_still_says_that_it_builds_from_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not built_from_configuration()
    with hparams_mixin._given_hyperparameters_context(hparams={"lr": 0.1}, instantiator="x"):
        assert built_from_configuration(), HINT


def test_parsers_of_commands_and_their_optimizers_are_still_found() -> None:
    class Stops(LightningCLI):
        def parse_arguments(self, parser: object, args: object) -> None:
            fit = parser_of(self, "fit")
            assert {"optimizer", "lr_scheduler"} <= optimizer_keys(fit).keys(), HINT
            assert fit is not parser
            raise SystemExit(0)

    with pytest.raises(SystemExit):
        Stops(args=["fit"])


class Hooks(Callback):
    """Notes the hooks of a fit, and saves in some of them; what is saved there is looked at too."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.seen: list[str] = []
        self.moments: dict[str, Saved] = {}

    def save(self, trainer: Trainer, name: str) -> None:
        if self.folder is not None:
            self.name = name
            trainer.save_checkpoint(self.folder / name)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: object, checkpoint: dict[str, Any]) -> None:
        self.moments[self.name] = where_saved(checkpoint, trainer.num_training_batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: object) -> None:
        self.seen.append(f"epoch {trainer.current_epoch}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: object, batch: object, batch_idx: int) -> None:
        self.seen.append(f"batch {batch_idx}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: object, *_: object) -> None:
        self.save(trainer, f"batch {trainer.global_step}")

    def on_validation_end(self, trainer: Trainer, pl_module: object) -> None:
        self.seen.append("validation")
        self.save(trainer, f"validation {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: object) -> None:
        self.seen.append(f"end {trainer.current_epoch}")
        self.save(trainer, f"end {trainer.global_step}")


def boring_fit(*callbacks: Callback, checkpoint: Path | None = None, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    size = {"max_epochs": 3, "limit_train_batches": 3, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    trainer = Trainer(**{**quiet, "enable_checkpointing": False, **size, **settings}, callbacks=list(callbacks))
    trainer.fit(BoringModel(), ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    return trainer


def resumed(
    folder: Path, name: str, mend: Callable[[dict[str, Any]], None], *more: Callback, **settings: Any
) -> list[str]:
    """The hooks of a fit that goes on from a checkpoint which was mended."""
    checkpoint = torch.load(folder / name, weights_only=False)
    mend(checkpoint)
    torch.save(checkpoint, folder / "mended")
    hooks = Hooks()
    boring_fit(hooks, *more, checkpoint=folder / "mended", **settings)
    return hooks.seen


def test_checkpoints_still_say_in_which_moment_they_were_saved(tmp_path: Path) -> None:
    hooks = Hooks(tmp_path)
    boring_fit(hooks, max_epochs=2)
    expected = {
        "batch 2": Saved(True, False, True, False, 2),
        "batch 3": Saved(True, True, True, False, 3),
        "validation 3": Saved(False, True, True, False, 3),
        "end 3": Saved(False, True, True, True, 3),
        "batch 4": Saved(True, False, True, False, 1),
    }
    assert {name: hooks.moments[name] for name in expected} == expected, f"{HINT}: the states of loops"


def test_the_validation_that_a_resume_leaves_out_can_still_be_owed(tmp_path: Path) -> None:
    boring_fit(Hooks(tmp_path), max_epochs=1)
    left_out = resumed(tmp_path, "batch 3", lambda checkpoint: None)
    assert "validation" not in left_out[:3], "Lightning validates after a resume: owe_the_validation has no use now."
    owed = resumed(tmp_path, "batch 3", owe_the_validation)
    assert owed[:4] == ["validation", "end 0", "epoch 1", "batch 0"], f"{HINT}: owe_the_validation"
    assert owed.count("validation") == 3


class GoesToTheEnd(Callback):
    """What StagedFinetuning does where the end of an epoch is owed."""

    def on_train_start(self, trainer: Trainer, pl_module: object) -> None:
        go_to_the_epoch_end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: object) -> None:
        if trainer.current_epoch == 0:
            leave_the_epoch(trainer)


def test_the_epoch_end_that_a_resume_leaves_out_can_still_be_owed(tmp_path: Path) -> None:
    boring_fit(Hooks(tmp_path), max_epochs=1, limit_val_batches=0)
    left_out = resumed(tmp_path, "batch 3", lambda checkpoint: None, limit_val_batches=0)
    assert "end 0" not in left_out, "Lightning ends the epoch after a resume: owe_the_epoch_end has no use now."
    owed = resumed(tmp_path, "batch 3", owe_the_epoch_end, GoesToTheEnd(), limit_val_batches=0)
    whole = ["end 0", *(each for n in (1, 2) for each in (f"epoch {n}", "batch 0", "batch 1", "batch 2", f"end {n}"))]
    assert [each for each in owed if each != "epoch 0"] == whole, f"{HINT}: owe_the_epoch_end"


def test_an_epoch_can_still_be_counted_in_whose_end_a_checkpoint_was_saved(tmp_path: Path) -> None:
    by_steps = {"max_epochs": -1, "max_steps": 6}
    boring_fit(Hooks(tmp_path), **by_steps)

    class WholeEpochs(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: object) -> None:
            begin_with_a_whole_epoch(trainer)

    counted = resumed(tmp_path, "end 3", count_the_epoch, WholeEpochs(), **by_steps)
    assert counted == ["epoch 1", "batch 0", "batch 1", "batch 2", "validation", "end 1"], f"{HINT}: count_the_epoch"


def test_schedulers_still_hold_those_that_they_are_made_of() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    first, second = (lr_scheduler.ConstantLR(optimizer) for _ in range(2))
    chained = lr_scheduler.ChainedScheduler([first, second])
    sequence = lr_scheduler.SequentialLR(optimizer, [lr_scheduler.ConstantLR(optimizer), first], milestones=[2])
    assert inner_schedulers(chained) == [chained, first, second], "torch has moved ChainedScheduler._schedulers"
    assert inner_schedulers(sequence)[0] is sequence
    assert inner_schedulers(sequence)[2] is first, "torch has moved SequentialLR._schedulers"
    assert inner_schedulers(first) == [first]


def test_lbfgs_still_counts_its_parameters_once_and_can_be_made_to_count_again() -> None:
    first, second = nn.Linear(2, 1), nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(first.parameters(), lr=0.1, max_iter=2)
    assert hasattr(optimizer, "_numel_cache"), "torch has moved LBFGS._numel_cache"

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (first(torch.ones(1, 2)) + second(torch.ones(1, 3))).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.param_groups[0]["params"][:] = second.parameters()
    optimizer.state.clear()
    with pytest.raises(AssertionError):  # torch finds that the sizes do not add up
        optimizer.step(closure)
    optimizer.state.clear()
    forget_size(optimizer)
    before = second.weight.detach().clone()
    optimizer.step(closure)
    assert not torch.equal(before, second.weight)


def test_no_other_file_reaches_into_upstream_objects() -> None:
    reach = re.compile(r"(?:trainer|loop|fit_loop|connector|strategy|launcher|hparams_mixin|optimizer|module)\._[a-z]")
    offenders = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "_private.py"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if reach.search(line)
    ]
    assert offenders == []


def test_nobody_imports_a_private_module_of_upstream_but_the_schema() -> None:
    private = re.compile(r"^\s*(?:from|import) (?:torch|lightning|jsonargparse|torchmetrics)[\w.]*\._", re.MULTILINE)
    offenders = [path.name for path in PACKAGE.rglob("*.py") if private.search(path.read_text())]
    assert offenders == ["schema.py"]
