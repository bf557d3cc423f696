"""A plain LightningModule, as anyone would write it; `configs/own_module.yaml` runs it.

`monitor` and `mode` are all that RunModel reads of it: which checkpoint is the best.
"""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional


class TwoLayers(LightningModule):
    """Tell digits apart with two linear layers."""

    monitor = "val/accuracy"
    mode = "max"

    def __init__(self, hidden: int = 32, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Give a logit for each digit."""
        logits: Tensor = self.layers(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log and return the loss."""
        images, labels = batch
        loss = functional.cross_entropy(self(images), labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy on the validation part."""
        self.log("val/accuracy", self.accuracy(batch), prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy on the test part."""
        self.log("test/accuracy", self.accuracy(batch))

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Name the digit that is most probable, and how probable it is."""
        images, labels = batch
        score, prediction = self(images).softmax(dim=-1).max(dim=-1)
        return {"prediction": prediction, "score": score, "target": labels}

    def accuracy(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Share of a batch that is told right."""
        images, labels = batch
        return (self(images).argmax(dim=-1) == labels).float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over everything."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)
