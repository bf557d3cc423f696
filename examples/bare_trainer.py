"""Our module, network and data in a bare Trainer; run it with `python examples/bare_trainer.py`."""

from lightning.pytorch import Trainer, seed_everything

from runmodel_ext.data import Digits
from runmodel_ext.modules import ClassificationModule
from runmodel_ext.networks import CNN


def main() -> None:
    """Fit, then test, leaving no file behind."""
    seed_everything(0, verbose=False)
    data = Digits()
    module = ClassificationModule(CNN(), num_classes=10, lr=3e-3)
    trainer = Trainer(max_epochs=5, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, data)
    trainer.test(module, data)


if __name__ == "__main__":
    main()
