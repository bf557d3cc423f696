"""Write the record of a run while it trains."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from runmodel_ext.callbacks.dead_ranks import DeadRanks, lost_a_peer
from runmodel_ext.callbacks.metrics_logger import MetricsLogger
from runmodel_ext.callbacks.sigterm import Sigterm
from runmodel_ext.runs import Mode, RunWriter, Score, now, training_seconds

_STAGE = {"stage", "from", "to", "ended"}


class RunRecorder(Callback):
    """Record how far a fit came, its scores, its checkpoints, and how it ended.

    Every rank carries one; rank 0 writes. A rank that fails leaves its error beside the attempt, and rank 0
    watches the ranks that it launched, so that a job with a dead rank is recorded as failed.

    Args:
        writer: The writer of the attempt.
        monitor: The metric that chooses the best epoch; the last epoch counts where it is ``None``.
        mode: Which way ``monitor`` is better.
        modes: Which way each logged metric is better, where its author said so.
    """

    def __init__(
        self, writer: RunWriter, monitor: str | None, mode: Mode | None, modes: Mapping[str, Mode] | None = None
    ) -> None:
        self.writer = writer
        self.monitor = monitor
        self.modes: dict[str, Mode] = {**(modes or {}), **({monitor: mode} if monitor and mode else {})}
        self.best: dict[str, Any] | None = None
        self._metrics: dict[str, float] = {}
        self._ended = self._goes_on = False
        self.ranks = DeadRanks(writer)
        self._sigterm = Sigterm()
        self._over: dict[str, Any] | None = None
        self._stages: list[dict[str, Any]] = []

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # What another run reached, from whose checkpoint this one starts, is not this run's score.
        self.best = state_dict["best"] if self._goes_on else None

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Lightning forgets both, so that a fit that goes on would not know that it had been told to stop, and a
        # scheduler would miss a score that is not new in every epoch.
        checkpoint["runmodel"] = {"should_stop": trainer.should_stop, "metrics": self._metrics}

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint.get("runmodel", {})
        self._metrics = kept.get("metrics", {})
        # Another run's wish to stop, as where this one extends it, is not this run's.
        self._goes_on = Path(trainer.ckpt_path or "").resolve().is_relative_to(self.writer.path.resolve())
        if self._goes_on and kept.get("should_stop"):
            trainer.should_stop = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sigterm.answer(trainer)
        trainer.callback_metrics.update(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in self._metrics.items()}
        )
        if not trainer.is_global_zero:
            return
        start = {
            "from_step": trainer.global_step,
            "from_epoch": trainer.current_epoch,
            "world_size": trainer.world_size,
        }
        self.writer.update(lambda record: self.writer.attempt(record).update(start))
        processes = getattr(trainer.strategy.launcher, "procs", None)
        if processes and hasattr(processes[0], "poll"):
            self.ranks.watch(processes, lambda reason: self._end("failed", reason))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._consider(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fill_in(trainer)
        if trainer.is_global_zero:
            self._write_stages(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fill_in(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._consider(trainer)
        self._over = {"values": self._metrics, "epoch": trainer.current_epoch, "step": trainer.global_step - 1}
        if trainer.is_global_zero:
            self._write_progress(trainer, trainer.current_epoch + 1)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        status, reason = how_it_ended(exception)
        if not trainer.is_global_zero:
            if status == "failed" and not lost_a_peer(exception):
                self.ranks.leave_note(trainer.global_rank, reason)
            return
        if self._sigterm.received:  # which may have reached a rank while it was losing another that it reached first
            status, reason = "interrupted", "SIGTERM"
        # torchrun stops the others by SIGTERM when a rank dies.
        if lost_a_peer(exception) or reason == "SIGTERM":
            dead = self.ranks.reason(wait=lost_a_peer(exception))
            status, reason = ("failed", dead) if dead else (status, reason)
        self._end(status, reason)
        self._write_stages(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or self._ended:
            return
        self._write_progress(trainer, trainer.current_epoch)
        self._end("finished", None)

    def _fill_in(self, trainer: Trainer) -> None:
        # Lightning has logged the epoch that is over by now.
        over, self._over = self._over, None
        if over is not None:
            for logger in trainer.loggers:
                if isinstance(logger, MetricsLogger):
                    logger.end_epoch(**over)

    def _end(self, status: str, reason: str | None) -> None:
        self.ranks.stop()
        if not self._ended:
            self._ended = True
            self.writer.end(status, reason)

    def _consider(self, trainer: Trainer) -> None:
        # Reading the metrics may reduce them across ranks, so that every rank must come here.
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._metrics = values
        current = {"epoch": trainer.current_epoch, "step": trainer.global_step, "values": values}
        if self.best is None or self.monitor is None or self.monitor not in self.best["values"]:
            self.best = current
        elif self.monitor in values:
            mode = self.modes.get(self.monitor)
            same_epoch = (
                self.best["epoch"] == current["epoch"] and values[self.monitor] == self.best["values"][self.monitor]
            )
            if same_epoch:
                self.best["values"].update(values)
            elif Score(values[self.monitor], mode).beats(Score(self.best["values"][self.monitor], mode)):
                self.best = current

    def _write_progress(self, trainer: Trainer, epochs: int) -> None:
        checkpoints = _checkpoints(trainer, self.writer.path)
        self._stages = _stages(trainer)

        def change(record: dict[str, Any]) -> None:
            self.writer.attempt(record)["seen"] = now()
            record["seconds"] = training_seconds(record)
            record["progress"] = {"epoch": epochs, "step": trainer.global_step}
            record.setdefault("checkpoints", {}).update(checkpoints)
            record.setdefault("scores", {}).update(self._scores())
            if self._stages:
                record["stages"] = self._stages

        self.writer.update(change)

    def _write_stages(self, trainer: Trainer) -> None:
        stages = _stages(trainer)
        if stages != self._stages:  # one has begun since
            self._stages = stages
            self.writer.update(lambda record: record.update(stages=stages))

    def _scores(self) -> dict[str, dict[str, Any]]:
        if self.best is None:
            return {}
        where = {"epoch": self.best["epoch"], "step": self.best["step"], "from": self.writer.folder}
        values = self.best["values"]
        return {
            name: {"value": value, "mode": self.modes.get(name), **where}
            for name, value in values.items()
            if not (name.endswith("_step") and name.removesuffix("_step") in values)
        }


def how_it_ended(exception: BaseException) -> tuple[str, str]:
    """The status and the reason, in one line, of a run that ended by an exception.

    Example:
        >>> how_it_ended(KeyboardInterrupt())
        ('interrupted', 'Ctrl-C')
    """
    if isinstance(exception, KeyboardInterrupt):
        return "interrupted", "Ctrl-C"
    if isinstance(exception, SIGTERMException):
        return "interrupted", "SIGTERM"
    frames = traceback.extract_tb(exception.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = " ".join(str(exception).split())
    return "failed", f"{type(exception).__name__}: {message[:500]}{where}"


def _stages(trainer: Trainer) -> list[dict[str, Any]]:
    """The stages of a fine-tuning that have begun, of whichever callback keeps account of them."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # which Trainer gets from a connector
        history = getattr(callback, "history", None)
        if isinstance(history, list) and history and all(isinstance(e, dict) and e.keys() >= _STAGE for e in history):
            return history
    return []


def _checkpoints(trainer: Trainer, run: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for callback in trainer.checkpoint_callbacks:
        best = getattr(callback, "best_model_path", "")
        last = getattr(callback, "last_model_path", "")
        if best and Path(best).stem == "last":
            best, last = "", best
        for key, path in (("best", best), ("last", last)):
            if path and Path(path).resolve().is_relative_to(run.resolve()):
                found.setdefault(key, Path(path).resolve().relative_to(run.resolve()).as_posix())
    return found
