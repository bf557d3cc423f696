"""Record a run, keep its last checkpoint and its random numbers, at the price of one callback."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from runmodel_ext.callbacks.last_checkpoint import LastCheckpoint
from runmodel_ext.callbacks.random_state import RandomState
from runmodel_ext.callbacks.run_recorder import RunRecorder


class RunKeeper(Checkpoint):
    """Three callbacks as one, because Lightning asks each callback at every hook of every batch.

    Args:
        recorder: Writes the record.
        last: Writes ``last.ckpt``; ``None`` where the user's own callback does.
    """

    def __init__(self, recorder: RunRecorder, last: LastCheckpoint | None) -> None:
        self.recorder = recorder
        self.random_state = RandomState()
        self.last = last

    @property
    def last_model_path(self) -> str:
        """The last checkpoint, once there is one; empty before."""
        return self.last.last_model_path if self.last else ""

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.recorder.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.recorder.load_state_dict(state_dict)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.recorder.on_save_checkpoint(trainer, pl_module, checkpoint)
        self.random_state.on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.last:
            self.last.on_save_checkpoint(trainer, pl_module, checkpoint)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.recorder.on_load_checkpoint(trainer, pl_module, checkpoint)
        self.random_state.on_load_checkpoint(trainer, pl_module, checkpoint)
        if self.last:
            self.last.on_load_checkpoint(trainer, pl_module, checkpoint)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.recorder.on_train_start(trainer, pl_module)
        self.random_state.on_train_start(trainer, pl_module)
        if self.last:
            self.last.on_train_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.recorder.on_train_epoch_start(trainer, pl_module)
        self.random_state.on_train_epoch_start(trainer, pl_module)
        if self.last:
            self.last.on_train_epoch_start(trainer, pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.random_state.on_train_batch_start(trainer, pl_module, batch, batch_idx)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.recorder.on_validation_end(trainer, pl_module)
        self.random_state.on_validation_end(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.recorder.on_train_epoch_end(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.recorder.on_train_end(trainer, pl_module)
        if self.last:
            self.last.on_train_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.random_state.on_exception(trainer, pl_module, exception)
        self.recorder.on_exception(trainer, pl_module, exception)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.recorder.teardown(trainer, pl_module, stage)
