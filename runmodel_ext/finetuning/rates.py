"""Learning rates: the optimizer's own, which the module's schedulers move, and what a stage makes of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import override

from runmodel_ext._private import inner_schedulers
from runmodel_ext.finetuning.plan import Treatment
from runmodel_ext.finetuning.stages import SchedulerFactory, Stage

_CYCLED = ("momentum", "betas")  # what OneCycleLR and CyclicLR move beside the rate


class Rates:
    """The learning rates of one optimizer.

    Its groups show the rates that a stage makes of the optimizer's own. While a scheduler of the module's steps,
    they show the own ones, so that it goes on as if there were no stages. A rate that the module sets by hand is the
    optimizer's own from then on, unless the stage has a rate for that group.

    Args:
        optimizer: The optimizer, with its final groups.
        origins: For each group, the number of the user's group that it comes from.

    Attributes:
        own: The optimizer's own rate in each group, as the module's schedulers leave it.
        treatments: What the stage does to each group.
        warmup: What all rates are multiplied by.
        scheduled: The rates of the stage's own scheduler; ``None`` where it has none.
        overruled: Whether the module has set a rate by hand where the stage has one.
    """

    def __init__(self, optimizer: Optimizer, origins: Sequence[int]) -> None:
        self.optimizer = optimizer
        self.origins = origins
        self.own = [_rate(group) for group in optimizer.param_groups]
        self.reference = list(self.own)
        self.treatments: Sequence[Treatment] = ()
        self.warmup = 1.0
        self.scheduled: list[float] | None = None
        self.overruled = False
        self._last: list[float] | None = None
        self._shares: list[float | None] = []

    def refer_to(self, schedulers: Sequence[Any]) -> None:
        """Learn from the module's schedulers which rate of each group stands for 1: its highest, or its first."""
        for place, group in enumerate(self.optimizer.param_groups):
            self.reference[place] = float(group.get("max_lr", group.get("initial_lr", self.own[place])))
        for scheduler in schedulers:
            parts = inner_schedulers(scheduler) if scheduler.optimizer is self.optimizer else []
            cycles = [part.max_lrs for part in parts if hasattr(part, "max_lrs")]  # CyclicLR
            if cycles:
                self.reference = [max(map(float, rates)) for rates in zip(*cycles, strict=True)]

    @property
    def stage_rates(self) -> list[float]:
        """The rate with which the stage begins in each group, before a warm-up."""
        return [
            (reference if treatment.lr is None else treatment.lr) * treatment.scale
            for reference, treatment in zip(self.reference, self.treatments, strict=True)
        ]

    def rate(self, place: int) -> float:
        """The rate of a group now; 0 where it is frozen."""
        treatment = self.treatments[place]
        if not treatment.trains:
            return 0.0
        if self.scheduled is not None:
            return self.scheduled[place] * self.warmup
        if treatment.lr is None:
            return self.own[place] * treatment.scale * self.warmup
        own, reference = self.own[place], self.reference[place]
        share = 1.0 if own == reference or reference == 0 else own / reference
        return treatment.lr * share * treatment.scale * self.warmup

    def show(self) -> None:
        """Let the optimizer's groups show the stage's rates."""
        self.learn()
        self._put([self.rate(place) for place in range(len(self.own))])
        self._last = self.shown
        self._shares = [self._share(treatment) for treatment in self.treatments]

    def learn(self) -> None:
        """Keep what the module has set by hand since the rates were shown."""
        if self._last is None:
            return
        last, self._last = self._last, self.shown
        learned: dict[int, float] = {}
        for place, (before, now, share) in enumerate(zip(last, self._last, self._shares, strict=True)):
            if now != before and share is not None:
                self.own[place] = learned[self.origins[place]] = now / share
            elif now != before:
                self.overruled = True
        for place, origin in enumerate(self.origins):
            if last[place] == self._last[place] == 0.0:  # what is frozen shows nothing of a rate that was halved
                self.own[place] = learned.get(origin, self.own[place])

    def take_shown(self) -> None:
        """Take the rates that the groups show for the optimizer's own."""
        self.own, self._last = self.shown, None

    @contextmanager
    def own_shown(self) -> Iterator[None]:
        """Let the groups show the optimizer's own rates, and keep what becomes of them."""
        self.learn()
        self._put(self.own)
        try:
            yield
        finally:
            self.take_shown()
            self.show()

    def _share(self, treatment: Treatment) -> float | None:
        """Which share of the optimizer's own rate a group shows; ``None`` where it does not depend on it alone."""
        if not treatment.trains:
            return 1.0
        own = treatment.lr is None and self.scheduled is None
        return treatment.scale * self.warmup if own else None

    def _put(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            _set_rate(group, rate)

    @property
    def shown(self) -> list[float]:
        """What the groups show."""
        return [_rate(group) for group in self.optimizer.param_groups]


class ModuleScheduler:
    """A scheduler of the module's own, which steps on the optimizer's own rates, whatever a stage shows.

    In all else it is the scheduler that it stands for.

    Args:
        scheduler: The scheduler.
        rates: The rates of its optimizer.
    """

    def __init__(self, scheduler: Any, rates: Rates) -> None:
        self.__dict__.update(inner=scheduler, rates=rates, steps=0)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Step on the optimizer's own rates."""
        self.__dict__["steps"] += 1
        with self.rates.own_shown():
            return self.inner.step(*args, **kwargs)

    def get_last_lr(self) -> list[float]:
        """The rates that the optimizer's groups show."""
        return list(self.rates.shown)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # so that `isinstance` in a module's own code sees what the module has built
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["inner"], name)
        if not (name.startswith("step") and callable(value)):
            return value

        def step(*args: Any, **kwargs: Any) -> Any:
            with self.rates.own_shown():
                return value(*args, **kwargs)

        return step

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)


