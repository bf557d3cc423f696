"""A fit that is killed at any moment, and run again, ends as one that was left alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runmodel_ext.runs import Run, find_runs
from tests.life.kit import assert_same_end, fit_args, only_run, until
from tests.warm import Warm

PLATEAU = """\
model:
  class_path: runmodel_ext.modules.ClassificationModule
  init_args:
    num_classes: 10
    network: {class_path: runmodel_ext.networks.CNN, init_args: {width: 4, dropout: 0.3}}
    lr_scheduler:
      class_path: torch.optim.lr_scheduler.ReduceLROnPlateau
      init_args: {mode: max, factor: 0.5, patience: 0, threshold: 0.5}
data: {class_path: runmodel_ext.data.Digits, init_args: {batch_size: 256}}
trainer: {max_epochs: 6, log_every_n_steps: 2, enable_progress_bar: false, logger: false}
"""
EARLY = PLATEAU.replace(
    "log_every_n_steps",
    "callbacks: {class_path: EarlyStopping, init_args: {monitor: val/acc, mode: max, min_delta: 0.9, patience: 2}}, "
    "log_every_n_steps",
).replace("max_epochs: 6", "max_epochs: 50")
OWN = """\
model: {class_path: own_shuffle.Net}
data: {class_path: own_shuffle.Data}
trainer: {max_epochs: 5, log_every_n_steps: 1, enable_progress_bar: false, logger: false}
"""
OWN_MODULE = """
import random
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    def __len__(self):
        return 120

    def __getitem__(self, place):
        inputs = torch.full((4,), place / 120) + 0.1 * torch.randn(4) + random.random()
        return inputs, torch.tensor(place % 2)


class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Noisy(), batch_size=10, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Noisy(), batch_size=60)


class Net(LightningModule):
    monitor, mode = "val/loss", "min"

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
"""


@pytest.fixture(scope="module")
def whole(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A fit that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    code, text = warm.run(fit_args(folder), folder / "log")
    assert code == 0, text
    return only_run(folder)


def rows(folder: Path) -> int:
    return len(only_run(folder).metrics()) if find_runs(folder / "results") else 0


def directory_taken(folder: Path) -> bool:
    return any(path.parent.name == "v1" for path in folder.glob("results/**/.lock"))


def in_the_first_epoch(folder: Path) -> bool:
    return rows(folder) >= 2


def in_the_third_epoch(folder: Path) -> bool:
    return rows(folder) >= 22


def checkpoint_half_written(folder: Path) -> bool:
    return next(folder.glob("results/*/*/*/*/v1/checkpoints/.*.tmp"), None) is not None


def last_epoch_saved(folder: Path) -> bool:
    return rows(folder) >= 36 + 4  # the steps, and a row of scores for each epoch


MOMENTS = [directory_taken, in_the_first_epoch, in_the_third_epoch, checkpoint_half_written, last_epoch_saved]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_a_killed_fit_ends_with_the_same_bits(
    warm: Warm, tmp_path: Path, whole: Run, moment: Callable[[Path], bool]
) -> None:
    command = warm.start(fit_args(tmp_path), tmp_path / "first")
    until(lambda: moment(tmp_path), moment.__name__, command.is_over)
    command.kill()
    command.wait()
    code, text = warm.run(fit_args(tmp_path), tmp_path / "second")
    assert code == 0, text
    run = only_run(tmp_path)
    assert run.status == "finished"
    assert_same_end(run, whole)
    assert not list(run.path.rglob("*.tmp"))


def test_what_a_killed_fit_leaves_says_so(warm: Warm, tmp_path: Path) -> None:
    command = warm.start(fit_args(tmp_path), tmp_path / "log")
    until(lambda: in_the_third_epoch(tmp_path), "third epoch", command.is_over)
    assert only_run(tmp_path).status == "running"
    assert only_run(tmp_path).holder().startswith(f"process {command.pid} on ")
    command.kill()
    assert command.wait() == -9
    run = only_run(tmp_path)
    assert (run.status, run.reason) == ("interrupted", "the process was killed")
    assert run.progress["epoch"] >= 2
    assert run.checkpoint("last") is not None


def killed_twice(warm: Warm, folder: Path, config: str, cwd: Path | None = None) -> tuple[Run, Run]:
    """The same fit left alone, and killed after its first and its third checkpoint of an epoch."""
    for name in ("alone", "killed"):
        (folder / name).mkdir()
    code, text = warm.run(fit_args(folder / "alone", config=config), folder / "log", cwd)
    assert code == 0, text
    words = fit_args(folder / "killed", config=config)
    for saves in (1, 2):
        command = warm.start(words, folder / "log", cwd)
        seen: set[int] = set()

        def saved(seen: set[int] = seen, saves: int = saves) -> bool:
            found = next((folder / "killed").glob("results/**/last.ckpt"), None)
            seen.update({found.stat().st_mtime_ns} if found else set())
            return len(seen) > saves

        until(saved, "checkpoint", command.is_over)
        command.kill()
        assert command.wait() == -9, command.text
    code, text = warm.run(words, folder / "log", cwd)
    assert code == 0, text
    return only_run(folder / "killed"), only_run(folder / "alone")


def test_a_scheduler_that_waits_for_a_plateau_misses_no_step(warm: Warm, tmp_path: Path) -> None:
    killed, alone = killed_twice(warm, tmp_path, PLATEAU)
    assert_same_end(killed, alone)


def test_an_early_stop_is_not_forgotten(warm: Warm, tmp_path: Path) -> None:
    code, text = warm.run(fit_args(tmp_path, config=EARLY), tmp_path / "log")
    assert code == 0, text
    run = only_run(tmp_path)
    assert run.progress["epoch"] == 3
    # As if it had been killed when the last checkpoint was there and the record was not finished.
    record = run.path / "run.json"
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "running"'))
    code, text = warm.run(fit_args(tmp_path, config=EARLY), tmp_path / "log")
    assert code == 0, text
    assert only_run(tmp_path).status == "finished"
    assert only_run(tmp_path).progress == run.progress


def test_a_shuffling_loader_of_ones_own_goes_on_as_it_would_have(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "own_shuffle.py").write_text(OWN_MODULE)
    killed, alone = killed_twice(warm, tmp_path, OWN, cwd=tmp_path)
    assert_same_end(killed, alone)


def test_steps_instead_of_epochs_resume_exactly(warm: Warm, tmp_path: Path) -> None:
    steps = PLATEAU.replace("max_epochs: 6", "max_epochs: -1, max_steps: 23")
    killed, alone = killed_twice(warm, tmp_path, steps)
    assert alone.progress["step"] == 23
    assert_same_end(killed, alone)
