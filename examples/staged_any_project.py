"""A callback more, and a project that knows nothing of stages is fine-tuned in three; nothing else in it changes.

python examples/staged_any_project.py
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.data import Digits


class SomebodysModel(LightningModule):
    """A module as it comes: one optimizer over everything, and a scheduler in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss on the validation part."""
        self.log("val/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with OneCycleLR."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


STAGES = [
    Stage("head", train="head", until=Until(epochs=2)),
    Stage("top", train=["head", "backbone.3"], until=Until(epochs=3)),
    Stage("all", train="*", layer_decay=0.5),
]


def main() -> None:
    """Fit, and say which stages there were."""
    seed_everything(0, verbose=False)
    staged = StagedFinetuning(STAGES)  # the one line; picture="stages.png" draws what happened
    trainer = Trainer(max_epochs=8, callbacks=[staged], logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit(SomebodysModel(), Digits())
    for stage in staged.history:
        print(f"{stage['stage']}: from step {stage['from']['step']}, until {stage['ended']}")


if __name__ == "__main__":
    main()
