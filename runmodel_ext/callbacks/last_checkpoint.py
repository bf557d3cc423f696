"""The checkpoint from which an interrupted fit goes on."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from runmodel_ext._private import begin_with_a_whole_epoch


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint of the newest epoch that is wholly over.

    ``ModelCheckpoint`` saves while the epoch is still ending: a fit that goes on from there lacks the epoch's step
    of a ``ReduceLROnPlateau``, and its row of training scores. This one saves when the next epoch begins, or
    training ends.

    Args:
        path: The file, which each epoch replaces.

    Attributes:
        last_model_path: The file, once there is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_model_path = ""
        self._saved: tuple[int, int] | None = None
        self._saving = self._between_epochs = False

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._between_epochs = checkpoint.get("runmodel_between_epochs", False)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._saving:
            return
        checkpoint["runmodel_between_epochs"] = True
        # Lightning has counted the next epoch as ready, and would go on as in the middle of it.
        for count in ("total", "current"):
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"][count]
            epochs["ready"] = epochs["processed"]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = _position(trainer)  # nothing is new yet
        if self.path.exists():
            self.last_model_path = str(self.path)
        if self._between_epochs:
            begin_with_a_whole_epoch(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if self._saved == _position(trainer):
            return
        self._saved = _position(trainer)
        self._saving = True
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saving = False
        self.last_model_path = str(self.path)


def _position(trainer: Trainer) -> tuple[int, int]:
    return trainer.current_epoch, trainer.global_step
