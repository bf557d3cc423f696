"""What carries a fine-tuning out: it freezes, thaws, sets rates and modes, and keeps account. It knows no Trainer."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from runmodel_ext._private import forget_size, inner_schedulers
from runmodel_ext.finetuning.checks import raise_problems
from runmodel_ext.finetuning.groups import Layout, layouts_of, split_groups, spread_state
from runmodel_ext.finetuning.modes import Modes
from runmodel_ext.finetuning.plan import FROZEN, Plan, PlannedStage, Treatment, resolve
from runmodel_ext.finetuning.progress import Position, Progress
from runmodel_ext.finetuning.rates import ModuleScheduler, Rates, StageScheduler, problem_of_scheduler
from runmodel_ext.finetuning.saved_states import OriginalGroups
from runmodel_ext.finetuning.sharded import (
    complete_state,
    drop_states,
    hold_shards,
    notes_of_sharding,
    offer_all,
    problems_of_sharding,
    show_what_trains,
)
from runmodel_ext.finetuning.stages import Stage
from runmodel_ext.finetuning.weights import gather_weights, keep_weights, put_back, share_weights


class Conductor:
    """A fine-tuning of one model with its optimizers.

    Args:
        stages: The stages.
        model: The model.
        optimizers: Its optimizers; their groups are split in place.
        schedulers: The schedulers of the module's own.
        problems: What is wrong already, to be said together with what is found here.
        by_name: Whether the strategy restores optimizers by itself, by the names of parameters; then :meth:`split`
            is called after that.

    Attributes:
        plan: The stages, resolved.
        layouts: How each optimizer is split.
        notes: What a user should know, in sentences.
        schedulers: What stands for each of the module's schedulers, and has to be stepped instead of it.
        rates: The learning rates of each optimizer.
        progress: How far it has come.
        scheduler: The scheduler of the stage that is on; ``None`` where it has none of its own.
        modes: Which modules the stage holds in eval mode.
        restored: Whether weights were put back that not all replicas may hold alike.

    Raises:
        ScheduleError: If the stages do not fit together, the model or the optimizers; nothing is changed then.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        schedulers: Sequence[Any],
        problems: Sequence[str] = (),
        by_name: bool = False,
    ) -> None:
        self.model = model
        self.optimizers = list(optimizers)
        self.plan, found = resolve(stages, model)
        self.layouts, of_groups, notes = layouts_of(self.plan, self.optimizers)
        of_options = _problems_of_options(self.plan, self.layouts, self.optimizers)
        of_schedulers = [p for each in self.plan.stages if (p := problem_of_scheduler(each.stage, self.optimizers))]
        of_sharding = problems_of_sharding(self.optimizers) if by_name else ()
        raise_problems([*problems, *found, *of_groups, *of_options, *of_schedulers, *of_sharding])
        self.notes = [*notes, *(f"Stage '{each.stage.name}': {n}" for each in self.plan.stages for n in each.notes)]
        self.by_name = by_name
        self._gradient = [leaf.parameter.requires_grad for leaf in self.plan.tree.leaves]
        self._fresh = self._fresh_state() if by_name or any(each.optimizer_state == "reset" for each in stages) else {}
        if by_name:
            offer_all(self.plan, self.optimizers, self.layouts)
            self.notes += notes_of_sharding(self.plan)
        self.originals = [
            OriginalGroups(self.plan, optimizer, layout)
            for optimizer, layout in zip(self.optimizers, self.layouts, strict=True)
        ]
        self.rates: list[Rates] = []
        self.schedulers: list[ModuleScheduler] = []
        self._decay: list[list[Any]] = []
        self._empty: tuple[int, list[Optimizer]] = (-1, [])
        self._unsplit: Sequence[Any] | None = schedulers
        self.progress = Progress()
        self.scheduler: StageScheduler | None = None
        self.best: dict[str, Tensor] = {}
        self.modes = Modes(self.plan.tree.modules)
        self.restored = False
        if not by_name:
            self.split()

    def split(self) -> None:
        """Split the groups of the optimizers, with their schedulers; what is split stays as it is."""
        schedulers, self._unsplit = self._unsplit, None
        if schedulers is None:
            return
        for optimizer, layout in zip(self.optimizers, self.layouts, strict=True):
            split_groups(self.plan, optimizer, layout)
            for scheduler in schedulers:
                if scheduler.optimizer is optimizer:
                    _spread(scheduler, layout)
        self.rates = [
            Rates(optimizer, [part.origin for part in layout.parts])
            for optimizer, layout in zip(self.optimizers, self.layouts, strict=True)
        ]
        for each in self.rates:
            each.refer_to(schedulers)
        self.schedulers = [ModuleScheduler(each, self._rates_of(each.optimizer)) for each in schedulers]
        self._decay = [[group.get("weight_decay") for group in each.param_groups] for each in self.optimizers]

    @property
    def current(self) -> PlannedStage:
        """The stage that is on."""
        return self.plan.stages[self.progress.index]

    @property
    def is_last(self) -> bool:
        """Whether no stage comes after the one that is on."""
        return self.progress.index + 1 == len(self.plan.stages)

    @property
    def has_changed(self) -> bool:
        """Whether the model holds other parameters than when the plan was made."""
        self._hold_shards()
        held = {id(parameter) for parameter in self.model.parameters()}
        return held != {id(leaf.parameter) for leaf in self.plan.tree.leaves}

    def begin(self, index: int, at: Position) -> None:
        """Begin a stage: the one before it gives back its best weights, and moments that nobody needs are dropped."""
        self._hold_shards()
        if self.progress.index >= 0 and self.best:
            put_back(self.best, self.plan, self.progress.index, self.model)
            self.restored = True
        self.best = {}
        self.progress.begin(index, at)
        if self.scheduler is not None:
            self.scheduler.end()
            self.scheduler = None
        self.apply()
        self._drop_state()
        self._note_empty(at.step)

    def apply(self) -> None:
        """Let the stage that is on be on; doing it twice changes nothing."""
        planned = self.current
        for leaf, treatment in zip(self.plan.tree.leaves, planned.treatments, strict=True):
            if leaf.parameter.requires_grad != treatment.trains:
                leaf.parameter.requires_grad_(treatment.trains)
            if not treatment.trains:
                leaf.parameter.grad = None
        self.modes.hold(planned.in_eval)
        for place, each in enumerate(self.rates):
            self._apply_to_groups(place, each)
        if planned.stage.lr_scheduler is not None and self.scheduler is None:
            self.scheduler = StageScheduler(planned.stage.lr_scheduler, self.rates)
        for each in self.rates:
            each.show()
        if self.by_name:
            show_what_trains(self.model)

    def warm_up(self, step: int) -> bool:
        """Set the rates of a warm-up at an optimizer step; whether it goes on."""
        warmup = self.current.stage.warmup
        since = step - self.progress.step
        factor = 1.0 if warmup is None else warmup.factor(since)
        for each in self.rates:
            if each.warmup != factor:
                each.warmup = factor
                each.show()
        return warmup is not None and since + 1 < warmup.steps

    def look(self, values: Mapping[str, float]) -> None:
        """Look at the metrics of the stage that is on: is it over, are its weights the best so far?

        Args:
            values: The value of each metric that the stage watches.
        """
        stage = self.current.stage
        best = stage.best
        if best is not None and self.progress.improves(best, values[best.monitor]):
            self.best = keep_weights(self.plan, self.progress.index, self.model)
        if self.scheduler is not None and self.scheduler.waits_for_a_metric:
            self.scheduler.look(values[str(self.scheduler_monitor)])
        self.progress.look(stage, values)

    @property
    def scheduler_monitor(self) -> str | None:
        """The metric that the stage's own scheduler waits for; ``None`` where it waits for none."""
        if self.scheduler is None or not self.scheduler.waits_for_a_metric:
            return None
        return self.scheduler.monitor or next(iter(self.current.stage.monitors), None)

    @property
    def monitors(self) -> list[str]:
        """The metrics that the stage watches."""
        own = self.scheduler_monitor
        return list(dict.fromkeys([*self.current.stage.monitors, *([own] if own else [])]))

    def merge_into(self, checkpoint: Any) -> list[dict[str, Any]]:
        """Give a checkpoint's optimizers and schedulers the states that they would have with the user's own groups.

        Returns:
            For each optimizer, what does not fit there: the states of parameters that it did not hold, by name.
        """
        self.learn_rates()
        if self.by_name and checkpoint["global_step"] == self._empty[0]:
            for optimizer in self._empty[1]:
                optimizer.state.clear()
        others = []
        for place, original in enumerate(self.originals):
            state: Any = checkpoint["optimizer_states"][place]
            other: dict[str, Any] = {}
            if self.by_name:
                whole, other = complete_state(original, checkpoint, place, self.rates[place].own, self._fresh)
                checkpoint["optimizer_states"][place] = whole
            elif state:
                checkpoint["optimizer_states"][place], other = original.merged(state, self.rates[place].own)
            others.append(other)
        for place, original in enumerate(self._originals_of_schedulers()):
            checkpoint["lr_schedulers"][place] = original.merged_scheduler(checkpoint["lr_schedulers"][place])
        return others

    def split_in(self, checkpoint: Any, others: Sequence[Mapping[str, Any]]) -> None:
        """Give a checkpoint's optimizers and schedulers the states that the split groups load."""
        for place, original in enumerate(self.originals):
            other = others[place] if place < len(others) else {}
            if self.by_name:
                drop_states(original, other)
            elif place < len(checkpoint["optimizer_states"]):
                checkpoint["optimizer_states"][place] = original.split(checkpoint["optimizer_states"][place], other)
        if self.by_name:
            self._note_empty(checkpoint["global_step"])
        for place, original in enumerate(self._originals_of_schedulers()):
            if place < len(checkpoint["lr_schedulers"]):
                checkpoint["lr_schedulers"][place] = original.split_scheduler(checkpoint["lr_schedulers"][place])

    def learn_rates(self) -> bool:
        """Keep the rates that the module has set by hand; whether it has set some where a stage has its own."""
        for each in self.rates:
            each.learn()
        return any(each.overruled for each in self.rates)

    def take_own_rates(self) -> None:
        """Take the rates that the groups show for the optimizer's own, as after a checkpoint was restored."""
        if not self.by_name:  # they were taken when the groups were split, after the restore
            for each in self.rates:
                each.take_shown()

    def _originals_of_schedulers(self) -> list[OriginalGroups]:
        return [
            next(each for each in self.originals if each.optimizer is scheduler.optimizer)
            for scheduler in self.schedulers
        ]

    def end(self) -> None:
        """Give the model the best weights of the last stage, where it asks for them."""
        self._hold_shards()
        if self.best and self.is_last:
            put_back(self.best, self.plan, self.progress.index, self.model)
            self.best = {}

    def release(self) -> None:
        """Give back which parameters have gradients and which modules are in train mode, as the user had it."""
        for leaf, had in zip(self.plan.tree.leaves, self._gradient, strict=True):
            leaf.parameter.requires_grad_(had)
        self.modes.hold(())

    def learning_rates(self) -> dict[str, float]:
        """The rate of each group that trains now, by the group's label; with several optimizers, by its number too."""
        return {
            self._label(place, number): each.rate(number)
            for place, each in enumerate(self.rates)
            for number, treatment in enumerate(each.treatments)
            if treatment.trains
        }

    def rates_of_stage(self, index: int) -> dict[str, float]:
        """The rate with which a stage begins in each group that trains, by the group's label."""
        rates = {}
        for place, each in enumerate(self.rates):
            for number, treatment in enumerate(self._treatments(place, index)):
                if treatment.trains:
                    label = self._label(place, number)
                    lr = each.reference[number] if treatment.lr is None else treatment.lr
                    rates[label] = lr * treatment.scale
        return rates

    def _label(self, place: int, number: int) -> str:
        label = self.layouts[place].parts[number].label
        return f"{place}/{label}" if len(self.layouts) > 1 else label

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed fit needs, in plain words, numbers and tensors."""
        return {
            "progress": self.progress.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "best": gather_weights(self.best, self.plan),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the optimizers and schedulers are restored apart from this."""
        self.progress.load_state_dict(state["progress"])
        self.best = share_weights(state["best"], self.plan)
        if state["scheduler"] is not None and self.current.stage.lr_scheduler is not None:
            for place, each in enumerate(self.rates):
                each.treatments = self._treatments(place)
            self.scheduler = StageScheduler(self.current.stage.lr_scheduler, self.rates)
            self.scheduler.load_state_dict(state["scheduler"])

    def hold_members(self, index: int) -> None:
        """Let optimizers of one group hold what trains in a stage, as before their state is restored."""
        for layout, optimizer in zip(self.layouts, self.optimizers, strict=True):
            if layout.whole:
                self._hold_members(layout, optimizer, index)

    def _hold_shards(self) -> None:
        if self.by_name:
            hold_shards(self.model)

    def _rates_of(self, optimizer: Optimizer) -> Rates:
        return next(each for each in self.rates if each.optimizer is optimizer)

    def _treatments(self, place: int, index: int | None = None) -> list[Treatment]:
        index = self.progress.index if index is None else index
        layout = self.layouts[place]
        if not layout.whole:
            return [part.treatments[index] for part in layout.parts]
        planned = self.plan.stages[index]
        trained = [planned.treatments[n] for n in layout.parts[0].leaves if n >= 0 and planned.treatments[n].trains]
        return trained[:1] or [FROZEN]

    def _apply_to_groups(self, place: int, rates: Rates) -> None:
        rates.treatments = self._treatments(place)
        layout, optimizer = self.layouts[place], self.optimizers[place]
        if layout.whole:
            self._hold_members(layout, optimizer, self.progress.index)
        own = self._decay[place]
        decays = bool(optimizer.defaults.get("weight_decay")) or any(own)
        for group, part, treatment, before in zip(
            optimizer.param_groups, layout.parts, rates.treatments, own, strict=True
        ):
            if before is None or all(each.weight_decay is None for each in part.treatments):
                continue  # no stage decides on it, and the module may move it
            spared = treatment.spares and decays and before == 0
            wanted = treatment.weight_decay
            group["weight_decay"] = before if wanted is None or spared else wanted

    def _hold_members(self, layout: Layout, optimizer: Optimizer, index: int) -> None:
        trained = self.plan.stages[index].trained
        leaves = self.plan.tree.leaves
        wanted = [leaves[n].parameter for n in layout.parts[0].leaves if n in trained]
        held = optimizer.param_groups[0]["params"]
        if [id(p) for p in held] != [id(p) for p in wanted] and wanted:
            held[:] = wanted
            optimizer.state.clear()  # its memory of directions is one vector over all parameters
            forget_size(optimizer)

    def _drop_state(self) -> None:
        index = self.progress.index
        needed = self.plan.trains_after(index)
        reset = self.current.trained if self.current.stage.optimizer_state == "reset" else frozenset()
        for layout, optimizer in zip(self.layouts, self.optimizers, strict=True):
            if layout.whole:
                if reset:
                    optimizer.state.clear()
                continue
            for n in {n for part in layout.parts for n in part.leaves if n >= 0}:
                parameter = self.plan.tree.leaves[n].parameter
                if n not in needed or n in reset:
                    optimizer.state.pop(parameter, None)
                if n in reset and n in self._fresh:
                    optimizer.state[parameter] = copy.deepcopy(self._fresh[n])

    def _note_empty(self, step: int) -> None:
        # The strategy takes the state of an optimizer that has none by a step on no gradients, and leaves it there.
        self._empty = step, [each for each in self.optimizers if self.by_name and not each.state]

    def _fresh_state(self) -> dict[int, Any]:
        # Adagrad makes its state when it is built, and not at the first step.
        fresh = {}
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                number = self.plan.tree.number(parameter)
                if number is not None:
                    fresh[number] = copy.deepcopy(state)
        return fresh


