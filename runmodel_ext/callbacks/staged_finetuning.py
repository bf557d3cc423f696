"""Change what trains at which learning rate, and when."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from runmodel_ext._private import (
    begin_with_a_whole_epoch,
    count_the_epoch,
    go_to_the_epoch_end,
    leave_the_epoch,
    owe_the_epoch_end,
    owe_the_validation,
    where_saved,
)
from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import (
    Conductor,
    Curve,
    Length,
    Position,
    Schedule,
    Stage,
    are_wrapped,
    changes_between,
    described,
    draw_stages,
    in_one_spelling,
    keep_gradients,
    need_matplotlib,
    problem_of_picture,
    problem_of_strategy,
    problems_of_length,
    problems_of_stages,
    put_back_gradients,
    raise_problems,
    stage_to_go_on_with,
    validation_metrics,
    wrap_again,
)

log = logging.getLogger(__name__)

#: Callbacks that decide on the same parameters, or the same rates, by the name of their class.
_RIVALS = {
    "StagedFinetuning": "one fine-tuning decides what trains. Put all stages into one of them",
    "BaseFinetuning": "both freeze and thaw the same parameters. Leave it out, and say in the stages what trains",
    "StochasticWeightAveraging": (
        "it puts a learning rate of its own in the place of the stages'. Take EMAWeightAveraging instead"
    ),
    "LearningRateFinder": (
        "it looks for one learning rate for everything. Find the rate in a fit of its own, and write it into the stages"
    ),
}
_OPTIMIZERS = {
    "ZeroRedundancyOptimizer": "it shares out its groups among the ranks before the stages can split them",
    "_MockOptimizer": "`configure_optimizers` gives none",
}


class StagedFinetuning(Callback):
    """Train a model in stages: each says what trains, at which learning rate, and until when.

    It works with any LightningModule and its own ``configure_optimizers``: parameter groups are split once, at the
    fit's start, by what the stages treat alike; options of a group, and the state of optimizers and schedulers, stay
    as they are. What a stage does not name does not change: it has no gradient, and its modules are in eval mode.
    A fit that is resumed from a checkpoint, at any step, goes on as if it had not been stopped. Under DDP, the
    gradients that are sent are those of what trains.

    The callback works in a Trainer of ``lightning.pytorch`` and of ``pytorch_lightning``.

    Args:
        stages: The stages, in their order; or a schedule, such as
            :func:`~runmodel_ext.finetuning.gradual_unfreezing`, which makes them from the model.
        show_plan: Whether the plan is printed when a fit starts.
        picture: Where a picture (PNG) of learning rates and metrics over the stages is drawn when the fit ends;
            relative to the logger's directory. Needs the extra ``plots``.

    Raises:
        ScheduleError: At the fit's start, if the stages do not fit together, the model or the Trainer; all that is
            wrong is said at once.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from runmodel_ext import Stage, StagedFinetuning, Until
        >>> stages = [Stage("bias", train="layer.bias", lr=0.1, until=Until(epochs=1)), Stage("all", train="*")]
        >>> trainer = Trainer(
        ...     max_epochs=2, callbacks=[StagedFinetuning(stages, show_plan=False)], logger=False, accelerator="cpu",
        ...     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(BoringModel())
        >>> [(passed["stage"], passed["ended"]) for passed in trainer.callbacks[0].history]
        [('bias', '1 epoch is over'), ('all', 'the fit ended')]
    """

    identity_ignore = ("show_plan", "picture")

    def __init__(self, stages: list[Stage] | Schedule, show_plan: bool = True, picture: str | None = None) -> None:
        self.stages = stages
        self.show_plan = show_plan
        self.picture = picture
        self.conductor: Conductor | None = None
        self._declared: list[Stage] = []
        self._checkpoint: Any = None
        self._saved: dict[str, Any] | None = None
        self._before: dict[str, Any] | None = None
        self._seen: dict[str, float] = {}
        self._owed: list[tuple[int, int]] = []
        self._owed_now: list[tuple[int, float]] = []
        self._gradients: dict[str, torch.Tensor] = {}
        self._between_epochs = self._epoch_end_due = self._look_later = self._watching = self._wrapped_anew = False
        self._told = False
        self._wrapped: frozenset[int] = frozenset()
        self._held: list[nn.Module] = []
        self._shown: list[list[float]] = []
        self._curve = Curve()
        self._folder: Path | None = None
        self._moving = 0
        self._next_point = math.inf

    @staticmethod
    def identity_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in a configuration, the same however they were written there."""
        return {**settings, "stages": in_one_spelling(settings["stages"])}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The stages that are over and the one that is on: their bounds, why each ended, and its rates."""
        if self.conductor is None or self.conductor.progress.index < 0:
            return []
        progress = self.conductor.progress
        passed = [dict(each) for each in progress.passed]
        names = [stage.name for stage in self._declared]
        if len(passed) <= progress.index and names:
            begun = {"epoch": progress.begun, "step": progress.step}
            passed.append({"stage": names[progress.index], "from": begun, "to": None, "ended": None})
        for each in passed:
            if each["stage"] in names:  # which of another schedule, as before a resume, it need not be
                each["lr"] = self.conductor.rates_of_stage(names.index(each["stage"]))
        return passed

    @property
    def curve(self) -> list[dict[str, Any]]:
        """Learning rates and metrics over steps, as :func:`~runmodel_ext.finetuning.draw_stages` takes them."""
        return self._curve.points

    def check_length(self, trainer: Trainer) -> None:
        """Check that each stage can begin, once the Trainer knows how many batches an epoch has.

        Raises:
            ScheduleError: If a stage cannot begin, or a condition cannot come first.
        """
        raise_problems(self._problems_of_length(trainer, _steps_per_epoch(trainer)))

    # ---- the fit's start -------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # before another callback of those that cannot be beside this one touches the model
            raise_problems(_problems_of_company(self, trainer))
            # A monitor of learning rates that comes before would see those of the stage that is over.
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            callbacks.insert(0, callbacks.pop(callbacks.index(self)))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self._progress_in_memory(trainer)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._declared = self._stages_for(pl_module)
        self.conductor = None
        problems = [*_problems_of_company(self, trainer), *_problems_of_optimizers(trainer)]
        problems += self._problems_of_picture(trainer)
        if before is None and not problems_of_stages(self._declared):
            problems += self._problems_of_length(trainer, steps_per_epoch=None)
        self.conductor = Conductor(self._declared, pl_module, trainer.optimizers, schedulers, problems)
        for config, scheduler in zip(trainer.lr_scheduler_configs, self.conductor.schedulers, strict=True):
            config.scheduler = cast(LRScheduler, scheduler)
        self._wrapped = frozenset(
            n for n, leaf in enumerate(self.conductor.plan.tree.leaves) if leaf.parameter.requires_grad
        )
        if before is not None:
            self.conductor.progress.load_state_dict(before)
        else:
            self._curve, self._seen, self._look_later = Curve(), {}, False
        self._reconcile()

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        self._checkpoint = checkpoint
        marks = checkpoint.get("runmodel_finetuning", {})
        if marks.get("validation_due"):
            owe_the_validation(checkpoint)
        self._epoch_end_due = marks.get("epoch_end_due", False)
        if self._epoch_end_due:
            owe_the_epoch_end(checkpoint)
        self._between_epochs = marks.get("epoch_end", False)
        if self._between_epochs:
            count_the_epoch(checkpoint)
        if self.conductor is not None and trainer.strategy.restore_checkpoint_after_setup:
            self._reconcile()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        conductor = self._on
        if self._between_epochs and trainer.max_steps != -1:
            begin_with_a_whole_epoch(trainer)
        if self._epoch_end_due:
            go_to_the_epoch_end(trainer)
        self._between_epochs = False
        at = self._position(trainer)
        self.check_length(trainer)
        conductor.take_own_rates()
        if conductor.progress.index >= 0:
            conductor.apply()
        else:
            conductor.begin(0, at)
        put_back_gradients(self._gradients, pl_module)
        self._gradients = {}
        for place, value in self._owed_now:
            pl_module.lr_scheduler_step(cast(LRScheduler, conductor.schedulers[place]), value)
        self._owed_now = []
        if self._seen:
            trainer.callback_metrics.update(
                {name: torch.tensor(value, dtype=torch.float64) for name, value in self._seen.items()}
            )
        if self.show_plan and trainer.is_global_zero:
            self._print_plan(trainer)
        self._after_apply(trainer, pl_module)
        self._tell_stage(trainer)
        self._watching = True  # the first batch looks at everything, whichever hooks a resume has left out
        configs = trainer.lr_scheduler_configs
        if any(config.interval == "step" for config in configs) or (configs and not pl_module.automatic_optimization):
            self._moving = max(2, int(min(trainer.num_training_batches, 1_000)) // 16)
        if conductor.is_last and conductor.progress.reason is not None:
            trainer.should_stop = True

    # ---- while it trains -------------------------------------------------------------------------------------------

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pay_schedulers(trainer, pl_module)
        if self._look_later:
            self._look_later = False
            self._look(trainer)
        self._move_on(trainer, pl_module, within=False)
        self._tell_of_rates_by_hand()
        self._note(trainer)
        self._next_point = 0 if self._curve.pace else math.inf

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for module in self._held:
            if module.training:  # somebody has called `train()`
                self._on.modes.hold_again()
                break
        if self._watching or batch_idx >= self._next_point:
            self._before_batch(trainer, pl_module, batch_idx)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._watching and self._on.is_last:
            self._stop_if_over(trainer, self._position(trainer, within=True))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._see(trainer)
        self._note(trainer, self._shown_metrics(trainer))
        if not _looks_at_epoch_ends(trainer):
            self._look(trainer)
            if self._on.is_last:
                self._stop_if_over(trainer, self._position(trainer, within=True))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch_end_due:
            self._epoch_end_due = False
            leave_the_epoch(trainer)
        self._see(trainer)
        # What no validation has given.
        new = {name: value for name, value in self._shown_metrics(trainer).items() if self._curve.last(name) != value}
        self._note(trainer, new)
        if _looks_at_epoch_ends(trainer):
            # What the module logs in its own hook of this name is there when the next epoch begins.
            self._look_later = not self._on.monitors_in(self._values(trainer))
            if not self._look_later:
                self._look(trainer)
        if self._on.is_last:
            at = self._position(trainer)
            self._stop_if_over(trainer, Position(trainer.current_epoch + 1, at.step, at.share))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_last_batch:  # of the last epoch, which no other follows
            self._pay_schedulers(trainer, pl_module)
        self._end_last_stage(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._on.progress.index >= 0:
            if not self._on.rates[0].treatments:  # there was nothing left to train, and training did not start
                self._on.apply()
            self._end_last_stage(trainer)
        self._on.release()
        self._draw(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.conductor is None or trainer.state.fn != "fit":
            return
        if isinstance(exception, RuntimeError) and "does not require grad" in str(exception):
            exception.add_note(
                f"Stage '{self._on.current.stage.name}' trains nothing on which this loss depends. "
                "Train some of it too, or leave out the loss while all of it is frozen."
            )
        self.conductor.release()
        self._draw(trainer)

    def _end_last_stage(self, trainer: Trainer) -> None:
        conductor = self._on
        conductor.end()
        if len(conductor.progress.passed) <= conductor.progress.index:
            reason = conductor.progress.reason or "the fit ended"
            conductor.progress.end(conductor.current.stage, self._position(trainer), reason)
        self._note(trainer, {})

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or self.conductor is None or self.conductor.progress.index < 0:
            return
        # Not in `state_dict`, at which Lightning would refuse a second callback of this kind in words of its own.
        stages = [described(stage) for stage in self._declared]
        others = self.conductor.merge_into(checkpoint)
        state = {"stages": stages, "seen": dict(self._seen), "others": others, **self.conductor.state_dict()}
        state["curve"] = self._curve.state_dict()
        checkpoint.setdefault("callbacks", {})[self.state_key] = state
        saved = where_saved(checkpoint, trainer.num_training_batches)
        validation_due = saved.before_validation and _validation_is_due(trainer)
        accumulates = saved.batches % trainer.accumulate_grad_batches != 0 and not saved.after_last_batch
        due_now = saved.before_validation and not validation_due and not accumulates
        now = _owed(trainer, "step", trainer.fit_loop.batch_idx) if due_now else {}
        metrics = trainer.callback_metrics
        checkpoint["runmodel_finetuning"] = {
            "validation_due": validation_due,
            "epoch_end_due": saved.before_validation and saved.after_last_batch and not validation_due,
            "epoch_end": saved.at_epoch_end,
            "owed": list(_owed(trainer, "epoch", trainer.current_epoch)) if saved.within_epoch else [],
            "owed_now": [(place, float(metrics[name])) for place, name in now.items() if name in metrics],
        }
        if accumulates and pl_module.automatic_optimization and trainer.world_size == 1:
            # Lightning would go on without them. Under DDP each rank has its own, and one of them saves.
            checkpoint["runmodel_finetuning"]["gradients"] = keep_gradients(pl_module)

    # ---- what the hooks call ---------------------------------------------------------------------------------------

    @property
    def _on(self) -> Conductor:
        assert self.conductor is not None
        return self.conductor

    def _stages_for(self, pl_module: LightningModule) -> list[Stage]:
        return self.stages.stages_for(pl_module) if isinstance(self.stages, Schedule) else list(self.stages)

    def _progress_in_memory(self, trainer: Trainer) -> dict[str, Any] | None:
        """Where an earlier fit of the same Trainer has left off, where this one goes on with it."""
        if self._checkpoint is not None or self.conductor is None:
            return None
        return self.conductor.progress.state_dict() if trainer.global_step > 0 else None

    def _reconcile(self) -> None:
        """Take up the state of a checkpoint, which may be of another schedule, or of none."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None:
            return
        conductor = self._on
        saved = (checkpoint.get("callbacks") or {}).get(self.state_key)
        if saved:
            stages = [described(stage) for stage in self._declared]
            changes = changes_between(saved["stages"], stages)
            if changes:
                index = stage_to_go_on_with(saved["stages"], stages, saved["progress"]["index"])
                rank_zero_warn(f"The stages have changed since the checkpoint was saved: {'; '.join(changes)}.")
                # A scheduler of the stage's begins again, and goes to the place where it would be.
                progress = {**saved["progress"], "index": index}
                saved = {**saved, "progress": progress, "scheduler": None}
            conductor.load_state_dict(saved)
            conductor.hold_members(conductor.progress.index)
            self._seen = dict(saved["seen"])
            self._curve.load_state_dict(saved["curve"])
            marks = checkpoint.get("runmodel_finetuning", {})
            self._owed = [(place, conductor.schedulers[place].steps) for place in marks.get("owed", ())]
            self._owed_now = list(marks.get("owed_now", ()))
            self._gradients = dict(marks.get("gradients", {}))
        else:
            rank_zero_info(f"The checkpoint knows no stages: stage '{self._declared[0].name}' begins now.")
        conductor.split_in(checkpoint, saved["others"] if saved else ())

    def _problems_of_length(self, trainer: Trainer, steps_per_epoch: int | None) -> list[str]:
        if getattr(trainer, "fast_dev_run", False):
            return []
        max_epochs = None if trainer.max_epochs in (None, -1) else trainer.max_epochs
        max_steps = None if trainer.max_steps == -1 else trainer.max_steps
        length = Length(max_epochs, max_steps, steps_per_epoch, _looks_per_epoch(trainer))
        progress = self.conductor.progress if self.conductor is not None else None
        if progress is None or progress.index < 0:
            return problems_of_length(self._declared, length, 0, trainer.current_epoch, trainer.global_step)
        if not problems_of_length(self._declared, length):
            return []  # that an earlier stage took long is no reason to refuse what was begun
        return problems_of_length(self._declared, length, progress.index, progress.begun, progress.step)

    def _before_batch(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:
        moved = self._curve.pace > 0
        if batch_idx == 0:
            self._pay_schedulers(trainer, pl_module)
        accumulating = pl_module.automatic_optimization and batch_idx % trainer.accumulate_grad_batches != 0
        if accumulating:
            self._set_rates(self._position(trainer, within=True))
        else:
            self._move_on(trainer, pl_module, within=batch_idx > 0)
        pace = self._curve.pace
        if batch_idx % pace == 0 if pace else moved:
            self._note(trainer)
        self._next_point = (batch_idx // pace + 1) * pace if pace else math.inf

    def _move_on(self, trainer: Trainer, pl_module: LightningModule, within: bool) -> None:
        """Begin the next stage if it is time, and set the rates of this moment."""
        conductor = self._on
        at = self._position(trainer, within)
        begun = False
        while not conductor.is_last and (reason := conductor.progress.due(conductor.current.stage, at)):
            if conductor.has_changed:
                raise ScheduleError(
                    f"Stage '{conductor.current.stage.name}' is over, but the model holds other parameters than at the "
                    "fit's start, so that the next stage does not fit it. Make all parameters before the fit."
                )
            passed = conductor.progress.end(conductor.current.stage, at, reason)
            conductor.begin(conductor.progress.index + 1, at)
            rank_zero_info(f"Stage '{passed['stage']}' ended at step {at.step}: {reason}.")
            self._after_apply(trainer, pl_module)
            self._tell_stage(trainer)
            begun = True
        self._set_rates(at)
        if begun:
            self._note(trainer)

    def _set_rates(self, at: Position) -> None:
        conductor = self._on
        stage = conductor.current.stage
        until = stage.until
        warming = conductor.warm_up(at.step)
        steps = False
        if conductor.scheduler is not None and not conductor.scheduler.waits_for_a_metric:
            steps = stage.lr_interval == "step"
            conductor.scheduler.advance(
                at.step - conductor.progress.step if steps else at.epoch - conductor.progress.epoch
            )
        counts = until is not None and (until.steps is not None or until.fraction is not None)
        # The module's own schedulers are looked at now and then, what is set here each time.
        self._curve.pace = self._curve.every * (1 if warming or steps else self._moving)
        self._watching = warming or steps or counts or conductor.progress.reason is not None

    def _tell_of_rates_by_hand(self) -> None:
        if self._on.learn_rates() and not self._told:
            self._told = True
            rank_zero_warn(
                "The module sets learning rates by hand where a stage has an `lr`, and overrules it. "
                "Leave `lr` out, or return a scheduler from `configure_optimizers`, which the stages scale."
            )

    def _after_apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        conductor = self._on
        self._held = conductor.modes.held
        trained = conductor.current.trained
        if are_wrapped(trainer) and (trained != self._wrapped or conductor.restored):
            wrap_again(trainer, pl_module)
        self._wrapped = trained
        conductor.restored = False

    def _stop_if_over(self, trainer: Trainer, at: Position) -> None:
        conductor = self._on
        reason = conductor.progress.due(conductor.current.stage, at)
        if reason is not None and not trainer.should_stop:
            conductor.progress.reason = reason
            trainer.should_stop = True
            rank_zero_info(f"The last stage, '{conductor.current.stage.name}', is over: {reason}.")

    def _pay_schedulers(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step schedulers that wait for a metric: Lightning leaves their step out in the epoch of a resume."""
        owed, self._owed = self._owed, []
        for place, steps in owed:
            scheduler = self._on.schedulers[place]
            value = trainer.callback_metrics.get(str(trainer.lr_scheduler_configs[place].monitor))
            if scheduler.steps == steps and value is not None:
                pl_module.lr_scheduler_step(cast(LRScheduler, scheduler), value)

    def _see(self, trainer: Trainer) -> None:
        """Keep the metrics that are watched, which Lightning forgets at a resume."""
        watched = {name for stage in self._declared for name in stage.monitors} | set(self._on.monitors)
        watched |= {str(config.monitor) for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
        if watched:
            metrics = trainer.callback_metrics
            self._seen.update({name: float(metrics[name]) for name in watched if name in metrics})

    def _values(self, trainer: Trainer) -> dict[str, float]:
        return {**self._seen, **{n: float(v) for n, v in trainer.callback_metrics.items() if n in self._on.monitors}}

    def _look(self, trainer: Trainer) -> None:
        conductor = self._on
        monitors = conductor.monitors
        if not monitors:
            return
        values = self._values(trainer)
        missing = [name for name in monitors if name not in values]
        if missing:
            logged = ", ".join(f"'{name}'" for name in sorted(trainer.callback_metrics)) or "nothing"
            raise ScheduleError(
                f"Stage '{conductor.current.stage.name}' watches '{missing[0]}', but the module does not log it; "
                f"it logs {logged}. Watch one of those, or log '{missing[0]}' in validation_step."
            )
        watched = [values[name] for name in monitors]
        if trainer.world_size > 1:  # the ranks may have seen different data, and must decide alike
            watched = trainer.strategy.broadcast(watched)
        conductor.look(dict(zip(monitors, watched, strict=True)))
        self._watching = self._watching or conductor.progress.reason is not None

    def _position(self, trainer: Trainer, within: bool = False) -> Position:
        needs_share = any(stage.until and stage.until.fraction for stage in self._declared)
        share = _share(trainer) if needs_share else math.nan
        return Position(trainer.current_epoch, trainer.global_step, share, within)

    def _tell_stage(self, trainer: Trainer) -> None:
        conductor = self._on
        rates = conductor.learning_rates()
        shown = ", ".join(f"{label} {rate:.4g}" for label, rate in rates.items())
        place = f"{conductor.progress.index + 1} of {len(self._declared)}"
        rank_zero_info(
            f"Stage '{conductor.current.stage.name}' ({place}) is on from "
            f"epoch {trainer.current_epoch}, step {trainer.global_step}; learning rates: {shown}."
        )
        metrics = {"stage": float(conductor.progress.index), **{f"lr/{label}": rate for label, rate in rates.items()}}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _problems_of_picture(self, trainer: Trainer) -> list[str]:
        self._folder = None
        if self.picture is None or getattr(trainer, "fast_dev_run", False):
            return []
        need_matplotlib()
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)  # which all ranks have to ask for
        problem = problem_of_picture(self.picture)
        return [problem] if problem else []

    def _shown_metrics(self, trainer: Trainer) -> dict[str, float]:
        metrics = trainer.callback_metrics
        return {name: float(metrics[name]) for name in sorted(self._seen) or validation_metrics(metrics)}

    def _note(self, trainer: Trainer, metrics: dict[str, float] | None = None) -> None:
        conductor = self._on
        # After a step, the groups still show the rates of that step, which may move with the next one.
        rates = {} if metrics is not None and self._curve.pace else conductor.learning_rates()
        self._curve.add(self._position(trainer), conductor.progress.index, rates, metrics)

    def _draw(self, trainer: Trainer) -> None:
        if self._folder is None or self.picture is None or not trainer.is_global_zero or not self.history:
            return
        try:
            self._note(trainer, {})
            draw_stages(self.history, self.curve, self._folder / self.picture)
        except Exception as error:  # which must not hide how the fit ended
            log.warning("The picture of the stages could not be drawn: %s: %s", type(error).__name__, error)

    def _print_plan(self, trainer: Trainer) -> None:
        from runmodel_ext.finetuning import print_plan

        print_plan(self._on)


def _problems_of_company(own: Callback, trainer: Trainer) -> list[str]:
    """Callbacks and strategies beside which the stages cannot work."""
    problems = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # which Trainer gets from a connector
        for cls in type(callback).__mro__:
            if callback is not own and cls.__name__ in _RIVALS:
                name = type(callback).__name__
                what = "two StagedFinetuning" if name == "StagedFinetuning" else f"StagedFinetuning beside {name}"
                problem = f"The Trainer has {what}, but {_RIVALS[cls.__name__]}."
                if problem not in problems:
                    problems.append(problem)
                break
    strategy = problem_of_strategy(trainer)
    return [*problems, strategy] if strategy else problems


def _problems_of_optimizers(trainer: Trainer) -> list[str]:
    problems = []
    for optimizer in trainer.optimizers:
        name = type(optimizer).__name__
        if name in _OPTIMIZERS:
            shown = "no optimizer" if name == "_MockOptimizer" else name
            problems.append(f"StagedFinetuning cannot work with {shown}: {_OPTIMIZERS[name]}.")
    return problems


def _owed(trainer: Trainer, interval: str, index: int) -> dict[int, str]:
    """The schedulers that wait for a metric whose step Lightning leaves out at a resume, with the metric's name."""
    if not trainer.lightning_module.automatic_optimization:
        return {}
    return {
        place: str(config.monitor)
        for place, config in enumerate(trainer.lr_scheduler_configs)
        if config.reduce_on_plateau and config.interval == interval and (index + 1) % config.frequency == 0
    }


def _steps_per_epoch(trainer: Trainer) -> int | None:
    batches = trainer.num_training_batches
    if not math.isfinite(batches) or not trainer.lightning_module.automatic_optimization:
        return None
    return math.ceil(batches / trainer.accumulate_grad_batches)


def _looks_at_epoch_ends(trainer: Trainer) -> bool:
    # As Lightning's EarlyStopping decides.
    if not trainer.enable_validation:
        return True
    return trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1


def _looks_per_epoch(trainer: Trainer) -> float | None:
    if _looks_at_epoch_ends(trainer):
        return 1.0
    if trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch:
        return 1.0 / trainer.check_val_every_n_epoch
    return None


def _share(trainer: Trainer) -> float:
    """How much of the fit is over: of its epochs, or of its steps where that is more."""
    shares = []
    if trainer.max_steps != -1:
        shares.append(trainer.global_step / max(1, trainer.max_steps))
    if trainer.max_epochs not in (None, -1) and math.isfinite(trainer.num_training_batches):
        done = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        shares.append(done / max(1, trainer.num_training_batches * trainer.max_epochs))
    if not shares:
        raise ScheduleError(
            "`until.fraction` needs a fit whose length is known, but the training data has no length. "
            "Set max_steps, or take `until.steps`."
        )
    return max(shares)


def _validation_is_due(trainer: Trainer) -> bool:
    """Whether validation comes right after this batch, as Lightning's loop decides."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every != 0):
        return False
    loop = trainer.fit_loop.epoch_loop
    interval = trainer.val_check_batch
    if interval is None:  # by the clock
        return False
    if interval == float("inf"):
        return bool(loop.batch_progress.is_last_batch)
    index = loop.total_batch_idx if every is None else loop.batch_idx
    return bool((index + 1) % interval == 0)
