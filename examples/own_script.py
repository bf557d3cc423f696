"""A training script of one's own, with RunModel's directories and records.

python examples/own_script.py fit --model.lr 0.01 --trainer.max_epochs 5
python examples/own_script.py test --model.lr 0.01 --trainer.max_epochs 5
"""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from runmodel_ext.cli import RunCLI
from runmodel_ext.data import Digits


class Linear(LightningModule):
    """The simplest model that tells digits apart."""

    monitor = "val/loss"
    mode = "min"

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr
        self.layer = nn.Linear(64, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: D102
        return self.loss(batch, "train/loss")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: D102
        self.loss(batch, "val/loss")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: D102
        self.loss(batch, "test/loss")

    def loss(self, batch: tuple[Tensor, Tensor], name: str) -> Tensor:
        """Cross entropy of a batch, logged under ``name``."""
        loss = functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])
        self.log(name, loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:  # noqa: D102
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


if __name__ == "__main__":
    RunCLI(Linear, Digits)
