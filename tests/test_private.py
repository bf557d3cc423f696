"""The private parts of upstream packages that we lean on: these tests fail when one of them moves."""

import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.core.mixins import hparams_mixin
from lightning.pytorch.demos.boring_classes import BoringModel

from runmodel_ext._private import (
    begin_with_a_whole_epoch,
    built_from_configuration,
    optimizer_keys,
    parser_of,
    start_loaders_anew,
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