class StageScheduler:
    """The scheduler of a stage, on optimizers that hold nothing but rates.

    The module's own schedulers keep their numbers in the groups of the real optimizers; here they are not in the
    way. Momentum that the scheduler moves (``OneCycleLR``) is carried over too.

    Args:
        factory: What builds the scheduler from an optimizer.
        rates: The rates of each real optimizer.
    """

    def __init__(self, factory: SchedulerFactory, rates: Sequence[Rates]) -> None:
        self.rates = rates
        self.count = 0
        self._before = [[_cycled(group) for group in each.optimizer.param_groups] for each in rates]
        self._optimizers = [_Numbers(each.optimizer, each.stage_rates) for each in rates]
        self._schedulers: list[LRScheduler] = [factory(optimizer) for optimizer in self._optimizers]
        self.carry_over()

    @property
    def waits_for_a_metric(self) -> bool:
        """Whether it steps when a metric is looked at, not with epochs or steps."""
        return any(isinstance(each, ReduceLROnPlateau) for each in self._schedulers)

    @property
    def monitor(self) -> str | None:
        """The metric that the scheduler itself names, as Lightning's ``ReduceLROnPlateau`` does."""
        return next((name for each in self._schedulers if (name := getattr(each, "monitor", None))), None)

    def advance(self, count: int) -> None:
        """Step until there were ``count`` steps since the stage's start."""
        while self.count < count:
            self._step()

    def look(self, value: float) -> None:
        """Step on a metric."""
        self._step(value)

    def _step(self, *metric: float) -> None:
        self.count += 1
        for optimizer, scheduler in zip(self._optimizers, self._schedulers, strict=True):
            optimizer.step()  # torch warns of a scheduler that steps before its optimizer
            scheduler.step(*metric)  # type: ignore[arg-type]
        self.carry_over()

    def carry_over(self) -> None:
        """Give the rates, and momentum that was moved, to the real optimizers."""
        for optimizer, each in zip(self._optimizers, self.rates, strict=True):
            each.scheduled = [_rate(group) for group in optimizer.param_groups]
            if any(getattr(scheduler, "cycle_momentum", False) for scheduler in self._schedulers):
                for ours, theirs in zip(optimizer.param_groups, each.optimizer.param_groups, strict=True):
                    theirs.update(_cycled(ours))
            each.show()

    def end(self) -> None:
        """Give back the momentum that was there before."""
        for each, before in zip(self.rates, self._before, strict=True):
            each.scheduled = None
            for group, options in zip(each.optimizer.param_groups, before, strict=True):
                group.update(options)

    def state_dict(self) -> dict[str, Any]:
        """Where the scheduler is."""
        groups = [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in self._optimizers
        ]
        schedulers = [scheduler.state_dict() for scheduler in self._schedulers]
        return {"count": self.count, "groups": groups, "schedulers": schedulers, "before": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.count = state["count"]
        self._before = state["before"]
        for optimizer, groups in zip(self._optimizers, state["groups"], strict=True):
            for group, saved in zip(optimizer.param_groups, groups, strict=True):
                group.update(saved)
        for scheduler, saved in zip(self._schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        self.carry_over()


def problem_of_scheduler(stage: Stage, optimizers: Sequence[Optimizer]) -> str | None:
    """Why a stage's own scheduler cannot be used with optimizers, in a sentence; ``None`` where it can.

    It is built once, so that a mistake in it comes to light before anything is trained.
    """
    if stage.lr_scheduler is None:
        return None
    try:
        built = [stage.lr_scheduler(_Numbers(each, [1.0] * len(each.param_groups))) for each in optimizers]
    except Exception as error:  # whatever the user's own code raises
        return f"Stage '{stage.name}': `lr_scheduler` cannot be built: {type(error).__name__}: {error}."
    strangers = [each for each in built if not hasattr(each, "step")]
    if strangers:
        return f"Stage '{stage.name}': `lr_scheduler` must give a scheduler, but gives {strangers[0]!r}."
    waits = [each for each in built if isinstance(each, ReduceLROnPlateau)]
    if waits and not stage.monitors and not any(getattr(each, "monitor", None) for each in waits):
        return (
            f"Stage '{stage.name}': its `lr_scheduler` waits for a metric, but none is named. Name one in `until`, "
            "or take `lightning.pytorch.cli.ReduceLROnPlateau`, which has a `monitor`."
        )
    return None


class _Numbers(Optimizer):
    """An optimizer of rates alone: its parameters are nobody's."""

    def __init__(self, real: Optimizer, rates: Sequence[float]) -> None:
        cycled = {name: real.defaults[name] for name in _CYCLED if name in real.defaults}
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
        super().__init__(groups, {"lr": 0.0, **cycled})

    @override
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        return None


def _cycled(group: dict[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in _CYCLED if name in group}


def _rate(group: dict[str, Any]) -> float:
    return float(group.get("lr", 1.0))  # an optimizer without rates takes all of its steps


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group.get("lr"), torch.Tensor):
        group["lr"].fill_(rate)
    elif "lr" in group:
        group["lr"] = rate
