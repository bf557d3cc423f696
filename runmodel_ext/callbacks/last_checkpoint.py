"""The checkpoint that a run goes on from."""

from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, written when an epoch has ended, so that a resumed run begins with a whole epoch.

    A class of its own, because Lightning tells checkpoint callbacks apart by class and settings: a
    ``ModelCheckpoint`` of the user's may have the same settings.

    Args:
        dirpath: The directory of the file.
    """

    def __init__(self, dirpath: str | Path) -> None:
        super().__init__(dirpath, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
