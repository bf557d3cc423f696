"""A training script of one's own, with RunModel's directories and records.

python examples/own_script.py fit --model.lr 0.01 --trainer.max_epochs 5
"""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from runmodel_ext.cli import RunCLI
from runmodel_ext.data import Digits


class Linear(LightningModule):
    """The simplest model that tells digits apart."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr
        self.layer = nn.Linear(64, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, name: str = "train") -> Tensor:
        """Log and return the cross entropy of a batch."""
        loss = functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])
        self.log(f"{name}/loss", loss)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the cross entropy of a batch of the test part."""
        self.training_step(batch, batch_idx, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over everything."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


if __name__ == "__main__":
    RunCLI(Linear, Digits)
