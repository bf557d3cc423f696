"""Checkpoints written whole or not at all."""

from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from runmodel_ext._files import refusals_explained, whole_file


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, syncs it, and gives it its name in one step.

    Lightning's own writer goes through the system's temporary directory; where that is another file system, a
    process that is killed while the file is moved leaves half a ``last.ckpt`` and no earlier one.
    Remote paths (``s3://…``) are left to Lightning.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        with refusals_explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as file:
            _save(checkpoint, file)


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # On a full disk torch fails once more while it closes the archive, which hides the reason.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
