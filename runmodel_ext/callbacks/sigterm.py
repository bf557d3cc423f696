"""SIGTERM in a job of several ranks."""

from typing import Any

from lightning.pytorch import Trainer


def answer_sigterm_at_the_next_batch(trainer: Trainer) -> None:
    """Let SIGTERM leave a note only, which Lightning reads and passes on between two batches.

    Lightning's own handler talks to the other ranks at once, from wherever the signal found this one. In the middle of
    a step that is another conversation than theirs, and both sides wait until they are killed.

    Args:
        trainer: A trainer that has not registered its handlers yet, as in a callback's ``setup``.
    """
    if trainer.world_size == 1:
        return
    connector = trainer._signal_connector

    def notice(signum: Any, frame: Any) -> None:
        launcher = trainer.strategy.launcher
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(signum)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = notice  # type: ignore[assignment, method-assign]