def _problems_of_options(plan: Plan, layouts: Sequence[Layout], optimizers: Sequence[Optimizer]) -> list[str]:
    problems = []
    for layout, optimizer in zip(layouts, optimizers, strict=True):
        name = type(optimizer).__name__
        held = {n for part in layout.parts for n in part.leaves}
        for planned in plan.stages:
            for option in ("lr", "layer_decay", "warmup", "lr_scheduler", "weight_decay"):
                needed = "weight_decay" if option == "weight_decay" else "lr"
                asked = getattr(planned.stage, option) is not None and planned.trained & held
                if asked and any(needed not in group for group in optimizer.param_groups):
                    what = "such option" if needed == option else "learning rate"
                    problems.append(
                        f"Stage '{planned.stage.name}' sets `{option}`, but {name} has no {what}. Leave it out."
                    )
    return problems


def _spread(scheduler: Any, layout: Layout) -> None:
    source = [part.origin for part in layout.parts]
    if source == list(range(layout.groups)):
        return
    for each in inner_schedulers(scheduler):
        lambdas = getattr(each, "lr_lambdas", None)
        if isinstance(lambdas, list) and len(lambdas) == layout.groups:
            each.lr_lambdas = [lambdas[place] for place in source]
    state = scheduler.state_dict()
    # Those of LambdaLR stand in the scheduler already.
    scheduler.load_state_dict(spread_state(state, source, layout.groups))
