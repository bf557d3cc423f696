"""The smallest model and data that show how a run is named, found and recorded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from runmodel_ext.cli import RunCLI
from runmodel_ext.runs import Run, find_runs

MODEL = "tests.cli.tiny.Tiny"
DATA = "tests.cli.tiny.TinyData"
QUICK = (
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
    "--trainer.logger=false",
)


class Tiny(LightningModule):
    """A line through points, as someone who knows nothing of RunModel would write it."""

    monitor: Any = "val/loss"
    mode: Any = "min"

    def __init__(self, lr: float = 0.1, width: int = 1, words: set[str] | None = None, note: str = "") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.layer = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch, "train/loss")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.loss(batch, "val/loss")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.loss(batch, "test/loss")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"target": batch[1], "prediction": self.layer(batch[0])[:, 0]}

    def loss(self, batch: list[Tensor], name: str) -> Tensor:
        loss = (self.layer(batch[0])[:, 0] - batch[1]).square().mean()
        self.log(name, loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Quiet(Tiny):
    """One that says nothing of what is best."""

    monitor = None
    mode = None


class Undirected(Tiny):
    """One that names a metric, but not which way it is better."""

    mode = None


class TinyData(LightningDataModule):
    """Ten points on a plane for each part; the test part has eleven."""

    identity_ignore = ("num_workers",)

    def __init__(self, batch_size: int = 4, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers

    def points(self, count: int, seed: int) -> TensorDataset:
        x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(x, x @ torch.tensor([1.0, -2.0]))

    def train_dataloader(self) -> Any:
        return DataLoader(self.points(10, 0), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.points(10, 1), batch_size=self.batch_size)

    def test_dataloader(self) -> Any:
        return DataLoader(self.points(11, 2), batch_size=self.batch_size)

    def predict_dataloader(self) -> Any:
        return self.test_dataloader()


def words(command: str, root: Path, *more: str, model: str = MODEL) -> list[str]:
    """The words of a command on the tiny model and data."""
    return [command, f"--model={model}", f"--data={DATA}", *QUICK, f"--run.root={root}", *more]


def run(command: str, root: Path, *more: str, model: str = MODEL) -> RunCLI:
    """Run a command in this process; its errors are raised."""
    return RunCLI(args=words(command, root, *more, model=model))


def fit(root: Path, *more: str, model: str = MODEL) -> Run:
    """Fit; the run that it made or found."""
    found = run("fit", root, *more, model=model).run
    assert found is not None
    return found


def again(args: Sequence[str]) -> RunCLI:
    """Run any words in this process."""
    return RunCLI(args=list(args))


def the_run(root: Path) -> Run:
    """The only run there is."""
    (only,) = find_runs(root)
    return only


def weights(run: Run, which: Any = "last") -> dict[str, Tensor]:
    """The weights in a run's checkpoint."""
    path = run.checkpoint(which)
    assert path is not None
    loaded: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return loaded
