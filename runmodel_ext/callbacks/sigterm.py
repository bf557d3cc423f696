"""SIGTERM in a job of several ranks."""

import signal
import threading
from typing import Any, NoReturn

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException


class Sigterm:
    """Ends a rank at once when SIGTERM comes.

    Lightning's own handler talks to the other ranks first, from wherever the signal found this one. In the middle of
    a step that is another conversation than theirs, and both sides wait until they are killed. A run goes on from its
    last whole epoch, so that nothing is gained by waiting for the end of a batch.

    Attributes:
        received: Whether it has come.
    """

    def __init__(self) -> None:
        self.received = False

    def answer(self, trainer: Trainer) -> None:
        """Take the signal over from Lightning, which puts back what there was before when it ends.

        Args:
            trainer: A trainer that has registered its handlers, as in ``on_train_start``.
        """
        if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
            return
        launcher = trainer.strategy.launcher

        def end(signum: int, frame: Any) -> NoReturn:
            self.received = True
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end itself is not to be cut short
            for process in getattr(launcher, "procs", ()):
                if hasattr(process, "send_signal"):
                    process.send_signal(signum)
            raise SIGTERMException

        signal.signal(signal.SIGTERM, end)
