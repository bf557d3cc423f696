"""Change what trains at which learning rate, and when."""

import math
from collections.abc import Mapping
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from runmodel_ext.callbacks.fit_length import length_of, looks_at_epoch_ends, share_over
from runmodel_ext.callbacks.resumption import Resumption
from runmodel_ext.callbacks.rivals import problems_of_company, problems_of_optimizers
from runmodel_ext.callbacks.stage_picture import StagePicture
from runmodel_ext.callbacks.watched_metrics import WatchedMetrics
from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import (
    Conductor,
    Curve,
    Position,
    Schedule,
    Stage,
    are_wrapped,
    changes_between,
    described,
    in_one_spelling,
    make_buffers_equal,
    print_plan,
    problems_of_length,
    problems_of_stages,
    raise_problems,
    restores_by_name,
    stage_to_go_on_with,
    wrap_again,
)


class StagedFinetuning(Callback):
    """Train a model in stages: each says what trains, at which learning rate, and until when.

    It works with any LightningModule and its own ``configure_optimizers``: parameter groups are split once, at the
    fit's start, by what the stages treat alike; options of a group, and the state of optimizers and schedulers, stay
    as they are. What a stage does not name does not change: it has no gradient, and its modules are in eval mode.
    A fit that is resumed from a checkpoint, at any step, goes on as if it had not been stopped. Under DDP, and
    under ModelParallelStrategy (FSDP2, tensor parallel), the gradients that are sent are those of what trains.

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

    def __init__(
        # As a tuple for jsonargparse, which merges a list into one of the same length that came before it.
        self,
        stages: tuple[Stage, ...] | list[Stage] | Schedule,
        show_plan: bool = True,
        picture: str | None = None,
    ) -> None:
        self.stages: list[Stage] | Schedule = list(stages) if isinstance(stages, tuple) else stages
        self.show_plan = show_plan
        self.picture = picture
        self.conductor: Conductor | None = None
        self._declared: list[Stage] = []
        self._checkpoint: Any = None
        self._resumption = Resumption()
        self._metrics = WatchedMetrics()
        self._picture = StagePicture(picture)
        self._watching = self._look_later = self._told = False
        self._wrapped: frozenset[int] = frozenset()
        self._held: list[nn.Module] = []
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
        return self._picture.curve.points

    def check_length(self, trainer: Trainer) -> None:
        """Check that each stage can begin, once the Trainer knows how many batches an epoch has.

        Raises:
            ScheduleError: If a stage cannot begin, or a condition cannot come first.
        """
        raise_problems(self._problems_of_length(trainer, begun=True))

    # ---- the fit's start -------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # before another callback of those that cannot be beside this one touches the model
            raise_problems(problems_of_company(self, trainer))
            # A monitor of learning rates that comes before would see those of the stage that is over.
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            callbacks.insert(0, callbacks.pop(callbacks.index(self)))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self._progress_in_memory(trainer)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._declared = self._stages_for(pl_module)
        self.conductor = None
        problems = [*problems_of_company(self, trainer), *problems_of_optimizers(trainer)]
        problems += self._picture.problems(trainer)
        if before is None and not problems_of_stages(self._declared):
            problems += self._problems_of_length(trainer, begun=False)
        by_name = restores_by_name(trainer)
        self.conductor = Conductor(self._declared, pl_module, trainer.optimizers, schedulers, problems, by_name)
        if not by_name:
            self._split(trainer)
        self._wrapped = frozenset(
            n for n, leaf in enumerate(self.conductor.plan.tree.leaves) if leaf.parameter.requires_grad
        )
        if before is not None:
            self.conductor.progress.load_state_dict(before)
        else:
            self._picture.curve, self._metrics, self._look_later = Curve(), WatchedMetrics(), False
        self._reconcile()

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        self._checkpoint = checkpoint
        self._resumption.read(checkpoint)
        if self.conductor is not None and trainer.strategy.restore_checkpoint_after_setup:
            self._split(trainer)
            self._reconcile()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        conductor = self._on
        self._resumption.set_loops(trainer)
        self._split(trainer)
        at = self._position(trainer)
        self.check_length(trainer)
        conductor.take_own_rates()
        if conductor.progress.index >= 0:
            conductor.apply()
        else:
            conductor.begin(0, at)
        self._resumption.give_back(pl_module, conductor.schedulers)
        self._metrics.show(trainer)
        if self.show_plan and trainer.is_global_zero:
            print_plan(conductor)
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
        self._resumption.pay_schedulers(trainer, pl_module, self._on.schedulers)
        if self._look_later:
            self._look_later = False
            self._look(trainer)
        self._move_on(trainer, pl_module, within=False)
        self._tell_of_rates_by_hand()
        self._note(trainer)
        self._next_point = 0 if self._picture.curve.pace else math.inf

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
        self._note(trainer, self._picture.metrics(trainer, self._metrics.seen))
        if not looks_at_epoch_ends(trainer):
            self._look(trainer)
            if self._on.is_last:
                self._stop_if_over(trainer, self._position(trainer, within=True))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._resumption.end_epoch(trainer)
        self._see(trainer)
        self._note(trainer, self._picture.new_metrics(trainer, self._metrics.seen))
        if looks_at_epoch_ends(trainer):
            # What the module logs in its own hook of this name is there when the next epoch begins.
            self._look_later = not self._metrics.are_there(trainer, self._on.monitors)
            if not self._look_later:
                self._look(trainer)
        if self._on.is_last:
            at = self._position(trainer)
            self._stop_if_over(trainer, Position(trainer.current_epoch + 1, at.step, at.share))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_last_batch:  # of the last epoch, which no other follows
            self._resumption.pay_schedulers(trainer, pl_module, self._on.schedulers)
        self._end_last_stage(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._on.progress.index >= 0:
            if not self._on.rates[0].treatments:  # there was nothing left to train, and training did not start
                self._on.apply()
            self._end_last_stage(trainer)
        self._on.release()
        self._picture.draw(trainer, self.history)

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
        if self.history:
            self._note(trainer, {})
        self._picture.draw(trainer, self.history)

    def _end_last_stage(self, trainer: Trainer) -> None:
        conductor = self._on
        conductor.end()
        if conductor.by_name:
            make_buffers_equal(trainer)
        if len(conductor.progress.passed) <= conductor.progress.index:
            reason = conductor.progress.reason or "the fit ended"
            conductor.progress.end(conductor.current.stage, self._position(trainer), reason)
            left = [f"'{stage.name}'" for stage in self._declared[conductor.progress.index + 1 :]]
            if left and not getattr(trainer, "fast_dev_run", False):
                never = "stages that never began" if len(left) > 1 else "a stage that never began"
                rank_zero_info(
                    f"The fit ended in stage '{conductor.current.stage.name}', before {', '.join(left)}: {never}."
                )
        self._note(trainer, {})

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or self.conductor is None or self.conductor.progress.index < 0:
            return
        # Not in `state_dict`, at which Lightning would refuse a second callback of this kind in words of its own.
        stages = [described(stage) for stage in self._declared]
        others = self.conductor.merge_into(checkpoint)
        state = {"stages": stages, "seen": dict(self._metrics.seen), "others": others, **self.conductor.state_dict()}
        state["curve"] = self._picture.curve.state_dict()
        checkpoint.setdefault("callbacks", {})[self.state_key] = state
        self._resumption.mark(trainer, pl_module, checkpoint)

    # ---- what the hooks call ---------------------------------------------------------------------------------------

    @property
    def _on(self) -> Conductor:
        assert self.conductor is not None
        return self.conductor

    def _split(self, trainer: Trainer) -> None:
        self._on.split()
        for config, scheduler in zip(trainer.lr_scheduler_configs, self._on.schedulers, strict=True):
            config.scheduler = cast(LRScheduler, scheduler)

    def _stages_for(self, pl_module: LightningModule) -> list[Stage]:
        stages: Any = self.stages
        if isinstance(stages, Schedule):
            return stages.stages_for(pl_module)
        if not isinstance(stages, (list, tuple)):
            raise ScheduleError(
                f"`stages` must be a list of Stage or a schedule, such as `gradual_unfreezing()`, but is {stages!r}."
            )
        return list(stages)

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
            self._metrics.seen = dict(saved["seen"])
            self._picture.curve.load_state_dict(saved["curve"])
            self._resumption.take_debts(checkpoint, conductor.schedulers)
        else:
            rank_zero_info(f"The checkpoint knows no stages: stage '{self._declared[0].name}' begins now.")
        conductor.split_in(checkpoint, saved["others"] if saved else ())

    def _problems_of_length(self, trainer: Trainer, begun: bool) -> list[str]:
        if getattr(trainer, "fast_dev_run", False):
            return []
        length = length_of(trainer, begun)
        progress = self.conductor.progress if self.conductor is not None else None
        if progress is None or progress.index < 0:
            return problems_of_length(self._declared, length, 0, trainer.current_epoch, trainer.global_step)
        if not problems_of_length(self._declared, length):
            return []  # that an earlier stage took long is no reason to refuse what was begun
        return problems_of_length(self._declared, length, progress.index, progress.begun, progress.step)

    def _before_batch(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:
        moved = self._picture.curve.pace > 0
        if batch_idx == 0:
            self._resumption.pay_schedulers(trainer, pl_module, self._on.schedulers)
        accumulating = pl_module.automatic_optimization and batch_idx % trainer.accumulate_grad_batches != 0
        if accumulating:
            self._set_rates(self._position(trainer, within=True))
        else:
            self._move_on(trainer, pl_module, within=batch_idx > 0)
        pace = self._picture.curve.pace
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
        self._picture.curve.pace = self._picture.curve.every * (1 if warming or steps else self._moving)
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
        elif conductor.by_name:
            make_buffers_equal(trainer)
        self._wrapped = trained
        conductor.restored = False

    def _stop_if_over(self, trainer: Trainer, at: Position) -> None:
        conductor = self._on
        reason = conductor.progress.due(conductor.current.stage, at)
        if reason is not None and not trainer.should_stop:
            conductor.progress.reason = reason
            trainer.should_stop = True
            rank_zero_info(f"The last stage, '{conductor.current.stage.name}', is over: {reason}.")

    def _see(self, trainer: Trainer) -> None:
        stages = (name for stage in self._declared for name in stage.monitors)
        self._metrics.see(trainer, [*stages, *self._on.monitors])

    def _look(self, trainer: Trainer) -> None:
        conductor = self._on
        if conductor.monitors:
            conductor.look(self._metrics.values(trainer, conductor.monitors, conductor.current.stage.name))
            self._watching = self._watching or conductor.progress.reason is not None

    def _position(self, trainer: Trainer, within: bool = False) -> Position:
        needs_share = any(stage.until and stage.until.fraction for stage in self._declared)
        share = share_over(trainer) if needs_share else math.nan
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

    def _note(self, trainer: Trainer, metrics: Mapping[str, float] | None = None) -> None:
        self._picture.note(self._on, self._position(trainer), metrics)
