"""A Trainer that the user's own code calls: ``RunCLI(run=False)``."""

import weakref
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from runmodel_ext.runs import Claim


class FitByHand(Callback):
    """Resumes where a ``fit`` called by hand goes on with a run, and lets go of the run when it ends.

    Args:
        claim: The run that the process holds; ``None`` on all ranks but the first.
        checkpoint: Where to go on; ``None`` to begin.
    """

    def __init__(self, claim: Claim | None, checkpoint: str | None) -> None:
        self.claim = claim
        self.checkpoint = checkpoint
        self.begun = False

    def hold(self, trainer: Trainer) -> None:
        """Give the Trainer its checkpoint; a Trainer that never fits leaves nothing behind."""
        trainer.ckpt_path = self.checkpoint
        weakref.finalize(trainer, self._never_begun)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = True

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.ckpt_path = None  # a test that comes next is of the weights as they are now
        self._release()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def __getstate__(self) -> dict[str, Any]:
        # A lock cannot travel to a spawned process, which holds nothing.
        return {**self.__dict__, "claim": None}

    def _release(self) -> None:
        if self.claim is not None:
            self.claim.release()

    def _never_begun(self) -> None:
        if self.claim is not None and not self.begun:
            self.claim.abandon()
