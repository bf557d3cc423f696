"""What a user declares: the stages of a fine-tuning. Nothing here knows a model."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Mode = Literal["min", "max"]
SchedulerFactory: TypeAlias = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class Plateau:
    """A metric that improves no more.

    It is looked at when Lightning's ``EarlyStopping`` would look: at the end of each epoch where validation comes
    once an epoch, or never; else after each validation.

    Args:
        monitor: The name under which the metric is logged.
        patience: How many looks in a row without improvement end the stage, at least 1.
        min_delta: What counts as an improvement, at least 0.
        mode: Whether a lower (``min``) or a higher (``max``) value is better.
    """

    monitor: str
    patience: int = 3
    min_delta: float = 0.0
    mode: Mode = "min"


@dataclass(frozen=True)
class Reaches:
    """A metric that comes to a value, or passes it.

    Args:
        monitor: The name under which the metric is logged.
        value: Where the stage ends.
        mode: ``max`` ends it at ``value`` and above, ``min`` at ``value`` and below.
    """

    monitor: str
    value: float
    mode: Mode = "min"


@dataclass(frozen=True)
class Until:
    """When a stage ends, counted from its start; of several, the one that comes first.

    Args:
        epochs: Whole epochs, at least 1. Where the stage begins within an epoch, they count from the next one.
        steps: Optimizer steps, at least 1, counted as ``Trainer(max_steps=…)`` counts them.
        fraction: A share of the whole fit, in ``(0, 1]``.
        plateau: A metric that improves no more.
        reaches: A metric that comes to a value.

    Example:
        >>> Until(epochs=10, plateau=Plateau("val/loss", patience=2)).monitors
        {'val/loss': 'min'}
    """

    epochs: int | None = None
    steps: int | None = None
    fraction: float | None = None
    plateau: Plateau | None = None
    reaches: Reaches | None = None

    def __post_init__(self) -> None:
        _build(self, plateau=Plateau, reaches=Reaches)

    @property
    def monitors(self) -> dict[str, Mode]:
        """The metrics that are watched, each with the way in which it is better."""
        return {each.monitor: each.mode for each in (self.plateau, self.reaches) if each is not None}


@dataclass(frozen=True)
class Warmup:
    """A learning rate that rises linearly at the start of a stage, in each optimizer step.

    Args:
        steps: How many steps it rises, at least 1.
        start: The share of the rate from which it rises, in ``[0, 1)``.

    Example:
        >>> [Warmup(steps=4).factor(step) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    steps: int
    start: float = 0.0

    def factor(self, step: int) -> float:
        """What the rate is multiplied by in optimizer step ``step`` of the stage, counted from 0."""
        if step + 1 >= self.steps:
            return 1.0
        return self.start + (1.0 - self.start) * (step + 1) / self.steps


@dataclass(frozen=True)
class Best:
    """Which weights of a stage are its best.

    Args:
        monitor: The name under which the metric is logged.
        mode: Whether a lower (``min``) or a higher (``max``) value is better.
    """

    monitor: str
    mode: Mode = "min"


@dataclass(frozen=True)
class Stage:
    """What trains, how, and until when. All else is frozen.

    A *selector* is the dotted path of a module or a parameter, with shell globs (``*`` crosses dots); ``re:…`` is a
    regular expression that the whole path matches; ``type:BatchNorm2d`` is a kind of module, by the name or the
    import path of its class or of one that it is derived from. A module stands for all parameters below it. Where
    ``torch.compile`` puts ``_orig_mod`` into a path, leave it out.

    Args:
        name: The stage's name, which no other stage has.
        train: Selectors of what trains.
        lr: The learning rate; or a table from selectors to rates, of which the first that matches counts; ``None``
            keeps the optimizer's own. A scheduler of the module's own goes on, and scales the rate as it would have
            scaled the optimizer's.
        until: When the next stage begins; the last stage may leave it out, and ends the fit where it does not.
        exclude: Selectors of what does not train, although ``train`` names it; ``runmodel`` reads ``except`` too, which
            in Python cannot name an argument.
        weight_decay: As ``lr``. One number leaves alone the groups that the optimizer spares (norms and biases, as a
            rule); a table does not.
        layer_decay: Each block further from the output trains at this share of the next one's rate, in ``(0, 1]``.
        warmup: A linear rise of the learning rate at the stage's start.
        lr_scheduler: What builds a scheduler from an optimizer; it begins at the stage's start, and takes the place
            of the module's own until the stage's end.
        lr_interval: Whether ``lr_scheduler`` steps after each epoch or each optimizer step.
        optimizer_state: ``reset`` begins with fresh moments for what trains; ``keep`` goes on with those that are
            there.
        restore_best: Whether the weights at the stage's end are those of its best look at a metric: that of
            ``until``, or another one.
        train_mode: Selectors of frozen modules that stay in train mode: their dropout acts, and their running
            statistics move.
        eval_mode: Selectors of modules that are in eval mode although they train.
        group: Where parameters go that the optimizer does not hold: the number or the name of one of its groups,
            whose options they take, or ``"optimizer/group"`` (``"1/0"``) where there are several optimizers.

    Example:
        >>> stage = Stage("top", train=["head", "backbone.blocks.[45]"], lr={"head": 5e-4, "*": 1e-4})
        >>> stage.train, stage.until
        (['head', 'backbone.blocks.[45]'], None)
    """

    name: str
    train: str | list[str]
    lr: float | dict[str, float] | None = None
    until: Until | None = None
    exclude: str | list[str] = field(default_factory=list)
    weight_decay: float | dict[str, float] | None = None
    layer_decay: float | None = None
    warmup: Warmup | None = None
    lr_scheduler: SchedulerFactory | None = None
    lr_interval: Literal["epoch", "step"] = "epoch"
    optimizer_state: Literal["keep", "reset"] = "keep"
    restore_best: bool | Best = False
    train_mode: str | list[str] = field(default_factory=list)
    eval_mode: str | list[str] = field(default_factory=list)
    group: int | str | None = None

    def __post_init__(self) -> None:
        for name in ("train", "exclude", "train_mode", "eval_mode"):
            value = getattr(self, name)
            several = isinstance(value, (list, tuple, set, frozenset))
            object.__setattr__(self, name, list(value) if several else [] if value is None else [value])
        _build(self, until=Until, warmup=Warmup, restore_best=Best)

    def selectors(self, name: Literal["train", "exclude", "train_mode", "eval_mode"]) -> list[str]:
        """The selectors of one of the arguments, as a list."""
        return list(getattr(self, name))

    @property
    def best(self) -> Best | None:
        """The metric by which ``restore_best`` chooses; ``None`` where nothing is restored, or no metric is named."""
        if isinstance(self.restore_best, Best):
            return self.restore_best
        monitors = self.until.monitors if self.until else {}
        return next((Best(*each) for each in monitors.items()), None) if self.restore_best else None

    @property
    def monitors(self) -> dict[str, Mode]:
        """All metrics that the stage looks at, each with the way in which it is better."""
        best = self.best
        return {**(self.until.monitors if self.until else {}), **({best.monitor: best.mode} if best else {})}


def described(stage: Stage) -> dict[str, Any]:
    """A stage in plain words and numbers, without what was left at its default.

    Example:
        >>> described(Stage("head", train="head", lr=1e-3, until=Until(epochs=3)))
        {'name': 'head', 'train': 'head', 'lr': 0.001, 'until': {'epochs': 3}}
    """
    plain: dict[str, Any] = _described(stage)
    for name in ("train", "exclude", "train_mode", "eval_mode"):
        if len(plain.get(name, ())) == 1:
            plain[name] = plain[name][0]
    return plain


def in_one_spelling(stages: Any) -> Any:
    """Stages as a configuration has them, the same however they were written there.

    Args:
        stages: A list of stages as mappings, or the class path and the arguments of a schedule.

    Example:
        >>> in_one_spelling([{"name": "all", "train": ["*"], "lr": None, "until": {"epochs": 2, "steps": None}}])
        [{'name': 'all', 'train': '*', 'until': {'epochs': 2}}]
    """
    if isinstance(stages, Mapping):
        return {key: _without_nothing(value) for key, value in stages.items()}
    return [_with_ordered_tables(described(Stage(**stage))) for stage in stages]


def _with_ordered_tables(plain: Mapping[str, Any]) -> dict[str, Any]:
    # The order of a table counts, of which JSON knows none.
    tables = {key: plain[key] for key in ("lr", "weight_decay") if isinstance(plain.get(key), Mapping)}
    return {**plain, **{key: [list(pair) for pair in table.items()] for key, table in tables.items()}}


def _without_nothing(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _described(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {
            each.name: _described(given) for each in fields if not _is_default(each, given := getattr(value, each.name))
        }
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(item) for item in value]
    return _factory(value) if callable(value) else value


def _is_default(each: "dataclasses.Field[Any]", value: Any) -> bool:
    if each.default_factory is not dataclasses.MISSING:
        return bool(value == each.default_factory())
    return each.default is not dataclasses.MISSING and type(value) is type(each.default) and value == each.default


def _factory(value: Any) -> Any:
    """What builds a scheduler, in words that are the same in every process, and that a configuration takes."""
    if not isinstance(value, functools.partial):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    # jsonargparse makes a partial of a function of its own, with the class among its arguments.
    built = next((each for each in reversed(value.args) if isinstance(each, type)), value.func)
    defaults = {name: parameter.default for name, parameter in inspect.signature(built).parameters.items()}
    given = {name: item for name, item in value.keywords.items() if not _equal(item, defaults.get(name, built))}
    return {"class_path": _factory(built), "init_args": {name: _plain(item) for name, item in given.items()}}


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return _factory(value) if callable(value) else str(value)


def _build(owner: Any, **classes: type) -> None:
    # What was given as a plain mapping, as where a stage comes from JSON.
    for name, cls in classes.items():
        value = getattr(owner, name)
        if isinstance(value, Mapping):
            object.__setattr__(owner, name, cls(**value))
